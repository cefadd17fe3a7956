"""An address of an OpenAI-compatible server that can be left alone: bounded in time and size, and retried.

What asks (an agent, a judge, a scorer) decides what to send and how to read the answer. Here is what all of them need
where a server is slow, busy, broken, or lies about its format.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from ..envs.errors import EnvFailure, UsageError

if TYPE_CHECKING:
    from aiohttp import ClientSession

T = TypeVar("T")

_RETRIED = {408, 409, 425, 429}  # and every 5xx
_LONGEST_WAIT = 60.0  # seconds between two attempts, whatever the server asks for
_LARGEST_REPLY = 32 * 2**20  # bytes


class ServerFailure(EnvFailure):
    """Raised when a server gives no usable answer; the subclasses say why."""


class ServerDown(ServerFailure):
    """The server could not be reached, or kept failing, in all attempts."""


class ServerRefused(ServerFailure):
    """The server turned the request down.

    Attributes:
        status: the HTTP status, from 400 on.
        said: the beginning of what the server wrote.
    """

    def __init__(self, url: str, status: int, said: str) -> None:
        super().__init__(f"{url} answered with status {status}: {said[:200]}")
        self.status, self.said = status, said


class BadReply(ServerFailure):
    """The server answered with something that is not what its interface promises."""


class Endpoint:
    """Posts JSON to one address, and reads what comes back.

    A request is sent again after a lost connection, a timeout, status 408, 409, 425, 429 or 5xx, and an answer that its
    reader finds broken: each time after a wait twice as long with jitter, or as long as the server says (`Retry-After`),
    at most a minute. Connections are kept per event loop, and closed when the loop ends as `asyncio.run` ends it, or by
    `close`.

    aiohttp carries it: beside httpx in the same process it sent 3.6 times as many requests per second of CPU.

    Args:
        url: the whole address, such as `http://localhost:8000/v1/chat/completions`.
        key: sent as a bearer token, never stored; None sends none.
        concurrency: requests at a time.
        timeout: seconds for one attempt, from the first byte sent to the last one received.
        connect_timeout: seconds for a connection.
        read_timeout: seconds without a byte; a server that does not stream is silent while it works.
        retries: attempts after the first.
        backoff: seconds before the first retry.
        extra: the optional dependencies that bring aiohttp, for the message where it is missing.

    Attributes:
        answered: whether a request was ever answered with status 200.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        concurrency: int,
        timeout: float,
        connect_timeout: float | None = None,
        read_timeout: float | None = None,
        retries: int,
        backoff: float,
        extra: str,
    ) -> None:
        self.url = url
        self.answered = False
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._concurrency, self._timeout = concurrency, timeout
        self._connect_timeout, self._read_timeout = connect_timeout, read_timeout
        self._retries, self._backoff, self._extra = retries, backoff, extra
        self._open: WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[ClientSession, asyncio.Semaphore, AsyncGenerator[Any, None]]
        ] = WeakKeyDictionary()

    async def post(
        self,
        body: Mapping[str, Any],
        read: Callable[[bytes], T],
        *,
        before: Callable[[int], Awaitable[None]] | None = None,
    ) -> T:
        """Send a request until it is answered, and return what `read` makes of the answer.

        Args:
            body: sent as JSON.
            read: takes the content of an answer with status 200; a `BadReply` that it raises is one more failed attempt.
            before: awaited before each attempt with its number from 0 on; what it raises ends the request.

        Raises:
            ServerDown: no attempt was answered.
            BadReply: the last attempt was answered with something unusable.
            ServerRefused: the server turned the request down; it is not sent again.
            UsageError: aiohttp is not installed.
        """
        session, idle = await self._session()
        content = json.dumps(body).encode()
        jitter = random.Random(content)
        async with idle:
            for attempt in range(self._retries + 1):
                if before is not None:
                    await before(attempt)
                status, wait = 0, 0.0
                failure: ServerFailure
                try:
                    status, wait, answer = await self._attempt(session, content)
                    if status == 200:
                        self.answered = True
                        return read(answer)
                    said = answer[:2000].decode("utf-8", "replace")
                    failure = ServerDown(
                        f"{self.url} gave no answer in {attempt + 1} attempts; the last: status {status}: {said[:200]}"
                    )
                except self._lost as error:
                    failure = ServerDown(
                        f"{self.url} gave no answer in {attempt + 1} attempts; the last: {type(error).__name__}: {error}"
                    )
                except BadReply as error:
                    failure = error
                if 300 <= status < 500 and status not in _RETRIED:
                    raise ServerRefused(self.url, status, said)
                if attempt < self._retries:
                    wait = max(wait, self._backoff * 2**attempt * (1 + jitter.random() / 2))
                    await asyncio.sleep(min(wait, _LONGEST_WAIT))
        raise failure

    async def close(self) -> None:
        """Close the connections of the running event loop; the next request opens new ones."""
        found = self._open.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found[2].aclose()

    async def _attempt(self, session: ClientSession, content: bytes) -> tuple[int, float, bytes]:
        """Status, seconds that the server asks to wait, and content of the answer."""
        answer = bytearray()
        async with session.post(self.url, data=content) as response:
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > _LARGEST_REPLY:
                    raise BadReply(f"the reply of {self.url} has more than {_LARGEST_REPLY} bytes")
            return response.status, _seconds(response.headers), bytes(answer)

    async def _session(self) -> tuple[ClientSession, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            opened = self._sessions()
            # An event loop closes the generators that began in it when it ends, and so the connections.
            session = await anext(opened)
            self._open[loop] = (session, asyncio.Semaphore(self._concurrency), opened)
        session, idle, _ = self._open[loop]
        return session, idle

    async def _sessions(self) -> AsyncGenerator[ClientSession, None]:
        try:
            import aiohttp
        except ImportError as error:
            raise UsageError(f"this needs aiohttp; pip install 'turnwise[{self._extra}]'") from error
        self._lost: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError, TimeoutError)
        timeout = aiohttp.ClientTimeout(
            total=self._timeout, sock_connect=self._connect_timeout, sock_read=self._read_timeout
        )
        connector = aiohttp.TCPConnector(
            limit=0
        )  # the semaphore limits, and its wait is not the server's time
        async with aiohttp.ClientSession(
            connector=connector, headers=self._headers, timeout=timeout, trust_env=True
        ) as session:
            yield session


def _seconds(headers: Mapping[str, str]) -> float:
    """What `Retry-After` asks for, as seconds or as a date; 0 where it says nothing that can be read."""
    asked = headers.get("Retry-After", "")
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
