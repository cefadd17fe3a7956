"""What a database is to `SQL-v1`: tables, and a way to run one query that can only read.

What an agent writes never raises: a query that is wrong, forbidden or too expensive gives a `Refused`. What raises is the
database breaking.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, NamedTuple

from ..errors import EnvFailure


class DatabaseFailure(EnvFailure):
    """Raised when a database cannot be asked any more; the subclass says why."""


class DatabaseGone(DatabaseFailure):
    """Raised when a file is missing or cannot be read, or a server does not answer."""


class DatabaseLocked(DatabaseFailure):
    """Raised when another process holds a lock on the database and does not let go of it."""


class ReferenceRefused(DatabaseFailure):
    """Raised when the reference query of a task does not run on its database, so that no answer can be judged."""


class DatabaseCorrupt(DatabaseFailure):
    """Raised when a file is damaged, or is no database."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: as the database has it.
        type: as it was declared; may be empty.
        primary: whether it belongs to the primary key.
        refers: `table.column` that it is a foreign key to, or empty.
    """

    name: str
    type: str
    primary: bool = False
    refers: str = ""


class Table(NamedTuple):
    """A table of a database.

    Attributes:
        name: as the database has it.
        columns: in order.
    """

    name: str
    columns: tuple[Column, ...]


class Result(NamedTuple):
    """What a query gave.

    Attributes:
        columns: names of the columns.
        rows: the first rows, at most as many as were asked for.
        complete: whether these are all rows.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    complete: bool


class Refused(NamedTuple):
    """A query that gave no result: wrong, forbidden, or stopped at a limit.

    Attributes:
        why: one sentence for the agent.
    """

    why: str


class Database(ABC):
    """A database that can be read and not be changed. It can be pickled and copied; connections are kept elsewhere.

    Attributes:
        dialect: name of its SQL for sqlglot.
        key: tells it from every other database; two with one key are equal.
    """

    dialect: ClassVar[str]
    key: tuple[Hashable, ...]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Database) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __deepcopy__(self, memo: dict[int, object]) -> Database:
        return self  # it never changes: snapshots share it

    @abstractmethod
    def tables(self) -> Sequence[Table]:
        """The tables, in the order in which they were made.

        Raises:
            DatabaseFailure: see the class.
        """

    @abstractmethod
    def run(self, sql: str, most: int) -> Result | Refused:
        """Run one query.

        Args:
            sql: what an agent wrote, or a reference.
            most: how many rows to read.

        Raises:
            DatabaseFailure: see the class.
        """
