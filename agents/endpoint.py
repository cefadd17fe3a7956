"""An address of an OpenAI-compatible server that can be left alone: bounded in time and size, and retried.

What asks (an agent, a judge, a scorer) decides what to send and how to read the answer. Here is what all of them need
where a server is slow, busy, broken, or lies about its format.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import time
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from netrc import NetrcParseError, netrc
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

from ..envs.errors import EnvFailure, UsageError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from aiohttp import ClientResponse
    from yarl import URL

    _Send = Callable[[bytes], AbstractAsyncContextManager[ClientResponse]]

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

    `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` and the netrc file (`NETRC`, or `~/.netrc`) are honoured as they are when an event
    loop sends its first request. An entry of the netrc file counts where neither `key` nor the address has credentials.

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
            asyncio.AbstractEventLoop, tuple[_Send, asyncio.Semaphore, AsyncGenerator[Any, None]]
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
        send, idle = await self._session()
        content = json.dumps(body).encode()
        async with idle:
            for attempt in range(self._retries + 1):
                if before is not None:
                    await before(attempt)
                status, wait = 0, 0.0
                failure: ServerFailure
                try:
                    status, wait, answer = await self._attempt(send, content)
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
                    jitter = random.Random(b"%d %b" % (attempt, content)).random()
                    wait = max(wait, self._backoff * 2**attempt * (1 + jitter / 2))
                    await asyncio.sleep(min(wait, _LONGEST_WAIT))
        raise failure

    async def close(self) -> None:
        """Close the connections of the running event loop; the next request opens new ones."""
        found = self._open.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found[2].aclose()

    async def _attempt(self, send: _Send, content: bytes) -> tuple[int, float, bytes]:
        """Status, seconds that the server asks to wait, and content of the answer."""
        answer = bytearray()
        async with send(content) as response:
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > _LARGEST_REPLY:
                    raise BadReply(f"the reply of {self.url} has more than {_LARGEST_REPLY} bytes")
            return response.status, _seconds(response.headers), bytes(answer)

    async def _session(self) -> tuple[_Send, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            opened = self._sessions()
            # An event loop closes the generators that began in it when it ends, and so the connections.
            send = await anext(opened)
            self._open[loop] = (send, asyncio.Semaphore(self._concurrency), opened)
        send, idle, _ = self._open[loop]
        return send, idle

    async def _sessions(self) -> AsyncGenerator[_Send, None]:
        try:
            import aiohttp
            from yarl import URL
        except ImportError as error:
            raise UsageError(f"this needs aiohttp; pip install 'turnwise[{self._extra}]'") from error
        self._lost: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError, TimeoutError)
        timeout = aiohttp.ClientTimeout(
            total=self._timeout, sock_connect=self._connect_timeout, sock_read=self._read_timeout
        )
        connector = aiohttp.TCPConnector(
            limit=0
        )  # the semaphore limits, and its wait is not the server's time
        # `trust_env` would read the netrc file and the proxies again, in two threads, for every request.
        url, known = URL(self.url), _netrc()
        headers = dict(self._headers)
        if url.user is None and "Authorization" not in headers and (login := _login(known, url)):
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
        proxy = _proxy(url)
        if proxy is not None and proxy.user is None and (login := _login(known, proxy)):
            proxy = proxy.with_user(login[0]).with_password(login[1])
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            # Headers of the session would go to the proxy too, and the key with them.
            yield lambda content: session.post(self.url, data=content, headers=headers, proxy=proxy)


def _proxy(url: URL) -> URL | None:
    """The proxy that the environment names for an address; none where `NO_PROXY` excepts it."""
    if url.host is None or proxy_bypass(url.host):
        return None
    named = getproxies().get(url.scheme)
    return type(url)(named) if named else None


def _netrc() -> netrc | None:
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        return netrc(path)
    except (OSError, NetrcParseError) as error:
        if "NETRC" in os.environ or os.path.exists(path):
            warnings.warn(f"the netrc file {path} is not used: {error}", stacklevel=2)
        return None


def _login(known: netrc | None, url: URL) -> tuple[str, str] | None:
    """User and password of a host."""
    found = known.authenticators(url.host) if known is not None and url.host else None
    return (found[0], found[2] or "") if found else None


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
