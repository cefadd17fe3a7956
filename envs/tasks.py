"""Tasks: what an episode is about, and the splits that keep training and testing apart."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .errors import UnknownSplit, UnknownTask, UsageError, nearest


@dataclass(frozen=True, slots=True)
class Task:
    """What one episode is about.

    Attributes:
        id: unique within the environment, over all splits.
        split: train, val, test or the data set's own name.
        seed: fixes what is generated from the task alone (a map, a room).
        prompt: what the agent is told, where the task is a text.
        data: the rest of the task, hidden from the agent.
        reference: the accepted answers as texts, None where there are none.
        family: kind of task within the environment, by which reports are split; empty where there is one kind.
        difficulty: name of the task's level, by which reports are split; empty where tasks are not graded.
    """

    id: str
    split: str
    seed: int = 0
    prompt: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    reference: tuple[str, ...] | None = None
    family: str = ""
    difficulty: str = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        return self  # frozen: snapshots share it


class TaskSet(ABC):
    """Tasks by split and index, made or read when they are asked for. No task is in two splits."""

    @property
    @abstractmethod
    def splits(self) -> Mapping[str, int]:
        """Number of tasks by split."""

    @abstractmethod
    def get(self, split: str, index: int) -> Task:
        """The task at `index` in [0, size of the split)."""

    @abstractmethod
    def find(self, task_id: str) -> Task:
        """The task of this id.

        Raises:
            UnknownTask: there is none.
        """

    def size(self, split: str) -> int:
        """Number of tasks in a split.

        Raises:
            UnknownSplit: there is no such split.
        """
        sizes = self.splits
        if split not in sizes:
            raise UnknownSplit(f"no split {split!r}.{nearest(str(split), sizes)} Known: {', '.join(sizes)}.")
        return sizes[split]


class ProceduralTasks(TaskSet):
    """Tasks that are nothing but a seed; each split owns a range of seeds, so none is shared."""

    _RANGES: ClassVar = {
        "val": (0, 2**20),
        "test": (2**20, 2**20),
        "train": (2**21, 2**31),
    }  # first seed, number of seeds

    @property
    def splits(self) -> Mapping[str, int]:
        """Two thousand million tasks to train on, a million each to validate and test on."""
        return {name: self._RANGES[name][1] for name in ("train", "val", "test")}

    def get(self, split: str, index: int) -> Task:
        """Task `split-index`."""
        size = self.size(split)
        if not 0 <= index < size:
            raise UnknownTask(f"no task {index} in split {split!r}; indices run from 0 to {size - 1}")
        return Task(f"{split}-{index}", split, self._RANGES[split][0] + index)

    def find(self, task_id: str) -> Task:
        """Task by its id, `split-index`."""
        split, _, index = str(task_id).rpartition("-")
        if split not in self._RANGES or not index.isdecimal() or len(index) > 10:
            raise UnknownTask(f"no task {task_id!r:.80}; tasks are called split-index, for example 'test-0'")
        return self.get(split, int(index))


def split_of(content: str) -> str:
    """The split that a task belongs to by what it is: of ten, eight to train, one to val, one to test.

    Different seeds can give the same small map, so that disjoint ranges of seeds alone would let an agent train on maps
    it is tested on. An environment that generates few different tasks draws again until the task is of its split.

    Args:
        content: all that makes the task, in a form that is the same in every process.
    """
    tenth = hashlib.blake2b(content.encode(), digest_size=8).digest()[0] % 10
    return {8: "val", 9: "test"}.get(tenth, "train")


class ListedTasks(TaskSet):
    """Tasks from a list, for environments that load a data set.

    Raises:
        UsageError: two tasks share an id.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._by_split: dict[str, list[Task]] = {}
        self._by_id: dict[str, Task] = {}
        for task in tasks:
            if task.id in self._by_id:
                raise UsageError(f"two tasks have the id {task.id!r}; ids must be unique over all splits")
            self._by_id[task.id] = task
            self._by_split.setdefault(task.split, []).append(task)

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of tasks by split, in order of appearance."""
        return {split: len(tasks) for split, tasks in self._by_split.items()}

    def get(self, split: str, index: int) -> Task:
        """Task by its place in the split."""
        size = self.size(split)
        if not 0 <= index < size:
            raise UnknownTask(f"no task {index} in split {split!r}; indices run from 0 to {size - 1}")
        return self._by_split[split][index]

    def find(self, task_id: str) -> Task:
        """Task by its id."""
        try:
            return self._by_id[task_id]
        except (KeyError, TypeError):
            near = nearest(str(task_id)[:200], self._by_id)
            raise UnknownTask(f"no task {task_id!r:.80} among the {len(self._by_id)} loaded.{near}") from None
