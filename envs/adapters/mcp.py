"""`mcp:NAME`: the tools of any MCP server as an environment (Model Context Protocol, 2025-11-25 and before).

Tasks and scorer are the user's:

    env = tw.make(
        "mcp:calculator",
        command="python calculator.py",
        questions=[{"question": "What is 17 * 23?", "answer": "391"}],
    )
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import shlex
import tempfile
import threading
import weakref
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from ..core import Outcome, TurnEnv
from ..errors import EnvFailure, InvalidEnvironment, InvalidParameter, UsageError, nearest
from ..remote import ServerGarbage, ServerGone, ServerTimeout
from ..search.loaders import Record, records
from ..tasks import ListedTasks, Task, TaskSet
from ..tools import Call, ToolSpec, _sample, tool
from .foreign import library

_CLOSING_SECONDS = 10.0
"""More than the client takes to ask a server to end, to terminate and to kill it."""
_LOG_KEPT = 1 << 20
"""Bytes of a server's standard error, behind which it is emptied."""


class ServerDiffers(EnvFailure):
    """Raised when a server that was started anew answers the calls of the episode otherwise than before."""


class ToolUse(NamedTuple):
    """A call that a server answered.

    Attributes:
        call: with the server's name of the tool.
        result: its text.
        error: whether the server called it an error.
    """

    call: Call
    result: str
    error: bool


class _Listing(NamedTuple):
    """What a server says of itself.

    Attributes:
        tools: name, description and input schema of each.
        instructions: how to use them; may be empty.
    """

    tools: tuple[tuple[str, str, dict[str, Any]], ...]
    instructions: str


class _Address(NamedTuple):
    """Where a server is: a command, or an address with the headers to send there."""

    command: tuple[str, ...]
    directory: str | None
    variables: dict[str, str]
    url: str
    headers: dict[str, str]

    def __str__(self) -> str:
        return self.url or shlex.join(self.command)


class MCP(TurnEnv):
    """Do tasks with the tools of an MCP server.

    Observation: first the question, then what a tool answers: its text, pictures and sounds by kind and size, cut at
        `longest` characters. A tool's error is an observation and counts as invalid.
    Tools: the server's, with their schemas, and `answer(text)`, which ends the episode. What is no letter, digit or
        underscore in a name becomes an underscore.
    Reward: what the scorer says of the answer, in [0, 1]; without a scorer 1 where it is one of the reference answers, case,
        space and a full stop at the end apart.
    Terminated: with the answer (success where the score is 1). Truncated: `max_turns`, with score 0.
    State key: the task and the calls made.

    A server is started, or a session opened, at the first call of an episode and ends with it: what tools change is gone in
    the next one. `restore` starts a server and repeats the calls; where it then answers otherwise `ServerDiffers` is raised,
    since the state cannot be had. With `stateful=False`, for tools that only look things up, one server lives as long as the
    environment and nothing is repeated.

    Attributes:
        name: what it is called in results; yours to choose.
        command: starts a server that speaks over its standard streams: a list, or a line split as a shell does. It inherits
            HOME, PATH, USER and the like alone.
        url: of a server that speaks streamable HTTP, in place of a command.
        directory: where the command runs.
        variables: environment variables for the command. Not recorded with trajectories.
        headers: HTTP headers for the url. Not recorded with trajectories.
        questions: a list of mappings, or a JSON or JSON Lines file: `question` or `prompt`; `answer`, `answers` or
            `reference`, one or several; optionally `id`, `split` (train), `family`, `difficulty`. What else there is is
            `task.data`.
        scorer: `scorer(answer, task, uses)` with the `ToolUse`s of the episode, a callable or `module:function`, returns a
            number in [0, 1] or a bool.
        only: the server's names of the tools to offer; empty for all.
        finish: name of the tool that hands the answer in.
        stateful: whether calls change what later calls give.
        timeout: seconds for the start of a server, and for each call.
        longest: characters of an observation.

    Raises:
        ServerGone, ServerTimeout, ServerGarbage: the server died or hung up, did not answer in time, or answered what is not
            MCP; the environment then begins with a new server.
    """

    name: str = ""
    command: str | tuple[str, ...] = ()
    url: str = ""
    directory: str = ""
    variables: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    questions: str | Sequence[Mapping[str, Any]] = ()
    scorer: str | Callable[..., Any] = ""
    only: tuple[str, ...] = ()
    finish: str = "answer"
    stateful: bool = True
    timeout: float = 60.0
    longest: int = 16_000

    blocking: ClassVar[bool] = True

    def __init__(
        self, *, render_mode: str | None = None, listing: _Listing | None = None, **parameters: Any
    ) -> None:
        self._listing = listing  # a clone has it from its original
        self._made_with = parameters
        super().__init__(render_mode=render_mode, **parameters)
        self.parameters = {n: v for n, v in parameters.items() if n not in ("variables", "headers")}

    def load_tasks(self) -> TaskSet:
        """The questions."""
        # What is set here is no part of the episode that snapshots copy.
        for value, name in ((self.timeout, "timeout"), (self.longest, "longest")):
            if not value > 0:
                raise InvalidParameter(f"{name} must be above 0, got {value}")
        self._address = _address(self)
        self._session: _Session | None = None
        tasks = ListedTasks(_tasks(self.questions))
        self._score = _scorer(self.scorer, tasks)
        if self._listing is None:
            self._listing = self._open().listing
        self.tools = _tools(self._listing, self.only, self.finish)  # type: ignore[misc]
        said = f"Use the tools, and hand your answer in with {self.finish}."
        self.rules = f"{said}\n\n{self._listing.instructions}".rstrip()  # type: ignore[misc]
        return tasks

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Ask the question."""
        self.uses: list[ToolUse] = []
        return task.prompt

    @tool
    def answer(self, text: str) -> Outcome:
        """Hand in your answer, which ends the task.

        Args:
            text: the answer.
        """
        value = self._score(text, self.task, tuple(self.uses))
        if not isinstance(value, (bool, int, float, np.number, np.bool_)) or not 0 <= value <= 1:
            raise InvalidEnvironment(
                f"the scorer must return a number in [0, 1] or a bool, got {value!r:.80}"
            )
        score = float(value)
        return Outcome("Your answer is handed in.", reward=score, success=score == 1.0, score=score)

    def state_key(self) -> Hashable:
        """The task and the calls made."""
        assert self.task is not None
        calls = (json.dumps(use.call, sort_keys=True, default=repr) for use in self.uses)
        return self.task.id, *calls

    def use(self, name: str, arguments: dict[str, Any]) -> Outcome:
        """Have the server do something.

        Args:
            name: the server's name of the tool.
            arguments: valid ones.
        """
        found = self._used(self._up_to_here(), Call(name, arguments))
        self.uses.append(found)
        return Outcome(found.result, invalid=found.error)

    def _used(self, session: _Session, call: Call) -> ToolUse:
        try:
            text, error = session.call(call)
        except EnvFailure:
            self.close()
            raise
        if len(text) > self.longest:
            text = f"{text[: self.longest]}\n[cut: the first {self.longest} of {len(text)} characters]"
        use = ToolUse(call, text, error)
        session.uses.append(use)
        return use

    def _up_to_here(self) -> _Session:
        """A session that has seen the calls of this episode and no others."""
        session, uses = self._session, self.uses
        if session is not None and not session.here:
            session = None
        if not self.stateful:
            return session or self._open()
        if session is None or session.uses != uses[: len(session.uses)]:
            session = self._open()
        for use in uses[len(session.uses) :]:
            again = self._used(session, use.call)
            if again != use:
                self.close()
                raise ServerDiffers(
                    f"{self._address}: {use.call.tool} gave {use.result!r:.80}, and in a server started anew "
                    f"{again.result!r:.80}; its episodes cannot be restored"
                )
        return session

    def _open(self) -> _Session:
        self.close()
        self._session = session = _Session(self._address, self.timeout)
        session.finalizer = weakref.finalize(self, session.close)
        return session

    def close(self) -> None:
        """End the server, or the session."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        super().close()

    def clone(self) -> TurnEnv:
        """A fresh environment with a server of its own, which is started when it is needed."""
        env = type(self)(render_mode=self.render_mode, listing=self._listing, **self._made_with)
        env.spec = self.spec
        return env

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "action_space": None, "_session": None}


# What the user gives.


def _address(env: MCP) -> _Address:
    command = tuple(shlex.split(env.command)) if isinstance(env.command, str) else env.command
    if bool(command) == bool(env.url):
        raise InvalidParameter(
            "an MCP server is a command or an address: pass command='python server.py' or "
            f"url='http://127.0.0.1:8000/mcp', got command={env.command!r} and url={env.url!r}"
        )
    if env.url and not env.url.startswith(("http://", "https://")):
        raise InvalidParameter(f"url={env.url!r} does not begin with http:// or https://")
    return _Address(command, env.directory or None, dict(env.variables), env.url, dict(env.headers))


_FIELDS = {
    "question",
    "prompt",
    "answer",
    "answers",
    "reference",
    "id",
    "split",
    "family",
    "difficulty",
}


def _tasks(questions: str | Sequence[Mapping[str, Any]]) -> list[Task]:
    if isinstance(questions, str):
        found = list(records(Path(questions))) if questions else []
    else:
        found = [Record(Path("questions"), number, given) for number, given in enumerate(questions, 1)]
    if not found:
        raise InvalidParameter(
            "there is no task: pass questions=[{'question': ..., 'answer': ...}] or the path of a JSON Lines file of such"
        )
    tasks = []
    for record in found:
        data = record.data
        given = any(field in data for field in ("answer", "answers", "reference"))
        tasks.append(
            Task(
                id=record.id("id"),
                split=record.text("split") if "split" in data else "train",
                prompt=record.text("question", "prompt"),
                data={name: value for name, value in data.items() if name not in _FIELDS},
                reference=record.answers("answer", "answers", "reference") if given else None,
                family=str(data.get("family", "")),
                difficulty=str(data.get("difficulty", "")),
            )
        )
    return tasks


def _scorer(scorer: str | Callable[..., Any], tasks: ListedTasks) -> Callable[..., Any]:
    if callable(scorer):
        return scorer
    if not scorer:
        for split, size in tasks.splits.items():
            for index in range(size):
                if (task := tasks.get(split, index)).reference is None:
                    raise InvalidParameter(
                        f"task {task.id!r} has no answer to compare with; give it one, or pass scorer="
                    )
        return _is_reference
    module, _, name = scorer.partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if name else None
    except (ImportError, AttributeError) as error:
        raise InvalidParameter(f"scorer={scorer!r}: {error}") from error
    if not callable(found):
        raise InvalidParameter(
            f"scorer={scorer!r} is no function; write 'module:function' or pass a callable"
        )
    return found  # type: ignore[no-any-return]


def _is_reference(answer: str, task: Task, _uses: Sequence[ToolUse]) -> bool:
    return _plainly(answer) in {_plainly(accepted) for accepted in task.reference or ()}


def _plainly(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".")


# Tools.


def _tools(listing: _Listing, only: Sequence[str], finish: str) -> dict[str, ToolSpec]:
    if not finish.isidentifier():
        raise InvalidParameter(
            f"finish={finish!r} is no name for a tool; write letters, digits and underscores"
        )
    offered = {name for name, _, _ in listing.tools}
    for name in only:
        if name not in offered:
            raise InvalidParameter(
                f"only: the server has no tool {name!r}.{nearest(name, offered)} It has {', '.join(sorted(offered)) or 'none'}."
            )
    tools: dict[str, ToolSpec] = {}
    for name, description, schema in listing.tools:
        if only and name not in only:
            continue
        spec = _ServerTool(name, description, schema)
        if spec.name == finish:
            raise InvalidParameter(
                f"the server has a tool {name!r} itself; hand the answer in with another one, for example finish='submit'"
            )
        if spec.name in tools:
            raise InvalidEnvironment(
                f"two tools of the server are called {spec.name!r} where only letters, digits and underscores count, one of "
                f"them {name!r}; offer one of them with only="
            )
        tools[spec.name] = spec
    return {**tools, finish: ToolSpec(finish, MCP.answer)}


def _use(name: str, env: MCP, /, **arguments: Any) -> Outcome:
    return env.use(name, arguments)


class _ServerTool(ToolSpec):
    """A tool of a server. Values are judged by its JSON schema; what that says and cannot be judged is the server's to refuse."""

    def __init__(self, name: str, description: str, schema: dict[str, Any]) -> None:
        self.name = re.sub(r"\W", "_", name, flags=re.ASCII)
        if not self.name.isidentifier():
            self.name = f"_{self.name}"
        self.description = " ".join(description.split()) or f"The tool {name} of the server."
        self.schema = {**schema, "properties": schema.get("properties") or {}}
        self.function = partial(_use, name)
        properties = self.schema["properties"]
        required = [n for n in properties if n in schema.get("required", ())]
        # Those that may be left out come last, so that formats which write values in order can leave them out.
        self.parameters = (*required, *(n for n in properties if n not in required))
        self.defaults = {n: _schema(properties[n]).get("default") for n in properties if n not in required}
        # The value of one that is left out is null, which is no plain text.
        self.plain = frozenset(
            n
            for n in properties
            if _schema(properties[n]).get("type") in _FROM_TEXT
            and "enum" not in _schema(properties[n])
            and self.defaults.get(n, "") is not None
        )
        self._names = frozenset(properties)
        self._required = tuple(required)

    def validate(self, arguments: dict[str, Any]) -> dict[str, Any] | str:
        """See `ToolSpec`; nulls for parameters that may be left out are left out."""
        open_ended = {"additionalProperties", "patternProperties"} & self.schema.keys()
        if not open_ended and not arguments.keys() <= self._names:
            unknown = next(n for n in arguments if n not in self._names)
            return f"{self.name} has no parameter {unknown!r}; it takes {self._signature()}"
        converted = {
            n: self._converted(n, value) for n, value in arguments.items() if not self._left_out(n, value)
        }
        if why := _broken(self.schema, converted):
            return f"{self.name}: {why}; it takes {self._signature()}"
        return converted

    def accepts(self, parameter: str, value: Any) -> bool:
        """See `ToolSpec`."""
        if self._left_out(parameter, value):
            return True
        schema = _schema(self.schema["properties"][parameter])
        rest: dict[str, Any] = {
            key: self.schema[key] for key in ("$defs", "definitions") if key in self.schema
        }
        return not _broken({**rest, **schema}, self._converted(parameter, value))

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """See `ToolSpec`; a text for a parameter whose schema points elsewhere or at itself."""
        found = {}
        for name in self.parameters:
            try:
                found[name] = _sample(self.schema["properties"][name], self.schema.get("$defs", {}), rng)
            except (LookupError, TypeError, RecursionError):
                found[name] = "x"
        return found

    def _left_out(self, parameter: str, value: Any) -> bool:
        return value is None and self.defaults.get(parameter, "") is None

    def _converted(self, parameter: str, value: Any) -> Any:
        """The value of a text, where a format wrote a number or a truth value as one."""
        kind = _schema(self.schema["properties"].get(parameter)).get("type")
        if not isinstance(value, str) or not isinstance(kind, str) or kind == "string":
            return value
        with suppress(ValueError, KeyError):
            return _FROM_TEXT[kind](value.strip())
        return value


def _truth(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": _truth,
}


def _schema(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {}  # `true` admits all


def _broken(schema: dict[str, Any], value: Any) -> str:
    """What is wrong with a value, or an empty text."""
    import jsonschema
    import referencing

    try:
        # With an empty registry a reference to another host is not fetched.
        check = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
        error = jsonschema.exceptions.best_match(check.iter_errors(value))
    except (
        jsonschema.SchemaError,
        referencing.exceptions.Unresolvable,
        jsonschema.exceptions._WrappedReferencingError,
    ):
        return ""
    if error is None:
        return ""
    where = ".".join(map(str, error.absolute_path))
    return f"{where} is wrong: {error.message[:200]}" if where else error.message[:200]


# The connection. The client is asynchronous and belongs to the loop that it began in; one loop, in a thread, has all of them.

_T = TypeVar("_T")
_lock = threading.Lock()
_running: tuple[int, asyncio.AbstractEventLoop, threading.Thread] | None = None


def _loop() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    global _running
    with _lock:
        if _running is None or _running[0] != os.getpid():  # a fork has no thread but its own
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="turnwise-mcp", daemon=True)
            thread.start()
            _running = os.getpid(), loop, thread
        return _running[1:]


class _Session:
    """A server that runs for us, or a session at one.

    Attributes:
        listing: what it says of itself.
        uses: the calls it answered.
        finalizer: closes it when the environment is gone, or the program ends.
    """

    finalizer: weakref.finalize[..., Any] | None = None

    def __init__(self, address: _Address, timeout: float) -> None:
        library("mcp", "mcp")
        self.uses: list[ToolUse] = []
        self._address, self._timeout = address, timeout
        self._garbage = ""
        self._log: IO[str] = tempfile.TemporaryFile("a+", errors="replace")  # noqa: SIM115  # as long as the server
        self._loop, self._thread = _loop()
        self._opened: Future[_Listing] = Future()
        self._owner = asyncio.run_coroutine_threadsafe(self._own(), self._loop)
        try:
            self.listing = self._opened.result()
        except BaseException:
            self.close()
            raise

    @property
    def here(self) -> bool:
        """Whether this process has it: after a fork it is the parent's."""
        return self._thread.is_alive()

    async def _own(self) -> None:
        self._closing = asyncio.Event()
        self._task = asyncio.current_task()
        try:
            await self._open_until_closed()
        except BaseException as error:
            failure = self._failure(error)
            if not self._opened.done():
                self._opened.set_exception(failure)
        finally:
            self._log.close()

    async def _open_until_closed(self) -> None:
        from mcp import ClientSession, StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared._httpx_utils import create_mcp_http_client

        address = self._address
        async with AsyncExitStack() as stack:
            if address.url:
                client = await stack.enter_async_context(create_mcp_http_client(headers=address.headers))
                transport: Any = streamable_http_client(address.url, http_client=client)
            else:
                program, *arguments = address.command
                started = StdioServerParameters(
                    command=program, args=arguments, env=address.variables, cwd=address.directory
                )
                transport = stdio_client(started, errlog=self._log)
            read, write, *_ = await stack.enter_async_context(transport)
            session = ClientSession(read, write, message_handler=self._heard)
            self._client = await stack.enter_async_context(session)
            async with asyncio.timeout(self._timeout):
                hello = await self._client.initialize()
                tools = await self._listed()
            self._opened.set_result(_Listing(tools, (getattr(hello, "instructions", None) or "").strip()))
            await self._closing.wait()

    async def _listed(self) -> tuple[tuple[str, str, dict[str, Any]], ...]:
        from mcp.types import PaginatedRequestParams

        tools = []
        cursor = None
        while True:
            page = await self._client.list_tools(params=PaginatedRequestParams(cursor=cursor))
            # By the names of the protocol, which do not change with the version of the client.
            found = page.model_dump(mode="json", by_alias=True)
            tools += [(t["name"], t.get("description") or "", t["inputSchema"]) for t in found["tools"]]
            cursor = found.get("nextCursor")
            if not cursor:
                return tuple(tools)

    async def _heard(self, message: Any) -> None:
        if isinstance(message, Exception):
            self._garbage = " ".join(str(message).split())[:200]

    def call(self, call: Call) -> tuple[str, bool]:
        """What a tool answers, and whether that is an error."""
        return self._in_loop(self._called(call))

    def _in_loop(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _called(self, call: Call) -> tuple[str, bool]:
        from mcp.types import INTERNAL_ERROR, INVALID_PARAMS

        if self._owner.done():
            raise ServerGone(f"{self._address} has ended{self._last_words()}")
        if os.fstat(self._log.fileno()).st_size > _LOG_KEPT:
            self._log.truncate(0)
        asked = asyncio.ensure_future(self._client.call_tool(call.tool, call.arguments))
        assert self._task is not None
        try:
            await asyncio.wait(
                {asked, self._task}, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not asked.done():
                raise TimeoutError if not self._task.done() else ConnectionError
            found = asked.result().model_dump(mode="json", by_alias=True)
        except Exception as error:
            # A tool that is refused by the protocol's own error, as some servers do for wrong arguments, is a tool's error.
            code = getattr(getattr(error, "error", None), "code", None)
            if code in (INVALID_PARAMS, INTERNAL_ERROR):
                return str(error), True
            raise self._failure(error) from error
        finally:
            asked.cancel()
        return _text(found), bool(found.get("isError"))

    def _failure(self, error: BaseException) -> Exception:
        """What an error of the client means for the episode."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, EnvFailure):
            return error
        if isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError)):
            return UsageError(f"{self._address} cannot be started: {error}")
        if isinstance(error, TimeoutError):
            if self._garbage:
                return ServerGarbage(f"{self._address} answered what is not MCP: {self._garbage}")
            return ServerTimeout(
                f"{self._address} did not answer in {self._timeout:g} seconds{self._last_words()}"
            )
        if isinstance(error, (ValueError, RuntimeError)):
            said = " ".join(str(error).split())[:200]
            return ServerGarbage(f"{self._address} answered what is not MCP: {said}")
        said = " ".join(f"{type(error).__name__} {error}".split())[:200]
        return ServerGone(f"{self._address} is gone ({said}){self._last_words()}")

    def _last_words(self) -> str:
        with suppress(OSError, ValueError):
            size = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(0, size - 2000))
            if said := " ".join(self._log.read().split())[-300:]:
                return f"; it said last: {said}"
        return ""

    def close(self) -> None:
        """End it; the process is gone when this returns."""
        if self.finalizer is not None:
            self.finalizer.detach()
        if self._owner.done() or not self.here:
            return
        self._loop.call_soon_threadsafe(self._end)
        if threading.current_thread() is not self._thread:  # in which the garbage collector may call this
            with suppress(Exception):
                self._owner.result(_CLOSING_SECONDS)

    def _end(self) -> None:
        if self._opened.done():
            self._closing.set()
        else:
            assert self._task is not None
            self._task.cancel()


def _text(result: Mapping[str, Any]) -> str:
    """The text of a tool's result, with a line for each part that is none."""
    parts = []
    for part in result.get("content") or ():
        match part:
            case {"type": "text", "text": str(text)}:
                parts.append(text)
            case {"type": "image" | "audio" as kind, "data": str(data), "mimeType": mime}:
                parts.append(f"[{kind}: {mime}, {len(data) * 3 // 4} bytes]")
            case {"type": "resource", "resource": {"text": str(text)}}:
                parts.append(text)
            case {"type": "resource", "resource": {"uri": uri}} | {"type": "resource_link", "uri": uri}:
                parts.append(f"[resource: {uri}]")
            case _:
                parts.append(f"[{part.get('type')}]")
    if not parts and result.get("structuredContent") is not None:
        return json.dumps(result["structuredContent"], ensure_ascii=False)
    return "\n".join(parts) or "(no output)"
