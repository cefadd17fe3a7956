"""`turnwise serve`: an environment over HTTP, for many clients at once. The protocol stands in `remote.py`.

Every session is a clone of the environment. What an environment does runs in threads, one request at a time for each session;
the event loop only reads, counts and answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeVar

import uvicorn
from pydantic_core import to_jsonable_python
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from .. import __version__
from .core import TurnEnv
from .errors import EnvFailure, InvalidParameter, TurnwiseError, UsageError
from .listening import listening_socket
from .remote import (
    HEADER,
    PER_SESSION,
    PROTOCOL,
    BadRequest,
    MessageTooLong,
    ProtocolMismatch,
    ServedEnvFailed,
    ServerFull,
    SessionBusy,
    SessionGone,
    SnapshotGone,
    TokenRefused,
    dumps,
    generator_of,
    generator_state,
    key_text,
)
from .tasks import Task
from .tools import Call

T = TypeVar("T")

_START_SECONDS = 20.0
_THREADS = 8
_VARIANTS = 64
_STATUS: dict[type[TurnwiseError], int] = {
    TokenRefused: 401,
    SessionGone: 404,
    SnapshotGone: 404,
    SessionBusy: 409,
    MessageTooLong: 413,
    ProtocolMismatch: 426,
    ServedEnvFailed: 502,
    ServerFull: 503,
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What clients may take of a server.

    Attributes:
        sessions: environments at a time.
        snapshots: at a time, of all sessions.
        message: bytes of a request.
        idle: seconds without a request after which a session is closed, and a snapshot dropped.
    """

    sessions: int = 256
    snapshots: int = 4096
    message: int = 2**20
    idle: float = 900.0

    def __post_init__(self) -> None:
        for name in ("sessions", "snapshots", "message", "idle"):
            if not getattr(self, name) > 0:
                raise InvalidParameter(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass
class _Session:
    env: TurnEnv
    requests: int = 0
    busy: bool = False
    used: float = field(default_factory=time.monotonic)


@dataclass
class _Snapshot:
    state: dict[str, Any]
    used: float = field(default_factory=time.monotonic)


class EnvServer:
    """Serves an environment until it is closed; a context manager.

    Args:
        env: sessions are clones of it.
        host: where it listens; another than the loopback interface needs a token.
        port: 0 for a free one.
        token: what every request must bear; without one nothing is asked.
        limits: what clients may take.

    Attributes:
        url: where it listens, without a slash at the end.

    Raises:
        UsageError: a host that others reach, and no token.
        ServerFailure: it cannot listen there.
    """

    def __init__(
        self,
        env: TurnEnv,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        limits: Limits | None = None,
    ) -> None:
        if not token and not _is_loopback(host):
            raise UsageError(
                f"host={host!r} can be reached by others, who could then use the environment; set a token, or stay on "
                "127.0.0.1"
            )
        self._env, self._token, self.limits = env, token, limits or Limits()
        self._sessions: dict[str, _Session] = {}
        self._snapshots: dict[str, _Snapshot] = {}
        self._opening = 0
        self._taking = 0
        self._described = lru_cache(maxsize=_VARIANTS)(self._describe)
        # An environment that waits holds its thread; any other is quick, and Python runs one at a time.
        self._pool = ThreadPoolExecutor(
            self.limits.sessions if env.blocking else _THREADS, thread_name_prefix="turnwise-serve"
        )
        try:
            listener = listening_socket(host, port)
        except OSError as error:
            raise ServerFailure(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._app(),
            ws="none",
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=1,
            limit_concurrency=2 * self.limits.sessions + 64,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="env-server", daemon=True
        )
        self._thread.start()
        until = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise ServerFailure(f"the server did not start on {self.url}")
            time.sleep(0.005)

    def __enter__(self) -> EnvServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, and close every session."""
        self._server.should_exit = True
        self._thread.join(timeout=5)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for session in self._sessions.values():
            if not session.busy:
                _close(session.env)
        self._sessions.clear()
        self._snapshots.clear()

    def wait(self) -> None:
        """Wait until the server ends, or for Ctrl-C."""
        while self._thread.is_alive():
            self._thread.join(0.2)

    @property
    def sessions(self) -> int:
        """Number of sessions now."""
        return len(self._sessions)

    @property
    def snapshots(self) -> int:
        """Number of snapshots now."""
        return len(self._snapshots)

    # Requests.

    def _app(self) -> Starlette:
        def route(path: str, function: Callable[..., Coroutine[Any, Any, dict[str, Any]]]) -> Route:
            async def answer(request: Request) -> Response:
                return await self._answer(request, function)

            return Route(path, answer, methods=["POST"])

        # Without a token a web page in a browser on this machine must not get in by a name that leads here.
        hosts = (
            ["*"] if self._token else ["127.0.0.1", "localhost", "["]
        )  # Starlette cuts [::1] at its first colon
        return Starlette(
            routes=[
                route("/handshake", self._handshake),
                route("/task", self._task),
                route("/validate", self._validate),
                route("/open", self._open),
                route("/close", self._forget),
                route("/session/{session}/{what}", self._use),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(self._sweep())
        yield
        sweeping.cancel()

    async def _sweep(self) -> None:
        """Close what nobody has used for long."""
        while True:
            await asyncio.sleep(min(5.0, self.limits.idle / 4))
            before = time.monotonic() - self.limits.idle
            for name, session in list(self._sessions.items()):
                if not session.busy and session.used < before:
                    self._drop(name)
            for name, snapshot in list(self._snapshots.items()):
                if snapshot.used < before:
                    del self._snapshots[name]

    async def _answer(
        self, request: Request, function: Callable[..., Coroutine[Any, Any, dict[str, Any]]]
    ) -> Response:
        try:
            self._admit(request)
            answer, status = await function(await self._body(request), **request.path_params), 200
        except TurnwiseError as error:
            answer = {"error": {"type": type(error).__name__, "message": str(error)}}
            status = _STATUS.get(type(error), 400)
        return Response(dumps(answer), status, media_type="application/json")

    def _admit(self, request: Request) -> None:
        if self._token:
            kind, _, given = request.headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._token.encode()):
                raise TokenRefused(
                    "this server wants a token"
                    + (", and not this one" if given else "")
                    + "; pass token=..., or set "
                    "TURNWISE_TOKEN"
                )
        if request.headers.get(HEADER) != str(PROTOCOL):
            raise ProtocolMismatch(
                f"this server speaks version {PROTOCOL} of the protocol, the request is of version "
                f"{request.headers.get(HEADER, 'none')[:20]}; install the same turnwise on both sides"
            )

    async def _body(self, request: Request) -> dict[str, Any]:
        found = bytearray()
        try:
            async for chunk in request.stream():
                found += chunk
                if len(found) > self.limits.message:
                    raise MessageTooLong(f"a request of more than {self.limits.message} bytes")
            body = json.loads(found)
        except (ClientDisconnect, RecursionError, ValueError) as error:
            if isinstance(error, TurnwiseError):
                raise
            raise BadRequest(f"the request is no JSON: {type(error).__name__}") from error
        if not isinstance(body, dict):
            raise BadRequest("a request is a JSON object")
        return body

    async def _run(self, function: Callable[[], T]) -> T:
        """Run what belongs to an environment; whatever breaks there has a type."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function)
        except (UsageError, ServerFull, SnapshotGone):
            raise
        except EnvFailure as error:
            raise ServedEnvFailed(f"{type(error).__name__}: {error}") from error
        except Exception as error:
            _log.exception("%s raised", self._env.env_id)
            raise ServedEnvFailed(f"{type(error).__name__}: {error}") from error

    async def _handshake(self, body: dict[str, Any]) -> dict[str, Any]:
        return (await self._run(partial(self._variant, body)))[1]

    async def _task(self, body: dict[str, Any]) -> dict[str, Any]:
        def find() -> Task:
            tasks = self._env.tasks
            if "id" in body:
                return tasks.find(body["id"])
            if not isinstance(body.get("split"), str) or type(body.get("index")) is not int:
                raise BadRequest("a task is asked for by split and index, or by id")
            return tasks.get(body["split"], body["index"])

        return _task(await self._run(find))

    async def _validate(self, body: dict[str, Any]) -> dict[str, Any]:
        def validate() -> dict[str, Any]:
            env, _ = self._variant(body)
            name, arguments = body.get("tool"), body.get("arguments")
            if not isinstance(name, str) or name not in env.tools or not isinstance(arguments, dict):
                raise BadRequest("arguments are a JSON object, for one of the tools")
            spec = env.tools[name]
            known = {n: v for n, v in arguments.items() if n in spec.parameters}
            accepted = all(spec.accepts(n, v) for n, v in known.items())
            found = spec.validate(arguments)
            said = {"why": found} if isinstance(found, str) else {"arguments": _plain(found)}
            return {"accepted": accepted, **said}

        return await self._run(validate)

    async def _open(self, body: dict[str, Any]) -> dict[str, Any]:
        if len(self._sessions) + self._opening >= self.limits.sessions:
            raise ServerFull(
                f"all {self.limits.sessions} sessions are taken; close some, or start the server with more --sessions"
            )
        self._opening += 1
        try:
            env = await self._run(partial(self._made, _chosen(body)))
        finally:
            self._opening -= 1
        name = secrets.token_urlsafe(16)
        self._sessions[name] = _Session(env)
        return {"session": name}

    async def _forget(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body.get("session")
        if isinstance(name, str) and name in self._sessions:
            if self._sessions[name].busy:
                raise SessionBusy("the session is in the middle of a request")
            self._drop(name)
        self._snapshots.pop(str(body.get("snapshot")), None)
        return {}

    def _drop(self, name: str) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            with contextlib.suppress(RuntimeError):  # the server is being closed
                self._pool.submit(_close, session.env)

    async def _use(self, body: dict[str, Any], session: str, what: str) -> dict[str, Any]:
        function = _METHODS.get(what)
        if function is None:
            raise BadRequest(f"a session has no {what!r:.40}; it has {', '.join(_METHODS)}")
        held = self._sessions.get(session)
        if held is None:
            raise SessionGone(
                f"no such session; after {self.limits.idle:g} s without a request the server closes one"
            )
        if held.busy:
            raise SessionBusy("the session is in the middle of a request; every client opens its own")
        if body.get("n") != held.requests + 1:
            raise SessionBusy(
                f"request {body.get('n')!r:.20} of a session that had {held.requests}: another client uses it, or it was "
                "sent twice; every client opens its own"
            )
        held.requests += 1
        held.busy = True

        def use() -> dict[str, Any]:
            if "generator" in body:
                held.env.np_random = generator_of(body["generator"])
            return function(self, held.env, body)

        try:
            return await self._run(use)
        except ServedEnvFailed:
            self._drop(session)  # who knows in what state it is
            raise
        finally:
            held.busy, held.used = False, time.monotonic()

    # What is served; in threads.

    def _variant(self, body: dict[str, Any]) -> tuple[TurnEnv, dict[str, Any]]:
        return self._described(json.dumps(_chosen(body), sort_keys=True))

    def _describe(self, chosen: str) -> tuple[TurnEnv, dict[str, Any]]:
        """An environment with the parameters that a client chose, and the handshake about it."""
        env = self._made(json.loads(chosen))
        tools = [
            {
                "name": spec.name,
                "description": spec.description,
                "parameters": list(spec.parameters),
                "defaults": _plain(spec.defaults),
                "schema_": spec.schema,
                "plain": sorted(spec.plain),
            }
            for spec in env.tools.values()
        ]
        return env, {
            "protocol": PROTOCOL,
            "version": __version__,
            "id": env.env_id,
            "parameters": _plain(env.parameters),
            "settings": {name: getattr(env, name) for name in PER_SESSION},
            "rules": env.rules,
            "tools": tools,
            "splits": dict(env.tasks.splits),
            "samples": type(env).sample_action is not TurnEnv.sample_action,
            "max_message": self.limits.message,
        }

    def _made(self, chosen: dict[str, Any]) -> TurnEnv:
        env = type(self._env)(**{**self._env.parameters, **chosen})
        env.spec = self._env.spec
        return env

    def hold(self, state: dict[str, Any]) -> str:
        """Keep a snapshot; returns its name."""
        if len(self._snapshots) >= self.limits.snapshots:
            raise ServerFull(
                f"all {self.limits.snapshots} snapshots are taken; drop some, or start the server with more --snapshots"
            )
        name = secrets.token_urlsafe(16)
        self._snapshots[name] = _Snapshot(state)
        return name

    def held(self, name: Any) -> dict[str, Any]:
        """The snapshot of this name."""
        snapshot = self._snapshots.get(name) if isinstance(name, str) else None
        if snapshot is None:
            raise SnapshotGone(
                f"no such snapshot; after {self.limits.idle:g} s without use the server drops one"
            )
        snapshot.used = time.monotonic()
        return snapshot.state


class ServerFailure(EnvFailure):
    """Raised when the server does not start."""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _close(env: TurnEnv) -> None:
    with contextlib.suppress(Exception):
        env.close()


def _chosen(body: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a client chose."""
    chosen = body.get("parameters", {})
    if not isinstance(chosen, dict):
        raise BadRequest("parameters are a JSON object")
    if unknown := sorted(chosen.keys() - set(PER_SESSION)):
        raise InvalidParameter(
            f"a client chooses {', '.join(PER_SESSION)}; {unknown[0]!r:.40} is the server's: turnwise serve ID --set"
        )
    return chosen


def _plain(value: Any) -> Any:
    """A value as JSON, as trajectories record it."""
    return to_jsonable_python(value, fallback=repr)


def _task(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "split": task.split,
        "seed": int(task.seed),
        "prompt": task.prompt,
        "data": _plain(dict(task.data)),
        "reference": None if task.reference is None else list(task.reference),
        "family": task.family,
        "difficulty": task.difficulty,
    }


def _call(call: Call | None) -> dict[str, Any] | None:
    return None if call is None else {"tool": call.tool, "arguments": _plain(call.arguments)}


def _info(info: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = _plain({**info, "call": None} if "call" in info else info)
    return {**plain, "state_key": key_text(info["state_key"])}


# The methods of a session.


def _reset(_: EnvServer, env: TurnEnv, body: dict[str, Any]) -> dict[str, Any]:
    options = body.get("options")
    if not isinstance(options, dict):
        raise BadRequest("options are a JSON object")
    observation, info = env.reset(seed=body.get("seed"), options=options)
    assert env.task is not None
    return {
        "observation": observation,
        "info": _info(info),
        "task": _task(env.task),
        "role": env.role,
        "reference": env.reference(),
        "opening": env.messages(observation),
        "seed": env.np_random_seed,
        "generator": generator_state(env.np_random),
    }


def _step(_: EnvServer, env: TurnEnv, body: dict[str, Any]) -> dict[str, Any]:
    observation, reward, terminated, truncated, info = env.step(body.get("action"))  # type: ignore[arg-type]
    return {
        "observation": observation,
        "reward": reward,
        "terminated": terminated,
        "truncated": truncated,
        "info": _info(info),
        "call": _call(info["call"]),
    }


def _restore(server: EnvServer, env: TurnEnv, body: dict[str, Any]) -> dict[str, Any]:
    env.restore(server.held(body.get("snapshot")))
    return {}


def _cut_off(_: EnvServer, env: TurnEnv, _body: dict[str, Any]) -> dict[str, Any]:
    score, owed = env.cut_off()
    return {"score": score, "owed": owed}


def _messages(_: EnvServer, env: TurnEnv, body: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(body.get("observation"), str):
        raise BadRequest("an observation is a text")
    return {"messages": env.messages(body["observation"])}


def _sample(_: EnvServer, env: TurnEnv, body: dict[str, Any]) -> dict[str, Any]:
    rng = generator_of(body.get("draws"))
    return {"value": env.sample_action(rng), "draws": generator_state(rng)}


_METHODS: dict[str, Callable[[EnvServer, TurnEnv, dict[str, Any]], dict[str, Any]]] = {
    "reset": _reset,
    "step": _step,
    "snapshot": lambda server, env, _: {"snapshot": server.hold(env.snapshot())},
    "restore": _restore,
    "cut_off": _cut_off,
    "expert": lambda _s, env, _b: {"call": _call(env.expert())},
    "state_key": lambda _s, env, _b: {"value": key_text(env.state_key())},
    "potential": lambda _s, env, _b: {"value": float(env.potential())},
    "score": lambda _s, env, _b: {"value": float(env.score())},
    "render": lambda _s, env, _b: {"value": str(env.render())},
    "messages": _messages,
    "sample": _sample,
    "generator": lambda _s, env, _b: {"generator": generator_state(env.np_random)},
}
