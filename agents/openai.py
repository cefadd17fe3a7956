"""`OpenAIAgent`: a model behind any server that speaks OpenAI's chat completions.

The client is `Endpoint`, which judges and scorers use too, and not OpenAI's own: what is sent is a dozen fields, servers other
than OpenAI's add their own to them, and retries, time-outs and bounds are the same for all that turnwise asks of a server.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic_core import to_jsonable_python

from ..envs.agent import Conversation, Message, Reply
from ..envs.core import TurnEnv
from ..envs.errors import ContextFull, UsageError
from ..envs.formats import answer_of, tool_format, writable
from ..envs.rollout import agent_seed
from ..envs.tools import Call
from .endpoint import BadReply, Endpoint, ServerRefused

_OURS = ("messages", "stream", "n", "tools")
# OpenAI, vLLM, SGLang, llama.cpp, TGI, Anthropic and others, in the words of their messages and codes.
_TOO_LONG = re.compile(
    r"context[ _](length|size|window)|maximum (input|prompt) length|prompt is too long|too many (input )?tokens"
    r"|(inputs?|prompt)\W{1,3}tokens?\b.{0,40}(exceed|must be)",
    re.IGNORECASE | re.DOTALL,
)


class OpenAIAgent:
    """Answers with a model behind an OpenAI-compatible server.

    The messages are sent as they are, so that what is sent in one turn begins with what was sent in the turn before, byte
    for byte, and the server's prompt cache serves it. They hold what the environment sees: reasoning that a server returns
    beside its answer costs tokens but is no part of the message.

    With `native_tools` the server gets the environment's tools as JSON schemas, and its tool call becomes the text that the
    environment's tool format makes of it. Earlier calls are read out of the texts again, so they are the same in every turn, also
    after a branch. Without it the model writes its calls in the environment's format, and `tool` messages are sent as `user`.

    An answer that is empty, cut off by `max_tokens`, calls an unknown tool, or has arguments that are no JSON, is data for
    the environment. No answer, an answer without a choice, or one that is no JSON, is a failure of the server: asked for again,
    and then raised.

    Args:
        url: base address, such as `http://localhost:8000/v1`; `/chat/completions` is added.
        model: name that the server knows it by.
        key: sent as a bearer token, never stored; None sends none.
        native_tools: use the server's tool calling in place of calls in the text.
        temperature: None leaves it to the server, as do the two below.
        top_p: sample among the fewest tokens whose probabilities sum to at least this.
        max_tokens: most tokens of a reply.
        send_seed: send a seed that follows from the conversation's seed and the turn, for servers that sample by it.
        log_probs: ask for the log-probability of each token. Servers give those of the model at temperature 1, whatever
            they sample at.
        top_log_probs: ask for this many most likely tokens at each position too, at most 20, and give `Reply.certainties` by
            them; 0 for none.
        token_ids: ask for token ids (vLLM's `return_token_ids`). A reply carries them where the prompt continues the tokens
            before it, as a context that only grows does.
        extra_body: further fields of every request, such as `{"chat_template_kwargs": {"enable_thinking": False}}`.
        concurrency: requests at a time.
        timeout: seconds for one attempt, all in all.
        connect_timeout: seconds for a connection.
        read_timeout: seconds without a byte. A server writes nothing until the whole reply is sampled.
        retries: attempts after the first, see `Endpoint`.
        backoff: seconds before the first of them.

    Attributes:
        name: what trajectories record.

    Raises:
        UsageError: an argument is out of range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        native_tools: bool = False,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        send_seed: bool = True,
        log_probs: bool = False,
        top_log_probs: int = 0,
        token_ids: bool = False,
        extra_body: Mapping[str, Any] | None = None,
        concurrency: int = 64,
        timeout: float = 600.0,
        connect_timeout: float = 10.0,
        read_timeout: float = 300.0,
        retries: int = 5,
        backoff: float = 0.5,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(
                f"url must be the base address of a server, such as http://localhost:8000/v1, got {url!r}"
            )
        if not model:
            raise UsageError("model must be the name that the server knows the model by, got ''")
        if not 0 <= top_log_probs <= 20:
            raise UsageError(f"top_log_probs must be from 0 to 20, got {top_log_probs}")
        taken = sorted(set(extra_body or ()) & set(_OURS))
        if taken:
            raise UsageError(f"extra_body may not hold {', '.join(taken)}: the agent sets {', '.join(_OURS)}")
        self.name = f"openai:{model}"
        self._native, self._send_seed, self._token_ids = native_tools, send_seed, token_ids
        self._body: dict[str, Any] = {"model": model}
        for field, value in (("temperature", temperature), ("top_p", top_p), ("max_tokens", max_tokens)):
            if value is not None:
                self._body[field] = value
        if log_probs or top_log_probs:
            self._body["logprobs"] = True
        if top_log_probs:
            self._body["top_logprobs"] = top_log_probs
        if token_ids:
            self._body["return_token_ids"] = True
        if native_tools:
            self._body["parallel_tool_calls"] = False
        self._body |= extra_body or {}
        self._endpoint = Endpoint(
            url.rstrip("/") + "/chat/completions",
            key=key,
            concurrency=concurrency,
            timeout=timeout,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retries=retries,
            backoff=backoff,
            extra="openai",
        )
        self._contexts: dict[str, list[int] | None] = {}

    async def act(self, conversation: Conversation) -> Reply:
        """Answer the last message.

        Raises:
            ContextFull: the server says that the conversation is too long for the model.
            ServerFailure: it gave no usable answer.
            UsageError: it refuses all requests (status 401, 403 or 404) and has answered none, so address, name or key are
                wrong.
        """
        body = {"messages": _native(conversation) if self._native else _as_text(conversation), **self._body}
        if self._native:
            body["tools"] = conversation.tools
        if self._send_seed:
            body.setdefault("seed", agent_seed(conversation.seed, len(conversation)) % 2**31)
        try:
            return await self._endpoint.post(body, partial(self._read, conversation))
        except ServerRefused as refused:
            if refused.status in (400, 413, 422) and _TOO_LONG.search(refused.said):
                raise ContextFull(
                    f"the server has no room for the conversation: {refused.said[:200]}"
                ) from refused
            if refused.status in (401, 403, 404) and not self._endpoint.answered:
                raise UsageError(f"{refused}; check address, model and key of the agent") from refused
            raise

    def close(self, conversation: Conversation) -> None:
        """Forget the tokens of a conversation."""
        self._contexts.pop(conversation.id, None)

    def _read(self, conversation: Conversation, content: bytes) -> Reply:
        try:
            answer = json.loads(content)
            choice = answer["choices"][0]
            message = choice["message"]
            text = message.get("content") or message.get("refusal") or ""
            calls = message.get("tool_calls") or []
            if self._native and calls:
                text = _with_calls(text, calls, conversation.env)
            if not isinstance(text, str):
                raise TypeError(f"the content is no text: {text!r:.80}")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise BadReply(
                f"{self._endpoint.url} answered with no chat completion ({type(error).__name__}: {error}): {content[:200]!r}"
            ) from error
        prompt_ids, action_ids = self._tokens(conversation, answer, choice) if self._token_ids else ((), ())
        log_probs = _log_probs(choice)
        usage = answer.get("usage")
        return Reply(
            writable(text),
            prompt_ids,
            action_ids,
            log_probs if not action_ids or len(log_probs) == len(action_ids) else (),
            input_tokens=_count(usage, "prompt_tokens"),
            output_tokens=_count(usage, "completion_tokens"),
            cached_tokens=_count(usage, "prompt_tokens_details", "cached_tokens"),
            certainties=_certainties(choice),
        )

    def _tokens(
        self, conversation: Conversation, answer: Any, choice: Any
    ) -> tuple[Sequence[int], Sequence[int]]:
        """The ids that were added to the context and those of the reply; none from where the context was written anew."""
        if conversation.id not in self._contexts:
            history = conversation.history
            known = all(turn.action_ids for turn in history)
            self._contexts[conversation.id] = (
                [i for turn in history for i in (*turn.prompt_ids, *turn.action_ids)] if known else None
            )
        context = self._contexts[conversation.id]
        prompt, sampled = answer.get("prompt_token_ids"), choice.get("token_ids")
        if context is None or not _ids(prompt) or not _ids(sampled) or prompt[: len(context)] != context:
            self._contexts[conversation.id] = None
            return (), ()
        self._contexts[conversation.id] = [*prompt, *sampled]
        return prompt[len(context) :], sampled


def _as_text(conversation: Conversation) -> list[Message]:
    # A `tool` message belongs to a tool call by its id, and without native calls there is none.
    return [
        {"role": "user" if m["role"] == "tool" else m["role"], "content": m["content"]} for m in conversation
    ]


def _native(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages with their calls as the API has them; each follows from its own text and place."""
    env = conversation.env
    form = tool_format(env.format)
    instructions = form.instructions(env.tools)
    sent: list[dict[str, Any]] = []
    called = None
    for place, message in enumerate(conversation):
        role, text = message["role"], message["content"]
        if role == "assistant":
            call = form.parse(answer_of(text), env.tools)
            if not isinstance(call, Call):
                called = None
                sent.append({"role": role, "content": text})
                continue
            called = f"call_{place}"
            spec = env.tools.get(call.tool)
            checked = call.arguments if spec is None else spec.validate(call.arguments)
            arguments = to_jsonable_python(checked if isinstance(checked, dict) else call.arguments)
            # What stands before the call, where the call is written as `_with_calls` does.
            said = text.removesuffix(form.render(call, env.tools)).strip()
            function = {"name": call.tool, "arguments": json.dumps(arguments, ensure_ascii=False)}
            sent.append(
                {
                    "role": role,
                    "content": said or None,
                    "tool_calls": [{"id": called, "type": "function", "function": function}],
                }
            )
        elif role == "system":
            sent.append({"role": role, "content": text.replace(instructions, "Each message calls one tool.")})
        elif called is not None:
            sent.append({"role": "tool", "tool_call_id": called, "content": text})
            called = None
        else:
            sent.append({"role": "user", "content": text})
    return sent


def _with_calls(text: str, calls: Sequence[Any], env: TurnEnv) -> str:
    """An answer with its tool calls in the words of the environment's format; what is said before stands before them."""
    form = tool_format(env.format)
    written = []
    for call in calls:
        name = call["function"]["name"]
        arguments: Any = call["function"].get("arguments") or {}
        if not isinstance(name, str):
            raise TypeError(f"a tool's name is no text: {name!r:.80}")
        if isinstance(arguments, str):
            with contextlib.suppress(ValueError, RecursionError):
                arguments = json.loads(arguments)
        spec = env.tools.get(name)
        alone = isinstance(arguments, dict) and len(calls) == 1
        if alone and (spec is None or isinstance(spec.validate(arguments), dict)):
            written.append(form.render(Call(name, arguments), env.tools))
        else:
            # Not every format can write a wrong call, or two, so they stand as they came, for the environment to turn down.
            raw = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            written.append(f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {raw}}}\n</tool_call>')
    rendered = "\n".join(written)
    whole = f"{text.strip()}\n{rendered}" if isinstance(text, str) and text.strip() else rendered
    # The call is what the model decided on; a thought that would be read as another one is left out.
    same = form.parse(answer_of(whole), env.tools) == form.parse(rendered, env.tools)
    return whole if same else rendered


def _log_probs(choice: Any) -> list[float]:
    """The log-probability of each token, none where the server gives none."""
    try:
        found = [float(token["logprob"]) for token in choice["logprobs"]["content"]]
    except (LookupError, TypeError, ValueError):
        return []
    return found


def _certainties(choice: Any) -> list[float]:
    """Minus the mean log-probability of the likeliest tokens at each position; none where the server gives none."""
    try:
        rows = [
            [float(t["logprob"]) for t in token["top_logprobs"]] for token in choice["logprobs"]["content"]
        ]
    except (LookupError, TypeError, ValueError):
        return []
    return [-sum(row) / len(row) for row in rows] if all(rows) else []


def _ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(i) is int for i in value)


def _count(usage: Any, *path: str) -> int:
    for name in path:
        usage = usage.get(name) if isinstance(usage, dict) else None
    return usage if type(usage) is int and usage >= 0 else 0
