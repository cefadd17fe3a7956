"""Execution match: two queries are the same where they give the same rows.

- Rows are a multiset; where the reference orders its result, a list.
- Columns stand in the order of the reference; with `any_order` one permutation of the columns must make all rows equal,
  as in Spider's evaluation by test suites (Zhong et al., 2020). Names of columns do not count.
- Numbers are equal within a relative 1e-6 (and an absolute 1e-9), whatever their type; texts exactly; NULL equals NULL.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from itertools import permutations
from typing import Any

Rows = Sequence[Sequence[Any]]

_RELATIVE, _ABSOLUTE = 1e-6, 1e-9
_MOST_PERMUTED = 6  # columns; more are compared in their own order alone
_MOST_PAIRED = 500  # rows that are paired one by one where sorting does not settle it


def same_rows(found: Rows, expected: Rows, *, ordered: bool = False, any_order: bool = False) -> bool:
    """Whether two results are the same.

    Args:
        found: rows of the query.
        expected: rows of the reference.
        ordered: the order of the rows counts.
        any_order: the order of the columns does not.
    """
    if len(found) != len(expected):
        return False
    if not expected:
        return True
    width = len(expected[0])
    if len(found[0]) != width:
        return False
    one = [tuple(map(_plain, row)) for row in found]
    other = [tuple(map(_plain, row)) for row in expected]
    if one == other:
        return True
    if _same(one, other, ordered):
        return True
    if any_order and 1 < width <= _MOST_PERMUTED:
        return any(
            _same([tuple(row[i] for i in order) for row in one], other, ordered)
            for order in permutations(range(width))
        )
    return False


def _plain(value: Any) -> Any:
    """A value as None, int, float, str or bytes."""
    kind = type(value)
    if kind in (int, str, float) or value is None:
        return value
    if kind is Decimal:
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if kind is bool:
        return int(value)
    if isinstance(value, (bytes, memoryview)):
        return bytes(value)
    return value.isoformat(" ") if hasattr(value, "hour") and hasattr(value, "year") else str(value)


def _same(one: list[tuple[Any, ...]], other: list[tuple[Any, ...]], ordered: bool) -> bool:
    if ordered:
        return all(map(_alike, one, other))
    # Numbers with a fraction sort last, so that noise in them does not change how the other columns line up.
    columns = range(len(other[0]))
    noisy = [i for i in columns if any(type(r[i]) is float for rows in (one, other) for r in rows)]
    order = [i for i in columns if i not in noisy] + noisy

    def key(row: tuple[Any, ...]) -> list[tuple[int, Any]]:
        return [_rank(row[i]) for i in order]

    one, other = sorted(one, key=key), sorted(other, key=key)
    if all(map(_alike, one, other)):
        return True
    if not noisy or len(one) > _MOST_PAIRED:
        return False
    left = list(one)
    for row in other:
        at = next((i for i, candidate in enumerate(left) if _alike(candidate, row)), None)
        if at is None:
            return False
        del left[at]
    return True


def _rank(value: Any) -> tuple[int, Any]:
    if value is None:
        return 0, 0
    if isinstance(value, (int, float)):
        return (1, value) if value == value else (2, 0)
    return (3, value) if isinstance(value, str) else (4, value)


def _alike(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(map(_equal, one, other))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        if type(one) is int and type(other) is int:
            return one == other
        if one != one or other != other:
            return one != one and other != other
        try:
            return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
        except OverflowError:  # an integer that no float holds
            return False
    return bool(one == other)
