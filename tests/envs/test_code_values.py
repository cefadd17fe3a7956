"""Values that leave a sandbox: what survives the way, and what is equal."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, namedtuple
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.envs.code.values import Opaque, decode, encode, same, same_output

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
)
hashables = st.recursive(scalars, lambda s: st.tuples(s, s) | st.frozensets(s, max_size=3), max_leaves=4)
values = st.recursive(
    hashables,
    lambda s: (
        st.lists(s, max_size=4)
        | st.tuples(s)
        | st.dictionaries(hashables, s, max_size=3)
        | st.sets(hashables, max_size=3)
    ),
    max_leaves=8,
)


def travel(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


@given(values)
def test_plain_values_survive_the_way(value: Any) -> None:
    assert same(travel(value), value)
    assert type(travel(value)) is type(value)


@given(values, values)
def test_equality_is_symmetric_and_no_laxer_than_python_but_for_floats(a: Any, b: Any) -> None:
    assert same(a, b) == same(b, a)
    assert same(a, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (True, 1),
        (False, 0),
        (None, False),
        ([1, 2], (1, 2)),
        ("1", 1),
        (b"a", "a"),
        ([], {}),
        (set(), {}),
        ([1, 2], [2, 1]),
        ({1: True}, {1: 1}),
        (1.0, 1.0001),
        (10**20, 10**20 + 1),
        (math.nan, 0.0),
        (math.inf, -math.inf),
        (10**400, math.inf),
        ({"a": 1}, {"a": 1, "b": 2}),
    ],
)
def test_what_is_not_equal(a: Any, b: Any) -> None:
    assert not same(a, b)
    assert not same(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (0.1 + 0.2, 0.3),
        (math.nan, math.nan),
        (math.inf, math.inf),
        ({1, 2.0}, {2, 1}),
        ({1: 2, 3: 4}, {3: 4, 1: 2}),
        (frozenset({1}), {1}),
        ([math.nan, (1, {0.5})], [math.nan, (1, {0.5})]),
        (complex(1, 2), complex(1, 2 + 1e-12)),
    ],
)
def test_what_is_equal(a: Any, b: Any) -> None:
    assert same(a, b)
    assert same(b, a)


class Yes:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


class Loud(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __repr__(self) -> str:
        return "42"

    def __index__(self) -> int:
        return 42

    __hash__ = int.__hash__


class Liar(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([42])

    def __eq__(self, other: object) -> bool:
        return True


def test_an_object_that_equals_everything_equals_nothing() -> None:
    found = travel(Yes())
    assert isinstance(found, Opaque)
    assert not same(found, Yes())
    assert not same(found, found)
    assert not same([travel(Yes())], [1])


def test_subclasses_of_plain_types_are_read_by_the_types_own_methods() -> None:
    assert travel(Loud(7)) == 7
    assert travel(Liar([1, 2])) == [1, 2]
    assert travel(Counter("aab")) == {"a": 2, "b": 1}
    assert travel(OrderedDict(a=1)) == {"a": 1}
    assert travel(namedtuple("P", "x y")(1, 2)) == (1, 2)
    assert travel(IntEnum("E", "A").A) == 1  # type: ignore[attr-defined]


def test_deep_and_circular_values_become_opaque_instead_of_an_error() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert "too deeply nested" in repr(travel(circle))


@pytest.mark.parametrize("bad", [["?"], [], ["i", "x"], ["d", 1], ["f"], ["s", ["l"]], [5]])
def test_what_is_no_encoding_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="no encoded value"):
        decode(bad)


@pytest.mark.parametrize(
    ("expected", "got", "equal"),
    [
        ("1 2\n3\n", "1 2 \n3", True),
        ("0.1\n", "0.10000000000001\n", True),
        ("1e3 x\n", "1000.0 x\n", True),
        ("", "\n\n", True),
        ("1\n", "1.5\n", False),
        ("10\n", "10.0\n", False),
        ("1 2\n", "1\n2\n", False),
        ("1 2\n", "12\n", False),
        ("a\n", "A\n", False),
        ("  a  b\n", "a b\n", True),
        ("0.5\n", "half\n", False),
    ],
)
def test_standard_outputs_are_compared_by_lines(expected: str, got: str, equal: bool) -> None:
    assert same_output(expected, got) is equal
