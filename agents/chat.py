"""Messages to tokens: the only module that knows chat templates and special tokens.

The context of an episode is built by appending, never by encoding it again:

    start(messages)  a_1  append(...)  a_2  append(...)  a_3 ...

where the a_t are the sampled token ids as they came out of the model. So the tokens that are trained on are
the tokens that were sampled, whatever the template would have made of their text in a later turn (Qwen3's
drops earlier `<think>` blocks, others strip the content), and the key-value cache of the turns before stays
valid.

A template is only ever rendered with *marks* in the place of the contents. What stands between the marks is
the template's own text, in which special tokens are special; the contents are put in afterwards, and a
control token that is written out in a content stays ordinary text: an observation cannot end its own message.
Because the rendering then depends on the roles alone (and on the white space around a content, which some
templates strip), it is remembered and Jinja runs once per shape of conversation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError

from ..envs.agent import Message
from ..envs.errors import UsageError

_MARK = "qTurnwiseMarkq"
# The quote and the newline inside a mark show whether the template writes the content as it is or as JSON.
_PROBE = '"\n'
_MARK_RE = re.compile(rf"{_MARK}(\d+)b(.*?){_MARK}e", re.DOTALL)
_REMEMBERED_SHAPES = 4096


class ChatTemplateError(UsageError):
    """Raised when a tokenizer has no chat template, or one that cannot hold a conversation of several turns."""


class _Slot(NamedTuple):
    """The place of a content in a rendered template.

    Attributes:
        message: which message's content.
        as_json: whether the template writes it as the inside of a JSON string.
    """

    message: int
    as_json: bool


_Rendering = tuple["str | _Slot", ...]


class ChatTokenizer:
    """Turns the messages of a growing conversation into token ids, for any chat template.

    Roles a template does not know are mapped to what it knows: `tool` to `user`, a `system` message into the
    first user message, and messages of one role in a row into one where the template insists that roles
    alternate. Each role is tried once, when the object is made.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template. It is not changed, and its padding and
            truncation settings do not matter.
        template_kwargs: further variables of the template, such as `{"enable_thinking": False}` for Qwen3.

    Attributes:
        end_of_turn: ids of which the model samples one to end its message: the special token that the
            template puts behind an assistant's message, and the tokenizer's end-of-sequence token.
        stop_strings: what ends a message in a template that has no special token for it; else empty.

    Raises:
        ChatTemplateError: there is no template, it fails on a conversation of two turns, or it leaves a
            message out.
    """

    end_of_turn: frozenset[int]
    stop_strings: tuple[str, ...]

    def __init__(self, tokenizer: Any, *, template_kwargs: Mapping[str, Any] | None = None) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ChatTemplateError(
                f"the tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__!r} has no chat"
                " template, so messages cannot be turned into tokens. Use the instruction-tuned variant of the model,"
                " or set `tokenizer.chat_template` to the Jinja template the model was trained with."
            )
        self._tokenizer = tokenizer
        self._kwargs = dict(template_kwargs or {})
        self._backend = _private_backend(tokenizer)
        self._shapes: dict[Any, _Rendering] = {}
        self._merge = self._fold_system = self._tool_as_user = False
        self._learn_roles()
        turn = self._after_assistant([("user", "", "")], [("user", "", "")])
        self._control = self._control_tokens(turn)
        self._learn_end_of_turn(turn)

    def start(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the opening messages, with the generation prompt: the context of the first action.

        A beginning-of-sequence token stands where the template writes one, and nowhere else.

        Raises:
            ValueError: `messages` is empty.
            ChatTemplateError: the template refuses these messages.
        """
        if not messages:
            raise UsageError("a conversation needs at least one message before the agent can act, got none")
        flanks = [_flanks(m) for m in messages]
        return self._encode(self._render(flanks), [_core(m) for m in messages])

    def append(
        self, before: Sequence[Message], new: Sequence[Message], action_ids: Sequence[int]
    ) -> list[int]:
        """Token ids to add behind a sampled action so that the model can answer what followed it.

        They close the assistant's message, as far as the action did not close it itself, hold the new
        messages, and end in the generation prompt.

        Args:
            before: the messages in front of the assistant's. Only their roles matter.
            new: the messages behind it, at least one.
            action_ids: the sampled ids of the assistant's message.

        Raises:
            ValueError: `new` is empty.
            ChatTemplateError: the template refuses these messages.
        """
        if not new:
            raise UsageError("nothing follows the assistant's message: there is no observation to answer")
        shape = self._after_assistant([(m["role"], "", "") for m in before], [_flanks(m) for m in new])
        cores = [""] * (len(before) + 1) + [_core(m) for m in new]
        if self.stop_strings:
            # A token holds at least one byte, and a character has at most four.
            written = self.text(action_ids[-4 * len(self.stop_strings[0]) - 4 :])
            done = _overlap(written, self.stop_strings[0])
            assert isinstance(shape[0], str)
            return self._encode((shape[0][done:], *shape[1:]), cores)
        ids = self._encode(shape, cores)
        closing = ids[: len(self._closing)]
        if action_ids and action_ids[-1] in self.end_of_turn and action_ids[-1] in closing:
            return ids[closing.index(action_ids[-1]) + 1 :]
        return ids[_overlap(list(action_ids), closing) :]

    def text(self, ids: Sequence[int]) -> str:
        """The text of sampled ids; special tokens are written out."""
        if self._backend is not None:
            return str(self._backend.decode(list(ids), skip_special_tokens=False))
        return str(
            self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def _learn_roles(self) -> None:
        probe = self._shows
        if not probe("user", "assistant", "user"):
            self._render(
                [(role, "", "") for role in ("user", "assistant", "user")]
            )  # raises with the reason, if any
            raise ChatTemplateError(
                "the chat template leaves out messages of the conversation user, assistant, user, so an agent would"
                " not see what it answers. Set `tokenizer.chat_template` to one that shows every message."
            )
        tool = probe("user", "assistant", "tool") and probe("user", "assistant", "tool", "tool")
        system = probe("system", "user", "assistant", "user")
        alternate = not (probe("user", "user") and probe("user", "assistant", "user", "user"))
        self._tool_as_user, self._fold_system, self._merge = not tool, not system, alternate or not system
        self._shapes.clear()

    def _shows(self, *roles: str) -> bool:
        try:
            rendering = self._render([(role, "", "") for role in roles])
        except ChatTemplateError:
            return False
        return [part.message for part in rendering if isinstance(part, _Slot)] == list(range(len(roles)))

    def _control_tokens(self, turn: _Rendering) -> re.Pattern[str] | None:
        # Some vocabularies do not flag the tokens that their template is built of as special (DeepSeek's are
        # not), so a token is a control token also when the template itself writes it around a message.
        own = "".join(part for part in turn if isinstance(part, str))
        roles = ("user", "assistant", "user" if self._tool_as_user else "tool")
        own += "".join(p for p in self._render([(r, "", "") for r in roles]) if isinstance(p, str))
        decoder = self._tokenizer.added_tokens_decoder.values()
        control = {str(t) for t in decoder if str(t) and (t.special or str(t) in own)}
        return (
            re.compile("|".join(sorted(map(re.escape, control), key=len, reverse=True))) if control else None
        )

    def _learn_end_of_turn(self, turn: _Rendering) -> None:
        eos = self._tokenizer.eos_token_id
        behind = turn[0]
        assert isinstance(behind, str)
        match = self._control.search(behind) if self._control else None
        if match is not None and not behind[: match.start()].strip():
            self._closing = self._encode((behind[: match.end()],), [])
            self.stop_strings = ()
            self.end_of_turn = frozenset({self._closing[-1]} | ({eos} if eos is not None else set()))
        else:
            self._closing = []
            self.stop_strings = (behind.rstrip(),) if behind.strip() else ()
            self.end_of_turn = frozenset({eos} if eos is not None else ())
            if not self.stop_strings and not self.end_of_turn:
                raise ChatTemplateError(
                    "the chat template puts nothing behind an assistant's message and the tokenizer has no"
                    " end-of-sequence token, so a message could never end. Set `tokenizer.eos_token`."
                )

    def _after_assistant(
        self, before: Sequence[tuple[str, str, str]], new: Sequence[tuple[str, str, str]]
    ) -> _Rendering:
        """What the template writes behind the assistant's message; always starts with a (possibly empty) text."""
        rendering = self._render([*before, ("assistant", "", ""), *new])
        where = [i for i, p in enumerate(rendering) if isinstance(p, _Slot) and p.message == len(before)]
        if not where:
            raise ChatTemplateError(
                f"the chat template leaves out the assistant's message among the roles {[r for r, _, _ in before]}"
            )
        rest = rendering[where[-1] + 1 :]
        return rest if rest and isinstance(rest[0], str) else ("", *rest)

    def _render(self, shape: Sequence[tuple[str, str, str]]) -> _Rendering:
        """Render a conversation given as (role, white space before, white space after) per message."""
        key = tuple(shape)
        known = self._shapes.get(key)
        if known is not None:
            return known
        marked = [
            {"role": role, "content": f"{lead}{_MARK}{i}b{_PROBE}{_MARK}e{trail}"}
            for i, (role, lead, trail) in enumerate(shape)
        ]
        try:
            text = self._tokenizer.apply_chat_template(
                self._adapt(marked), tokenize=False, add_generation_prompt=True, **self._kwargs
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise ChatTemplateError(
                f"the chat template refuses a conversation with the roles {[role for role, _, _ in shape]}: {error}"
            ) from error
        parts: list[str | _Slot] = []
        end = 0
        for match in _MARK_RE.finditer(text):
            if match.start() > end:
                parts.append(text[end : match.start()])
            if match[2] not in (_PROBE, json.dumps(_PROBE)[1:-1]):
                raise ChatTemplateError(
                    f"the chat template rewrites the text of a message ({_PROBE!r} became {match[2]!r}); only white"
                    " space at its ends may be stripped, or the whole be written as JSON"
                )
            parts.append(_Slot(int(match[1]), match[2] != _PROBE))
            end = match.end()
        if end < len(text):
            parts.append(text[end:])
        if len(self._shapes) >= _REMEMBERED_SHAPES:
            self._shapes.clear()
        self._shapes[key] = rendering = tuple(parts)
        return rendering

    def _adapt(self, messages: list[Message]) -> list[Message]:
        """The same messages in the roles that the template knows."""
        out: list[Message] = []
        for message in messages:
            role, content = message["role"], message["content"]
            if (role == "tool" and self._tool_as_user) or (role == "system" and self._fold_system):
                role = "user"
            if self._merge and out and out[-1]["role"] == role:
                out[-1] = {"role": role, "content": f"{out[-1]['content']}\n\n{content}"}
            else:
                out.append({"role": role, "content": content})
        return out

    def _encode(self, rendering: _Rendering, cores: Sequence[str]) -> list[int]:
        """Encode template text with special tokens and contents without them, in as few pieces as possible.

        Text without control tokens in its contents is encoded in one piece, as the tokenizer itself would.
        """
        pieces = [""]
        for part in rendering:
            if isinstance(part, str):
                pieces[-1] += part
                continue
            content = cores[part.message]
            if part.as_json:
                content = json.dumps(content, ensure_ascii=False)[1:-1]
            while self._control is not None and (match := self._control.search(content)):
                # Cut behind the first character of the token's text: neither side can be read as the token.
                pieces[-1] += content[: match.start() + 1]
                content = content[match.start() + 1 :]
                pieces.append("")
            pieces[-1] += content
        return [token for piece in pieces if piece for token in self._encode_text(piece)]

    def _encode_text(self, text: str) -> list[int]:
        if self._backend is not None:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def _private_backend(tokenizer: Any) -> Any:
    """A copy of the Rust tokenizer that no one else can set to pad or truncate; None for tokenizers without one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    backend = type(backend).from_str(backend.to_str())
    backend.no_padding()
    backend.no_truncation()
    return backend


def _flanks(message: Message) -> tuple[str, str, str]:
    """Role, and the white space at both ends of the content, which decides how a stripping template renders it."""
    content = message["content"]
    if not isinstance(content, str):
        raise UsageError(
            f"the content of a {message['role']!r} message must be a string, got {type(content).__name__}"
        )
    behind = content.lstrip()
    core = behind.rstrip()
    return message["role"], content[: len(content) - len(behind)], behind[len(core) :]


def _core(message: Message) -> str:
    return message["content"].strip()


def _overlap(text: Sequence[Any], start: Sequence[Any]) -> int:
    """Length of the longest beginning of `start` that `text` ends with."""
    lengths = range(min(len(text), len(start)), 0, -1)
    return next((n for n in lengths if text[-n:] == start[:n]), 0)
