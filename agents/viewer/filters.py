"""The line above the table: `success:no turns>5 step:20..40 "red shoes"` picks trajectories.

    field:value          env:FrozenLake-v1, status:failed; * stands for any text: task:train-*
    field:one,other      either
    field:low..high      numbers from low to high; one of the two may be left out
    field>5 >= < <=      numbers
    -field:value         not
    word "some words"    texts: observations, actions, the task's id, the reference, errors; capitals do not count

All terms must hold. The page that `--export` writes has the same grammar in static/data.js; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from ...envs.errors import UsageError, nearest
from .index import STATUSES
from .library import Snapshot

NUMBERS = ("step", "seed", "score", "reward", "turns", "invalid", "group", "sample")
"""Fields that are compared as numbers. `invalid` counts the turns whose action could not be executed."""

NAMES = ("run", "env", "task", "split", "status", "agent", "family", "difficulty", "error", "file")
"""Fields that are compared as texts; `*` in a value stands for any text."""

FIELDS = (*NUMBERS, *NAMES, "success")

_TERM = re.compile(
    r"""(?P<minus>-?)(?:(?P<field>[A-Za-z_]+)(?P<sign>:|>=|<=|>|<|=))?(?P<value>(?:"(?:[^"\\]|\\.)*"|[^\s"])*)"""
)
_VALUE = re.compile(r""""((?:[^"\\]|\\.)*)"|([^,"]+)""")


class InvalidFilter(UsageError):
    """Raised when a filter cannot be understood."""


class Term(NamedTuple):
    """A condition on a field."""

    field: str
    negated: bool
    low: float
    high: float
    open_low: bool
    open_high: bool
    values: tuple[str, ...]


@dataclass(frozen=True)
class Filter:
    """Conditions, all of which must hold.

    Attributes:
        terms: on fields.
        texts: (negated, lower-case text) to be found in what was said.
    """

    terms: tuple[Term, ...] = ()
    texts: tuple[tuple[bool, str], ...] = ()


def parse(text: str) -> Filter:
    """Read a filter.

    Raises:
        InvalidFilter: an unknown field, or a value that the field cannot have.
    """
    terms: list[Term] = []
    texts: list[tuple[bool, str]] = []
    if text.count('"') % 2 and not text.count('\\"'):
        raise InvalidFilter(f"a quotation mark is not closed in {text!r}")
    for found in _TERM.finditer(text):
        minus, field, sign, value = found["minus"] == "-", found["field"], found["sign"], found["value"]
        if field is None:
            if value:
                texts.append((minus, " ".join(_values(value)).lower() if '"' in value else value.lower()))
            elif minus:
                texts.append((False, "-"))
            continue
        field = field.lower()
        if field not in FIELDS:
            raise InvalidFilter(
                f"there is no field {field!r}.{nearest(field, FIELDS)} Fields: {', '.join(FIELDS)}. "
                f'To look for it as text, put it in quotes: "{field}{sign}{value}"'
            )
        if value == "":
            raise InvalidFilter(f"a value is missing behind {field}{sign}")
        terms.append(_term(field, minus, sign, value))
    return Filter(tuple(terms), tuple(texts))


def _values(value: str) -> list[str]:
    return [
        re.sub(r"\\(.)", r"\1", quoted) if quoted or not plain else plain
        for quoted, plain in _VALUE.findall(value)
    ]


def _term(field: str, minus: bool, sign: str, value: str) -> Term:
    infinity = float("inf")
    if field in NUMBERS:
        low, high, open_low, open_high = -infinity, infinity, False, False
        numbers: tuple[str, ...] = ()
        if sign == ">" or sign == ">=":
            low, open_low = _number(field, value), sign == ">"
        elif sign == "<" or sign == "<=":
            high, open_high = _number(field, value), sign == "<"
        elif ".." in value:
            first, _, last = value.partition("..")
            low = _number(field, first) if first else -infinity
            high = _number(field, last) if last else infinity
        else:
            numbers = tuple(value.split(","))
            for number in numbers:
                _number(field, number)
        return Term(field, minus, low, high, open_low, open_high, numbers)
    if sign not in (":", "="):
        raise InvalidFilter(f"{field} is no number; write {field}:{value}")
    values = tuple(v.lower() for v in _values(value))
    if field == "success" and not set(values) <= {"yes", "no"}:
        raise InvalidFilter(f"success is yes or no, got {value!r}")
    if field == "status" and not set(values) <= set(STATUSES):
        raise InvalidFilter(f"status is one of {', '.join(STATUSES)}, got {value!r}")
    return Term(field, minus, 0.0, 0.0, False, False, values)


def _number(field: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if number != number:
        raise InvalidFilter(
            f"{field} is a number, got {value!r}; for example {field}:3, {field}>=3, {field}:1..3"
        )
    return number


def select(snapshot: Snapshot, terms: Sequence[Term]) -> np.ndarray:
    """Which rows fulfil the conditions on fields: an array of booleans."""
    rows = snapshot.rows
    chosen = np.ones(len(rows), bool)
    for term in terms:
        mask = _mask(snapshot, rows, term)
        chosen &= ~mask if term.negated else mask
    return chosen


def _mask(snapshot: Snapshot, rows: np.ndarray, term: Term) -> np.ndarray:
    if term.field in NUMBERS:
        column = rows[term.field]
        # Steps begin at 0; a file without a step has none.
        there = column >= 0 if term.field == "step" else np.ones(len(rows), bool)
        if term.values:
            return there & np.isin(column.astype(np.float64), [float(v) for v in term.values])
        above = column > term.low if term.open_low else column >= term.low
        below = column < term.high if term.open_high else column <= term.high
        return there & above & below
    if term.field == "success":
        wanted = {value == "yes" for value in term.values}
        return np.isin(rows["success"], list(wanted))
    names: Sequence[str] = {
        "status": STATUSES,
        "run": snapshot.runs,
        "file": [name for _, name in snapshot.files],
    }.get(term.field, snapshot.names)
    fits = np.array(
        [any(matches(name.lower()) for matches in map(_matcher, term.values)) for name in names], bool
    )
    return fits[rows[term.field]] if len(names) else np.zeros(len(rows), bool)


def _matcher(pattern: str) -> Callable[[str], bool]:
    if "*" not in pattern:
        return pattern.__eq__
    # Only the star is special: names hold brackets and question marks.
    escaped = re.sub(r"[\[?]", r"[\g<0>]", pattern)
    return lambda name: fnmatchcase(name, escaped)


def order(snapshot: Snapshot, chosen: np.ndarray, by: str) -> np.ndarray:
    """Numbers of the chosen rows, ordered by a field (`-field`: the other way round); equal ones as they stand.

    Raises:
        InvalidFilter: there is no such field.
    """
    numbers = np.flatnonzero(chosen)
    field = by.removeprefix("-")
    if not field:
        return numbers
    if field not in FIELDS:
        raise InvalidFilter(f"there is no field {field!r} to sort by; fields: {', '.join(FIELDS)}")
    column = snapshot.rows[field][numbers]
    if field in NAMES:
        names: Sequence[str] = {
            "status": STATUSES,
            "run": snapshot.runs,
            "file": [name for _, name in snapshot.files],
        }.get(field, snapshot.names)
        rank = np.empty(max(1, len(names)), np.int64)
        rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        column = rank[column]
    column = column.astype(np.float64)
    return numbers[np.argsort(-column if by.startswith("-") else column, kind="stable")]
