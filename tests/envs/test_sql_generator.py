"""Generated databases and questions: coverage, splits, and that wrong queries are judged wrong."""

from __future__ import annotations

import collections
import sqlite3
from functools import cache
from typing import Any

import pytest

import turnwise as tw
from turnwise.envs.sql.domains import DOMAINS
from turnwise.envs.sql.families import FAMILIES
from turnwise.envs.sql.library import Library
from turnwise.envs.sql.partial import sketch


@cache
def library() -> Library:
    env: Any = tw.make("SQL-v1")
    found: Library = env.library
    return found


def tasks(split: str) -> list[tw.Task]:
    every = library().tasks
    return [every.get(split, i) for i in range(every.size(split))]


def rows(task: tw.Task, sql: str) -> list[list[tuple[Any, ...]]]:
    """The rows of a query on the database of a task and its variants, by the library alone."""
    found = []
    for path in library().files(task.data["database"]):
        connection = sqlite3.connect(path)
        found.append(connection.execute(sql).fetchall())
        connection.close()
    return found


def equal(one: list[tuple[Any, ...]], other: list[tuple[Any, ...]], ordered: bool) -> bool:
    """Execution match, written once more in the plainest way."""
    plain = lambda table: [tuple(round(v, 6) if isinstance(v, float) else v for v in row) for row in table]  # noqa: E731
    a, b = plain(one), plain(other)
    return a == b if ordered else collections.Counter(a) == collections.Counter(b)


def test_there_are_enough_families_and_domains_and_each_split_has_all() -> None:
    assert len(FAMILIES) >= 40
    assert len(DOMAINS) >= 12
    for split in ("train", "val", "test"):
        assert {t.family for t in tasks(split)} == set(FAMILIES)
        assert {t.data["database"].rsplit("_", 2)[0] for t in tasks(split)} == set(DOMAINS)
        assert {t.difficulty for t in tasks(split)} == {"easy", "medium", "hard", "extra"}


def test_no_reference_and_no_database_is_in_two_splits() -> None:
    references = {
        s: {(t.data["database"].rsplit("_", 2)[0], t.reference) for t in tasks(s)}
        for s in ("train", "val", "test")
    }
    bases = {s: {t.data["database"] for t in tasks(s)} for s in ("train", "val", "test")}
    for table in (references, bases):
        assert not table["train"] & table["test"]
        assert not table["train"] & table["val"]
        assert not table["val"] & table["test"]


def test_every_reference_says_something_on_the_database_that_is_shown() -> None:
    for split in ("val", "test"):
        for task in tasks(split):
            shown = rows(task, task.reference[0])[0]  # type: ignore[index]
            assert shown
            assert shown not in ([(0,)], [(None,)])


def test_every_wrong_query_of_every_family_is_wrong_on_some_database() -> None:
    judged: collections.Counter[str] = collections.Counter()
    for task in [*tasks("val"), *tasks("test"), *tasks("train")[:300]]:
        sql = task.reference[0]  # type: ignore[index]
        expected = rows(task, sql)
        ordered = sketch(sql, "sqlite").ordered
        for wrong in task.data["wrong"]:
            found = rows(task, wrong)
            assert not all(equal(a, b, ordered) for a, b in zip(found, expected, strict=True)), (sql, wrong)
            judged[task.family] += 1
    assert set(judged) == set(FAMILIES)
    assert min(judged.values()) >= 2


def test_variants_catch_queries_that_are_right_by_accident() -> None:
    # Of the wrong queries some give the rows of the reference on the database that is shown.
    caught = 0
    for task in tasks("train"):
        for wrong in task.data["wrong"]:
            found, expected = rows(task, wrong), rows(task, task.reference[0])  # type: ignore[index]
            caught += equal(found[0], expected[0], ordered=False) and any(
                not equal(a, b, ordered=False) for a, b in zip(found[1:], expected[1:], strict=True)
            )
        if caught >= 5:
            return
    pytest.fail(f"only {caught} were caught")


def test_databases_have_keys_dates_missing_values_and_rows_without_a_partner() -> None:
    for name in library().databases:
        connection = sqlite3.connect(library().files(name)[0])
        tables = [t for (t,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert len(tables) == 4
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert any(connection.execute(f"PRAGMA foreign_key_list({t})").fetchall() for t in tables)
        owner, item = tables[:2]
        unowned = f"SELECT count(*) FROM {owner} WHERE id NOT IN (SELECT {owner}_id FROM {item} WHERE {owner}_id IS NOT NULL)"
        assert connection.execute(unowned).fetchone()[0] > 0
        connection.close()


def test_questions_are_worded_in_several_ways() -> None:
    starts = collections.defaultdict(set)
    for task in tasks("train"):
        starts[task.family].add(" ".join(task.prompt.split()[:2]))
    assert sum(len(s) >= 2 for s in starts.values()) >= 0.9 * len(FAMILIES)


def test_the_same_seed_gives_the_same_questions_and_another_seed_others() -> None:
    small = {"questions": 20, "families": ("count_where", "join_count")}
    one, other = (tw.make("SQL-v1", **small, data_seed=s).tasks for s in (1, 2))
    assert [one.get("train", i).prompt for i in range(10)] != [
        other.get("train", i).prompt for i in range(10)
    ]


@pytest.mark.parametrize(
    "parameters",
    [
        {"families": ("join_cuont",)},
        {"domains": ("scool",)},
        {"style": "short", "domains": ("school",)},
        {"data": "x"},
        {"dataset": "spider"},
        {"dataset": "spider", "data": ".", "families": ("above",)},
        {"server": "postgresql://localhost/x"},
        {"backend": "postgres"},
        {"backend": "postgres", "dataset": "chinook", "server": "x"},
        {"rows": 0},
    ],
)
def test_parameters_that_do_not_go_together_are_told(parameters: dict[str, Any]) -> None:
    with pytest.raises(tw.envs.errors.InvalidParameter):
        tw.make("SQL-v1", **parameters)


def test_a_family_that_is_misspelt_is_told_with_the_nearest() -> None:
    with pytest.raises(tw.envs.errors.InvalidParameter, match="'join_count'"):
        tw.make("SQL-v1", families=("join_cuont",))
