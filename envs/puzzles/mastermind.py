"""`Mastermind-v1`: find a hidden code from what is right about each guess."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from itertools import product
from math import log2
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core import Outcome
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

_LENGTH = {"easy": 3, "medium": 4, "hard": 4}
_COLOURS = {"easy": 4, "medium": 6, "hard": 8}


class Code(NamedTuple):
    """A hidden code of digits from 1 to `colours`."""

    colours: int
    digits: str


class Mastermind(Puzzle[Code]):
    """Find a hidden code of digits; after each guess you learn how many are right.

    Observation: first the length of the code and its digits, then for each guess `exact` (right digit in the right place)
        and `misplaced` (right digit elsewhere, each digit of the code counted once).
    Tools: `guess(code)`, the digits as one text. A text that is no code is an invalid call.
    Reward: 1 for the code, else 0. With `reward="step"` the change of a potential is added: the share of the bits of the
        code that the answers have revealed, log2(all codes / codes left) / log2(all codes).
    Terminated: the code was guessed (success). Truncated: `max_turns`.
    Levels: 3 digits of 4 (64 codes), 4 of 6 (1,296), 4 of 8 (4,096); 7, 9 and 10 turns. Digits may repeat.
    State key: the code and the codes that the answers leave. Expert: the first code, in order, that agrees with all
        answers.
    Source: Mastermind (M. Meirowitz, 1970); Knuth, The Computer as Master Mind (1976).
    """

    turns: ClassVar[Mapping[str, int]] = {"easy": 7, "medium": 9, "hard": 10}
    rules = (
        "A code of digits is hidden. For each guess you are told how many digits are exact (right digit, right place) and how"
        " many are misplaced (right digit, wrong place)."
    )

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> Code:
        colours = _COLOURS[level]
        return Code(colours, "".join(str(1 + draws.below(colours)) for _ in range(_LENGTH[level])))

    @classmethod
    def solution(cls, instance: Code) -> str:
        """The code."""
        return instance.digits

    @classmethod
    def _holds(cls, instance: Code, solution: Any) -> bool:
        """Whether this is the code."""
        return bool(solution == instance.digits)

    def begin(self, instance: Code) -> str:
        """Say how long the code is."""
        self.codes = _codes(len(instance.digits), instance.colours)
        self.number = self.codes[instance.digits]
        self.left = np.ones(len(self.codes), dtype=bool)
        self.count = len(self.codes)
        return f"The code has {len(instance.digits)} digits from 1 to {instance.colours}. Digits may repeat."

    @tool
    def guess(self, code: str) -> Outcome:
        """Guess the code.

        Args:
            code: the digits, for example 112.
        """
        digits = code.strip()
        number = self.codes.get(digits)
        if number is None:
            length, colours = len(self.instance.digits), self.instance.colours
            return Outcome(f"A code has {length} digits from 1 to {colours}.", invalid=True)
        answers = _answers(len(digits), self.instance.colours, number)
        answer = answers[self.number]
        self.left &= answers == answer
        self.count = int(np.count_nonzero(self.left))
        if number == self.number:
            return Outcome("That is the code.", reward=1.0, success=True)
        exact, misplaced = divmod(int(answer), 10)
        return Outcome(f"{exact} exact, {misplaced} misplaced")

    def potential(self) -> float:
        """Share of the code's bits that are known, in [0, 1]."""
        return log2(len(self.codes) / self.count) / log2(len(self.codes))

    def state_key(self) -> Hashable:
        """The code and the codes that are left."""
        return self.instance, np.packbits(self.left).tobytes()

    def reference(self) -> list[str]:
        """The code."""
        return [self.instance.digits]

    def legal(self) -> tuple[Call, ...]:
        """Every code."""
        return _calls(len(self.instance.digits), self.instance.colours)

    def expert(self) -> Call:
        """The first code that agrees with all answers."""
        return self.legal()[int(self.left.argmax())]


@lru_cache
def _codes(length: int, colours: int) -> dict[str, int]:
    """Every code and its number."""
    digits = "".join(str(1 + c) for c in range(colours))
    return {"".join(code): number for number, code in enumerate(product(digits, repeat=length))}


@lru_cache
def _calls(length: int, colours: int) -> tuple[Call, ...]:
    return tuple(Call("guess", {"code": code}) for code in _codes(length, colours))


@lru_cache
def _table(length: int, colours: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Digits of every code, `(codes, length)`, and how often each digit stands in it, `(codes, colours)`."""
    digits = np.array([[int(d) - 1 for d in code] for code in _codes(length, colours)], dtype=np.uint8)
    counts = np.stack([(digits == c).sum(axis=1) for c in range(colours)], axis=1).astype(np.uint8)
    return digits, counts


@lru_cache(maxsize=8192)
def _answers(length: int, colours: int, number: int) -> npt.NDArray[np.uint8]:
    """What a guess is answered for every hidden code: ten times the exact digits plus the misplaced ones."""
    digits, counts = _table(length, colours)
    exact = (digits == digits[number]).sum(axis=1)
    common = np.minimum(counts, counts[number]).sum(axis=1)
    answers: npt.NDArray[np.uint8] = (10 * exact + common - exact).astype(np.uint8)
    return answers
