"""The viewer's server: Starlette on the loopback interface. It reads files and answers; it writes nothing and asks nobody.

GET /                                the page; /static/... its parts
GET /api/state                       runs, progress, problems, which values the fields have
GET /api/rows?q=&sort=&start=&count= a stretch of the table, and figures of all that the filter picks
GET /api/near?q=&sort=&at=           the neighbours of a trajectory in the table
GET /api/trajectory?at=              a trajectory, its place (`at` is RUN/FILE:NUMBER) and those it belongs with
GET /api/tokens?at=&turn=            the texts of an action's tokens
GET /api/curves?metric=              learning curves by group of runs
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import uvicorn
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...envs.errors import TurnwiseError, UsageError
from ...envs.listening import listening_socket
from ...envs.registry import env_class
from ...envs.rollout import wilson
from ...envs.trajectory import SCHEMA_VERSION
from . import curves
from .filters import FIELDS, NUMBERS, InvalidFilter, order, parse, select
from .index import STATUSES, TEXTS
from .library import Gone, Library, Snapshot, split_at
from .search import TextSearch
from .tokens import token_texts

STATIC = {
    "index.html": "text/html",
    "style.css": "text/css",
    "favicon.svg": "image/svg+xml",
    "app.js": "text/javascript",
    "beside.js": "text/javascript",
    "curves.js": "text/javascript",
    "data.js": "text/javascript",
    "dom.js": "text/javascript",
    "pictures.js": "text/javascript",
    "table.js": "text/javascript",
    "trajectory.js": "text/javascript",
}
HEADERS = {
    # Nothing that a model wrote can run, and nothing on the page can ask anybody but this server.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_START_SECONDS = 20.0
_MOST_ROWS = 1000
_FACET_VALUES = 60
_RELATED = 64
_SAFE_INTEGER = 2**53


class ServerFailure(TurnwiseError):
    """Raised when the viewer's server does not start."""


class Selection(NamedTuple):
    """What a filter picks, in order."""

    numbers: np.ndarray
    searched: float


class Api:
    """What the page asks for, as plain data."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._selections: OrderedDict[tuple[int, str, str], Selection] = OrderedDict()
        self._search: tuple[tuple[Any, ...], TextSearch] | None = None
        self._searching: threading.Thread | None = None
        self._lock = threading.Lock()

    def state(self, version: int | None = None) -> dict[str, Any]:
        """Everything but rows: what there is, how far the index has come, and which values the fields have.

        Args:
            version: that the page has; where nothing changed since, nothing more is sent.
        """
        now = self.library.snapshot
        rows = now.rows
        if version == now.version:
            return {"version": version}
        facets = {}
        for field in (
            "run",
            "env",
            "step",
            "status",
            "success",
            "split",
            "family",
            "difficulty",
            "agent",
            "error",
        ):
            values, counts = np.unique(rows[field], return_counts=True)
            named = [(self._name(now, field, v), int(c)) for v, c in zip(values, counts, strict=True)]
            merged = Counter[Any]()
            for name, count in named:
                merged[name] += count
            merged.pop("", None)
            if field == "step":
                merged.pop(-1, None)
            facets[field] = [[name, n] for name, n in list(merged.items())[-_FACET_VALUES:]]
        runs = [
            {
                "name": run.name,
                "steps": len(run.metrics),
                "planned": run.config.get("trainer.steps"),
                "ended": (run.path / "summary.json").exists(),
            }
            for run in list(self.library.runs.values())
        ]
        return {
            "version": now.version,
            "progress": now.progress,
            "total": len(rows),
            "problems": now.problems,
            "facets": facets,
            "fields": FIELDS,
            "runs": runs,
            "metrics": curves.metric_names(list(self.library.runs.values())),
        }

    def rows(self, q: str, sort: str, start: int, count: int) -> dict[str, Any]:
        """A stretch of the table.

        Raises:
            InvalidFilter: the filter or the order cannot be understood.
        """
        now = self.library.snapshot
        selection = self.select(now, q, sort)
        numbers = selection.numbers
        chosen = now.rows[numbers]
        played = chosen[chosen["status"] < STATUSES.index("failed")]
        successes = int(played["success"].sum())
        low, high = wilson(successes, len(played))
        figures = None
        if len(played):
            figures = {
                "played": len(played),
                "success": successes / len(played),
                "success_low": low,
                "success_high": high,
                "score": float(played["score"].mean()),
                "reward": float(played["reward"].mean()),
                "turns": float(played["turns"].mean()),
                "invalid_share": float(played["invalid"].sum() / max(1, played["turns"].sum())),
            }
        start = max(0, min(start, len(numbers)))
        return {
            "version": now.version,
            "total": len(now.rows),
            "matched": len(numbers),
            "searched": selection.searched,
            "figures": figures,
            "start": start,
            "rows": [self.row(now, int(n)) for n in numbers[start : start + min(count, _MOST_ROWS)]],
        }

    def near(self, q: str, sort: str, at: str) -> dict[str, Any]:
        """Place of a trajectory in the table, and its neighbours."""
        now = self.library.snapshot
        numbers = self.select(now, q, sort).numbers
        here = np.flatnonzero(numbers == self._number(now, at))
        if len(here) == 0:
            return {"place": None, "matched": len(numbers), "previous": None, "next": None}
        place = int(here[0])
        sides = (place - 1 if place else None, place + 1 if place + 1 < len(numbers) else None)
        previous, following = (None if s is None else self._at(now, int(numbers[s])) for s in sides)
        return {"place": place, "matched": len(numbers), "previous": previous, "next": following}

    def trajectory(self, at: str) -> dict[str, Any]:
        """A trajectory, and rows of its group and of the same task elsewhere.

        Raises:
            Gone: it is not there.
        """
        now = self.library.snapshot
        number = self._number(now, at)
        row = now.rows[number]
        run, file, record = split_at(at)
        problem, fields = "", None
        try:
            fields = self.library.record(run, file, record)
        except ValueError as error:
            problem = f"This line of the file cannot be read: {error}"
        if fields is not None:
            version = fields.get("version", 1)
            if isinstance(version, int) and version > SCHEMA_VERSION:
                problem = (
                    f"Schema version {version} is later than {SCHEMA_VERSION}, the latest known here: shown as far as "
                    "it is understood. Upgrade turnwise to see all of it."
                )
            if "\ufffd" in repr(fields):
                problem = problem or "Some bytes of this line are not UTF-8, and are shown as \ufffd."
            fields["turns"] = [t for t in fields.get("turns") or [] if isinstance(t, dict)]
            for name, value in fields.items():
                if isinstance(value, int) and abs(value) >= _SAFE_INTEGER:
                    fields[name] = str(value)  # JavaScript would round it
            problem = _drawn(fields) or problem
        rows = now.rows
        same_file = rows["file"] == row["file"]
        same_task = (rows["env"] == row["env"]) & (rows["task"] == row["task"])
        same_seed = rows["seed"] == row["seed"]
        if row["status"] == STATUSES.index("damaged"):
            same_task = np.zeros(len(rows), bool)
        group = np.flatnonzero(same_file & same_task & same_seed & (rows["group"] == row["group"]))
        elsewhere = np.flatnonzero(same_task & ~same_file)
        return {
            "at": at,
            "row": self.row(now, number),
            "problem": problem,
            "trajectory": fields,
            "group": [self.row(now, int(n)) for n in group[:_RELATED]],
            "elsewhere": [self.row(now, int(n)) for n in elsewhere[:_RELATED]],
        }

    def tokens(self, at: str, turn: int) -> dict[str, Any]:
        """The tokens of one action: texts or a reason, ids, log-probs.

        Raises:
            Gone: the trajectory or the turn is not there.
        """
        run, file, record = split_at(at)
        try:
            fields = self.library.record(run, file, record)
            action = fields["turns"][turn]
        except (ValueError, KeyError, IndexError) as error:
            raise Gone(f"{at} has no turn {turn + 1}") from error
        ids = [int(i) for i in action.get("action_ids") or []]
        texts, reason = token_texts(ids, self.library.runs[run].path, str(fields.get("agent", "")))
        return {
            "ids": ids,
            "log_probs": action.get("action_log_probs") or [],
            "texts": texts,
            "reason": reason,
        }

    def curves(self, metrics: Sequence[str]) -> dict[str, Any]:
        """Curves of some metrics, by group of runs."""
        found = curves.groups(list(self.library.runs.values()))
        return {
            "groups": [{"label": label, "runs": [run.name for run in members]} for label, members in found],
            "curves": {m: [curves.curve(members, m) for _, members in found] for m in metrics},
        }

    def select(self, now: Snapshot, q: str, sort: str) -> Selection:
        """Which rows a filter picks, in order. While texts are searched for, those that are found so far."""
        key = (now.version, q, sort)
        with self._lock:
            known = self._selections.get(key)
            if known is not None:
                return known
        wanted = parse(q)
        chosen = select(now, wanted.terms)
        searched = 1.0
        if wanted.texts:
            state = self._searched(now, chosen, wanted.texts)
            looked = int((state[chosen] > 0).sum())
            searched = looked / int(chosen.sum()) if chosen.any() else 1.0
            chosen &= state == 2
        selection = Selection(order(now, chosen, sort), searched)
        if searched == 1.0:
            with self._lock:
                self._selections[key] = selection
                while len(self._selections) > 8:
                    self._selections.popitem(last=False)
        return selection

    def _searched(self, now: Snapshot, chosen: np.ndarray, texts: tuple[Any, ...]) -> np.ndarray:
        with self._lock:
            if self._search is None or self._search[0] != texts:
                if self._search is not None:
                    self._search[1].stop()
                self._search = texts, TextSearch(self.library, texts)
            search = self._search[1]
            state = search.known(now)
            if bool((state[chosen] == 0).any()) and (
                self._searching is None or not self._searching.is_alive()
            ):
                self._searching = threading.Thread(
                    target=search.run, args=(now, chosen), name="viewer-search", daemon=True
                )
                self._searching.start()
                self._searching.join(0.15)  # small files are done by then
                state = search.known(now)
        return state

    def row(self, now: Snapshot, number: int) -> dict[str, Any]:
        """A row of the table as the page takes it."""
        row = now.rows[number]
        named = {field: self._name(now, field, row[field]) for field in ("run", *TEXTS, "status")}
        numbers = {field: row[field].item() for field in NUMBERS}
        numbers["step"] = None if numbers["step"] < 0 else numbers["step"]
        if abs(numbers["seed"]) >= _SAFE_INTEGER:
            numbers["seed"] = str(numbers["seed"])
        return {"at": self._at(now, number), **named, **numbers, "success": bool(row["success"])}

    @staticmethod
    def _name(now: Snapshot, field: str, value: Any) -> Any:
        match field:
            case "run":
                return now.runs[int(value)]
            case "status":
                return STATUSES[int(value)]
            case "success":
                return "yes" if value else "no"
            case "step":
                return int(value)
        return now.names[int(value)]

    @staticmethod
    def _at(now: Snapshot, number: int) -> str:
        row = now.rows[number]
        run, file = now.files[int(row["file"])]
        return f"{run}/{file}:{int(row['record']) + 1}"

    @staticmethod
    def _number(now: Snapshot, at: str) -> int:
        run, file, record = split_at(at)
        if (run, file) in now.files:
            found = np.flatnonzero(
                (now.rows["file"] == now.files.index((run, file))) & (now.rows["record"] == record)
            )
            if len(found):
                return int(found[0])
        reason = "" if now.progress == 1.0 else "; the files are still being indexed"
        raise Gone(f"there is no trajectory {at}{reason}")


def _drawn(fields: dict[str, Any]) -> str:
    """Put the environment's pictures beside the texts; a sentence where it fails to draw."""
    try:
        draw = env_class(str(fields.get("env_id"))).picture
    except (UsageError, ImportError):
        return ""  # nothing is registered under this id here, or what it needs is not installed
    try:
        for turn in fields["turns"]:
            if (
                picture := draw(str(turn.get("observation", "")), str(turn.get("state_key", "")))
            ) is not None:
                turn["picture"] = picture._asdict()
        if (picture := draw(str(fields.get("final_observation", "")), "")) is not None:
            fields["final_picture"] = picture._asdict()
    except Exception as error:  # code of whoever wrote the environment, over texts of whoever wrote the file
        return f"{fields['env_id']} failed to draw this: {type(error).__name__}: {error}"
    return ""


def read_static(name: str) -> bytes:
    """A part of the page, as it is shipped."""
    return (resources.files(__package__) / "static" / name).read_bytes()


class Viewer:
    """The server in a thread of its own, and a thread that follows the files.

    Args:
        library: what to show.
        port: to listen on; 0 picks a free one.
        seconds: between two looks at the files.

    Raises:
        ServerFailure: it cannot listen there.
    """

    def __init__(self, library: Library, *, port: int = 0, seconds: float = 1.0) -> None:
        self.api = Api(library)
        self._library = library
        self._seconds = seconds
        self._stop = threading.Event()
        try:
            listener = listening_socket(port=port)
        except OSError as error:
            raise ServerFailure(
                f"cannot listen on port {port}: {error.strerror}; choose another with --port"
            ) from error
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        config = uvicorn.Config(
            self._app(),
            lifespan="off",
            ws="none",
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._threads = [
            threading.Thread(
                target=self._server.run, kwargs={"sockets": [listener]}, name="viewer-server", daemon=True
            ),
            threading.Thread(target=self._follow, name="viewer-index", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        until = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._threads[0].is_alive() or time.monotonic() > until:
                raise ServerFailure(f"the viewer's server did not start on {self.url}")
            time.sleep(0.005)

    def close(self) -> None:
        """Stop listening and following."""
        self._stop.set()
        self._server.should_exit = True
        for thread in self._threads:
            thread.join(timeout=5)

    def wait(self) -> None:
        """Wait until the server ends, or for Ctrl-C."""
        while self._threads[0].is_alive():
            self._threads[0].join(0.2)

    def _follow(self) -> None:
        while not self._stop.is_set():
            with suppress(OSError):  # a folder that vanished is looked for again
                self._library.refresh()
            self._stop.wait(self._seconds)

    def _app(self) -> Starlette:
        api = self.api

        def answer(function: Callable[[Request], dict[str, Any]]) -> Callable[[Request], Response]:
            def endpoint(request: Request) -> Response:
                try:
                    body, status = function(request), 200
                except InvalidFilter as error:
                    body, status = {"error": str(error)}, 400
                except Gone as error:
                    body, status = {"error": str(error)}, 404
                except OSError as error:
                    body, status = {"error": f"the file cannot be read: {error}"}, 500
                # JSON has no NaN; the page shows null as a dash.
                return Response(to_json(body, inf_nan_mode="null"), status, HEADERS, "application/json")

            return endpoint

        def text(request: Request, name: str) -> str:
            return request.query_params.get(name, "")

        def number(request: Request, name: str, default: int) -> int:
            value = text(request, name)
            return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else default

        def static(request: Request) -> Response:
            name = request.path_params.get("name", "index.html")
            if name not in STATIC:
                return Response("there is no such page", 404, HEADERS, "text/plain")
            return Response(read_static(name), 200, HEADERS, f"{STATIC[name]}; charset=utf-8")

        routes = [
            Route("/", static),
            Route("/static/{name}", static),
            Route("/api/state", answer(lambda r: api.state(number(r, "version", -1)))),
            Route(
                "/api/rows",
                answer(
                    lambda r: api.rows(
                        text(r, "q"), text(r, "sort"), number(r, "start", 0), number(r, "count", 100)
                    )
                ),
            ),
            Route("/api/near", answer(lambda r: api.near(text(r, "q"), text(r, "sort"), text(r, "at")))),
            Route("/api/trajectory", answer(lambda r: api.trajectory(text(r, "at")))),
            Route("/api/tokens", answer(lambda r: api.tokens(text(r, "at"), number(r, "turn", 0)))),
            Route("/api/curves", answer(lambda r: api.curves(r.query_params.getlist("metric")))),
        ]
        # A page elsewhere that makes its name point here (DNS rebinding) is sent away by the name.
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
        return Starlette(routes=routes, middleware=[hosts])
