"""A library: databases in files, each with variants of other rows, and questions about them.

A question counts as answered where a query gives the rows of the reference on the database that is shown and on all its
variants: same tables, other rows. A query that is right by accident fails on one of them (Zhong et al., Semantic Evaluation
for Text-to-SQL with Distilled Test Suites, 2020).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..cache import made_once
from ..tasks import ListedTasks, Task


class Question(NamedTuple):
    """A question with its reference.

    Attributes:
        id: unique in its set, over all splits.
        split: train, val or test.
        database: name of the database.
        text: what is asked.
        sql: the reference query.
        family: kind of question.
        difficulty: level.
        wrong: plausible queries that are not right, where some are known.
    """

    id: str
    split: str
    database: str
    text: str
    sql: str
    family: str
    difficulty: str
    wrong: tuple[str, ...] = ()


class Library:
    """Databases and questions, opened by `library`.

    Attributes:
        folder: where it lies.
        left_out: questions that are no tasks since their reference does not run, each with the reason.
        tasks: the questions as tasks; `data` holds the name of the database, and wrong queries where some are known.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.left_out: Sequence[str] = index["left_out"]
        self._files: Mapping[str, Sequence[str]] = index["files"]
        self.tasks = ListedTasks(
            [
                Task(
                    q.id,
                    q.split,
                    prompt=q.text,
                    data={"database": q.database, "wrong": tuple(q.wrong)},
                    reference=(q.sql,),
                    family=q.family,
                    difficulty=q.difficulty,
                )
                for q in (Question(*line) for line in index["questions"])
            ]
        )

    def __reduce__(self) -> tuple[Callable[[Path], Library], tuple[Path]]:
        return opened, (self.folder,)

    def __deepcopy__(self, memo: dict[int, object]) -> Library:
        return self

    @property
    def databases(self) -> Sequence[str]:
        """Names of the databases."""
        return list(self._files)

    def files(self, database: str) -> list[Path]:
        """The file of a database and those of its variants."""
        return [self.folder / file for file in self._files[database]]


@lru_cache(maxsize=8)
def opened(folder: Path) -> Library:
    """The library of a folder, one per process."""
    return Library(folder)


Made = tuple[Mapping[str, Sequence[Path]], Sequence[Question], Sequence[str]]
"""The files of each database, the one that is shown first; the questions; and which were left out and why."""


def library(key: str, make: Callable[[Path], Made]) -> Library:
    """The library of this name, made where it is not in the cache yet.

    Args:
        key: names the content.
        make: writes databases into the folder that it gets.
    """

    def write(folder: Path) -> None:
        files, questions, left_out = make(folder)
        index: dict[str, Any] = {
            "files": {
                name: [
                    str(p.relative_to(folder) if p.is_relative_to(folder) else p.absolute()) for p in paths
                ]
                for name, paths in files.items()
            },
            "questions": questions,
            "left_out": left_out,
        }
        (folder / "index.json").write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")

    return opened(made_once("sql", key, write))
