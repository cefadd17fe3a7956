"""A programming problem: what is asked, in which form, and the tests of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Form = Literal["function", "io"]


class Case(NamedTuple):
    """A call of the function and what it must return.

    Attributes:
        arguments: by position.
        expected: the result.
        loose: compare as APPS does: tuples are lists, and of a list of one its element counts too.
    """

    arguments: tuple[Any, ...]
    expected: Any
    loose: bool = False


class Exchange(NamedTuple):
    """A standard input and the standard output that must follow."""

    stdin: str
    expected: str


class Script(NamedTuple):
    """Test code of a published set, which calls the function by its name and raises where it fails."""

    code: str


Test = Case | Exchange | Script


@dataclass(frozen=True)
class Problem:
    """What an episode is about.

    Attributes:
        statement: what is asked, without tests.
        form: a function to write, or a program that reads standard input and writes standard output.
        entry: name of the function, `Class.method` for a method; empty in the form `io`.
        signature: the head of the function; empty in the form `io`.
        visible: the tests that the agent may run.
        hidden: the tests that decide; more than the visible ones.
        reference: a program that passes all.
        mutants: plausible programs that fail at least one hidden test.
        library: what the test code of a `Script` may use beside the function; the reference is part of it.
        called: the name by which the test code of a `Script` calls the function.
    """

    statement: str
    form: Form
    entry: str
    signature: str
    visible: tuple[Test, ...]
    hidden: tuple[Test, ...]
    reference: str
    mutants: tuple[str, ...] = ()
    library: str = ""
    called: str = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> Problem:
        return self  # frozen: snapshots share it
