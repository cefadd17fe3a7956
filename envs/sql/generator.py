"""Databases and questions from a seed, in SQL that SQLite and PostgreSQL both run.

No reference query of one split, in one domain, is that of another split, and each split has databases of its own: what is
asked in `test`, and the rows it is asked of, were not seen in `train`. A question is kept only where its reference gives a
result that says something, and where its databases tell the reference from every wrong query of its family.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal

from ..cache import content_key
from ..tasks import split_of
from . import domains, families
from .database import Result
from .domains import DOMAINS, SHORT, Domain, Rows, fill, tables_sql
from .families import FAMILIES, Ask, Family
from .library import Library, Made, Question, library
from .match import same_rows
from .partial import sketch
from .sqlite_database import SQLiteDatabase

Style = Literal["full", "short"]

DATABASES = {"train": 4, "val": 2, "test": 2}
"""Databases of each domain by split."""
VARIANTS = 2
_HELD_OUT = 5  # there is one question in val, and one in test, for so many in train
_ARTICLE = re.compile(r"\ba(?= [aeio])")
_TRIES = 200
_MOST_ROWS = 200  # of a reference's result


def generated(
    questions: int, style: Style, only: Sequence[str], domain_names: Sequence[str], seed: int
) -> Library:
    """The library of generated databases.

    Args:
        questions: in the train split; val and test have a fifth, and at least one per family.
        style: `full`, or `short` for one domain of small tables and one wording per family.
        only: names of the families; empty for all.
        domain_names: names of the domains; empty for all.
        seed: of everything.
    """
    sources = [Path(module.__file__ or "") for module in (domains, families)] + [Path(__file__)]
    key = content_key("generated", *sources, questions, style, *only, "|", *domain_names, seed)

    def make(folder: Path) -> Made:
        kinds = [FAMILIES[name] for name in (only or FAMILIES)]
        about = [SHORT] if style == "short" else [DOMAINS[name] for name in (domain_names or DOMAINS)]
        return _Generator(folder, kinds, about, style, seed).made(questions)

    return library(key, make)


class _Generator:
    def __init__(
        self, folder: Path, kinds: Sequence[Family], about: Sequence[Domain], style: Style, seed: int
    ) -> None:
        self._folder, self._kinds, self._about, self._style, self._seed = folder, kinds, about, style, seed
        self._files: dict[str, list[Path]] = {}
        self._rows: dict[str, Rows] = {}

    def made(self, questions: int) -> Made:
        for domain in self._about:
            for split, count in DATABASES.items():
                for number in range(count):
                    self._database(domain, f"{domain.name}_{split}_{number}")
        held_out = max(questions // _HELD_OUT, len(self._kinds))
        found = [
            q
            for split, n in {"train": questions, "val": held_out, "test": held_out}.items()
            for q in self._asked(split, n)
        ]
        return self._files, found, []

    def _database(self, domain: Domain, name: str) -> None:
        """Write a database and its variants."""
        self._files[name] = []
        for variant in range(1 + VARIANTS):
            rows = fill(domain, Random(f"{self._seed} {name} {variant}"))
            if not variant:
                self._rows[name] = rows
            path = self._folder / f"{name}_{variant}.sqlite"
            write(path, domain, rows)
            self._files[name].append(path)

    def _asked(self, split: str, number: int) -> list[Question]:
        rng = Random(f"{self._seed} questions {split}")
        seen: set[tuple[str, str]] = set()
        found: list[Question] = []
        first = {d.name: self._rows[f"{d.name}_{split}_0"] for d in self._about}
        fit = {
            f.name: [d for d in self._about if f.draw(Ask(d, first[d.name], Random(0))) is not None]
            for f in self._kinds
        }
        for at in range(number):
            family = self._kinds[at % len(self._kinds)]
            for _ in range(_TRIES if fit[family.name] else 0):
                domain = rng.choice(fit[family.name])
                name = f"{domain.name}_{split}_{rng.randrange(DATABASES[split])}"
                draft = family.draw(Ask(domain, self._rows[name], rng))
                if (
                    draft is None
                    or (name, draft.sql) in seen
                    or split_of(f"{domain.name} {draft.sql}") != split
                ):
                    continue
                seen.add((name, draft.sql))
                if not self._tells(name, draft.sql, draft.wrong):
                    continue
                wording = (
                    (draft.short or draft.wordings[0])
                    if self._style == "short"
                    else rng.choice(draft.wordings)
                )
                wording = _ARTICLE.sub("an", wording)
                found.append(
                    Question(
                        f"{split}-{len(found)}",
                        split,
                        name,
                        wording,
                        draft.sql,
                        family.name,
                        family.difficulty,
                        draft.wrong,
                    )
                )
                break
        return found

    def _tells(self, name: str, sql: str, wrong: Sequence[str]) -> bool:
        """Whether the reference gives something, and the databases tell it from every wrong query."""
        bases = [SQLiteDatabase(path, immutable=True) for path in self._files[name]]
        results = [base.run(sql, _MOST_ROWS) for base in bases]
        expected = [r.rows for r in results if isinstance(r, Result) and r.complete]
        if len(expected) < len(bases) or not says_something(expected[0]):
            return False
        ordered = sketch(sql, "sqlite").ordered
        for query in wrong:
            for base, rows in zip(bases, expected, strict=True):
                found = base.run(query, _MOST_ROWS)
                if not isinstance(found, Result) or not same_rows(found.rows, rows, ordered=ordered):
                    break
            else:
                return False
        return True


def says_something(rows: Sequence[Sequence[Any]]) -> bool:
    """Whether a result is not empty, and not a lone NULL or zero."""
    return bool(rows) and not (len(rows) == 1 and all(value in (None, 0) for value in rows[0]))


def write(path: Path, domain: Domain, rows: Rows) -> None:
    """Write a database into a new SQLite file."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for statement in tables_sql(domain):
            connection.execute(statement)
        for entity in domain.entities:
            marks = ", ".join("?" * len(entity.fields))
            connection.executemany(
                f"INSERT INTO {entity.name} VALUES ({marks})",
                [tuple(row[f.name] for f in entity.fields) for row in rows[entity.name]],
            )
        connection.execute("COMMIT")
    finally:
        connection.close()
