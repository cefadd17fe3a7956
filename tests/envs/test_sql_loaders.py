"""Spider, BIRD and Chinook from files as they are published, and what is said of files that are not."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

import turnwise as tw
from turnwise.envs.search.loaders import InvalidData
from turnwise.envs.sql.loaders import kind, vary


def made(path: Path) -> None:
    """A small database, with a text that is no UTF-8, a cycle of references, an index that is unique, and a trigger."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT, age INT, boss INT REFERENCES person(id), mail TEXT UNIQUE);"
        "CREATE TABLE log (what TEXT);"
        "CREATE TRIGGER noted AFTER UPDATE ON person BEGIN INSERT INTO log VALUES ('changed'); END;"
        "CREATE TABLE pair (a INT, b INT, note BLOB, PRIMARY KEY (a, b)) WITHOUT ROWID;"
        "INSERT INTO pair VALUES (1, 2, x'00'), (1, 3, NULL);"
        "INSERT INTO person VALUES (0, cast(x'c4' AS TEXT), 9, NULL, 'z');"
    )
    connection.executemany(
        "INSERT INTO person VALUES (?, ?, ?, ?, ?)",
        [(i, f"n{i}", 20 + i, 1 + i // 2, f"m{i}") for i in range(1, 20)],
    )
    connection.commit()
    connection.close()


QUESTIONS = [
    ("How old is the oldest?", "SELECT max(age) FROM person;"),
    ("Who is young?", "SELECT name FROM person WHERE age < 25"),
]


@pytest.fixture
def spider(tmp_path: Path) -> Path:
    made(tmp_path / "database" / "people" / "people.sqlite")
    for file in ("train_spider.json", "dev.json"):
        rows = [
            {"db_id": "people", "question": f"{q} ({file})", "query": s, "query_toks": []}
            for q, s in QUESTIONS
        ]
        (tmp_path / file).write_text(json.dumps(rows))
    (tmp_path / "tables.json").write_text("[]")
    return tmp_path


@pytest.fixture
def bird(tmp_path: Path) -> Path:
    made(tmp_path / "dev" / "dev_databases" / "people" / "people.sqlite")
    rows = [
        {"question_id": 7 + i, "db_id": "people", "question": q, "evidence": e, "SQL": s, "difficulty": d}
        for i, ((q, s), e, d) in enumerate(
            zip(QUESTIONS, ("", "young refers to age < 25"), ("simple", "challenging"), strict=True)
        )
    ]
    rows.append({**rows[0], "question_id": 9, "SQL": "SELECT strftime('%Y', 'now') - age FROM person"})
    (tmp_path / "dev" / "dev.json").write_text(json.dumps(rows))
    return tmp_path


def load(dataset: str, data: Path, split: str = "val", **parameters: Any) -> Any:
    return tw.make("SQL-v1", dataset=dataset, data=data, split=split, format="bracket", **parameters)


def test_a_spider_folder_gives_its_splits_and_questions(spider: Path) -> None:
    env = load("spider", spider)
    assert env.tasks.splits == {"train": 2, "val": 2}
    task = env.tasks.find("dev-0")
    assert task.prompt == "How old is the oldest? (dev.json)"
    assert task.reference == ("SELECT max(age) FROM person",)
    assert (task.family, task.difficulty) == ("plain", "easy")
    assert env.rollout(tw.agents.ExpertAgent(), 2, split="val").success_rate == 1.0


def test_a_bird_folder_shows_the_evidence_and_has_its_own_levels(bird: Path) -> None:
    for data in (bird, bird / "dev"):
        env = load("bird", data)
        assert [env.tasks.get("val", i).id for i in range(2)] == ["dev-7", "dev-8"]
        task = env.tasks.find("dev-8")
        assert task.prompt == "Who is young?\nHint: young refers to age < 25"
        assert task.difficulty == "hard"
        assert env.rollout(tw.agents.ExpertAgent(), 2, split="val").success_rate == 1.0


def test_a_question_whose_reference_does_not_run_is_left_out_and_said(bird: Path) -> None:
    env = load("bird", bird)
    assert env.tasks.splits == {"val": 2}
    assert list(env.library.left_out) == ["dev-9: not authorized: a query does not depend on the clock"]


def test_the_published_sample_of_spider_is_solved_by_its_references(real_data: Path) -> None:
    env = load("spider", real_data / "sql" / "spider")
    assert env.tasks.splits == {"val": 269}
    assert not env.library.left_out
    result = env.rollout(tw.agents.ExpertAgent(), 269, split="val")
    assert result.success_rate == 1.0
    assert {t.family for t in result.trajectories} == {
        "set",
        "nested",
        "join",
        "group",
        "order",
        "filter",
        "plain",
    }


def test_chinook_is_solved_by_its_references_and_others_are_wrong(real_data: Path) -> None:
    env = load("chinook", real_data / "sql" / "Chinook_Sqlite.sqlite", "test")
    assert not env.library.left_out
    assert set(env.tasks.splits) == {"train", "val", "test"}
    size = env.tasks.size("test")
    assert env.rollout(tw.agents.ExpertAgent(), size, split="test").success_rate == 1.0
    # Every other reference is wrong, but where two questions have one answer on all rows.
    wrong = 0
    for index in range(size):
        env.reset(seed=0, options={"task": env.tasks.get("test", index).id})
        other = env.tasks.get("test", (index + 1) % size).reference[0]
        wrong += not env.step(f"submit[{other}]")[4]["success"]
    assert wrong >= size - 2


def test_variants_have_other_rows_the_same_keys_and_the_same_types(tmp_path: Path) -> None:
    source = tmp_path / "people.sqlite"
    made(source)
    before = source.read_bytes()
    rows = []
    for number in (1, 1, 2):
        target = tmp_path / f"{len(rows)}.sqlite"
        vary(source, target, Random(number))
        connection = sqlite3.connect(target)
        connection.text_factory = bytes
        rows.append(
            connection.execute("SELECT id, typeof(name), name, age, boss, mail FROM person").fetchall()
        )
        assert connection.execute("SELECT * FROM pair").fetchall() == [(1, 2, b"\0"), (1, 3, None)]
        assert connection.execute("SELECT count(*) FROM log").fetchone() == (0,)
        connection.close()
    assert source.read_bytes() == before
    assert rows[0] == rows[1] != rows[2]
    assert len(rows[0]) == 15  # of 20
    original = sqlite3.connect(source)
    original.text_factory = bytes
    known = {r[0]: r for r in original.execute("SELECT id, typeof(name), name, age, boss, mail FROM person")}
    original.close()
    assert all(row[5] == known[row[0]][5] for row in rows[0])  # unique columns stay with their row
    assert any(row[3] != known[row[0]][3] for row in rows[0])
    assert {r[1] for r in rows[0]} == {b"text"}
    assert {r[2] for r in rows[0] + rows[2]} <= {r[2] for r in known.values()}


def test_a_file_that_changes_is_read_again(spider: Path) -> None:
    assert load("spider", spider).tasks.find("dev-0").prompt.startswith("How old")
    rows = [{"db_id": "people", "question": "Another one?", "query": "SELECT 1"}]
    (spider / "dev.json").write_text(json.dumps(rows))
    assert load("spider", spider).tasks.find("dev-0").prompt == "Another one?"


@pytest.mark.parametrize(
    ("sql", "family"),
    [
        ("SELECT a FROM t", "plain"),
        ("SELECT a FROM t WHERE b = 1", "filter"),
        ("SELECT a FROM t ORDER BY b", "order"),
        ("SELECT count(*) FROM t GROUP BY a", "group"),
        ("SELECT a FROM t JOIN u ON t.x = u.x", "join"),
        ("SELECT a FROM t WHERE b IN (SELECT b FROM u)", "nested"),
        ("SELECT a FROM t UNION SELECT a FROM u", "set"),
        ("SELECT rank() OVER (ORDER BY a) FROM t", "window"),
        ("not sql (", "other"),
    ],
)
def test_the_family_is_what_a_reference_is_made_of(sql: str, family: str) -> None:
    assert kind(sql)[0] == family


def _row(**fields: Any) -> dict[str, Any]:
    return {"db_id": "people", "question": "q", "query": "SELECT 1", **fields}


def _record(change: Callable[[list[Any]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        rows: list[Any] = [_row(), _row(), _row()]
        change(rows)
        (folder / "dev.json").write_text(json.dumps(rows))

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda d: shutil.rmtree(d), "there is no such folder"),
    "no questions": (lambda d: [(d / f).unlink() for f in ("dev.json", "train_spider.json")], "none of train_spider.json"),
    "no JSON": (lambda d: (d / "dev.json").write_text("[{"), "dev.json"),
    "no objects": (_record(lambda rows: rows.__setitem__(1, 5)), "dev.json, record 2: 5 is no JSON object"),
    "no question": (_record(lambda rows: rows[2].pop("question")), "dev.json, record 3: field 'question' is missing"),
    "empty query": (_record(lambda rows: rows[0].update(query=" ")), "dev.json, record 1: field 'query' is ' '"),
    "query of another type": (_record(lambda rows: rows[0].update(query=[1])), "dev.json, record 1: field 'query' is [1]"),
    "no database": (_record(lambda rows: rows[1].pop("db_id")), "dev.json, record 2: field 'db_id' is missing"),
    "unknown database": (_record(lambda rows: rows[1].update(db_id="cats")), "dev.json, record 2: field 'db_id' is 'cats'"),
    "database elsewhere": (_record(lambda rows: rows[1].update(db_id="../x")), "dev.json, record 2: field 'db_id' is '../x'"),
    "database that is none": (
        lambda d: (d / "database" / "people" / "people.sqlite").write_text("hello"),
        "people.sqlite is no SQLite database",
    ),
    "database that is damaged": (
        lambda d: (d / "database" / "people" / "people.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 9000),
        "people.sqlite",
    ),
    "no reference runs": (_record(lambda rows: [r.update(query="SELECT nothing") for r in rows]), "no reference query runs"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_malformed_folder_is_told_with_file_record_and_field(spider: Path, damage: str) -> None:
    change, said = DAMAGES[damage]
    change(spider)
    if damage == "no reference runs":
        (spider / "train_spider.json").unlink()
    with pytest.raises(InvalidData) as caught:
        load("spider", spider)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"), [("SQL", None), ("difficulty", 3), ("evidence", ["x"]), ("question_id", [1])]
)
def test_a_malformed_record_of_bird_is_told(bird: Path, field: str, value: Any) -> None:
    file = bird / "dev" / "dev.json"
    rows = json.loads(file.read_text())
    rows[1][field] = value
    file.write_text(json.dumps(rows))
    with pytest.raises(InvalidData, match=rf"dev\.json, record 2: field '{field}'"):
        load("bird", bird)


def test_a_file_that_is_not_chinook_is_told(tmp_path: Path) -> None:
    made(tmp_path / "people.sqlite")
    with pytest.raises(tw.envs.errors.UsageError, match="not Chinook"):
        load("chinook", tmp_path / "people.sqlite")
    with pytest.raises(InvalidData, match="cannot be read"):
        load("chinook", tmp_path / "none.sqlite")
