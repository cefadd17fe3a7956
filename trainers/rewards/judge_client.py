"""A client of OpenAI-compatible chat endpoints that can be left alone: bounded, retried, budgeted, cached."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from ...envs.agent import Message
from ...envs.errors import TurnwiseError, UsageError

T = TypeVar("T")

_RETRIED = {408, 409, 425, 429}  # and every 5xx
_LONGEST_WAIT = 60.0  # seconds between two attempts, whatever the server asks for
_LARGEST_REPLY = 4 * 2**20  # bytes
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

    A question is asked again after a timeout, a lost connection, status 408, 409, 425, 429 or 5xx, each time after a wait
    twice as long, or as long as the server says (`Retry-After`, at most a minute). When three questions in a row have come
    to nothing, the others of the session fail at once. Equal questions are asked once.

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
        self._url = url.rstrip("/") + "/chat/completions"
        self._model, self._key = model, key
        self._options = {"temperature": temperature, "max_tokens": reply_tokens}
        self._concurrency, self._timeout = concurrency, timeout
        self._spacing = 0.0 if per_minute is None else 60.0 / per_minute
        self._next = 0.0
        self._retries, self._backoff = retries, backoff
        self._max_calls, self._max_tokens = max_calls, max_tokens
        self._folder = None if cache is None else Path(cache)
        self._answers: dict[str, str] = {}
        self.calls = self.tokens = 0
        self.counters: Counter[str] = Counter()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """Connections of one event loop; questions are asked inside.

        Raises:
            UsageError: httpx is not installed.
        """
        try:
            import httpx
        except ImportError as error:
            raise UsageError("a judge needs httpx; pip install 'turnwise[judge]'") from error
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        verify = httpx.create_ssl_context()  # slow to make, so they share one
        self._lost = (httpx.HTTPError, httpx.StreamError, TimeoutError)
        self._asking: dict[str, asyncio.Lock] = {}
        self._failed_in_a_row = 0
        # One client per connection: httpx looks through all connections of a client at every step of every request. The
        # one used last is taken first, so that no more are opened than needed.
        self._idle: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        async with AsyncExitStack() as clients:
            for _ in range(self._concurrency):
                # Waits are bounded per attempt below, so that a reply that trickles in ends too.
                http = httpx.AsyncClient(headers=headers, timeout=None, verify=verify)
                self._idle.put_nowait(await clients.enter_async_context(http))
            yield

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
        key = hashlib.blake2b(json.dumps([self._url, body]).encode(), digest_size=16).hexdigest()
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
            http = await self._idle.get()
            try:
                if self._failed_in_a_row >= _PATIENCE:
                    raise JudgeDown(f"{_PATIENCE} questions in a row came to nothing; this one was not asked")
                text = await self._attempts(http, body, random.Random(key))
                self._failed_in_a_row = 0
            except JudgeDown:
                self._failed_in_a_row += 1
                raise
            finally:
                self._idle.put_nowait(http)
            answer = read(text)
            self._remember(key, text)
            return answer

    async def _attempts(self, http: Any, body: dict[str, Any], jitter: random.Random) -> str:
        for attempt in range(self._retries + 1):
            if self._spacing:
                now = time.monotonic()
                self._next, wait = max(self._next, now) + self._spacing, self._next - now
                await asyncio.sleep(max(wait, 0.0))
            if self._max_calls is not None and self.calls >= self._max_calls:
                raise OverBudget(f"the {self._max_calls} calls that the judge may cost are made")
            if self._max_tokens is not None and self.tokens >= self._max_tokens:
                raise OverBudget(f"the {self._max_tokens} tokens that the judge may cost are spent")
            self.calls += 1
            wait = 0.0
            try:
                async with asyncio.timeout(self._timeout):
                    status, headers, content = await self._post(http, body)
            except self._lost as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if status == 200:
                    return self._text(content, body)
                why = f"status {status}: {content[:200].decode('utf-8', 'replace')}"
                if status not in _RETRIED and status < 500:
                    raise JudgeRefused(f"{self._url} answered with {why}")
                wait = _seconds(headers.get("retry-after"))
            if attempt < self._retries:
                self.counters["retries"] += 1
                wait = max(wait, self._backoff * 2**attempt * (1 + jitter.random() / 2))
                await asyncio.sleep(min(wait, _LONGEST_WAIT))
        raise JudgeDown(f"{self._url} gave no answer in {self._retries + 1} attempts; the last: {why}")

    async def _post(self, http: Any, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        content = b""
        async with http.stream("POST", self._url, json=body) as response:
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > _LARGEST_REPLY:
                    raise MalformedReply(f"the reply has more than {_LARGEST_REPLY} bytes")
            return response.status_code, response.headers, content

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


def _seconds(retry_after: str | None) -> float:
    """What a Retry-After header asks for; 0 where it says nothing, or says a date."""
    try:
        return max(0.0, float(retry_after)) if retry_after else 0.0
    except ValueError:
        return 0.0
