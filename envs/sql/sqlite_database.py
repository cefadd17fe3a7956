"""SQLite files that a model may query: read-only four times over, and bounded in work, time, memory and length.

| what holds                        | by what                                                                       |
|-----------------------------------|-------------------------------------------------------------------------------|
| nothing is written                | `mode=ro`; `immutable=1` for files that nobody changes; `query_only`; the authorizer |
| only SELECT, and known functions   | the authorizer: an allow-list of functions and of PRAGMAs that read the schema |
| no other file, no extension       | ATTACH is denied and limited to 0; `load_extension` is not in the list          |
| endless queries end                | a number of virtual machine steps, which is the same on every machine; seconds beside it |
| no single step takes long         | values are at most 100,000 bytes long; `printf`, whose width is not, is not in the list |
| views in views do not explode       | what the common table expressions would expand to is counted before            |
| memory                            | the heap limit of the library, which holds for all of SQLite in this process   |

Connections are pooled by process and file, and a lock keeps threads apart.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from .database import (
    Column,
    Database,
    DatabaseCorrupt,
    DatabaseFailure,
    DatabaseGone,
    DatabaseLocked,
    Refused,
    Result,
    Table,
)

_NAMES = (
    "abs avg ceil ceiling char coalesce count cume_dist date datetime degrees dense_rank exp first_value "
    "floor glob group_concat hex ifnull iif instr julianday lag last_value lead length like ln log log10 "
    "log2 lower ltrim max min mod nth_value ntile nullif percent_rank pi pow power radians rank replace "
    "round row_number rtrim sign sqrt strftime substr substring sum time total trim trunc typeof unicode "
    "unixepoch upper"
)
FUNCTIONS = frozenset(_NAMES.split())
"""The functions that a query may call; they depend on nothing but their arguments, and no argument makes them long."""

PRAGMAS = frozenset(
    ("foreign_key_list", "index_info", "index_list", "table_info", "table_list", "table_xinfo")
)
"""The PRAGMAs that a query may use: those that read the schema."""

_LONGEST_VALUE = 100_000  # bytes of a text or blob
_LONGEST_QUERY = 20_000
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: _LONGEST_VALUE,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: _LONGEST_QUERY,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 20,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_HEAP = 512 << 20
_STRIDE = 10_000  # steps of the virtual machine between two looks at the clock
_BYTES = 4 << 20  # of the rows that are read
_MOST_SELECTS = 200  # that the common table expressions of a query may expand to
_LOCK_SECONDS = 1.0
_MOST_OPEN = 256

_ALLOWED = frozenset((sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE))
_NOW = re.compile(r"'\s*now\s*'|\bcurrent_(?:date|time|timestamp)\b", re.IGNORECASE)
# A name may stand bare or in any quotes, those of texts included; of comments no group is left.
_WORD = re.compile(
    r"--[^\n]*|/\*.*?(?:\*/|$)|'((?:[^']|'')*)'|\"([^\"]*)\"|\[([^\]]*)\]|`([^`]*)`|(\w+|[()])", re.DOTALL
)


class SQLiteDatabase(Database):
    """A SQLite file.

    Args:
        path: of the file.
        immutable: nobody changes the file while it is used, so that it needs no locks.
        work: steps of SQLite's virtual machine that a query may take; a scan takes about ten a row.
        timeout: seconds that a query may take.
    """

    dialect: ClassVar[str] = "sqlite"

    def __init__(self, path: Path, *, immutable: bool, work: int = 5_000_000, timeout: float = 5.0) -> None:
        self.path = path
        self._file = (str(path), immutable)
        # What is remembered of a database, such as the rows of references, is not taken for that of a changed file.
        age = 0 if immutable or not path.is_file() else path.stat().st_mtime_ns
        self.key = (str(path), age, work, timeout)
        self._work, self._timeout = work, timeout

    def tables(self) -> Sequence[Table]:
        """See the base class."""
        try:
            stamp = self.path.stat()
        except OSError as error:
            raise DatabaseGone(f"{self.path} cannot be read ({error})") from error
        return _tables(*self._file, stamp.st_mtime_ns, stamp.st_size)

    def run(self, sql: str, most: int) -> Result | Refused:
        """See the base class."""
        if why := _never(sql):
            return Refused(why)
        return _run(self._file, sql, most, self._work, self._timeout)


def _never(sql: str) -> str:
    """Why a text is not even prepared, or nothing: it is too long, asks for the clock, or would expand without end."""
    if len(sql.encode()) > _LONGEST_QUERY:
        return f"a query is at most {_LONGEST_QUERY:,} bytes long"
    if "\0" in sql:
        return "a query holds no null character"
    lower = sql.lower()
    if ("now" in lower or "current_" in lower) and _NOW.search(sql):
        return "not authorized: a query does not depend on the clock"
    if "with" in lower and _expanded(lower) > _MOST_SELECTS:
        return "the common table expressions of this query refer to each other too often"
    return ""


def _expanded(sql: str) -> int:
    """An upper bound of the SELECTs that a query with common table expressions has once each reference is replaced.

    SQLite writes every reference out while it prepares a query, twice as many at each level of
    `b AS (SELECT * FROM a, a), c AS (SELECT * FROM b, b), ...`, and looks at no clock there.
    """
    words = [next(filter(None, match.groups())) for match in _WORD.finditer(sql) if any(match.groups())]
    opened: list[int] = []
    pairs: dict[int, int] = {}  # opening bracket of each closing one, and the other way round
    for at, word in enumerate(words):
        if word == "(":
            opened.append(at)
        elif word == ")" and opened:
            pairs[at] = opened.pop()
            pairs[pairs[at]] = at
    bodies: dict[str, Counter[str]] = {}  # how often each word stands in the definition of a name
    for at, end in pairs.items():
        before = at - 1
        while before > 0 and words[before] in ("materialized", "not"):
            before -= 1
        if at > end or before < 1 or words[before] != "as":
            continue
        name = words[pairs.get(before - 1, before) - 1]
        if name in bodies:
            return _MOST_SELECTS + 1  # which of the two a reference means is not worth knowing
        bodies[name] = Counter(words[at:end])
    sizes = dict.fromkeys(bodies, 1)
    for _ in bodies:  # a name may be used before it is defined
        for name, body in bodies.items():
            sizes[name] = 1 + sum(sizes[w] * n for w, n in body.items() if w in sizes and w != name)
        if sum(sizes.values()) > _MOST_SELECTS:
            break
    return sum(sizes.get(word, 0) for word in words)


class _Guard:
    """What SQLite asks while it prepares and runs a query."""

    def __init__(self) -> None:
        self.left = 0  # steps
        self.deadline = 0.0
        self.denied = ""

    def authorize(self, action: int, one: str | None, two: str | None, *_: str | None) -> int:
        """Whether a query may do this."""
        if action in _ALLOWED:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION:
            if str(two).lower() in FUNCTIONS:
                return sqlite3.SQLITE_OK
            self.denied = f"not authorized: the function {str(two)[:60]}"
        elif action == sqlite3.SQLITE_PRAGMA:
            if str(one).lower() in PRAGMAS:
                return sqlite3.SQLITE_OK
            self.denied = f"not authorized: PRAGMA {str(one)[:60]}"
        else:
            self.denied = "not authorized: a query only reads, with SELECT"
        return sqlite3.SQLITE_DENY

    def over(self) -> bool:
        """Whether a query has taken its steps or its time."""
        self.left -= _STRIDE
        return self.left <= 0 or time.monotonic() > self.deadline


class _Connection:
    """A connection with its guard. Whoever uses it holds `lock`."""

    def __init__(self, path: str, immutable: bool) -> None:
        self.lock = threading.Lock()
        self.closed = False
        self._guard = _Guard()
        self._path = path
        quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        uri = f"file:{quoted}?mode=ro{'&immutable=1' if immutable else ''}"
        try:
            self._sqlite = sqlite3.connect(
                uri, uri=True, timeout=_LOCK_SECONDS, check_same_thread=False, isolation_level=None
            )
        except sqlite3.Error as error:
            raise DatabaseGone(f"{path} cannot be opened ({error})") from error
        self._sqlite.text_factory = _decoded
        if not 0 < int(self._sqlite.execute("PRAGMA hard_heap_limit").fetchone()[0]) <= _HEAP:
            self._sqlite.execute(f"PRAGMA hard_heap_limit = {_HEAP}")
        for setting in (
            "temp_store = MEMORY",
            "query_only = ON",
            "trusted_schema = OFF",
            "cell_size_check = ON",
        ):
            self._sqlite.execute(f"PRAGMA {setting}")
        for limit, value in _LIMITS.items():
            self._sqlite.setlimit(limit, value)
        self._sqlite.set_authorizer(self._guard.authorize)
        self._sqlite.set_progress_handler(self._guard.over, _STRIDE)

    def run(self, sql: str, most: int, work: int, timeout: float) -> Result | Refused | DatabaseFailure:
        """Run a query; a failure is returned, since whoever raises it also drops the connection."""
        guard = self._guard
        guard.left, guard.denied, guard.deadline = work, "", time.monotonic() + timeout
        try:
            cursor = self._sqlite.execute(sql)
            try:
                if cursor.description is None:
                    return Refused("this is no query: write one SELECT")
                rows: list[tuple[Any, ...]] = []
                size = 0
                for row in cursor:
                    if len(rows) == most:
                        return Result(tuple(c[0] for c in cursor.description), rows, False)
                    rows.append(row)
                    size += sum(len(v) for v in row if isinstance(v, (str, bytes)))
                    if size > _BYTES:
                        return Refused(f"the result is longer than {_BYTES >> 20} MB")
                return Result(tuple(c[0] for c in cursor.description), rows, True)
            finally:
                cursor.close()
        except sqlite3.Warning as error:  # several statements, in Python 3.11
            return Refused(str(error))
        except MemoryError:
            return Refused(f"the query needs more than {_HEAP >> 20} MB")
        except sqlite3.Error as error:
            return self._said(error, work, timeout)

    def _said(self, error: sqlite3.Error, work: int, timeout: float) -> Refused | DatabaseFailure:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without the extended part
        if code == sqlite3.SQLITE_INTERRUPT:
            return Refused(f"the query was stopped: it took more than {work:,} steps or {timeout:g} s")
        if code == sqlite3.SQLITE_AUTH:
            return Refused(self._guard.denied)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return DatabaseLocked(f"{self._path}: {error}, for more than {_LOCK_SECONDS:g} s")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return DatabaseCorrupt(f"{self._path}: {error}")
        if code in (
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_FULL,
        ):
            return DatabaseGone(f"{self._path}: {error}")
        return Refused(str(error))

    def close(self) -> None:
        """Close it once nobody uses it."""
        with self.lock:
            self.closed = True
            self._sqlite.close()


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")


_POOL: OrderedDict[tuple[int, str, bool], _Connection] = OrderedDict()
_POOLING = threading.Lock()


def _connection(path: str, immutable: bool) -> _Connection:
    """The connection of this process to a file; a forked child makes its own."""
    key = (os.getpid(), path, immutable)
    spare = None
    with _POOLING:
        found = _POOL.get(key)
        if found is None:
            found = _POOL[key] = _Connection(path, immutable)
            if len(_POOL) > _MOST_OPEN:
                (owner, *_), spare = _POOL.popitem(last=False)
                spare = spare if owner == os.getpid() else None  # that of a parent is the parent's to close
        else:
            _POOL.move_to_end(key)
    if spare is not None:
        spare.close()
    return found


def _run(file: tuple[str, bool], sql: str, most: int, work: int, timeout: float) -> Result | Refused:
    while True:
        connection = _connection(*file)
        with connection.lock:
            if connection.closed:  # it had to make room for another between the two lines above
                continue
            found = connection.run(sql, most, work, timeout)
        if isinstance(found, DatabaseFailure):
            with _POOLING:
                _POOL.pop((os.getpid(), *file), None)
            connection.close()
            raise found
        return found


def close_connections() -> None:
    """Close the connections of this process, each once nobody uses it."""
    with _POOLING:
        connections = [c for (owner, *_), c in _POOL.items() if owner == os.getpid()]
        _POOL.clear()
    for connection in connections:
        connection.close()


@lru_cache(maxsize=1024)
def _tables(path: str, immutable: bool, modified: int, size: int) -> tuple[Table, ...]:
    """The tables of a file of this age and size, which only keep a file that has changed from being taken for the old one."""
    del modified, size

    def asked(sql: str) -> list[tuple[Any, ...]]:
        found = _run((path, immutable), sql, 10_000, 50_000_000, 10.0)
        if isinstance(found, Refused):
            raise DatabaseCorrupt(f"{path}: the schema cannot be read ({found.why})")
        return found.rows

    names = asked(
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY rowid"
    )
    tables = []
    for (name,) in names:
        quoted = '"' + name.replace('"', '""') + '"'
        keys = {
            str(source): f"{table}.{target}" if target else table
            for _, _, table, source, target, *_ in asked(f"PRAGMA foreign_key_list({quoted})")
        }
        columns = tuple(
            Column(column, kind, bool(primary), keys.get(column, ""))
            for _, column, kind, _, _, primary in asked(f"PRAGMA table_info({quoted})")
        )
        tables.append(Table(name, columns))
    return tuple(tables)
