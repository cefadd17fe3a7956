"""The tasks of generated problems: a family and a seed each, the families in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..tasks import ProceduralTasks, Task, TaskSet


class GeneratedTasks(TaskSet):
    """Task `index` of a split is of the family `index` modulo their number.

    Args:
        families: name and difficulty of each.
    """

    def __init__(self, families: Sequence[tuple[str, str]]) -> None:
        self._families = families
        self._seeds = ProceduralTasks()

    @property
    def splits(self) -> Mapping[str, int]:
        """As many as there are seeds."""
        return self._seeds.splits

    def get(self, split: str, index: int) -> Task:
        """Task `split-index`."""
        task = self._seeds.get(split, index)
        family, difficulty = self._families[index % len(self._families)]
        return Task(task.id, split, task.seed, family=family, difficulty=difficulty)

    def find(self, task_id: str) -> Task:
        """Task by its id."""
        task = self._seeds.find(task_id)
        split, _, index = task.id.rpartition("-")
        return self.get(split, int(index))
