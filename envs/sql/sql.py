"""`SQL-v1`: answer a question over a database with a query, after looking around in it."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..core import Outcome, TurnEnv
from ..errors import InvalidParameter, nearest
from ..tasks import Task, TaskSet
from ..tools import Call, tool
from .database import Database, ReferenceRefused, Refused, Result, Table
from .domains import DOMAINS
from .families import FAMILIES
from .generator import Style, generated
from .library import Library, opened
from .loaders import published
from .match import same_rows
from .partial import WEIGHTS, parts, sketch
from .sqlite_database import SQLiteDatabase

_MOST_ROWS = 1_000  # that a query reads, if the reference has no more
_MOST_COMPARED = 10_000  # rows of a reference
_LONGEST_OBSERVATION = 4_000  # characters of a result
_LONGEST_VALUE = 100  # characters of a value that is shown
_RANDOM_TOOLS = ("tables", "describe", "describe", "query", "query", "submit")

Dataset = Literal["generated", "spider", "bird", "chinook"]


class SQL(TurnEnv):
    """Answer a question over a database with one SQL query, after looking at its tables and trying queries.

    Observation: first the question, with the schema where `schema="prompt"`. A result is a line of column names and a line per
        row, values apart by ` | `; the last line counts the rows. What the database says of a wrong query is shown.
    Tools: `tables()` lists the tables; `describe(table)` gives columns, keys and a few rows; `query(sql)` runs a query;
        `submit(sql)` ends the episode.
    Reward: on `submit` the parts of Reasoning-SQL, by name in `info["rewards"]`: `execution`, `syntax`, `schema`, `ngram`,
        which sum to 1 for a right query and to less than 1/2 for a wrong one; with `partial=False` only `execution`. With
        `reward="step"` the change of a potential is added (`progress`): `explore_reward` x share of the tables of the
        reference that were described, plus `found_reward` once a query gave the rows of the reference.
    Terminated: a query was submitted; success is execution match on the database and on its variants with other rows, the
        score is 1 or 0. Truncated: `max_turns` (12 as registered), score 0.
    Task: generated questions of 71 families over 15 domains, or those of Spider, BIRD and Chinook from the user's files. The
        family and the difficulty are the task's.
    Reference: the reference query.
    State key: the task, whether the tables were listed, those that were described, and the results that were seen.
    Expert: lists the tables, describes those it needs, runs the reference, submits it; `demonstration="straight"` submits.
    Source: execution match on several databases as in Zhong et al. (2020); rewards of Reasoning-SQL (arXiv 2503.23157).
    """

    dataset: Dataset = "generated"
    data: Path | None = None
    backend: Literal["sqlite", "postgres"] = "sqlite"
    server: str = ""
    questions: Annotated[int, Field(ge=1, le=100_000)] = 2000
    style: Style = "full"
    families: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    data_seed: Annotated[int, Field(ge=0)] = 0
    schema: Literal["tools", "prompt"] = "tools"
    rows: Annotated[int, Field(ge=1, le=100)] = 10
    samples: Annotated[int, Field(ge=0, le=20)] = 3
    column_order: Literal["same", "any"] = "same"
    partial: bool = True
    explore_reward: Annotated[float, Field(ge=0.0)] = 0.2
    found_reward: Annotated[float, Field(ge=0.0)] = 0.2
    demonstration: Literal["explore", "straight"] = "explore"
    work: Annotated[int, Field(ge=10_000)] = 5_000_000
    timeout: Annotated[float, Field(gt=0.0)] = 5.0

    rules = (
        "Answer the question with one SQL query over a database that you can only read. Look at the tables, try queries, and"
        " submit the one that gives what is asked for: those columns in that order, and nothing else."
    )

    def load_tasks(self) -> TaskSet:
        """The questions, and the databases that go with them."""
        self.library = self._opened_library()
        if self.backend == "postgres":
            if self.dataset != "generated":
                raise InvalidParameter(
                    f"backend='postgres' needs dataset='generated': the references of {self.dataset} are written for SQLite"
                )
            if not self.server:
                raise InvalidParameter(
                    "backend='postgres' needs server=, the address of a database of its own that turnwise may fill, as in"
                    " server='postgresql://postgres@localhost/turnwise'"
                )
            _postgres()
            self.blocking = True  # type: ignore[misc]  # a server is waited for
        elif self.server:
            raise InvalidParameter("server= belongs to backend='postgres'")
        self._rewards: dict[str, float] = {}
        return self.library.tasks

    def _opened_library(self) -> Library:
        for name, known in (("families", FAMILIES), ("domains", DOMAINS)):
            for value in getattr(self, name):
                if value not in known:
                    raise InvalidParameter(
                        f"{name} has no {value!r}.{nearest(value, known)} Known: {', '.join(known)}."
                    )
        if self.dataset == "generated":
            if self.data is not None:
                raise InvalidParameter("data= belongs to a published set; name it, as in dataset='spider'")
            if self.style == "short" and self.domains:
                raise InvalidParameter("style='short' has a domain of its own; leave domains out")
            return generated(self.questions, self.style, self.families, self.domains, self.data_seed)
        if self.families or self.domains:
            raise InvalidParameter("families and domains belong to dataset='generated'")
        if self.data is None:
            raise InvalidParameter(f"dataset={self.dataset!r} is read from your files: give data=PATH")
        return published(self.dataset, self.data)

    def _bases(self) -> list[Database]:
        """The database of the task and its variants."""
        assert self.task is not None
        name = self.task.data["database"]
        if self.backend == "postgres":
            return _on_server(self.library.folder, name, self.server, self.timeout)
        return _opened(self.library.folder, name, self.work, self.timeout)

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Ask the question."""
        reference = (task.reference or ("",))[0]
        self._base = self._bases()[0]
        tables = self._base.tables()
        named = sketch(reference, self._base.dialect).schema
        self.needed = [t.name for t in tables if t.name.lower() in named]
        self.listed = self.schema == "prompt"
        self.described: set[str] = set()
        self.seen: set[str] = set()  # digests of results
        self.found = False
        if self.schema == "tools":
            return task.prompt
        return "\n".join([*(_line(t) for t in tables), task.prompt])

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """See `TurnEnv.step`; info has `rewards` by name, which sum to the reward, in addition."""
        self._rewards = {}
        observation, reward, terminated, truncated, info = super().step(action)
        if self.reward == "outcome":
            self._rewards = {"execution": reward} if reward else {}
        elif info["shaping"]:
            self._rewards["progress"] = info["shaping"]
        info["rewards"] = self._rewards
        return observation, reward, terminated, truncated, info

    @tool
    def tables(self) -> Outcome:
        """List the tables of the database."""
        self.listed = True
        return Outcome("\n".join(t.name for t in self._base.tables()) or "(no tables)")

    @tool
    def describe(self, table: str) -> Outcome:
        """Show the columns and keys of a table and a few of its rows.

        Args:
            table: its name.
        """
        wanted = table.strip().strip('"`[]').lower()
        tables = self._base.tables()
        found = next((t for t in tables if t.name.lower() == wanted), None)
        if found is None:
            names = [t.name for t in tables]
            return Outcome(
                f"There is no table of that name.{nearest(wanted[:80], names)} Tables: {', '.join(names)}",
                invalid=True,
            )
        self.described.add(found.name)
        lines = [_column(c) for c in found.columns]
        if self.samples:
            quoted = '"' + found.name.replace('"', '""') + '"'
            result = self._base.run(f"SELECT * FROM {quoted} LIMIT {self.samples}", self.samples)
            if isinstance(result, Result):
                lines += _shown(result, self.samples)
        return Outcome(_cut("\n".join(lines)))

    @tool
    def query(self, sql: str) -> Outcome:
        """Run one SELECT on the database and see the first rows of its result.

        Args:
            sql: the query.
        """
        expected = self._expected(self._base)
        result = self._base.run(sql, max(_MOST_ROWS, len(expected.rows) + 1))
        if isinstance(result, Refused):
            return Outcome(f"Error: {result.why}", invalid=True)
        self.found = self.found or self._same(result, expected)
        lines = _shown(result, self.rows)
        count = f"{len(result.rows):,}" if result.complete else f"more than {len(result.rows):,}"
        if len(result.rows) > self.rows:
            lines.append(f"(first {self.rows} of {count} rows)")
        else:
            lines.append(f"({count} row{'s' * (len(result.rows) != 1)})" if result.rows else "(no rows)")
        observation = _cut("\n".join(lines))
        self.seen.add(_digest(observation))
        return Outcome(observation)

    @tool
    def submit(self, sql: str) -> Outcome:
        """Give the query that answers the question, which ends the episode.

        Args:
            sql: the query.
        """
        runs, right = True, True
        for place, base in enumerate(self._bases()):
            if place and isinstance(_asked_of(base, self._reference), Refused):
                continue  # shuffled rows can make a reference endless, such as one that follows bosses
            expected = self._expected(base)
            result = base.run(sql, len(expected.rows) + 1)
            if isinstance(result, Refused):
                runs = right = False
            elif not self._same(result, expected):
                right = False
            if not right:
                break
        if self.partial and self.reward == "step":
            found = parts(sql, self._reference, self._base.dialect, runs=runs, right=right)
            paid = {name: WEIGHTS[name] * value for name, value in found.items() if value}
        else:
            paid = {"execution": 1.0} if right else {}
        self._rewards = paid
        return Outcome("Right." if right else "Wrong.", sum(paid.values()), success=right)

    @property
    def _reference(self) -> str:
        assert self.task is not None and self.task.reference
        return self.task.reference[0]

    def _expected(self, base: Database) -> Result:
        assert self.task is not None
        found = _asked_of(base, self._reference)
        if isinstance(found, Refused):
            raise ReferenceRefused(f"task {self.task.id}: the reference query does not run ({found.why})")
        return found

    def _same(self, result: Result, expected: Result) -> bool:
        if len(result.columns) != len(expected.columns) or result.complete != expected.complete:
            return False
        return same_rows(
            result.rows,
            expected.rows,
            ordered=sketch(self._reference, self._base.dialect).ordered,
            any_order=self.column_order == "any",
        )

    def potential(self) -> float:
        """`explore_reward` x the share of the needed tables that were described, plus `found_reward` once found."""
        share = sum(t in self.described for t in self.needed) / len(self.needed) if self.needed else 0.0
        return self.explore_reward * share + self.found_reward * self.found

    def state_key(self) -> Hashable:
        """A hash of the task and of what was seen."""
        assert self.task is not None
        return _digest(repr((self.task.id, self.listed, sorted(self.described), sorted(self.seen))))

    def expert(self) -> Call:
        """Look at what the reference needs, try it, and submit it."""
        submit = Call("submit", {"sql": self._reference})
        if self.demonstration == "straight" or self._turn >= self.max_turns - 1:
            return submit
        if not self.listed:
            return Call("tables", {})
        for name in self.needed if self.schema == "tools" else ():
            if name not in self.described:
                return Call("describe", {"table": name})
        return submit if self.found else Call("query", {"sql": self._reference})

    def sample_action(self, rng: np.random.Generator) -> str:
        """A random tool with a random table of the database; a random query is all that is in it."""
        if self.task is None:
            return super().sample_action(rng)
        name = _RANDOM_TOOLS[int(rng.integers(len(_RANDOM_TOOLS)))]
        if name == "tables":
            return self.write(Call(name, {}))
        tables = self._base.tables()
        table = tables[int(rng.integers(len(tables)))].name if tables else "?"
        argument = table if name == "describe" else f"SELECT * FROM {table}"
        return self.write(Call(name, {self.tools[name].parameters[0]: argument}))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _column(column: Any) -> str:
    said = f"{column.name} {column.type}".rstrip()
    said += " PRIMARY KEY" if column.primary else ""
    return f"{said} -> {column.refers}" if column.refers else said


def _line(table: Table) -> str:
    return f"{table.name}({', '.join(c.name for c in table.columns)})"


def _shown(result: Result, most: int) -> list[str]:
    """The head of a result, a line per row."""
    lines = [" | ".join(result.columns)]
    lines += (" | ".join(map(_value, row)) for row in result.rows[:most])
    return lines


def _value(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, (bytes, memoryview)):
        return f"x'{bytes(value[:20]).hex()}'{'...' * (len(value) > 20)}"
    text = str(value)
    if len(text) > _LONGEST_VALUE:
        text = f"{text[:_LONGEST_VALUE]}..."
    return text if text.isprintable() else " ".join(text.split())


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_OBSERVATION else f"{text[:_LONGEST_OBSERVATION]} ... (cut)"


@lru_cache(maxsize=1024)
def _opened(folder: Path, database: str, work: int, timeout: float) -> list[Database]:
    # Only what lies in the cache is ours alone; a user's own file may be changed while it is read.
    return [
        SQLiteDatabase(f, immutable=f.is_relative_to(folder), work=work, timeout=timeout)
        for f in opened(folder).files(database)
    ]


def _postgres() -> Any:
    try:
        from . import postgres_database
    except ImportError as error:  # psycopg, or the library that it loads
        raise InvalidParameter(
            f"backend='postgres' needs psycopg ({error}): pip install 'turnwise[postgres]'"
        ) from error
    return postgres_database


@lru_cache(maxsize=1024)
def _on_server(folder: Path, database: str, server: str, timeout: float) -> list[Database]:
    made = _postgres().PostgresDatabase
    return [made(server, file, timeout=timeout) for file in opened(folder).files(database)]


@lru_cache(maxsize=8192)
def _asked_of(base: Database, sql: str) -> Result | Refused:
    """What a reference gives on a database."""
    return base.run(sql, _MOST_COMPARED)
