"""`Compose`: several tasks in a row as one episode."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ..agent import Message
from ..core import TurnEnv
from ..errors import InvalidParameter, UnknownTask
from ..tasks import Task, TaskSet
from ..tools import Call
from .wrapper import Wrapper


class Compose(Wrapper):
    """Chains `length` tasks of the inner environment into one episode; only all of them solved is a success.

    The next task begins when the last one is solved, so whoever fails early never sees it. Nothing is paid before the end.

    Observation: the inner environment's; each task is announced by a line `Task 2 of 3.`, below what solved the last one.
    Tools: the inner environment's.
    Reward: 1 in the last turn where all tasks were solved, else 0, whatever the inner environment pays.
    Terminated: a task ended, and it was the last or was not solved. Truncated: a task used up its own turns, or the episode
        `max_turns`, which is `length` times the inner environment's unless it is given.
    Task: `length` tasks of a split that follow each other there, so that splits share none and no task is in two chains.
    State key: number of tasks solved, and the inner environment's key.
    Source: h1 composes short problems into chains with a reward for the outcome alone and lengthens them in stages. There
        a problem takes the last one's answer as its input; that the next task has to be earned instead is ours.

    Attributes:
        length: tasks in a chain.
    """

    length: Annotated[int, Field(ge=1, le=100)] = 2

    def __init__(self, *, render_mode: str | None = None, **parameters: Any) -> None:
        super().__init__(render_mode=render_mode, **parameters)
        self.max_turns = parameters.get("max_turns", self.length * self.env.max_turns)
        if self.max_turns < 1:
            raise InvalidParameter(f"max_turns must be at least 1, got {self.max_turns}")
        self.rules = (  # type: ignore[misc]
            f"{self.env.rules}\n\nThere are {self.length} tasks, one after the other. The next begins when you have solved the "
            "last. Only all of them solved counts."
        ).lstrip()

    def make_inner(self, given: dict[str, Any], everywhere: dict[str, Any]) -> TurnEnv:
        """The inner environment with its own limit of turns."""
        return super().make_inner(given, {n: v for n, v in everywhere.items() if n != "max_turns"})

    def load_tasks(self) -> TaskSet:
        """Chains of the inner environment's tasks."""
        size = self.env.tasks.size(self.split)
        if size < self.length:
            raise InvalidParameter(
                f"length={self.length}, but the split {self.split!r} of {self.env.env_id} has {size} tasks; take a smaller length"
            )
        return _Chains(self.env.tasks, self.length)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start a chain; see `TurnEnv.reset`."""
        return TurnEnv.reset(self, seed=seed, options=options)

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Begin the first task."""
        self.solved = 0
        assert self._np_random_seed is not None
        return self._begin_next(self._np_random_seed)

    def _begin_next(self, seed: int) -> str:
        assert self.task is not None
        observation, _ = self.env.reset(seed=seed, options={"task": self.task.data["tasks"][self.solved]})
        return f"Task {self.solved + 1} of {self.length}.\n{observation}"

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one turn; see `TurnEnv.step`."""
        if not self._running:
            raise self._reset_needed()
        observation, _, terminated, truncated, inner = self.env.step(action)
        self._turn += 1
        if terminated and inner["success"]:
            self.solved += 1
            if self.solved < self.length:
                terminated = False
                # Drawn where the last task ended, so that a branch of an episode meets new luck in later tasks too.
                seed = int(self.env.np_random.integers(2**31))
                observation += "\n\n" + self._begin_next(seed)
        truncated = not terminated and (truncated or self._turn >= self.max_turns)
        self._observation = observation
        info = {
            "state_key": self.state_key(),
            "task": self.task.id,  # type: ignore[union-attr]
            "turn": self._turn,
            "tool": inner["tool"],
            "call": inner["call"],
            "invalid": inner["invalid"],
            "shaping": 0.0,
        }
        reward = 0.0
        if terminated or truncated:
            self._running = False
            info["success"] = self.solved == self.length
            reward = info["score"] = float(info["success"])
        return observation, reward, terminated, truncated, info

    def cut_off(self) -> tuple[float, float]:
        """End an episode from outside; see `TurnEnv.cut_off`."""
        self._running = False
        return 0.0, 0.0

    def score(self) -> float:
        """0: a chain that is cut off is not solved."""
        return 0.0

    def state_key(self) -> Hashable:
        """Number of tasks solved, and the inner environment's key."""
        return self.solved, self.env.state_key()

    def potential(self) -> float:
        """0: only the outcome is paid."""
        return 0.0

    def reference(self) -> list[str] | None:
        """None: the answers are another task's as the chain goes on."""
        return None

    def messages(self, observation: str) -> list[Message]:
        """The messages that open an episode."""
        return TurnEnv.messages(self, observation)

    def expert(self) -> Call | None:
        """The inner environment's."""
        return self.env.expert()

    def render(self) -> str:
        """The last observation as text."""
        return self._observation


class _Chains(TaskSet):
    """Chain `split-k` holds the tasks k * length to (k + 1) * length - 1 of the split."""

    def __init__(self, tasks: TaskSet, length: int) -> None:
        self._tasks, self._length = tasks, length

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of chains by split; splits too small for one are left out."""
        return {s: n // self._length for s, n in self._tasks.splits.items() if n >= self._length}

    def get(self, split: str, index: int) -> Task:
        """Chain by its place in the split."""
        size = self.size(split)
        if not 0 <= index < size:
            raise UnknownTask(f"no chain {index} in split {split!r}; indices run from 0 to {size - 1}")
        first = index * self._length
        parts = [self._tasks.get(split, first + i) for i in range(self._length)]
        kinds = {(part.family, part.difficulty) for part in parts}
        family, difficulty = kinds.pop() if len(kinds) == 1 else ("", "")
        return Task(
            f"{split}-{index}",
            split,
            parts[0].seed,
            data={"tasks": tuple(part.id for part in parts)},
            family=family,
            difficulty=difficulty,
        )

    def find(self, task_id: str) -> Task:
        """Chain by its id."""
        split, _, index = str(task_id).rpartition("-")
        if split not in self.splits or not index.isdecimal() or len(index) > 18:
            raise UnknownTask(
                f"no chain {task_id!r:.80}; chains are called split-index, for example 'test-0'"
            )
        return self.get(split, int(index))
