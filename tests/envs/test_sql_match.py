"""Execution match and partial credit, by hand and against a slow reference."""

from __future__ import annotations

import itertools
import math
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.envs.sql.match import same_rows
from turnwise.envs.sql.partial import WEIGHTS, parts, sketch

REFERENCE = "SELECT p.name FROM pet AS p JOIN home AS h ON p.home_id = h.id WHERE h.town = 'Arden'"


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ([(1, "a"), (2, "b")], [(2, "b"), (1, "a")], True),
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False),  # a multiset, not a set
        ([(1,)], [(1,), (1,)], False),
        ([], [], True),
        ([], [(None,)], False),
        ([(None,)], [(None,)], True),
        ([(None,)], [(0,)], False),
        ([(None,)], [("",)], False),
        ([("1",)], [(1,)], False),
        ([("a",)], [("A",)], False),
        ([(1,)], [(1.0,)], True),
        ([(0.1 + 0.2,)], [(0.3,)], True),
        ([(1.0,)], [(1.001,)], False),
        ([(1e-12,)], [(0,)], True),
        ([(10**30,)], [(10**30 + 1,)], False),
        ([(10**400,)], [(1.5,)], False),
        ([(Decimal("1.50"),)], [(1.5,)], True),
        ([(Decimal("2"),)], [(2,)], True),
        ([(True,)], [(1,)], True),
        ([(b"ab",)], [("ab",)], False),
        ([(math.nan,)], [(math.nan,)], True),
        ([(1, 2)], [(1,)], False),
        ([("b", 1)], [(1, "b")], False),  # columns stand in the order of the reference
    ],
)
def test_rows_by_hand(found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]], same: bool) -> None:
    assert same_rows(found, expected) is same
    assert same_rows(expected, found) is same


def test_the_order_of_rows_counts_only_where_the_reference_orders() -> None:
    assert same_rows([(1,), (2,)], [(2,), (1,)])
    assert not same_rows([(1,), (2,)], [(2,), (1,)], ordered=True)


def test_the_order_of_columns_may_be_let_go_of_for_all_rows_alike() -> None:
    rows = [(1, "a", 2), (3, "b", 4)]
    assert same_rows([(2, "a", 1), (4, "b", 3)], rows, any_order=True)
    assert not same_rows([(2, "a", 1), (3, "b", 4)], rows, any_order=True)
    assert not same_rows([(4, "b", 3), (2, "a", 1)], rows, any_order=True, ordered=True)


def test_noise_in_one_column_does_not_hide_that_rows_are_the_same() -> None:
    # Sorted by the number first, the rows would be paired crosswise.
    assert same_rows([(0.1, "b"), (0.1 + 1e-12, "a")], [(0.1, "a"), (0.1 + 1e-12, "b")])
    assert same_rows([(0.1, 1 + 1e-12), (0.1 + 1e-12, 2.0)], [(0.1, 2.0), (0.1 + 1e-12, 1.0)])


_VALUES = st.sampled_from([None, 0, 1, 1.0, 1.0 + 1e-9, 0.5, "a", "1", "", b"a"])


@settings(max_examples=300)
@given(st.lists(st.tuples(_VALUES, _VALUES), max_size=4), st.lists(st.tuples(_VALUES, _VALUES), max_size=4))
def test_multisets_are_compared_like_by_trying_every_pairing(one: list[Any], other: list[Any]) -> None:
    def equal(a: Any, b: Any) -> bool:
        numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
        return abs(a - b) <= 1e-6 * max(abs(a), abs(b)) if numbers else type(a) is type(b) and a == b

    slow = len(one) == len(other) and any(
        all(equal(a, b) for x, y in zip(order, other, strict=True) for a, b in zip(x, y, strict=True))
        for order in itertools.permutations(one)
    )
    assert same_rows(one, other) is slow


# Partial credit.


def total(sql: str, *, runs: bool, right: bool = False) -> float:
    found = parts(sql, REFERENCE, "sqlite", runs=runs, right=right)
    return sum(WEIGHTS[name] * value for name, value in found.items())


def test_the_weights_sum_to_one_and_a_wrong_query_gets_less_than_half() -> None:
    assert math.isclose(sum(WEIGHTS.values()), 1.0)
    assert math.isclose(total("SELECT anything", runs=True, right=True), 1.0)
    assert total(REFERENCE, runs=True) <= 0.5 + 1e-12


def test_the_parts_by_hand() -> None:
    found = parts(
        "SELECT name FROM pet", "SELECT name FROM pet WHERE age > 3", "sqlite", runs=True, right=False
    )
    assert found["syntax"] == 1.0
    assert found["execution"] == 0.0
    assert found["schema"] == pytest.approx(2 / 3)  # pet and name, of pet, name and age
    # select-name, name-from, from-pet; the reference has pet-where, where-age, age->, >-3 in addition.
    assert found["ngram"] == pytest.approx(3 / 7)


def test_partly_right_lies_strictly_between_garbage_and_right() -> None:
    ladder = [
        total("lorem ipsum dolor", runs=False),
        total("SELECT town FROM street", runs=False),
        total("SELECT name FROM pet", runs=True),
        total("SELECT p.name FROM pet AS p JOIN home AS h ON p.home_id = h.id", runs=True),
        total(REFERENCE, runs=True, right=True),
    ]
    assert ladder[0] == 0.0
    assert all(a < b for a, b in itertools.pairwise(ladder))


def test_naming_every_column_pays_less_than_naming_the_right_ones() -> None:
    everything = "SELECT name, town, age, weight, rooms, id, kind, colour FROM pet, home, vet, visit"
    assert total(everything, runs=True) < total("SELECT name FROM pet, home WHERE town = 'x'", runs=True)


def test_names_that_a_query_makes_itself_are_no_tables() -> None:
    found = sketch("WITH t AS (SELECT name FROM pet) SELECT name FROM t ORDER BY name", "sqlite")
    assert found.schema == {"pet", ".name"}
    assert found.ordered
    assert not sketch("SELECT name FROM (SELECT name FROM pet ORDER BY name)", "sqlite").ordered
    assert sketch("SELECT a FROM b UNION SELECT c FROM d ORDER BY 1", "sqlite").ordered


@pytest.mark.parametrize(
    "text",
    ["", "'", "(" * 3000, "NOT " * 1200 + "1", "SELECT " + "- " * 2000 + "1", "SELECT 'x" + "y" * 10**6, "COPY x TO y", "\ud83d", "SELECT CASE " * 300, "SELECT " + "[" * 900],
)  # fmt: skip
def test_whatever_is_written_gives_parts_in_time_and_in_silence(
    text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.process_time()
    found = parts(text, REFERENCE, "sqlite", runs=False, right=False)
    assert time.process_time() - began < 2.0
    assert all(0.0 <= value <= 1.0 for value in found.values())
    assert capfd.readouterr() == ("", "")
