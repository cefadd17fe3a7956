"""SQLite under attack: nothing is written, nothing else is read, nothing takes long, and what breaks has a name."""

from __future__ import annotations

import os
import re
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from turnwise.envs.sql.database import DatabaseCorrupt, DatabaseGone, DatabaseLocked, Refused, Result
from turnwise.envs.sql.sqlite_database import FUNCTIONS, SQLiteDatabase, close_connections


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database in a folder whose name needs quoting in a URI."""
    folder = tmp_path / "a b%20?#"
    folder.mkdir()
    connection = sqlite3.connect(folder / "pets.sqlite")
    connection.executescript(
        "CREATE TABLE home (id INTEGER PRIMARY KEY, town TEXT);"
        'CREATE TABLE pet (id INTEGER PRIMARY KEY, name TEXT, home_id INTEGER REFERENCES home(id), "odd ""name" REAL);'
        "INSERT INTO home VALUES (1, 'Arden');"
        "INSERT INTO pet VALUES (1, 'Bo', 1, 0.5), (2, 'Kit', NULL, NULL), (3, 'Max', 1, 2);"
    )
    connection.close()
    return folder / "pets.sqlite"


@pytest.fixture(params=[True, False], ids=["immutable", "shared"])
def base(path: Path, request: pytest.FixtureRequest) -> Iterator[SQLiteDatabase]:
    yield SQLiteDatabase(path, immutable=request.param)
    close_connections()


def refused(base: SQLiteDatabase, sql: str) -> str:
    """What a query that must not run is told."""
    found = base.run(sql, 10)
    assert isinstance(found, Refused), f"{sql} gave {found}"
    return found.why


def test_a_query_gives_names_rows_and_whether_these_are_all(base: SQLiteDatabase) -> None:
    assert base.run("SELECT name, home_id FROM pet ORDER BY id", 2) == Result(
        ("name", "home_id"), [("Bo", 1), ("Kit", None)], False
    )
    found = base.run("SELECT count(*) FROM pet;", 2)
    assert isinstance(found, Result) and found.rows == [(3,)] and found.complete


def test_the_schema_has_keys_and_what_they_refer_to(base: SQLiteDatabase) -> None:
    home, pet = base.tables()
    assert [c.name for c in home.columns] == ["id", "town"]
    assert [(c.name, c.type, c.primary, c.refers) for c in pet.columns] == [
        ("id", "INTEGER", True, ""),
        ("name", "TEXT", False, ""),
        ("home_id", "INTEGER", False, "home.id"),
        ('odd "name', "REAL", False, ""),
    ]


WRITES = {
    "insert": "INSERT INTO pet VALUES (9, 'x', 1, 1)",
    "insert that returns rows": "INSERT INTO pet VALUES (9, 'x', 1, 1) RETURNING *",
    "insert behind a common table expression": "WITH t AS (SELECT 9) INSERT INTO pet SELECT 9, 'x', 1, 1",
    "update": "UPDATE pet SET name = 'x'",
    "delete": "DELETE FROM pet",
    "replace": "REPLACE INTO pet VALUES (1, 'x', 1, 1)",
    "drop": "DROP TABLE pet",
    "create table": "CREATE TABLE t (a)",
    "create temporary table": "CREATE TEMP TABLE t AS SELECT 1",
    "create view": "CREATE TEMP VIEW v AS SELECT 1",
    "create trigger": "CREATE TEMP TRIGGER g AFTER INSERT ON pet BEGIN SELECT 1; END",
    "create virtual table": "CREATE VIRTUAL TABLE f USING fts5(a)",
    "alter": "ALTER TABLE pet ADD COLUMN x",
    "index": "CREATE INDEX i ON pet(name)",
    "analyze": "ANALYZE",
    "reindex": "REINDEX",
    "vacuum": "VACUUM",
    "write the schema": "PRAGMA writable_schema = ON",
    "change the journal": "PRAGMA journal_mode = WAL",
    "allow writing again": "PRAGMA query_only = OFF",
    "take the heap limit away": "PRAGMA hard_heap_limit = 0",
    "change the version": "PRAGMA user_version = 7",
    "begin": "BEGIN EXCLUSIVE",
    "commit": "COMMIT",
    "savepoint": "SAVEPOINT s",
    "a second statement": "SELECT 1; DROP TABLE pet",
    "a second statement behind a comment": "SELECT 1 /* ; */; DELETE FROM pet --",
}


@pytest.mark.parametrize("attack", WRITES)
def test_nothing_can_be_changed(base: SQLiteDatabase, path: Path, attack: str) -> None:
    before = path.read_bytes()
    refused(base, WRITES[attack])
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["pets.sqlite"]
    found = base.run("SELECT count(*) FROM pet", 1)
    assert isinstance(found, Result) and found.rows == [(3,)]


ESCAPES = {
    "attach another database": "ATTACH '{other}' AS other",
    "attach memory": "ATTACH ':memory:' AS other",
    "copy the database out": "VACUUM INTO '{other}'",
    "load an extension": "SELECT load_extension('{other}')",
    "read a file": "SELECT readfile('{other}')",
    "write a file": "SELECT writefile('{other}', 'x')",
    "start an editor": "SELECT edit('x', 'touch {other}')",
    "a pointer to a tokenizer": "SELECT fts3_tokenizer('simple')",
    "the pages of the file": "SELECT data FROM sqlite_dbpage",
    "sizes of the file": "SELECT * FROM dbstat",
    "other statements": "SELECT * FROM sqlite_stmt",
    "the name of the file": "PRAGMA database_list",
    "compile options by function": "SELECT sqlite_compileoption_get(1)",
    "the version of the library": "SELECT sqlite_version()",
    "a folder for temporary files": "PRAGMA temp_store_directory = '/tmp'",
}


@pytest.mark.parametrize("attack", ESCAPES)
def test_nothing_but_the_database_can_be_reached(base: SQLiteDatabase, tmp_path: Path, attack: str) -> None:
    other = tmp_path / "other.sqlite"
    refused(base, ESCAPES[attack].format(other=other))
    assert not other.exists()


CHANGING = [
    "random()",
    "randomblob(4)",
    "date('now')",
    "datetime(' NOW ')",
    "CURRENT_TIMESTAMP",
    "current_date",
]


@pytest.mark.parametrize("call", CHANGING)
def test_a_query_cannot_ask_for_what_changes_between_runs(base: SQLiteDatabase, call: str) -> None:
    refused(base, f"SELECT {call}")


def _doubling(levels: int, order: int = 1) -> str:
    names = [
        f'a{i}(x) AS NOT MATERIALIZED (SELECT p.x FROM "a{i - 1}" p, [a{i - 1}] q)' for i in range(1, levels)
    ]
    return f"WITH a0(x) AS (SELECT 1), {', '.join(names[::order])} SELECT count(*) FROM a{levels - 1}"


def _nested(levels: int) -> str:
    query = "SELECT 1 AS x"
    for _ in range(levels):
        query = f"WITH a AS ({query}) SELECT p.x FROM a p, a q"
    return query


_FOREVER = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
_BIG = "hex(hex(hex(hex(hex(hex(hex(hex(hex(hex(hex(hex('aaaaaaaaaaaaaaaa'))))))))))))"  # 65,536 characters
BOMBS = {
    "a count without end": f"{_FOREVER} SELECT count(*) FROM c",
    "a product of tables": "SELECT count(*) FROM pet a, pet b, pet c, pet d, pet e, pet f, pet g, pet h, pet i, pet j, pet k, pet l,"
    " pet m, pet n, pet o, pet p",
    "a text of a gigabyte": "SELECT printf('%.*c', 1000000000, 'x')",
    "a width of a gigabyte": "SELECT format('%1000000000d', 1)",
    "zeros of a gigabyte": "SELECT zeroblob(1000000000)",
    "random bytes of a gigabyte": "SELECT randomblob(1000000000)",
    "a text that doubles": "WITH RECURSIVE c(x) AS (SELECT 'aaaa' UNION ALL SELECT x || x FROM c) SELECT max(length(x)) FROM c",
    "replacing every letter by many": f"SELECT length(replace({_BIG}, '6', {_BIG}))",
    "joining texts": f"{_FOREVER} SELECT length(group_concat(x, {_BIG})) FROM c",
    "sorting more than memory holds": f"{_FOREVER} SELECT {_BIG} || x FROM c ORDER BY 1",
    "keeping more than memory holds": f"{_FOREVER} SELECT count(DISTINCT {_BIG} || x) FROM c",
    "twenty tables, each twice the one before": _doubling(25),
    "the same in reverse": _doubling(25, -1),
    "the same inside each other": _nested(25),
    "a thousand brackets": f"SELECT {'(' * 1000}1{')' * 1000}",
    "ten thousand times not": f"SELECT {'NOT ' * 4000}1",
    "a query of a megabyte": f"SELECT '{'x' * 1_000_000}'",
    "a thousand unions": " UNION ALL ".join(["SELECT 1"] * 1000),
    "a thousand columns": f"SELECT {', '.join(['1'] * 1000)}",
    "many arguments": f"SELECT max({', '.join('1' * 100)})",
    "a pattern of many wildcards": f"SELECT {_BIG} LIKE '{'%6_' * 400}'",
    "rows without end": f"{_FOREVER} SELECT {_BIG} FROM c LIMIT -1",
}


@pytest.mark.parametrize("attack", BOMBS)
def test_nothing_takes_long_or_much_memory(path: Path, attack: str) -> None:
    base = SQLiteDatabase(path, immutable=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    refused_or_bounded = base.run(BOMBS[attack], 1000)
    took = time.process_time() - began
    assert isinstance(refused_or_bounded, Refused)
    assert took < 5.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 << 10  # kB
    found = base.run("SELECT count(*) FROM pet", 1)  # the connection is as good as before
    assert isinstance(found, Result) and found.rows == [(3,)]
    close_connections()


def test_the_slowest_step_of_a_function_is_short(path: Path) -> None:
    # No clock is looked at inside a function: the length of its arguments bounds it.
    base = SQLiteDatabase(path, immutable=True)
    for sql in (
        f"SELECT instr({_BIG}, substr({_BIG}, 1, 32000) || '1')",
        f"SELECT length(replace({_BIG}, substr({_BIG}, 1, 32000) || '1', ''))",
    ):
        began = time.process_time()
        assert isinstance(base.run(sql, 1), Result)
        assert time.process_time() - began < 1.0
    close_connections()


def test_work_is_counted_in_steps_so_that_a_limit_is_the_same_everywhere(path: Path) -> None:
    sql = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {}) SELECT count(*) FROM c"
    )
    base = SQLiteDatabase(path, immutable=True, work=100_000)
    outcomes = [isinstance(base.run(sql.format(n), 1), Result) for n in (1_000, 4_000, 8_000, 16_000, 32_000)]
    assert outcomes == sorted(outcomes, reverse=True) and outcomes[0] and not outcomes[-1]
    assert outcomes == [
        isinstance(base.run(sql.format(n), 1), Result) for n in (1_000, 4_000, 8_000, 16_000, 32_000)
    ]
    assert "more than 100,000 steps" in refused(base, sql.format(32_000))
    close_connections()


def test_usual_common_table_expressions_run(base: SQLiteDatabase) -> None:
    steps = [f"t{i} AS (SELECT * FROM t{i - 1} WHERE id > 0)" for i in range(1, 10)]
    found = base.run(
        f"WITH t0 AS (SELECT * FROM pet), {', '.join(steps)} SELECT count(*) FROM t9 JOIN t8 USING (id)", 2
    )
    assert isinstance(found, Result) and found.rows == [(3,)]
    recursive = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 5) SELECT sum(a.x) FROM c a JOIN c b"
    found = base.run(recursive, 2)
    assert isinstance(found, Result) and found.rows == [(75,)]


def test_the_functions_that_are_allowed_exist_or_are_newer() -> None:
    connection = sqlite3.connect(":memory:")
    known = {row[0] for row in connection.execute("SELECT name FROM pragma_function_list")}
    connection.close()
    assert len(FUNCTIONS & known) > 0.9 * len(FUNCTIONS)
    assert not FUNCTIONS & {
        "load_extension",
        "printf",
        "format",
        "zeroblob",
        "randomblob",
        "random",
        "fts3_tokenizer",
    }


def test_reading_the_schema_by_pragma_is_allowed(base: SQLiteDatabase) -> None:
    found = base.run("PRAGMA table_info(pet)", 10)
    assert isinstance(found, Result) and [row[1] for row in found.rows][:2] == ["id", "name"]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELECT * FORM pet", "syntax error"),
        ("", "write one SELECT"),
        ("-- nothing", "write one SELECT"),
        ("SELECT ?", "bindings"),
        ("SELECT 1 WHERE '\0' = ''", "null character"),
        ("SELECT 'x", "unrecognized token"),
        ("🙂", "syntax error"),
    ],
)
def test_a_wrong_query_is_told_what_is_wrong(base: SQLiteDatabase, sql: str, said: str) -> None:
    assert said in refused(base, sql)


def test_text_that_is_no_utf8_is_shown_with_marks(base: SQLiteDatabase) -> None:
    found = base.run("SELECT cast(x'61ff62' AS TEXT)", 1)
    assert isinstance(found, Result) and found.rows == [("a�b",)]


# What breaks.


def test_a_missing_file_is_gone(tmp_path: Path) -> None:
    base = SQLiteDatabase(tmp_path / "none.sqlite", immutable=False)
    with pytest.raises(DatabaseGone, match=r"none\.sqlite"):
        base.tables()
    with pytest.raises(DatabaseGone, match=r"none\.sqlite"):
        base.run("SELECT 1", 1)
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.parametrize("damage", ["no database", "pages overwritten", "cut off"])
def test_a_damaged_file_is_corrupt_and_works_again_once_it_is_whole(path: Path, damage: str) -> None:
    whole = path.read_bytes()
    broken = {
        "no database": b"x" * len(whole),
        "pages overwritten": whole[:100] + b"\xff" * (len(whole) - 100),
        "cut off": whole[:4500],
    }
    path.write_bytes(broken[damage])
    base = SQLiteDatabase(path, immutable=False)
    with pytest.raises(DatabaseCorrupt, match=re.escape(path.name)):
        base.run("SELECT sum(length(name)) FROM pet, home", 1)
    path.write_bytes(whole)
    found = base.run("SELECT count(*) FROM pet", 1)
    assert isinstance(found, Result) and found.rows == [(3,)]
    close_connections()


def test_a_file_that_another_process_has_locked_is_locked(path: Path) -> None:
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN EXCLUSIVE');"
        "print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == b"locked\n"
        base = SQLiteDatabase(path, immutable=False)
        with pytest.raises(DatabaseLocked, match="locked"):
            base.run("SELECT count(*) FROM pet", 1)
        holder.stdin.close()
    assert isinstance(base.run("SELECT count(*) FROM pet", 1), Result)
    close_connections()


def test_threads_share_a_connection_and_keep_apart(path: Path) -> None:
    base = SQLiteDatabase(path, immutable=True)
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda n: base.run(f"SELECT name FROM pet WHERE id = {1 + n % 3}", 1), range(200))
        )
    assert [r.rows[0][0] for r in found if isinstance(r, Result)] == [
        ("Bo", "Kit", "Max")[n % 3] for n in range(200)
    ]
    close_connections()


def test_many_files_keep_few_connections_open(path: Path) -> None:
    folder = path.parent
    opened = lambda: len(os.listdir("/proc/self/fd"))  # noqa: E731
    before = opened()
    for number in range(400):
        copy = folder / f"{number}.sqlite"
        copy.write_bytes(path.read_bytes())
        assert isinstance(SQLiteDatabase(copy, immutable=True).run("SELECT 1 FROM pet", 1), Result)
    assert opened() - before <= 260
    close_connections()
    assert opened() - before <= 2
