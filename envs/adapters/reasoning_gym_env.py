"""`reasoning_gym:NAME`: a data set of reasoning-gym, answered once or until it is right."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from ..core import Outcome, TurnEnv
from ..errors import InvalidParameter, UnknownEnv, UsageError
from ..tasks import Task, split_of
from ..tools import Call, tool
from .foreign import ForeignEnvFailed, blamed, library

_SIZE = 10_000
"""Items of a data set; some make all of them at once, so that it cannot be boundless."""
_APART = 16
"""Items between two tasks, so that neighbours seldom end at the same one."""
_LONGEST_ANSWER = 20_000


class ReasoningGymEnv(TurnEnv):
    """Answer a generated question of reasoning-gym.

    Observation: the question; after a wrong answer how many attempts are left.
    Tools: `answer(text)`.
    Reward: the library's score of the answer, in [0, 1], which is the score of the episode too. An answer that its scorer cannot
        read scores 0.
    Terminated: by an answer with score 1 (success), or the last attempt. Truncated: `max_turns`, as many as `attempts`.
    State key: the task and the attempts made. Expert: the library's answer, where it has one that scores 1.
    Source: reasoning-gym (Stojanovski et al., arXiv 2505.24760).

    The data set has 10,000 items unless `config` gives another `size`. A task takes the first item from a place that its seed
    names whose question belongs to the task's split, so no question is in two splits.

    Attributes:
        name: of the data set, such as `countdown`.
        config: settings of the data set, such as `{"min_numbers": 3}`.
        attempts: answers that may be given.
        data_seed: other questions.
        allow_unsafe: takes data sets whose scorer evaluates the answer as Python code, in this process.

    Raises:
        UsageError: reasoning-gym is not installed; the scorer evaluates what a model writes, and `allow_unsafe` is not set.
        UnknownEnv: it has no data set of this name.
        InvalidParameter: the data set does not take this `config`.
        ForeignEnvFailed: the data set could not make a question.
    """

    name: str = ""
    config: Mapping[str, Any] = {}
    attempts: int = 1
    data_seed: int = 0
    allow_unsafe: bool = False

    rules = "Answer the question. Give the answer alone, in the form that the question asks for."

    def __init__(self, *, render_mode: str | None = None, **parameters: Any) -> None:
        super().__init__(render_mode=render_mode, **parameters)
        theirs = library("reasoning_gym", "reasoning-gym")
        known = theirs.factory.DATASETS
        if self.name not in known:
            raise UnknownEnv(f"reasoning_gym:{self.name}", [f"reasoning_gym:{name}" for name in known])
        if self.attempts < 1:
            raise InvalidParameter(f"attempts must be at least 1, got {self.attempts}")
        if "max_turns" not in parameters:
            self.max_turns = self.attempts
        try:
            self._items = theirs.create_dataset(
                self.name, **{"seed": self.data_seed, "size": _SIZE, **self.config}
            )
        except (TypeError, ValueError, AssertionError) as error:
            raise InvalidParameter(
                f"reasoning_gym:{self.name} does not take config={dict(self.config)}: {error}"
            ) from error
        if not self.allow_unsafe and _evaluates(self._items):
            raise UsageError(
                f"the scorer of reasoning_gym:{self.name} evaluates the answer as Python code, so that a model could run any"
                " program in this process, or one without end; pass allow_unsafe=True where you trust the model or the machine"
                " is a sandbox itself"
            )
        self._static |= {"_items"}

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Draw the item of a task."""
        self._used = 0
        size = len(self._items)
        for number in range(size):
            with blamed(f"reasoning_gym:{self.name}", "its generator"):
                self._item = self._items[(task.seed * _APART + number) % size]
                question = str(self._item["question"])
            if split_of(question) == task.split:
                return question
        raise ForeignEnvFailed(
            f"reasoning_gym:{self.name} has too few different questions: none of {size} belongs to the split {task.split!r};"
            " widen its config"
        )

    @tool
    def answer(self, text: str) -> Outcome:
        """Answer the question.

        Args:
            text: the answer alone.
        """
        self._used += 1
        score = self._scored(text[:_LONGEST_ANSWER])
        left = self.attempts - self._used
        if score >= 1.0:
            return Outcome("Right.", 1.0, success=True)
        if left > 0:
            return Outcome(f"Wrong. You have {left} more attempt{'s' if left > 1 else ''}.")
        return Outcome("Wrong.", score, success=False, score=score)

    def _scored(self, text: str) -> float:
        try:
            score = float(self._items.score_answer(answer=text, entry=self._item))
        except Exception:
            # The scorers parse what a model wrote, and many raise where it is not what they expect.
            return 0.0
        return min(1.0, max(0.0, score)) if math.isfinite(score) else 0.0

    def reference(self) -> list[str] | None:
        """The library's answer, where it gives one."""
        found = self._item.get("answer")
        return None if found is None else [str(found)]

    def expert(self) -> Call | None:
        """The library's answer, where its own scorer calls it right."""
        found = self.reference()
        if found is None or self._scored(found[0]) < 1.0:
            return None
        return Call("answer", {"text": found[0]})

    def state_key(self) -> Hashable:
        """The task and the attempts made."""
        assert self.task is not None
        return f"{self.task.id} {self._used}"


def _evaluates(items: Any) -> bool:
    """Whether a data set's scorer hands the answer to `eval`, or to SymPy's parser, which does the same."""
    inner = [getattr(item, "dataset", item) for item in getattr(items, "datasets", {}).values()]
    source = inspect.getsource(type(items))
    return re.search(r"\b(eval|exec|parse_expr|sympify)\(\s*answer\b", source) is not None or any(
        map(_evaluates, inner)
    )
