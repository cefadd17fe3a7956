"""`Remote-v1`: an environment that another process or machine serves with `turnwise serve`, as if it were here.

The protocol is JSON over HTTP, and what both ends say of it stands in this file: every request is a POST with the header
`turnwise-protocol` and a JSON object; an error is `{"error": {"type": ..., "message": ...}}` with the name of one of the
classes below, or of a `UsageError` of turnwise.

    /handshake           {"parameters"}                       what is served: see `Handshake`
    /task                {"split", "index"} or {"id"}         a task
    /validate            {"parameters", "tool", "arguments"}  what a tool makes of arguments
    /open                {"parameters"}                       {"session"}: an environment of one's own
    /session/ID/WHAT     {"n", ...}                           a method of that environment; n counts the requests
    /close               {"session"} or {"snapshot"}          forget it
"""

from __future__ import annotations

import json
import os
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from . import errors
from .agent import Message
from .core import TurnEnv
from .errors import EnvFailure, InvalidParameter, InvalidSeed, UsageError
from .tasks import Task, TaskSet
from .tools import Call, ToolSpec

if TYPE_CHECKING:
    import httpx

PROTOCOL = 1
"""Version of the protocol. Both ends must speak the same."""
HEADER = "turnwise-protocol"
TOKEN = "TURNWISE_TOKEN"
"""Environment variable that holds the token where none is given."""
PER_SESSION = ("format", "max_turns", "reward", "split", "system_prompt")
"""The parameters that a client may choose; all others are the server's."""


class ServerGone(EnvFailure):
    """Raised when the server cannot be reached, hung up, or is none of ours."""


class ServerTimeout(EnvFailure):
    """Raised when the server did not answer in time."""


class ServerGarbage(EnvFailure):
    """Raised when an answer is not what the protocol says."""


class SessionGone(EnvFailure):
    """Raised when the server knows no such session: it was idle for too long, or the server began anew."""


class SessionBusy(EnvFailure):
    """Raised when a second client uses a session: it is in the middle of a request, or its count is another."""


class SnapshotGone(EnvFailure):
    """Raised when the server no longer holds a snapshot."""


class ServerFull(EnvFailure):
    """Raised when the server holds as many sessions or snapshots as it may."""


class MessageTooLong(EnvFailure):
    """Raised when a request is longer than the server takes."""


class ServedEnvFailed(EnvFailure):
    """Raised when what is served broke: the message begins with the name of the error."""


class ProtocolMismatch(UsageError):
    """Raised when client and server speak different versions of the protocol."""


class TokenRefused(UsageError):
    """Raised when the server wants a token, or another one."""


class BadRequest(UsageError):
    """Raised when a request is not what the protocol says."""


WIRE_ERRORS: dict[str, type[errors.TurnwiseError]] = {
    cls.__name__: cls
    for cls in [
        *(c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, UsageError)),
        SessionGone,
        SessionBusy,
        SnapshotGone,
        ServerFull,
        MessageTooLong,
        ServedEnvFailed,
        ProtocolMismatch,
        TokenRefused,
        BadRequest,
    ]
}
"""What a server may answer, by the name on the wire."""


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True)


_A = TypeVar("_A", bound=_Answer)


class WireTool(_Answer):
    """A tool as it is served; the fields are those of `ToolSpec`."""

    name: str
    description: str
    parameters: list[str]
    defaults: dict[str, Any]
    schema_: dict[str, Any]
    plain: list[str]


class Handshake(_Answer):
    """What is served.

    Attributes:
        protocol: version that the server speaks.
        version: of turnwise there.
        id: of the environment.
        parameters: all that it is made with.
        settings: value of each parameter that every environment has.
        rules: what the agent is told beside the tools.
        tools: by place.
        splits: number of tasks by split.
        samples: whether the environment draws random actions in a way of its own.
        max_message: bytes of a request at most.
    """

    protocol: int
    version: str
    id: str
    parameters: dict[str, Any]
    settings: dict[str, Any]
    rules: str
    tools: list[WireTool]
    splits: dict[str, int]
    samples: bool
    max_message: int


class WireTask(_Answer):
    """A task; the fields are those of `Task`, with data as JSON."""

    id: str
    split: str
    seed: int
    prompt: str
    data: dict[str, Any]
    reference: list[str] | None
    family: str
    difficulty: str


class WireReset(_Answer):
    """How an episode begins: what `reset` returns, and what belongs to the whole episode."""

    observation: str
    info: dict[str, Any]
    task: WireTask
    role: str
    reference: list[str] | None
    opening: list[dict[str, Any]]
    seed: int
    generator: dict[str, Any]


class WireCall(_Answer):
    """A call."""

    tool: str
    arguments: dict[str, Any]


class WireStep(_Answer):
    """What `step` returns; the call of the info stands beside it."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    call: WireCall | None


def dumps(value: object) -> bytes:
    """JSON in ASCII, so that lone surrogates travel; values that are no JSON become their `repr`."""
    return json.dumps(value, default=repr).encode()


def key_text(key: Hashable) -> str:
    """A state key as it travels: as trajectories record it."""
    return key if isinstance(key, str) else repr(key)


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """State of a generator, as JSON.

    Raises:
        UsageError: it is not the one of `numpy.random.default_rng`.
    """
    if not isinstance(rng.bit_generator, np.random.PCG64):
        raise UsageError(
            f"a remote environment draws from a PCG64 generator, got {type(rng.bit_generator).__name__}; "
            "use numpy.random.default_rng"
        )
    return dict(rng.bit_generator.state)


def generator_of(state: Any) -> np.random.Generator:
    """The generator in this state.

    Raises:
        BadRequest: it is none.
    """
    bits = np.random.PCG64()
    try:
        bits.state = state
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise BadRequest(f"{state!r:.80} is not the state of a PCG64 generator") from error
    return np.random.Generator(bits)


class _Server:
    """A server as the client sees it: where it is, and how it is asked."""

    def __init__(self, url: str, token: str, timeout: float) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        self._token = token

    def ask(self, path: str, body: Mapping[str, Any], limit: int | None = None) -> dict[str, Any]:
        """The answer to a request.

        Args:
            path: of the request.
            body: a JSON object.
            limit: bytes that the server takes.

        Raises:
            EnvFailure: one of those above; the server may have acted on the request or not.
            UsageError: what the server says is the caller's mistake.
        """
        import httpx

        content = dumps(body)
        if limit is not None and len(content) > limit:
            raise MessageTooLong(f"a request of {len(content)} bytes; {self.url} takes {limit}")
        headers = {"content-type": "application/json", HEADER: str(PROTOCOL)}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        try:
            found = _http(os.getpid()).post(
                f"{self.url}{path}", content=content, headers=headers, timeout=self.timeout
            )
        except httpx.TimeoutException as error:
            raise ServerTimeout(f"{self.url} did not answer within {self.timeout:g} s") from error
        except httpx.TransportError as error:
            raise ServerGone(f"{self.url}: {type(error).__name__}: {error}") from error
        except httpx.DecodingError as error:
            raise ServerGarbage(f"{self.url}: {error}") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidParameter(f"url={self.url!r} is no address of a server: {error}") from error
        return self._read(found)

    def _read(self, found: httpx.Response) -> dict[str, Any]:
        said = f"{self.url} answered with status {found.status_code}: {found.text[:200]!r}"
        try:
            answer = json.loads(found.content)
            error = None if found.status_code == 200 else answer["error"]
            kind, message = (None, "") if error is None else (WIRE_ERRORS[error["type"]], error["message"])
            if not isinstance(answer, dict) or not isinstance(message, str):
                raise TypeError("not the shape of an answer")
        except (LookupError, RecursionError, TypeError, ValueError) as error:
            broken = ServerGone if found.status_code >= 500 else ServerGarbage
            raise broken(f"{said}; is it a `turnwise serve` of this version?") from error
        if kind is not None:
            raise kind.__new__(kind, message)  # some take other arguments than the message that is ready here
        return answer

    def read(self, shape: type[_A], answer: dict[str, Any]) -> _A:
        """An answer in its shape.

        Raises:
            ServerGarbage: it has another.
        """
        try:
            return shape.model_validate(answer)
        except ValidationError as error:
            why = error.errors(include_url=False)[0]
            raise ServerGarbage(f"{self.url}: {'.'.join(map(str, why['loc']))}: {why['msg']}") from error

    def forget(self) -> None:
        """Close the sessions and snapshots of this process that nobody holds any more."""
        for _ in range(len(_forgotten)):
            try:
                owner, server, what = _forgotten.popleft()
            except IndexError:
                return
            if owner == os.getpid():
                with suppress(EnvFailure, UsageError):
                    server.ask("/close", what)


_forgotten: deque[tuple[int, _Server, dict[str, str]]] = deque()
"""What the garbage collector found: it must not ask a server itself, for it may run in the middle of a request."""


@lru_cache(maxsize=1)
def _http(_process: int) -> httpx.Client:
    """One for all threads of a process; a forked one must not share its connections."""
    import atexit

    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    client = httpx.Client(limits=limits, follow_redirects=False)
    atexit.register(client.close)
    return client


class _Session:
    """An environment of one's own on the server; closed when nobody holds this."""

    def __init__(self, server: _Server, name: str) -> None:
        self.name, self.requests = name, 0
        self.forget = weakref.finalize(self, _forgotten.append, (os.getpid(), server, {"session": name}))
        self.forget.atexit = False


class _Handle:
    """A snapshot on the server; dropped when nobody holds this. A copy that was pickled keeps it until it is idle."""

    def __init__(self, server: _Server, name: str) -> None:
        self.name = name
        self._forget = weakref.finalize(self, _forgotten.append, (os.getpid(), server, {"snapshot": name}))
        self._forget.atexit = False

    def __deepcopy__(self, memo: dict[int, Any]) -> _Handle:
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        self._forget.detach()
        return _kept_handle, (self.name,)


def _kept_handle(name: str) -> _Handle:
    handle = _Handle.__new__(_Handle)
    handle.name = name
    return handle


class _RemoteTool(ToolSpec):
    """A tool on the server, which judges values; the rest is known here."""

    def __init__(self, wire: WireTool, judge: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
        self.name, self.description, self.schema = wire.name, wire.description, wire.schema_
        self.parameters, self.defaults = tuple(wire.parameters), wire.defaults
        self.plain = frozenset(wire.plain)
        self._judge = judge

    def validate(self, arguments: dict[str, Any]) -> dict[str, Any] | str:
        """See `ToolSpec`; the server is asked."""
        answer = self._judge(self.name, arguments)
        why: str | None = answer.get("why")
        return answer["arguments"] if why is None else why

    def accepts(self, parameter: str, value: Any) -> bool:
        """See `ToolSpec`; the server is asked."""
        return bool(self._judge(self.name, {parameter: value})["accepted"])


class _Judge:
    """Asks what a tool makes of arguments."""

    def __init__(self, server: _Server, parameters: dict[str, Any]) -> None:
        self._server, self._parameters = server, parameters

    def __call__(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        asked = {"parameters": self._parameters, "tool": tool, "arguments": arguments}
        answer = self._server.ask("/validate", asked)
        if not isinstance(answer.get("why"), str) and not isinstance(answer.get("arguments"), dict):
            raise ServerGarbage(f"{self._server.url} neither took the arguments of {tool!r} nor said why not")
        return answer


_TASKS_KEPT = 4096


class RemoteTasks(TaskSet):
    """The tasks of a server."""

    def __init__(self, server: _Server, splits: Mapping[str, int]) -> None:
        self._server, self._splits = server, dict(splits)
        self._known: dict[str, Task] = {}

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of tasks by split."""
        return self._splits

    def get(self, split: str, index: int) -> Task:
        """Task by its place in the split."""
        self.size(split)
        return self._keep(self._server.ask("/task", {"split": split, "index": int(index)}))

    def find(self, task_id: str) -> Task:
        """Task by its id."""
        known = self._known.get(task_id) if isinstance(task_id, str) else None
        return known or self._keep(self._server.ask("/task", {"id": task_id}))

    def _keep(self, answer: dict[str, Any]) -> Task:
        return self.keep(self._server.read(WireTask, answer))

    def keep(self, wire: WireTask) -> Task:
        """The task, remembered for `find`."""
        task = self._known.get(wire.id)
        if task is None:
            reference = None if wire.reference is None else tuple(wire.reference)
            task = Task(**{**dict(wire), "reference": reference})
            if len(self._known) >= _TASKS_KEPT:
                self._known.clear()
            self._known[wire.id] = task
        return task


class _Episode(NamedTuple):
    """What does not change within an episode.

    Attributes:
        task: what it is about.
        role: the agent's seat.
        reference: the accepted answers.
        first: the first observation.
        opening: the messages that open it.
    """

    task: Task
    role: str
    reference: list[str] | None
    first: str
    opening: list[dict[str, Any]]


class Remote(TurnEnv):
    """An environment that a `turnwise serve` holds, with all that a local one has.

    Id, parameters, tools, rules, tasks and every text are the served environment's, and trajectories record its id and
    parameters, so that they are the same as those played there. State keys are texts: as trajectories record them. The
    parameters `format`, `max_turns`, `reward`, `split` and `system_prompt` may be chosen here; without a choice they are
    the server's. Every other parameter is the server's alone.

    An environment opens a session at its first use, and `close` gives it back; a clone has a session of its own. What
    breaks raises a typed `EnvFailure`, and the environment then begins with a new session at the next `reset`. Snapshots
    are kept by the server for as long as somebody here holds them.

    Observation: the served environment's.

    Tools: the served environment's.

    Reward: the served environment's.

    Terminated: as the served environment says.

    Attributes:
        url: of the server, such as `http://127.0.0.1:8000`.
        token: of the server; without one the environment variable TURNWISE_TOKEN.
        timeout: seconds to wait for an answer.
    """

    url: str = ""
    token: str = ""
    timeout: float = 60.0

    blocking: ClassVar[bool] = True

    def __init__(self, *, render_mode: str | None = None, **parameters: Any) -> None:
        try:
            import httpx  # noqa: F401
        except ModuleNotFoundError as error:
            raise UsageError(
                "a remote environment needs httpx, which is not installed: pip install 'turnwise[remote]'"
            ) from error
        url, timeout = parameters.get("url", ""), parameters.get("timeout", self.timeout)
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InvalidParameter(
                f"url={url!r} is no address of a server; start one with `turnwise serve ID` and pass for example "
                "url='http://127.0.0.1:8000'"
            )
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise InvalidParameter(f"timeout is a number of seconds above 0, got {timeout!r}")
        token = parameters.get("token") or os.environ.get(TOKEN, "")
        if not isinstance(token, str):
            raise InvalidParameter(f"token is a text, got {type(token).__name__}")
        self._made_with = dict(parameters)
        self._chosen = {n: v for n, v in parameters.items() if n in PER_SESSION}
        self._server = _Server(url, token, float(timeout))
        self._shake = _shaken(self._server, self._chosen)
        for name in PER_SESSION:
            setattr(self, name, self._shake.settings[name])
        judge = _Judge(self._server, self._chosen)
        self.tools = {t.name: _RemoteTool(t, judge) for t in self._shake.tools}  # type: ignore[misc]
        self.rules = self._shake.rules  # type: ignore[misc]
        super().__init__(render_mode=render_mode, **parameters)
        self.parameters = self._shake.parameters
        self._session: _Session | None = None
        self._episode: _Episode | None = None
        self._drawn_anew: dict[str, Any] | None = None

    def load_tasks(self) -> TaskSet:
        """The server's."""
        return RemoteTasks(self._server, self._shake.splits)

    # Sessions.

    def _ask(self, what: str, **body: Any) -> dict[str, Any]:
        """Have the session do something."""
        if self._session is None:
            self._server.forget()
            opened = self._server.ask("/open", {"parameters": self._chosen})
            if not isinstance(opened.get("session"), str):
                raise ServerGarbage(f"{self._server.url} opened a session without a name")
            self._session = _Session(self._server, opened["session"])
        session = self._session
        if self._drawn_anew is not None:
            body["generator"], self._drawn_anew = self._drawn_anew, None
        try:
            session.requests += 1
            return self._server.ask(
                f"/session/{session.name}/{what}", {"n": session.requests, **body}, self._shake.max_message
            )
        except EnvFailure as error:
            if isinstance(error, SessionBusy):
                session.forget.detach()  # it is somebody else's
            if not isinstance(error, (ServerFull, SnapshotGone)):  # after those the episode is as it was
                self._session = None
            raise

    def close(self) -> None:
        """Give the session back."""
        session, self._session = self._session, None
        if session is not None and session.forget.detach():
            with suppress(EnvFailure, UsageError):
                self._server.ask("/close", {"session": session.name})
        super().close()

    def __getstate__(self) -> dict[str, Any]:
        handle = None if self._session is None else self._hold()
        return {**self.__dict__, "_session": None, "_handle": handle}

    def __setstate__(self, state: dict[str, Any]) -> None:
        handle = state.pop("_handle")
        super().__setstate__(state)
        if handle is not None:
            self._ask("restore", snapshot=handle.name)

    # Gymnasium's interface.

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode; see `TurnEnv`."""
        if seed is not None:
            if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
                raise InvalidSeed(seed)
            seed = int(seed)
        answer = self._ask("reset", seed=seed, options=options or {})
        found = self._server.read(WireReset, answer)
        assert isinstance(self.tasks, RemoteTasks)
        self.task = self.tasks.keep(found.task)
        self._np_random, self._np_random_seed = generator_of(found.generator), found.seed
        self._observation = found.observation
        self._episode = _Episode(self.task, found.role, found.reference, found.observation, found.opening)
        return found.observation, found.info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one turn; see `TurnEnv`."""
        if not isinstance(action, str):
            raise UsageError(f"an action is the text of the assistant message, got {type(action).__name__}")
        found = self._server.read(WireStep, self._ask("step", action=action))
        self._observation = found.observation
        call = None if found.call is None else Call(found.call.tool, found.call.arguments)
        info = {name: call if name == "call" else value for name, value in found.info.items()}
        return found.observation, found.reward, found.terminated, found.truncated, info

    @property
    def np_random(self) -> np.random.Generator:
        """The generator of the episode, as it stands now; setting it sets the server's, drawing from it does not."""
        if self._drawn_anew is None:
            self._np_random = generator_of(self._ask("generator")["generator"])
        assert self._np_random is not None
        return self._np_random

    @np_random.setter
    def np_random(self, value: np.random.Generator) -> None:
        self._drawn_anew = generator_state(value)
        self._np_random = value

    # What an environment says of itself.

    def state_key(self) -> Hashable:
        """See `TurnEnv`; a text."""
        return self._text("state_key")

    def potential(self) -> float:
        """See `TurnEnv`."""
        return self._number("potential")

    def score(self) -> float:
        """See `TurnEnv`."""
        return self._number("score")

    def render(self) -> str:
        """The last observation as text."""
        return self._text("render")

    def reference(self) -> list[str] | None:
        """The accepted answers of the current task; see `TurnEnv`."""
        found = None if self._episode is None else self._episode.reference
        return None if found is None else list(found)

    def expert(self) -> Call | None:
        """See `TurnEnv`."""
        answer = self._ask("expert")
        if answer.get("call") is None:
            return None
        found = self._server.read(WireCall, answer["call"])
        return Call(found.tool, found.arguments)

    def cut_off(self) -> tuple[float, float]:
        """See `TurnEnv`."""
        answer = self._ask("cut_off")
        try:
            return float(answer["score"]), float(answer["owed"])
        except (LookupError, TypeError, ValueError) as error:
            raise ServerGarbage(f"{self._server.url} cut an episode off with {answer!r:.200}") from error

    def messages(self, observation: str) -> list[Message]:
        """See `TurnEnv`."""
        episode = self._episode
        if episode is not None and observation == episode.first:
            opening = [dict(message) for message in episode.opening]
        else:
            opening = self._ask("messages", observation=observation).get("messages", [])
        return opening

    def sample_action(self, rng: np.random.Generator) -> str:
        """See `TurnEnv`."""
        if not self._shake.samples:
            return super().sample_action(rng)
        answer = self._ask("sample", draws=generator_state(rng))
        rng.bit_generator.state = generator_of(answer.get("draws")).bit_generator.state
        return str(answer.get("value"))

    @property
    def role(self) -> str:
        """The agent's seat; see `TurnEnv`."""
        return "" if self._episode is None else self._episode.role

    @property
    def env_id(self) -> str:
        """Id of the served environment."""
        return self._shake.id

    def snapshot(self) -> dict[str, Any]:
        """A copy of the episode that the server holds for as long as this value is held; see `TurnEnv`."""
        here = {name: self.__dict__[name] for name in ("task", "_observation", "_episode")}
        return {**here, "handle": self._hold()}

    def _hold(self) -> _Handle:
        self._server.forget()
        name = self._ask("snapshot").get("snapshot")
        if not isinstance(name, str):
            raise ServerGarbage(f"{self._server.url} made a snapshot without a name")
        return _Handle(self._server, name)

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a snapshot of this environment or of a clone; see `TurnEnv`."""
        self._drawn_anew = None
        self._ask("restore", snapshot=state["handle"].name)
        self.__dict__.update({name: value for name, value in state.items() if name != "handle"})

    def clone(self) -> TurnEnv:
        """A fresh environment with a session of its own."""
        env = type(self)(render_mode=self.render_mode, **self._made_with)
        env.spec = self.spec
        return env

    def _text(self, what: str) -> str:
        value = self._ask(what).get("value")
        if not isinstance(value, str):
            raise ServerGarbage(f"{self._server.url}: {what} is {value!r:.80}, no text")
        return value

    def _number(self, what: str) -> float:
        value = self._ask(what).get("value")
        if not isinstance(value, float):
            raise ServerGarbage(f"{self._server.url}: {what} is {value!r:.80}, no number")
        return value


def _shaken(server: _Server, chosen: dict[str, Any]) -> Handshake:
    """What the server says of itself.

    Raises:
        ProtocolMismatch: it speaks another version.
    """
    answer = server.ask("/handshake", {"parameters": chosen})
    speaks = answer.get("protocol")
    if isinstance(speaks, int) and speaks != PROTOCOL:
        raise ProtocolMismatch(
            f"{server.url} speaks version {speaks} of the protocol, this turnwise version {PROTOCOL}; install the "
            "same turnwise on both sides"
        )
    shake = server.read(Handshake, answer)
    if missing := [name for name in PER_SESSION if name not in shake.settings]:
        raise ServerGarbage(f"{server.url} does not say its {', '.join(missing)}")
    return shake
