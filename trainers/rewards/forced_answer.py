"""The forced answer: an accepted answer as the agent would give it, as text and as tokens.

The text is the action with which an agent of this environment answers, in the environment's own tool format: for
HigherLower-v1 in the bracket format `guess[57]`, for a question answering environment in the hermes format
`<tool_call>{"name": "answer", "arguments": {"text": "Paris"}}</tool_call>`. It stands where the chat template starts an
assistant's message, because a checkpoint's context ends in the generation prompt.

Only the tokens that hold characters of the answer are scored. Where they are is known from the construction of the text
and the tokenizer's offsets, never from the length of texts encoded apart: a tokenizer that merges across the border of the
answer (`"P` in `"Paris`) gives a token that belongs to both sides. The text is encoded as a whole, as the agent would
write it, and a token on the border counts as the answer's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ...envs import Call, ToolSpec, TurnEnv
from .registry import RewardError

_ANSWER_TOOLS = ("answer", "final_answer", "submit", "finish", "respond")
_ANSWER_PARAMETER = "answer"
_REMEMBERED = 65536  # answers, of which a long run may have any number
_MARKS: dict[type, Any] = {str: "qTurnwiseAnswerq", int: 7182818284590452, float: 71828182.8125}


class UnwritableAnswer(RewardError):
    """The environment has no tool that could take an answer, though one was asked for."""


class ForcedText(NamedTuple):
    """An action that gives an answer.

    Attributes:
        text: the whole action.
        start: where the answer begins in it, in characters.
        end: where it ends.
    """

    text: str
    start: int
    end: int


class ForcedAnswer(NamedTuple):
    """The tokens of an action that gives an answer, up to the last of the answer.

    Attributes:
        tokens: token ids.
        first: index of the first that holds a character of the answer.
        merged: whether a token at the border holds characters of both sides.
    """

    tokens: tuple[int, ...]
    first: int
    merged: bool


class AnswerWriter:
    """Writes accepted answers as actions of an environment, and as tokens.

    The tool that takes an answer is, in this order: the one that is asked for; one with a single parameter that is
    called answer, final_answer, submit, finish or respond, or whose parameter is called answer; the only tool, if it has
    a single parameter. Without any of these the answer is the assistant's plain text.

    Args:
        env: whose tools and format the action is written in.
        tokenizer: of the policy.
        tool: name of the tool that takes an answer, or None to find it.
        preface: text in front of the action, such as a closed thought for a model that always thinks first.

    Raises:
        UnwritableAnswer: `tool` is not a tool of the environment with a single parameter for text or a number.
    """

    def __init__(self, env: TurnEnv, tokenizer: Any, *, tool: str | None = None, preface: str = "") -> None:
        self._env, self._tokenizer, self._preface = env, tokenizer, preface
        self.tool = _answer_tool(env, tool)
        self._known: dict[str, ForcedAnswer | None] = {}
        control = {str(token) for token in tokenizer.added_tokens_decoder.values()}
        self._control = sorted((c for c in control if c), key=len, reverse=True)

    def text(self, answer: str) -> ForcedText | None:
        """The action that gives this answer; None where it is empty or the tool's parameter cannot take it."""
        answer = answer.strip()
        if not answer:
            return None
        if self.tool is None:
            return ForcedText(self._preface + answer, len(self._preface), len(self._preface) + len(answer))
        parameter = self.tool.parameters[0]
        arguments = self.tool.validate({parameter: answer})
        if isinstance(arguments, str):
            return None
        mark = _MARKS[type(arguments[parameter])]
        marked = self._env.write(Call(self.tool.name, {parameter: mark}))
        lead, _, tail = marked.partition(str(mark))
        written = self._env.write(Call(self.tool.name, arguments))
        # A format may quote one value otherwise than another (Python's repr does), so lead and tail are what is shared.
        start = _shared(lead, written)
        end = len(written) - _shared(tail[::-1], written[start:][::-1])
        return ForcedText(self._preface + written, len(self._preface) + start, len(self._preface) + end)

    def tokens(self, answer: str) -> ForcedAnswer | None:
        """The tokens of the action that gives this answer, up to the answer's last; None as in `text`."""
        if answer not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            forced = self.text(answer)
            self._known[answer] = None if forced is None else self._encode(forced)
        return self._known[answer]

    def _encode(self, forced: ForcedText) -> ForcedAnswer | None:
        text, start, end = forced
        if not getattr(self._tokenizer, "is_fast", False):
            lead = self._tokenizer.encode(text[:start], add_special_tokens=False)
            answer = self._tokenizer.encode(text[start:end], add_special_tokens=False)
            return ForcedAnswer((*lead, *answer), len(lead), False) if answer else None
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        at = 0
        for piece in self._pieces(forced):
            encoded = self._tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
            ids += encoded["input_ids"]
            spans += [(at + a, at + b) for a, b in encoded["offset_mapping"]]
            at += len(piece)
        inside = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
        if not inside:
            return None
        first, last = inside[0], inside[-1]
        return ForcedAnswer(tuple(ids[: last + 1]), first, spans[first][0] < start or spans[last][1] > end)

    def _pieces(self, forced: ForcedText) -> list[str]:
        """The text, cut inside what would be read as a control token though it stands in the answer."""
        text, start, end = forced
        pieces, at = [], 0
        for i in range(start, end):
            if i > at and any(text.startswith(c, i - 1) and i - 1 >= start for c in self._control):
                pieces.append(text[at:i])
                at = i
        return [*pieces, text[at:]]


def _shared(a: str, b: str) -> int:
    """How many characters two texts begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _answer_tool(env: TurnEnv, asked: str | None) -> ToolSpec | None:
    takers = {name: spec for name, spec in env.tools.items() if _takes_answer(spec)}
    if asked is not None:
        if asked not in takers:
            raise UnwritableAnswer(
                f"tool={asked!r} cannot take an answer in {env.env_id}; tools with a single parameter for a text or a"
                f" number: {', '.join(takers) or 'none'}."
            )
        return takers[asked]
    for name in _ANSWER_TOOLS:
        if name in takers:
            return takers[name]
    for spec in takers.values():
        if spec.parameters == (_ANSWER_PARAMETER,):
            return spec
    return next(iter(takers.values())) if len(env.tools) == 1 and takers else None


def _takes_answer(spec: ToolSpec) -> bool:
    if len(spec.parameters) != 1:
        return False
    schema = spec.schema["properties"][spec.parameters[0]]
    return schema.get("type") in ("string", "integer", "number") and "enum" not in schema
