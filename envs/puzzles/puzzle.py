"""What the puzzles share: levels, instances by seed and level, and a solution that can be checked without playing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from ..core import TurnEnv
from ..errors import InvalidParameter, UsageError
from ..tasks import ProceduralTasks, Task, TaskSet, split_of
from ..tools import Call

LEVELS = ("easy", "medium", "hard")
_TRIES = 5_000

Instance = TypeVar("Instance")
Item = TypeVar("Item")


class Draws:
    """Random choices that are the same in every version of Python: only `Random.random` is drawn from."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed).random

    def below(self, n: int) -> int:
        """A whole number in [0, n)."""
        return int(self.random() * n)

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[int(self.random() * len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """The items in random order (Fisher and Yates)."""
        left = list(items)
        for i in range(len(left) - 1, 0, -1):
            j = int(self.random() * (i + 1))
            left[i], left[j] = left[j], left[i]
        return left


class LevelledTasks(ProceduralTasks):
    """Seeds, each with a level in turn."""

    def __init__(self, levels: Sequence[str]) -> None:
        self._levels = levels

    def get(self, split: str, index: int) -> Task:
        """Task `split-index`, whose level follows from its index."""
        return replace(super().get(split, index), difficulty=self._levels[index % len(self._levels)])


class Puzzle(TurnEnv, Generic[Instance]):
    """The base of the puzzles.

    A puzzle has `generate(seed, difficulty)`, which draws an instance that can be solved, `solution(instance)`, and
    `verify(instance, solution)`, which checks a solution by the rules of the puzzle alone, without an environment
    (Enigmata: Chen et al., arXiv 2505.19914). An instance is a tuple of plain values. An episode takes the first instance
    after its task's seed that belongs to the task's split by content, so no instance is in two splits.

    Attributes:
        difficulty: `easy`, `medium`, `hard`, or `mixed`: the three in turn. It also sets `max_turns` unless that is given.
        turns: turns that an episode may take, by level.
    """

    difficulty: Literal["easy", "medium", "hard", "mixed"] = "easy"

    turns: ClassVar[Mapping[str, int]]

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        if "max_turns" not in parameters:
            self.max_turns = max(self.turns[level] for level in self._levels)

    @property
    def _levels(self) -> tuple[str, ...]:
        return LEVELS if self.difficulty == "mixed" else (self.difficulty,)

    @classmethod
    def generate(cls, seed: int, difficulty: str) -> Instance:
        """The instance of a seed; the same in every process.

        Args:
            seed: of at least 0.
            difficulty: easy, medium or hard.
        """
        if difficulty not in LEVELS:
            raise UsageError(f"a difficulty is one of {', '.join(LEVELS)}, got {difficulty!r}")
        return cls._drawn(Draws(seed), difficulty)

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> Instance:
        raise NotImplementedError

    @classmethod
    def solution(cls, instance: Instance) -> Any:
        """A solution of the instance, in the form that `verify` takes."""
        raise NotImplementedError

    @classmethod
    def verify(cls, instance: Instance, solution: Any) -> bool:
        """Whether this solves the instance; what is no solution at all, in whatever way, does not."""
        try:
            return cls._holds(instance, solution)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return False

    @classmethod
    def _holds(cls, instance: Instance, solution: Any) -> bool:
        raise NotImplementedError

    @classmethod
    def _content(cls, instance: Instance) -> str:
        """What makes the instance, by which it falls into a split."""
        return repr(instance)

    def legal(self) -> Sequence[Call]:
        """Calls that are possible in the current state and of which a random agent picks one."""
        raise NotImplementedError

    def sample_action(self, rng: np.random.Generator) -> str:
        """One of the legal calls; before an episode, and in one of ten turns, anything well-formed."""
        if not self._running or rng.random() < 0.1:
            return super().sample_action(rng)
        calls = self.legal()
        return self.write(calls[int(rng.integers(len(calls)))])

    def load_tasks(self) -> TaskSet:
        """Seeds with levels."""
        return LevelledTasks(self._levels)

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Take the task's instance and show it."""
        for attempt in range(_TRIES):
            instance = self.generate(task.seed + (attempt << 40), task.difficulty)
            if split_of(self._content(instance)) == task.split:
                self.instance = instance
                return self.begin(instance)
        raise InvalidParameter(
            f"no {task.difficulty} instance of {type(self).__name__} was found for the split {task.split!r} in"
            f" {_TRIES:,} tries"
        )

    def begin(self, instance: Instance) -> str:
        """Set up the episode and return the first observation."""
        raise NotImplementedError
