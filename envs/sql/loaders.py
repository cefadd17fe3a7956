"""Published sets of questions, read from the user's files in their original form.

| name      | `data`                                                                                                   |
|-----------|----------------------------------------------------------------------------------------------------------|
| `spider`  | a folder with `train_spider.json`, `train_others.json`, `dev.json` or `test.json` (db_id, question, query) and `database/ID/ID.sqlite`; `test_database` for test.json where it is there |
| `bird`    | a folder with `train.json`, `dev.json` or `mini_dev_sqlite.json` (db_id, question, evidence, SQL, difficulty) and `train_databases` or `dev_databases`; or the folder above several such folders |
| `chinook` | `Chinook_Sqlite.sqlite`, or its folder; the questions are ours (`chinook`)                                    |

Databases are read where they lie and never written; a variant of a database, in the cache, has the values of every column
but keys in another order and a quarter of the rows less. A question whose reference does not run under the limits is left
out, and the library says which.

What is wrong in a file is told with its name, the record and the field.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from ..cache import content_key
from ..search.loaders import InvalidData, Record, records
from .chinook import chinook_questions
from .database import Refused
from .library import Library, Made, Question, library
from .sqlite_database import SQLiteDatabase

_VARIANTS = 2
_LARGEST_VARIED = 20 << 20  # bytes of a database that still gets variants
_LEFT = 0.75  # share of the rows that a variant keeps
_MAGIC = b"SQLite format 3\0"

_SPIDER = {
    "train_spider.json": "train",
    "train_others.json": "train",
    "train.json": "train",
    "dev.json": "val",
    "test.json": "test",
}
_BIRD = {"train.json": "train", "dev.json": "val", "mini_dev_sqlite.json": "val", "test.json": "test"}
_BIRD_LEVELS = {"simple": "easy", "moderate": "medium", "challenging": "hard"}


class InvalidDatabase(InvalidData):
    """Raised when a database of a published set cannot be read."""


_READ: dict[tuple[str, Path], Library] = {}


def published(dataset: Literal["spider", "bird", "chinook"], data: Path) -> Library:
    """The library of a published set.

    A set that this process has read stays known when one of its databases breaks later, so that episodes fail with what
    broke and the run goes on.

    Raises:
        InvalidData: a file is missing or malformed; see the class.
    """
    try:
        found = _chinook(data) if dataset == "chinook" else _folder(dataset, data)
    except InvalidDatabase:
        if (dataset, data) not in _READ:
            raise
        return _READ[dataset, data]
    _READ[dataset, data] = found
    return found


def _folder(dataset: Literal["spider", "bird"], data: Path) -> Library:
    def make(folder: Path) -> Made:
        asked = list(_spider(data) if dataset == "spider" else _bird(data))
        return _with_variants(folder, {q.database: path for q, path in asked}, [q for q, _ in asked])

    names = _SPIDER if dataset == "spider" else _BIRD
    patterns = [*names, "*database/*/*.sqlite", "*databases/*/*.sqlite"]
    files = {p for folder in _folders(data) for pattern in patterns for p in folder.glob(pattern)}
    return library(content_key(dataset, Path(__file__), *_stamps(sorted(files))), make)


def _chinook(data: Path) -> Library:
    path = data / "Chinook_Sqlite.sqlite" if data.is_dir() else data
    _checked(path, f"data={str(data)!r}: dataset='chinook'")

    def make(folder: Path) -> Made:
        questions = [
            Question(
                f"{template.family}-{number}",
                split,
                "chinook",
                text,
                sql,
                template.family,
                template.difficulty,
            )
            for number, (template, split, text, sql) in enumerate(
                chinook_questions(SQLiteDatabase(path, immutable=False))
            )
        ]
        return _with_variants(folder, {"chinook": path}, questions)

    sources = [Path(__file__), Path(__file__).with_name("chinook.py")]
    return library(content_key("chinook", *sources, *_stamps([path])), make)


def _stamps(files: Sequence[Path]) -> list[str]:
    """What changes when one of the files does; large databases are not read for it."""
    found = ((file.absolute(), file.stat()) for file in files)
    return [f"{file}:{stat.st_mtime_ns}:{stat.st_size}" for file, stat in found]


def _folders(data: Path) -> list[Path]:
    """The folder and those in it."""
    if not data.is_dir():
        raise InvalidData(f"data={str(data)!r}: there is no such folder")
    return [data, *sorted(p for p in data.iterdir() if p.is_dir())]


def _spider(data: Path) -> Iterator[tuple[Question, Path]]:
    _folders(data)
    found = [data / name for name in _SPIDER if (data / name).is_file()]
    if not found:
        raise InvalidData(f"{data}: none of {', '.join(_SPIDER)} is there; data= names the folder of Spider")
    for file in found:
        split = _SPIDER[file.name]
        folder = (
            data / "test_database"
            if split == "test" and (data / "test_database").is_dir()
            else data / "database"
        )
        for record in records(file):
            name, path = _database(record, folder)
            sql = _query(record, "query")
            family, difficulty = kind(sql)
            identifier = f"{file.stem}-{record.number - 1}"
            yield (
                Question(identifier, split, name, record.text("question").strip(), sql, family, difficulty),
                path,
            )


def _bird(data: Path) -> Iterator[tuple[Question, Path]]:
    found = [
        (f / name, split) for f in _folders(data) for name, split in _BIRD.items() if (f / name).is_file()
    ]
    if not found:
        raise InvalidData(
            f"{data}: none of {', '.join(_BIRD)} is there or one folder down; data= names the folder of BIRD"
        )
    for file, split in found:
        folder = (
            file.parent / f"{'train' if split == 'train' else 'test' if split == 'test' else 'dev'}_databases"
        )
        for record in records(file):
            name, path = _database(record, folder)
            sql = _query(record, "SQL")
            family, difficulty = kind(sql)
            level = record.data.get("difficulty", difficulty)
            if not isinstance(level, str):
                raise record.wrong("difficulty", "a text, as in 'simple'")
            evidence = record.data.get("evidence") or ""
            if not isinstance(evidence, str):
                raise record.wrong("evidence", "a text")
            text = record.text("question").strip()
            text = f"{text}\nHint: {evidence.strip()}" if evidence.strip() else text
            identifier = f"{file.stem}-{record.id('question_id')}"
            yield Question(identifier, split, name, text, sql, family, _BIRD_LEVELS.get(level, level)), path


def _database(record: Record, folder: Path) -> tuple[str, Path]:
    name = record.text("db_id")
    if Path(name).name != name or name in (".", ".."):
        raise record.wrong("db_id", "the name of a folder under " + str(folder))
    path = folder / name / f"{name}.sqlite"
    if not path.is_file():
        raise record.wrong("db_id", f"the name of a database, and there is no file {path}")
    _checked(path, f"{record.file}, record {record.number}: field 'db_id'")
    return f"{folder.name}/{name}", path


def _checked(path: Path, who: str) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise InvalidDatabase(f"{who}: {path} cannot be read ({error.strerror})") from error
    if start != _MAGIC:
        raise InvalidDatabase(f"{who}: {path} is no SQLite database")


def _query(record: Record, field: str) -> str:
    return record.text(field).strip().rstrip(";").strip()


def kind(sql: str) -> tuple[str, str]:
    """Family and difficulty of a reference by what it is made of; a rule of ours, not Spider's hardness.

    The family is the first that fits: set, nested, window, join, group, order, filter, plain. The difficulty counts these
    parts: none or one is easy, two medium, three hard, more extra.
    """
    try:
        tree = sqlglot.parse_one(sql, read="sqlite")
    except (SqlglotError, RecursionError):
        return "other", "hard"
    nodes = Counter(type(node) for node in tree.walk())
    sets = sum(n for kind, n in nodes.items() if issubclass(kind, exp.SetOperation))
    parts = {
        "set": sets > 0,
        "nested": nodes[exp.Select] > 1 + sets,
        "window": nodes[exp.Window] > 0,
        "join": nodes[exp.Join] > 0,
        "group": nodes[exp.Group] > 0,
        "order": nodes[exp.Order] > 0,
        "filter": nodes[exp.Where] > 0,
    }
    family = next((name for name, there in parts.items() if there), "plain")
    number = sum(parts.values())
    return family, "easy" if number < 2 else "medium" if number == 2 else "hard" if number == 3 else "extra"


def _with_variants(folder: Path, bases: Mapping[str, Path], questions: Sequence[Question]) -> Made:
    """Variants of the databases, and the questions whose reference runs."""
    files: dict[str, list[Path]] = {}
    for name, path in bases.items():
        files[name] = [path]
        if path.stat().st_size <= _LARGEST_VARIED:
            for number in range(1, _VARIANTS + 1):
                target = folder / f"{name.replace('/', '_')}_{number}.sqlite"
                vary(path, target, Random(f"{name} {number}"))
                files[name].append(target)
    kept: list[Question] = []
    left_out: list[str] = []
    for question in questions:
        found = SQLiteDatabase(bases[question.database], immutable=False).run(question.sql, 10_000)
        if isinstance(found, Refused):
            left_out.append(f"{question.id}: {found.why}")
        else:
            kept.append(question)
    if not kept:
        raise InvalidData(
            f"no reference query runs; the first: {left_out[0] if left_out else 'there is none'}"
        )
    return files, kept, left_out


def vary(source: Path, target: Path, rng: Random) -> None:
    """Copy a database with other rows: columns that are no keys are shuffled, and a quarter of the rows goes."""
    try:
        original = sqlite3.connect(f"file:{_escaped(source)}?mode=ro", uri=True)
        copy = sqlite3.connect(target, isolation_level=None)
        for connection in (original, copy):
            connection.text_factory = bytes
        try:
            original.backup(copy)
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            copy.execute("PRAGMA foreign_keys = OFF")
            copy.execute("BEGIN")
            names = copy.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
            )
            for name, statement in names.fetchall():
                if b"WITHOUT ROWID" not in statement.upper() and b"VIRTUAL" not in statement.upper():
                    _vary_table(copy, name.decode(), rng)
            copy.execute("COMMIT")
        finally:
            copy.close()
            original.close()
    except sqlite3.Error as error:
        raise InvalidDatabase(f"{source}: the database cannot be read ({error})") from error


def _vary_table(copy: sqlite3.Connection, table: str, rng: Random) -> None:
    quoted = _quoted(table)
    for (trigger,) in copy.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (table,)
    ).fetchall():
        copy.execute(f"DROP TRIGGER {_quoted(trigger.decode())}")
    fixed = {c[1] for c in copy.execute(f"PRAGMA table_info({quoted})") if c[5]}
    for index in copy.execute(f"PRAGMA index_list({quoted})").fetchall():
        if index[2]:  # a unique one
            fixed |= {c[2] for c in copy.execute(f"PRAGMA index_info({_quoted(index[1].decode())})")}
    ids = [row[0] for row in copy.execute(f"SELECT rowid FROM {quoted} ORDER BY rowid")]
    if len(ids) > 3:
        gone = rng.sample(ids, len(ids) - int(len(ids) * _LEFT))
        copy.executemany(f"DELETE FROM {quoted} WHERE rowid = ?", [(i,) for i in gone])
        ids = sorted(set(ids) - set(gone))
    names = [c[1] for c in copy.execute(f"PRAGMA table_info({quoted})") if c[1] not in fixed]
    if not names or not ids:
        return
    # In SQL, so that every value keeps its type and its bytes.
    copy.execute(f"CREATE TEMP TABLE before AS SELECT rowid AS varied_row, * FROM {quoted}")
    copy.execute("CREATE INDEX temp.before_rows ON before (varied_row)")
    for column in names:
        name = _quoted(column.decode())
        copy.execute("CREATE TEMP TABLE moves (target INTEGER PRIMARY KEY, source INTEGER)")
        copy.executemany("INSERT INTO moves VALUES (?, ?)", zip(ids, rng.sample(ids, len(ids)), strict=True))
        copy.execute(
            f"UPDATE {quoted} SET {name} = (SELECT b.{name} FROM moves AS m JOIN before AS b ON b.varied_row = m.source"
            f" WHERE m.target = {quoted}.rowid)"
        )
        copy.execute("DROP TABLE moves")
    copy.execute("DROP TABLE before")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
