"""`@tool`: a typed method becomes a tool that a language model can call."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, get_type_hints

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from .errors import InvalidEnvironment

F = TypeVar("F", bound=Callable[..., Any])


class Call(NamedTuple):
    """A call of a tool.

    Attributes:
        tool: the tool's name.
        arguments: by parameter name.
    """

    tool: str
    arguments: dict[str, Any]


def tool(method: F) -> F:
    """Offer a method of a `TurnEnv` to the agent as a tool.

    The method's name is the tool's, its signature and docstring make the JSON schema: every parameter is annotated;
    the first paragraph of the docstring says what the tool does and an `Args:` section describes the parameters. The
    method returns an `Outcome`, or a string for one without reward. It is called with validated arguments only.
    """
    method._is_turnwise_tool = True  # type: ignore[attr-defined]
    return method


class ToolSpec:
    """A tool as the environment offers it.

    Attributes:
        name: what the agent calls.
        description: what the tool does, one paragraph.
        parameters: names, in order.
        defaults: of the parameters that may be left out, by name.
        schema: JSON schema of the arguments.
        plain: the parameters whose value is written as bare text: strings, numbers, truth values, choices of texts.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        where = f"tool {name!r} of {function.__qualname__.rsplit('.', 1)[0]}"
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1:]
        hints = get_type_hints(function, include_extras=True)
        self.description, described = _parse_docstring(inspect.getdoc(function) or "")
        if not self.description:
            raise InvalidEnvironment(
                f"{where} has no docstring; the agent reads it, so say in a line what the tool does"
            )
        fields: dict[str, Any] = {}
        for p in parameters:
            if p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) or p.name not in hints:
                raise InvalidEnvironment(
                    f"parameter {p.name!r} of {where} needs a name and a type annotation, got `{p}`"
                )
            about: dict[str, Any] = {"alias": p.name}
            if p.name in described:
                about["description"] = described[p.name]
            # Fields are numbered, since a tool may call a parameter what pydantic does not let a field be called.
            field = Field(**about) if p.default is p.empty else Field(p.default, **about)
            fields[f"field{len(fields)}"] = (hints[p.name], field)
        names = tuple(p.name for p in parameters)
        unknown = sorted(set(described) - set(names))
        if unknown:
            raise InvalidEnvironment(
                f"the docstring of {where} describes {unknown}, which are not parameters"
            )
        try:
            model = create_model(name, __config__={"extra": "forbid"}, **fields)
            self.schema: dict[str, Any] = model.model_json_schema()
        except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema) as error:
            raise InvalidEnvironment(
                f"{where} has a parameter type without a JSON schema: {error}"
            ) from error
        self.schema.pop("title", None)
        properties = self.schema.setdefault("properties", {})
        for prop in properties.values():
            prop.pop("title", None)
        self.name = name
        self.function = function
        self.parameters: tuple[str, ...] = names
        self.defaults: dict[str, Any] = {p.name: p.default for p in parameters if p.default is not p.empty}
        self.plain = frozenset(n for n in names if _is_plain(properties[n]))
        self._names = frozenset(names)
        self._required = tuple(n for n in names if n not in self.defaults)
        self._validators = {n: TypeAdapter(hints[n]).validator.validate_python for n in names}

    def validate(self, arguments: dict[str, Any]) -> dict[str, Any] | str:
        """The arguments converted to the annotated types, or what is wrong with them as a sentence for the agent."""
        if not arguments.keys() <= self._names:
            unknown = next(n for n in arguments if n not in self._names)
            return f"{self.name} has no parameter {unknown!r}; it takes {self._signature()}"
        for n in self._required:
            if n not in arguments:
                return f"{self.name} needs the parameter {n!r}; it takes {self._signature()}"
        validators = self._validators
        try:
            return {n: validators[n](value) for n, value in arguments.items()}
        except ValidationError:
            return self._why(arguments)

    def accepts(self, parameter: str, value: Any) -> bool:
        """Whether the parameter takes this value."""
        try:
            self._validators[parameter](value)
        except ValidationError:
            return False
        return True

    def _why(self, arguments: dict[str, Any]) -> str:
        for n, value in arguments.items():
            try:
                self._validators[n](value)
            except ValidationError as error:
                message = error.errors(include_url=False)[0]["msg"]
                return f"{self.name}: {n}={value!r:.80} is wrong: {message[0].lower()}{message[1:]}"
        raise AssertionError("every argument is valid by itself, so the call is")

    def _signature(self) -> str:
        return ", ".join(map(repr, self.parameters)) if self.parameters else "none"

    def openai(self) -> dict[str, Any]:
        """The tool in the form of OpenAI's chat API, which chat templates take as well."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": function}

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Random arguments that the schema admits where it is simple enough; used by random agents."""
        properties = self.schema.get("properties", {})
        return {n: _sample(properties[n], self.schema.get("$defs", {}), rng) for n in self.parameters}


def _is_plain(schema: dict[str, Any]) -> bool:
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [""])
    return schema.get("type") in ("string", "integer", "number", "boolean") and all(
        isinstance(c, str) for c in choices
    )


def _sample(schema: dict[str, Any], definitions: dict[str, Any], rng: np.random.Generator) -> Any:
    if "$ref" in schema:
        return _sample(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions, rng)
    if "anyOf" in schema:
        return _sample(schema["anyOf"][rng.integers(len(schema["anyOf"]))], definitions, rng)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][rng.integers(len(schema["enum"]))]
    match schema.get("type"):
        case "integer":
            most = schema.get("maximum", schema.get("exclusiveMaximum", math.inf) - 1)
            least = schema.get("minimum", schema.get("exclusiveMinimum", -1 if most >= 0 else most - 101) + 1)
            width = 100 if most == math.inf else max(0, int(most) - int(least))
            return int(least) + int(rng.integers(min(width, 2**62) + 1))
        case "number":
            low, high = float(schema.get("minimum", 0.0)), float(schema.get("maximum", 1.0))
            return float(rng.uniform(low, high))
        case "boolean":
            return bool(rng.integers(2))
        case "array":
            length = int(schema.get("minItems", 1))
            return [_sample(schema.get("items", {}), definitions, rng) for _ in range(length)]
        case "object":
            return {n: _sample(s, definitions, rng) for n, s in schema.get("properties", {}).items()}
        case "null":
            return None
        case _:
            return "".join(
                "abcdefghijklmnopqrstuvwxyz"[i] for i in rng.integers(26, size=int(rng.integers(1, 9)))
            )


_ARG = re.compile(r"^(\w+)(?:\s*\([^)]*\))?:\s*(.*)$")
_SECTION = re.compile(r"^(Returns|Raises|Yields|Note|Notes|Example|Examples|Source):\s*$")


def _parse_docstring(text: str) -> tuple[str, dict[str, str]]:
    """First paragraph and the `Args:` section of a google-style docstring."""
    head, _, tail = text.partition("\nArgs:\n")
    description = " ".join(head.strip().split("\n\n")[0].split())
    described: dict[str, str] = {}
    current = None
    for line in tail.splitlines():
        if _SECTION.match(line):
            break
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        match = _ARG.match(stripped)
        if match and 0 < indent <= 4:
            current = match[1]
            described[current] = match[2]
        elif current and stripped:
            described[current] += " " + stripped
    return description, described
