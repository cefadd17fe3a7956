"""A library: the documents and the questions of an environment in files.

A corpus may hold millions of passages, so nothing of it is kept as Python objects: a process that plays a thousand
episodes holds one `Library`, and processes of one machine share its pages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..cache import made_once
from ..errors import UnknownTask
from ..lines import Lines, lines_writer
from ..tasks import Task, TaskSet

_VERSION = 2  # of the files


class Document(NamedTuple):
    """A document of a corpus.

    Attributes:
        id: unique in its corpus.
        title: need not be unique.
        text: without the title, unless it begins with it.
    """

    id: str
    title: str
    text: str


class Question(NamedTuple):
    """A question with all that is known about it.

    Attributes:
        id: unique in its set, over all splits.
        split: train, val or test.
        text: what is asked.
        answers: the accepted answers, the preferred one first.
        support: the documents that answer it, in the order in which they are needed, each as (id, title); empty where
            they are not known. The id is empty where only the title is known.
        hops: how many documents have to be read one because of another; 0 where this is not known.
        kind: the template or type of the question.
    """

    id: str
    split: str
    text: str
    answers: tuple[str, ...]
    support: tuple[tuple[str, str], ...] = ()
    hops: int = 0
    kind: str = ""


class _Places:
    """Numbers of lines by a name, through sorted hashes on disk."""

    def __init__(self, folder: Path, name: str) -> None:
        self._hashes = np.load(folder / f"{name}_hashes.npy", mmap_mode="r")
        self._numbers = np.load(folder / f"{name}_numbers.npy", mmap_mode="r")

    def __getitem__(self, name: str) -> Iterator[int]:
        """The lines that may have this name, in order."""
        wanted = _hash(name)
        at = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        while at < len(self._hashes) and int(self._hashes[at]) == wanted:
            yield int(self._numbers[at])
            at += 1

    @staticmethod
    def write(folder: Path, name: str, hashes: list[int]) -> None:
        values = np.array(hashes, dtype=np.uint64)
        order = np.argsort(values, kind="stable")
        np.save(folder / f"{name}_hashes.npy", values[order])
        np.save(folder / f"{name}_numbers.npy", order.astype(np.int64))


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def same_title(title: str) -> str:
    """What titles are compared by: case and white space do not count."""
    return " ".join(title.casefold().split())


class Library:
    """Documents and questions, opened by `library`.

    Attributes:
        key: names the content.
        folder: where it lies.
        tasks: the questions as tasks.
    """

    def __init__(self, folder: Path) -> None:
        self.key = folder.name
        self.folder = folder
        self._documents = Lines(folder / "documents")
        self._ids = _Places(folder, "ids")
        self._titles = _Places(folder, "titles")
        self.tasks: TaskSet = StoredTasks(folder)
        self._document = lru_cache(maxsize=4096)(self._read)

    def __reduce__(self) -> tuple[Callable[[Path], Library], tuple[Path]]:
        return _opened, (self.folder,)

    def __deepcopy__(self, memo: dict[int, object]) -> Library:
        return self

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._documents)

    def __getitem__(self, row: int) -> Document:
        return self._document(row)

    def _read(self, row: int) -> Document:
        return Document(*json.loads(self._documents[row]))

    def __iter__(self) -> Iterator[Document]:
        return (self._read(row) for row in range(len(self)))

    def find(self, name: str) -> Document | None:
        """The document with this id, else the first with this title, else None."""
        for row in self._ids[name]:
            if (document := self[row]).id == name:
                return document
        title = same_title(name)
        for row in self._titles[title]:
            if same_title((document := self[row]).title) == title:
                return document
        return None


class StoredTasks(TaskSet):
    """The questions of a library as tasks; each is read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._splits: dict[str, int] = json.loads((folder / "splits.json").read_text())
        self._lines = Lines(folder / "questions")  # split after split
        self._ids = _Places(folder, "questions")
        self._first: dict[str, int] = {}
        at = 0
        for split, size in self._splits.items():
            self._first[split] = at
            at += size

    def __reduce__(self) -> tuple[Callable[[Path], StoredTasks], tuple[Path]]:
        return StoredTasks, (self._folder,)

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of questions by split."""
        return self._splits

    def get(self, split: str, index: int) -> Task:
        """Question by its place in the split."""
        size = self.size(split)
        if not 0 <= index < size:
            raise UnknownTask(f"no task {index} in split {split!r}; indices run from 0 to {size - 1}")
        return self._task(self._first[split] + index)

    def find(self, task_id: str) -> Task:
        """Question by its id."""
        for number in self._ids[str(task_id)]:
            if (task := self._task(number)).id == task_id:
                return task
        raise UnknownTask(f"no task {task_id!r:.80} among the {len(self._lines)} questions")

    def _task(self, number: int) -> Task:
        q = Question(*json.loads(self._lines[number]))
        data = {"support": [tuple(s) for s in q.support], "hops": q.hops, "kind": q.kind}
        return Task(
            q.id,
            q.split,
            prompt=q.text,
            data=data,
            reference=tuple(q.answers),
            family=q.kind.partition(".")[0],
            difficulty=f"{q.hops} {'hop' if q.hops == 1 else 'hops'}" if q.hops else "",
        )


def library(key: str, fill: Callable[[], tuple[Iterable[Document], Iterable[Question]]]) -> Library:
    """The library of this content, made where the cache has none yet, and opened once per process.

    Args:
        key: names the content, see `cache.content_key`.
        fill: gives documents and questions; the questions are read after the documents. Only called when the library
            has to be made.

    Raises:
        CacheFailure: the cache folder cannot be written.
    """
    return _opened(made_once("search", f"{key}-{_VERSION}", lambda folder: _write(folder, *fill())))


@lru_cache(maxsize=16)
def _opened(folder: Path) -> Library:
    return Library(folder)


def _write(folder: Path, documents: Iterable[Document], questions: Iterable[Question]) -> None:
    ids: list[int] = []
    titles: list[int] = []
    with lines_writer(folder / "documents") as write:
        for document in documents:
            write(json.dumps(document, ensure_ascii=False))
            ids.append(_hash(document.id))
            titles.append(_hash(same_title(document.title)))
    _Places.write(folder, "ids", ids)
    _Places.write(folder, "titles", titles)
    order = {"train": 0, "val": 1, "test": 2}
    sorted_questions = sorted(questions, key=lambda q: order[q.split])
    with lines_writer(folder / "questions") as write:
        for question in sorted_questions:
            write(json.dumps(question, ensure_ascii=False))
    _Places.write(folder, "questions", [_hash(q.id) for q in sorted_questions])
    sizes = {split: sum(q.split == split for q in sorted_questions) for split in order}
    (folder / "splits.json").write_text(json.dumps({split: n for split, n in sizes.items() if n}))
