"""Tool formats: how an agent writes a call of a tool, and how it is told to.

One object does both, so that what is asked for is what is parsed:

| name      | an action looks like                                                  | for |
|-----------|-----------------------------------------------------------------------|-----|
| `hermes`  | `<tool_call>{"name": "guess", "arguments": {"number": 5}}</tool_call>` | chat models (the default) |
| `bracket` | `guess[5]`                                                             | small models; WebShop, ReAct and ALFWorld papers |
| `react`   | `Thought: ...` and then `Action: guess[5]`                             | prompted models (Yao et al., ReAct, 2022) |
| `python`  | a fenced `python` block with `guess(number=5)`, or with code           | models that write code (CodeAct) |

`parse` never raises: a malformed action gives a `Malformed` whose text tells the agent what was wrong.
"""

from __future__ import annotations

import ast
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from .errors import UnknownFormat
from .tools import Call, ToolSpec

Tools = Mapping[str, ToolSpec]


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
    return schema.get("enum", [{"integer": 1, "number": 1.0, "boolean": True}.get(schema.get("type"), "...")])[0]


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
        try:
            data = json.loads(text[start + 11 : end])
        except (ValueError, RecursionError) as error:
            return Malformed(f"the text between the tags is not JSON ({error})")
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            return Malformed('the JSON must be an object with "name" and "arguments"')
        arguments = data.get("arguments", {})
        if not isinstance(arguments, dict):
            return Malformed('"arguments" must be an object')
        return Call(data["name"], arguments)

    def render(self, call: Call, tools: Tools) -> str:
        """One line of JSON between the tags, each on its own line."""
        body = json.dumps({"name": call.tool, "arguments": call.arguments}, ensure_ascii=False)
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


_BRACKET = re.compile(r"([A-Za-z_]\w*)\[")


class Bracket(ToolFormat):
    """`tool[argument]`: short, and what the papers on WebShop, ALFWorld and HotpotQA print.

    A tool with one parameter gets the whole text between the brackets, one with several gets it split at commas
    (the last takes the rest), one with none is called `tool[]`. Values arrive as text and are converted by type.
    """

    name = "bracket"

    def parse(self, text: str, tools: Tools) -> Call | Malformed:
        """Read the first `name[`; the argument runs to the last `]` of the message."""
        match = _BRACKET.search(text)
        if match is None:
            return Malformed("no call found")
        end = text.rfind("]")
        if end < match.end():
            return Malformed("the bracket is not closed by ]")
        name, inner = match[1], text[match.end() : end]
        spec = tools.get(name)
        if spec is None:
            return Call(name, {})
        parameters = spec.parameters
        if len(parameters) == 1:
            return Call(name, {parameters[0]: inner})
        if not parameters:
            return Call(name, {}) if not inner.strip() else Malformed(f"{name} takes no argument")
        return Call(name, dict(zip(parameters, map(str.strip, inner.split(",", len(parameters) - 1)), strict=False)))

    def render(self, call: Call, tools: Tools) -> str:
        """`name[a]`, or `name[a, b]`, in the order of the parameters."""
        order = tools[call.tool].parameters if call.tool in tools else tuple(call.arguments)
        return f"{call.tool}[{', '.join(str(call.arguments[n]) for n in order if n in call.arguments)}]"

    def instructions(self, tools: Tools) -> str:
        """One line per tool."""
        lines = [f"{spec.name}[{', '.join(spec.parameters)}]: {describe(spec)}" for spec in tools.values()]
        return "Answer with exactly one action:\n" + "\n".join(lines)


class React(Bracket):
    """`Thought: ...` and then `Action: tool[argument]` (Yao et al., ReAct, 2022)."""

    name = "react"

    def parse(self, text: str, tools: Tools) -> Call | Malformed:
        """Read the bracket call behind the last `Action:`."""
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


_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


class Python(ToolFormat):
    """A fenced Python block (CodeAct): either one call with literal arguments, or code for the tool that takes code.

    A block that is one call of a known tool is that call. Any other block goes whole to the environment's tool with a
    single `code: str` parameter, where there is one.
    """

    name = "python"

    def parse(self, text: str, tools: Tools) -> Call | Malformed:
        """Read the last fenced block."""
        blocks = _FENCE.findall(text)
        if not blocks:
            return Malformed("no fenced python block found")
        block = blocks[-1]
        call = _literal_call(block, tools)
        if isinstance(call, Call):
            return call
        for spec in tools.values():
            if spec.parameters == ("code",):
                return Call(spec.name, {"code": block})
        return call

    def render(self, call: Call, tools: Tools) -> str:
        """The call with keyword arguments, or the code itself, in a fenced block."""
        if tools[call.tool].parameters == ("code",):
            return f"```python\n{call.arguments['code'].rstrip()}\n```"
        return f"```python\n{call.tool}({', '.join(f'{n}={v!r}' for n, v in call.arguments.items())})\n```"

    def instructions(self, tools: Tools) -> str:
        """Each tool as a function signature with a comment."""
        lines = [f"{spec.name}({', '.join(spec.parameters)})  # {describe(spec)}" for spec in tools.values()]
        return "Answer with one fenced python block that makes exactly one call:\n```python\n" + "\n".join(lines) + "\n```"


def _literal_call(block: str, tools: Tools) -> Call | Malformed:
    try:
        body = ast.parse(block.strip()).body
        if len(body) != 1 or not isinstance(body[0], ast.Expr) or not isinstance(body[0].value, ast.Call):
            return Malformed("the block must hold one call and nothing else")
        node = body[0].value
        if not isinstance(node.func, ast.Name):
            return Malformed("the block must call a tool by its name")
        spec = tools.get(node.func.id)
        names = spec.parameters if spec else ()
        if len(node.args) > len(names):
            return Malformed(f"{node.func.id} is not a tool" if spec is None else f"{node.func.id} got too many arguments")
        arguments = {n: ast.literal_eval(value) for n, value in zip(names, node.args, strict=False)}
        for keyword in node.keywords:
            if keyword.arg is None:
                return Malformed("arguments must be written out, not unpacked")
            arguments[keyword.arg] = ast.literal_eval(keyword.value)
        return Call(node.func.id, arguments)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        return Malformed(f"the block is not a call with literal arguments ({error})")


def describe(spec: ToolSpec) -> str:
    """A tool's description with what each argument may be, in one line."""
    parts = []
    for n in spec.parameters:
        schema = spec.schema["properties"][n]
        allowed = " or ".join(map(str, schema["enum"])) if "enum" in schema else schema.get("type", "")
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
