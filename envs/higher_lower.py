"""`HigherLower-v1`: guess a hidden number."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated

import numpy as np
from pydantic import Field

from .core import Outcome, TurnEnv
from .tasks import Task
from .tools import Call, tool


class HigherLower(TurnEnv):
    """Guess a hidden number; every answer says whether it is higher or lower.

    Observation: first the range, then `Higher.`, `Lower.` or `Right.`.
    Tools: `guess(number)`. A number outside the range is a guess like any other.
    Reward: 1 for the right number, else 0. With `reward="step"` the change of a potential is added: the share of the
        bits of the number that the answers have revealed, log2(high / candidates left) / log2(high).
    Terminated: the number was guessed (success). Truncated: `max_turns` (8 as registered, one more than halving needs).
    State key: the hidden number and the interval that the answers leave.
    Expert: halves the interval; at most ceil(log2(high + 1)) guesses.
    Source: the guessing game; the bound is binary search (Knuth, The Art of Computer Programming, vol. 3, 6.2.1).
    """

    high: Annotated[int, Field(ge=2, le=10**9)] = 100

    rules = "A whole number is hidden. Find it in as few guesses as possible."

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Hide the number."""
        self.hidden = int(rng.integers(1, self.high + 1))
        self.least, self.most = 1, self.high
        return f"I think of a number from 1 to {self.high}."

    @tool
    def guess(self, number: int) -> Outcome:
        """Guess the number.

        Args:
            number: your guess.
        """
        if number == self.hidden:
            self.least = self.most = number
            return Outcome("Right.", reward=1.0, success=True)
        if number < self.hidden:
            self.least = max(self.least, number + 1)
            return Outcome("Higher.")
        self.most = min(self.most, number - 1)
        return Outcome("Lower.")

    def potential(self) -> float:
        """Share of the number's bits that are known, in [0, 1]."""
        return float(np.log2(self.high / (self.most - self.least + 1)) / np.log2(self.high))

    def state_key(self) -> Hashable:
        """Hidden number and the interval that is left."""
        return self.hidden, self.least, self.most

    def reference(self) -> list[str]:
        """The hidden number."""
        return [str(self.hidden)]

    def expert(self) -> Call:
        """The middle of the interval."""
        return Call("guess", {"number": (self.least + self.most) // 2})
