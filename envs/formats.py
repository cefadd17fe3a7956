"""Tool formats: how an agent writes a call of a tool, and how it is told to.

One object does both, so that what is asked for is what is parsed:

| name      | an action looks like                                                  | for |
|-----------|-----------------------------------------------------------------------|-----|
| `hermes`  | `<tool_call>{"name": "guess", "arguments": {"number": 5}}</tool_call>` | chat models (the default) |
| `bracket` | `guess[5]`                                                             | small models; WebShop, ReAct and ALFWorld papers |
| `react`   | `Thought: ...` and then `Action: guess[5]`                             | prompted models (Yao et al., ReAct, 2022) |
| `python`  | a fenced `python` block with `guess(number=5)`, or with code           | models that write code (CodeAct) |

`parse` never raises: a malformed action gives a `Malformed` whose text tells the agent what was wrong. The values
it gives are those that JSON has, nested at most 64 deep, and hold no lone surrogate that an escape made.
"""

from __future__ import annotations

import ast
import json
import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from pydantic_core import to_jsonable_python

from .errors import UnknownFormat
from .tools import Call, ToolSpec

Tools = Mapping[str, ToolSpec]

_DEEPEST = 64


class Malformed(NamedTuple):
    """Why no call was found in an action, as a sentence for the agent."""

    why: str


class ToolFormat(ABC):
    """How calls are written in text.

    Attributes:
        name: key in the registry.
        observation_role: chat role of the message that answers a call.
    """

    name: ClassVar[str]
    observation_role: ClassVar[str] = "user"

    @abstractmethod
    def parse(self, text: str, tools: Tools) -> Call | Malformed:
        """Find the one call in an assistant message. Argument values are not yet converted to the tool's types."""

    @abstractmethod
    def render(self, call: Call, tools: Tools) -> str:
        """Write a call as the text that `parse` reads back."""

    @abstractmethod
    def instructions(self, tools: Tools) -> str:
        """The part of the system prompt that says which tools there are and how to call them."""

    def expected(self, tools: Tools) -> str:
        """The shortest reminder of the format, with a real tool, for answers to malformed actions."""
        spec = next(iter(tools.values()))
        return self.render(Call(spec.name, {n: _placeholder(spec, n) for n in spec.parameters}), tools)


def _placeholder(spec: ToolSpec, parameter: str) -> Any:
    schema = spec.schema["properties"][parameter]
    if "enum" in schema or "const" in schema:
        return schema.get("enum", [schema.get("const")])[0]
    if parameter in spec.defaults:
        return spec.defaults[parameter]
    match schema.get("type"):
        case "integer" | "number" as kind:
            return schema.get("minimum", schema.get("maximum", 1 if kind == "integer" else 1.0))
        case "boolean":
            return True
        case "array":
            return []
        case "object":
            return {}
        case _:
            return "..."


def writable(text: str) -> str:
    """Text without lone surrogates, which no file or tokenizer takes; they become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def answer_of(text: str) -> str:
    """An assistant message without the thoughts of a reasoning model, which end with `</think>`."""
    return text.rpartition("</think>")[2] if "</think>" in text else text


def _writable_value(value: Any) -> Any:
    match value:
        case str():
            return writable(value)
        case dict():
            return {_writable_value(k): _writable_value(v) for k, v in value.items()}
        case list():
            return [_writable_value(v) for v in value]
        case _:
            return value


def _too_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(_DEEPEST):
        layer = [
            v for x in layer if isinstance(x, dict | list) for v in (x.values() if isinstance(x, dict) else x)
        ]
        if not layer:
            return False
    return True


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=to_jsonable_python)


class Hermes(ToolFormat):
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as Hermes and Qwen chat templates write it."""

    name = "hermes"
    observation_role = "tool"

    def parse(self, text: str, tools: Tools) -> Call | Malformed:
        """Read the JSON object between the tags; exactly one call may stand in the message."""
        start = text.find("<tool_call>")
        if start < 0:
            return Malformed("no <tool_call> found")
        end = text.find("</tool_call>", start)
        if end < 0:
            return Malformed("<tool_call> is not closed by </tool_call>")
        if text.find("<tool_call>", end) >= 0:
            return Malformed("more than one <tool_call> found; one turn makes one call")
        body = text[start + 11 : end]
        try:
            data = json.loads(body)
        except ValueError as error:
            return Malformed(f"the text between the tags is not JSON ({error})")
        except RecursionError:
            return Malformed(f"the JSON is nested deeper than {_DEEPEST}")
        if body.count("{") + body.count("[") > _DEEPEST and _too_deep(data):
            return Malformed(f"the JSON is nested deeper than {_DEEPEST}")
        if "\\u" in body:
            data = _writable_value(data)
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            return Malformed('the JSON must be an object with "name" and "arguments"')
        arguments = data.get("arguments", {})
        if not isinstance(arguments, dict):
            return Malformed('"arguments" must be an object')
        return Call(data["name"], arguments)

    def render(self, call: Call, tools: Tools) -> str:
        """One line of JSON between the tags, each on its own line."""
        # In JSON < stands in strings alone; escaped, an argument cannot be taken for the end of the call or of thoughts.
        body = _to_json({"name": call.tool, "arguments": call.arguments})
        body = body.replace("</", "\\u003c/").replace("<tool_call>", "\\u003ctool_call>")
        return f"<tool_call>\n{body}\n</tool_call>"

    def instructions(self, tools: Tools) -> str:
        """The wording of the Hermes function-calling prompt: schemas in <tools>, calls in <tool_call>."""
        schemas = "\n".join(json.dumps(spec.openai(), ensure_ascii=False) for spec in tools.values())
        return (
            "You act by calling one of these tools, given as JSON schemas:\n"
            f"<tools>\n{schemas}\n</tools>\n"
            "Each message makes exactly one call, as a JSON object with the name and the arguments:\n"
            '<tool_call>\n{"name": <tool name>, "arguments": <arguments as a JSON object>}\n</tool_call>'
        )


# Only the start of a word is tried, or a long word without a bracket would cost the square of its length.
_BRACKET = re.compile(r"(?<!\w)([A-Za-z_]\w*)\[")
_DECODER = json.JSONDecoder()


class Bracket(ToolFormat):
    """`tool[argument]`: short, and what the papers on WebShop, ALFWorld and HotpotQA print.

    A tool with one parameter gets the whole text between the brackets, one with several gets it split at commas
    (the last takes the rest), one with none is called `tool[]`. Values arrive as text and are converted by type; lists
    and other values that are no plain text are written as JSON. Among several arguments one with a comma, or with a
    space at its end, stands in double quotes.
    """

    name = "bracket"

    def parse(self, text: str, tools: Tools) -> Call | Malformed:
        """Read the first `name[` of a known tool; the argument runs to the last `]` of the message."""
        match = None
        for match in _BRACKET.finditer(text):
            if match[1] in tools:
                break
        else:
            return Malformed("no call found") if match is None else Call(match[1], {})
        end = text.rfind("]")
        if end < match.end():
            return Malformed("the bracket is not closed by ]")
        name, inner = match[1], text[match.end() : end]
        spec = tools[name]
        parameters = spec.parameters
        if len(parameters) == 1:
            (parameter,) = parameters
            if parameter in spec.plain:
                return Call(name, {} if inner == "" and spec.defaults else {parameter: inner})
            return Call(
                name, {} if inner == "" and spec.defaults else {parameter: _value(spec, parameter, inner)}
            )
        if not inner.strip() and len(spec.defaults) == len(parameters):
            return Call(name, {})
        if not parameters:
            return Malformed(f"{name} takes no argument")
        parts = zip(parameters, _split(inner, len(parameters)), strict=False)
        return Call(name, {n: _value(spec, n, part, quoted=True) for n, part in parts})

    def render(self, call: Call, tools: Tools) -> str:
        """`name[a]`, or `name[a, b]`, in the order of the parameters."""
        spec, arguments = tools.get(call.tool), call.arguments
        if spec is None:
            return f"{call.tool}[{', '.join(map(str, arguments.values()))}]"
        parameters = spec.parameters
        given = [i for i, n in enumerate(parameters) if n in arguments]
        written = [
            _text(
                spec,
                n,
                arguments[n] if n in arguments else spec.defaults.get(n, ""),
                quoted=len(parameters) > 1,
            )
            for n in parameters[: given[-1] + 1 if given else 0]
        ]
        return f"{call.tool}[{', '.join(written)}]"

    def instructions(self, tools: Tools) -> str:
        """One line per tool."""
        lines = [f"{spec.name}[{', '.join(spec.parameters)}]: {describe(spec)}" for spec in tools.values()]
        return "Answer with exactly one action:\n" + "\n".join(lines)


def _split(inner: str, count: int) -> list[str]:
    """Split at the commas that stand in no JSON value, into at most `count` parts."""
    parts: list[str] = []
    at = 0
    while len(parts) < count - 1:
        begin = len(inner) - len(inner[at:].lstrip())
        end = inner.find(",", begin)
        if inner[begin : begin + 1] in ('"', "[", "{"):
            try:
                _, after = _DECODER.raw_decode(inner, begin)
                after += len(inner[after:]) - len(inner[after:].lstrip())
                if inner[after : after + 1] in ("", ","):
                    end = after if inner[after : after + 1] else -1
            except (ValueError, RecursionError):
                pass
        if end < 0:
            break
        parts.append(inner[begin:end].strip())
        at = end + 1
    return [*parts, inner[at:].strip()]


def _value(spec: ToolSpec, parameter: str, text: str, *, quoted: bool = False) -> Any:
    """The value of a text: itself, or the JSON that it is where the parameter takes more than plain text."""
    if parameter in spec.plain and not (quoted and text[:1] == '"'):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if parameter in spec.plain and not isinstance(value, str):
        return text
    value = _writable_value(value)
    return value if not _too_deep(value) and spec.accepts(parameter, value) else text


def _text(spec: ToolSpec, parameter: str, value: Any, *, quoted: bool) -> str:
    """The text that `_value` reads back."""
    if parameter in spec.plain:
        text = str(value)
        return _to_json(text) if quoted and _is_ambiguous(text) else text
    bare = isinstance(value, str) and not _is_ambiguous(value) and _value(spec, parameter, value) == value
    return value if bare else _to_json(value)


def _is_ambiguous(text: str) -> bool:
    return text != text.strip() or "," in text or text[:1] in ("", '"', "[", "{")


class React(Bracket):
    """`Thought: ...` and then `Action: tool[argument]` (Yao et al., ReAct, 2022)."""

    name = "react"

    def parse(self, text: str, tools: Tools) -> Call | Malformed:
        """Read the bracket call behind the last `Action:` that starts a line, or behind the last at all."""
        _, found, action = f"\n{text}".rpartition("\nAction:")
        if not found:
            _, found, action = text.rpartition("Action:")
        if not found:
            return Malformed("no line starts with Action:")
        return super().parse(action, tools)

    def render(self, call: Call, tools: Tools) -> str:
        """The action line alone; a thought may stand before it."""
        return f"Action: {super().render(call, tools)}"

    def instructions(self, tools: Tools) -> str:
        """The ReAct pattern and one line per tool."""
        lines = [f"{spec.name}[{', '.join(spec.parameters)}]: {describe(spec)}" for spec in tools.values()]
        return "Think first, then act, in this form:\nThought: <your reasoning>\nAction: <one action>\n" + (
            "The actions are:\n" + "\n".join(lines)
        )


# Possessive, and only at the start of a run of backticks, so that no text costs more than its length.
_FENCE = re.compile(r"(?<!`)(`{3,}+)(?:python|py)?+[ \t]*+\n")


class Python(ToolFormat):
    """A fenced Python block (CodeAct): either one call with literal arguments, or code for the tool that takes code.

    A block that is one call of a known tool is that call. Any other block goes whole to the environment's tool with a
    single `code: str` parameter, where there is one, and to the first where there are several.
    """

    name = "python"

    def parse(self, text: str, tools: Tools) -> Call | Malformed:
        """Read the last fenced block."""
        block, at = None, 0
        while opening := _FENCE.search(text, at):
            end = text.find(opening[1], opening.end())
            if end < 0:
                break
            block, at = text[opening.end() : end], end + len(opening[1])
        if block is None:
            return Malformed("no fenced python block found")
        block = block.removesuffix("\n")
        call = _literal_call(block, tools)
        if isinstance(call, Call) and call.tool in tools:
            return call
        name = _taker(tools)
        return Call(name, {"code": block}) if name else call

    def render(self, call: Call, tools: Tools) -> str:
        """The call with keyword arguments, or the code itself, in a fenced block."""
        if call.tool == _taker(tools):
            code = str(call.arguments["code"])
        else:
            arguments = to_jsonable_python(call.arguments, inf_nan_mode="constants")
            code = f"{call.tool}({', '.join(f'{n}={_literal(v)}' for n, v in arguments.items())})"
        fence = "`" * max([2, *map(len, re.findall("`+", code))])
        return f"{fence}`python\n{code}\n{fence}`"

    def instructions(self, tools: Tools) -> str:
        """Each tool as a function signature with a comment."""
        lines = [f"{spec.name}({', '.join(spec.parameters)})  # {describe(spec)}" for spec in tools.values()]
        return (
            "Answer with one fenced python block that makes exactly one call:\n```python\n"
            + "\n".join(lines)
            + "\n```"
        )


def _taker(tools: Tools) -> str | None:
    """The tool that a bare block of code goes to."""
    return next((name for name, spec in tools.items() if spec.parameters == ("code",)), None)


def _literal(value: Any) -> str:
    """A value as Python writes it, a text of several lines as it stands where that is exact."""
    if not isinstance(value, str) or "\n" not in value:
        return repr(value)
    exact = value.replace("\n", "").isprintable() and "\\" not in value
    return f"'''{value}'''" if exact and "'''" not in value and not value.endswith("'") else repr(value)


_PARSING = threading.Lock()


def _literal_call(block: str, tools: Tools) -> Call | Malformed:
    try:
        # The parser warns of odd escapes in strings; what a model writes must not reach the user's screen. The filters
        # belong to the whole process, hence the lock.
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(block.strip()).body
    except SyntaxError as error:
        return Malformed(f"the block is not Python ({error.msg})")
    except (ValueError, MemoryError, RecursionError):
        return Malformed("the block is not Python")
    if len(body) != 1 or not isinstance(body[0], ast.Expr) or not isinstance(body[0].value, ast.Call):
        return Malformed("the block must hold one call and nothing else")
    node = body[0].value
    if not isinstance(node.func, ast.Name):
        return Malformed("the block must call a tool by its name")
    name = node.func.id
    spec = tools.get(name)
    if spec is None:
        return Call(name, {})
    if len(node.args) > len(spec.parameters):
        return Malformed(f"{name} got too many arguments")
    arguments = dict(zip(spec.parameters, node.args, strict=False))
    for keyword in node.keywords:
        if keyword.arg is None:
            return Malformed("arguments must be written out, not unpacked")
        if keyword.arg in arguments:
            return Malformed(f"{name} got {keyword.arg!r} twice")
        arguments[keyword.arg] = keyword.value
    try:
        # Through JSON, which has no sets, bytes or complex numbers, and neither has a trajectory.
        values = json.loads(json.dumps({n: ast.literal_eval(value) for n, value in arguments.items()}))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        # Python's own words hold an address, which differs from run to run.
        return Malformed(
            f"the arguments of {name} must be literals: numbers, texts, lists, dicts, True, False or None"
        )
    if _too_deep(values):
        return Malformed(f"the arguments of {name} are nested deeper than {_DEEPEST}")
    return Call(name, _writable_value(values) if "\\" in block else values)


def describe(spec: ToolSpec) -> str:
    """A tool's description with what each argument may be, in one line."""
    parts = []
    for n in spec.parameters:
        schema = spec.schema["properties"][n]
        kinds = [kind.get("type", "") for kind in schema.get("anyOf", [schema])]
        allowed = " or ".join(map(str, schema["enum"] if "enum" in schema else filter(None, kinds)))
        text = schema.get("description", "").rstrip(".")
        parts.append(f"{n}: {text} ({allowed})" if text and allowed else f"{n}: {text or allowed}")
    return spec.description + (f" {'; '.join(parts)}." if parts else "")


FORMATS: dict[str, ToolFormat] = {f.name: f for f in (Hermes(), Bracket(), React(), Python())}
"""The formats by name. A new one is one subclass and one entry."""


def tool_format(name: str) -> ToolFormat:
    """The format of this name.

    Raises:
        UnknownFormat: there is none.
    """
    try:
        return FORMATS[name]
    except (KeyError, TypeError):
        raise UnknownFormat(name, FORMATS) from None
