"""A client of OpenAI-compatible chat endpoints that can be left alone: bounded, retried, budgeted, cached."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from ...agents.endpoint import BadReply, Endpoint, ServerDown, ServerRefused
from ...envs.agent import Message
from ...envs.errors import TurnwiseError

T = TypeVar("T")

_REMEMBERED = 4096  # answers in memory; a long run asks without end
_PATIENCE = 3  # questions in a row that came to nothing, after which the others of a session are not asked


class JudgeError(TurnwiseError, RuntimeError):
    """A question to a judge has no usable answer; the subclasses say why."""


class JudgeDown(JudgeError):
    """The judge could not be reached, or kept failing, in all attempts."""


class JudgeRefused(JudgeError):
    """The judge turned the question down: a wrong key, an unknown model, a prompt that is too long."""


class OverBudget(JudgeError):
    """The calls or tokens that the judge may cost are spent."""


class MalformedReply(JudgeError):
    """The judge answered with something that is not what it was asked for."""


class JudgeClient:
    """Asks questions of a chat endpoint.

    A question is asked again as `Endpoint` does. When three questions in a row have come to nothing, the others of the
    session fail at once. Equal questions are asked once.

    Args:
        url: base address, such as `http://localhost:8000/v1`; `/chat/completions` is added.
        model: name that the endpoint knows it by.
        key: sent as a bearer token, never stored; None sends none.
        temperature: of the judge; None leaves it to the endpoint.
        reply_tokens: most tokens of a reply; None leaves it to the endpoint.
        concurrency: questions at a time.
        per_minute: attempts per minute, evenly spaced; None for no limit.
        timeout: seconds for one attempt, from the first byte sent to the last one received.
        retries: attempts after the first.
        backoff: seconds before the first retry.
        max_calls: attempts over the life of the client; None for no limit.
        max_tokens: tokens of prompts and replies over the life of the client, as the endpoint counts them (or a quarter of
            the characters where it does not). Questions under way when it is spent are still answered.
        cache: folder that keeps answers across runs; None keeps a few thousand in memory.

    Attributes:
        calls: attempts so far.
        tokens: tokens so far.
        counters: cached (answers from the cache), retries, since the owner emptied it.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        key: str | None = None,
        temperature: float | None = 0.0,
        reply_tokens: int | None = 4096,
        concurrency: int = 16,
        per_minute: float | None = None,
        timeout: float = 120.0,
        retries: int = 4,
        backoff: float = 1.0,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self._endpoint = Endpoint(
            url.rstrip("/") + "/chat/completions",
            key=key,
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            extra="judge",
        )
        self._model = model
        self._options = {"temperature": temperature, "max_tokens": reply_tokens}
        self._concurrency = concurrency
        self._spacing = 0.0 if per_minute is None else 60.0 / per_minute
        self._next = 0.0
        self._max_calls, self._max_tokens = max_calls, max_tokens
        self._folder = None if cache is None else Path(cache)
        self._answers: dict[str, str] = {}
        self.calls = self.tokens = 0
        self.counters: Counter[str] = Counter()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Connections of one event loop; questions are asked inside."""
        self._asking: dict[str, asyncio.Lock] = {}
        self._idle = asyncio.Semaphore(self._concurrency)
        self._failed_in_a_row = 0
        try:
            yield
        finally:
            await self._endpoint.close()

    async def ask(self, messages: Sequence[Message], read: Callable[[str], T], *, sample: int = 0) -> T:
        """Ask, and read the answer.

        Args:
            messages: the question.
            read: makes something of the text of the answer, or raises `MalformedReply`; only what it could read is
                cached.
            sample: number of the answer, where several to one question are wanted.

        Raises:
            JudgeDown, JudgeRefused, OverBudget, MalformedReply: there is no answer.
        """
        body = {"model": self._model, "messages": list(messages), "seed": sample, **self._options}
        body = {name: value for name, value in body.items() if value is not None}
        key = hashlib.blake2b(json.dumps([self._endpoint.url, body]).encode(), digest_size=16).hexdigest()
        async with self._asking.setdefault(key, asyncio.Lock()):
            known = self._remembered(key)
            if known is not None:
                try:
                    answer = read(known)
                except MalformedReply:
                    pass  # written under other rules
                else:
                    self.counters["cached"] += 1
                    return answer
            async with self._idle:
                if self._failed_in_a_row >= _PATIENCE:
                    raise JudgeDown(f"{_PATIENCE} questions in a row came to nothing; this one was not asked")
                try:
                    content = await self._endpoint.post(body, bytes, before=self._admit)
                except ServerDown as error:
                    self._failed_in_a_row += 1
                    raise JudgeDown(str(error)) from error
                except ServerRefused as error:
                    raise JudgeRefused(str(error)) from error
                except BadReply as error:
                    raise MalformedReply(str(error)) from error
                text = self._text(content, body)
                self._failed_in_a_row = 0
            answer = read(text)
            self._remember(key, text)
            return answer

    async def _admit(self, attempt: int) -> None:
        """Wait until the next attempt may be made, and count it."""
        if self._spacing:
            now = time.monotonic()
            self._next, wait = max(self._next, now) + self._spacing, self._next - now
            await asyncio.sleep(max(wait, 0.0))
        if self._max_calls is not None and self.calls >= self._max_calls:
            raise OverBudget(f"the {self._max_calls} calls that the judge may cost are made")
        if self._max_tokens is not None and self.tokens >= self._max_tokens:
            raise OverBudget(f"the {self._max_tokens} tokens that the judge may cost are spent")
        self.calls += 1
        self.counters["retries"] += attempt > 0

    def _text(self, content: bytes, body: dict[str, Any]) -> str:
        """The message of a chat completion; counts its tokens."""
        try:
            reply = json.loads(content)
            text = reply["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            self.tokens += len(json.dumps(body)) // 4
            raise MalformedReply(f"not a chat completion: {content[:200]!r}") from error
        usage = reply.get("usage")
        counted = usage.get("total_tokens") if isinstance(usage, dict) else None
        if not isinstance(counted, int) or counted < 0:
            counted = (len(json.dumps(body["messages"])) + len(str(text or ""))) // 4
        self.tokens += counted
        if not isinstance(text, str):
            raise MalformedReply(f"the message of the reply has no text: {content[:200]!r}")
        return text

    def _remembered(self, key: str) -> str | None:
        if self._folder is None:
            return self._answers.get(key)
        try:
            return (self._folder / key).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def _remember(self, key: str, text: str) -> None:
        if self._folder is None:
            if len(self._answers) >= _REMEMBERED:
                self._answers.clear()
            self._answers[key] = text
            return
        # Runs may share the folder, so a file is whole or not there.
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._folder, delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, self._folder / key)
