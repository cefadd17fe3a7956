"""`TwentyFour-v1`: make 24 out of a few numbers."""

from __future__ import annotations

import csv
from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from ..core import Outcome
from ..errors import InvalidParameter
from ..tasks import ListedTasks, Task, TaskSet, split_of
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

_GOAL = Fraction(24)
_COUNT = {"easy": 3, "medium": 4, "hard": 4}
_HIGHEST = {"easy": 9, "medium": 9, "hard": 13}
_MOST_WAYS = {"easy": 10**9, "medium": 10**9, "hard": 4}
"""Of a hard instance: at so few first steps at most can 24 still be reached."""
Step = tuple[Fraction, str, Fraction]


class Numbers(NamedTuple):
    """The numbers, in rising order."""

    numbers: tuple[int, ...]


class TwentyFour(Puzzle[Numbers]):
    """Make 24 out of all numbers with + - * /, two numbers at a time.

    Observation: the numbers that are left, such as `1 4 8/3`; fractions are exact.
    Tools: `combine(a, operation, b)` takes two of the numbers away and puts the result in their place; `restart()` begins again
        with the first numbers. A number that is not there and a division by zero are invalid calls.
    Reward: 1 when 24 alone is left, else 0. With `reward="step"` the change of a potential is added: the share of the steps
        that are done, and 0 where 24 cannot be reached any more.
    Terminated: 24 is left (success). Another last number goes on, with `restart()`. Truncated: `max_turns`.
    Levels: 3 numbers up to 9, 4 numbers up to 9, 4 numbers up to 13 of which at most 4 first steps lead to 24; 6, 9 and 12 turns.
    Puzzles: with `puzzles`, a CSV file with the columns `Puzzles` and `Solved rate` as published with Tree of Thoughts, the tasks
        are its rows; solved by at least 90 % of people is easy, by at least 75 % medium, else hard.
    State key: the numbers left and those of the start. Expert: a step after which 24 can be reached, else `restart()`.
    Source: the 24 game; Yao et al., Tree of Thoughts (2023).
    """

    puzzles: Path | None = None

    turns: ClassVar[Mapping[str, int]] = {"easy": 6, "medium": 9, "hard": 12}
    rules = "Make 24 out of all the numbers: combine two of them by +, -, * or / at a time, until 24 alone is left."

    def load_tasks(self) -> TaskSet:
        """Seeds with levels, or the rows of the file."""
        if self.puzzles is None:
            return super().load_tasks()
        if not self.puzzles.is_file():
            raise InvalidParameter(
                f"puzzles={str(self.puzzles)!r} is not a file; name a CSV file with a column Puzzles"
            )
        return _read((self.puzzles, self.puzzles.stat().st_mtime_ns))

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> Numbers:
        while True:
            numbers = sorted(1 + draws.below(_HIGHEST[level]) for _ in range(_COUNT[level]))
            left = tuple(map(Fraction, numbers))
            if 0 < len(_ways(left)) <= _MOST_WAYS[level]:
                return Numbers(tuple(numbers))

    @classmethod
    def solution(cls, instance: Numbers) -> list[Step]:
        """Steps (number, operation, number) that lead to 24."""
        left, steps = tuple(map(Fraction, instance.numbers)), []
        while len(left) > 1:
            steps.append(_ways(left)[0])
            left = _combined(left, steps[-1])
        return steps

    @classmethod
    def _holds(cls, instance: Numbers, solution: Sequence[Step]) -> bool:
        """Whether the steps use numbers that are there, and leave 24 alone."""
        left = list(map(Fraction, instance.numbers))
        for a, operation, b in solution:
            if a not in left:
                return False
            left.remove(a)
            if b not in left or (operation == "/" and b == 0):
                return False
            left.remove(b)
            left.append({"+": a + b, "-": a - b, "*": a * b}[operation] if operation != "/" else a / b)
        return left == [24]

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Take the row's numbers, or the task's instance."""
        if "numbers" not in task.data:
            return super().start(task, rng)
        self.instance = Numbers(task.data["numbers"])
        return self.begin(self.instance)

    def begin(self, instance: Numbers) -> str:
        """Show the numbers."""
        self.left = tuple(map(Fraction, instance.numbers))
        return self._report()

    def _report(self) -> str:
        return " ".join(map(str, self.left))

    @tool
    def combine(self, a: str, operation: Literal["+", "-", "*", "/"], b: str) -> Outcome:
        """Put the result of two numbers in their place.

        Args:
            a: one of the numbers, for example 8/3.
            operation: what to do with them.
            b: another of the numbers.
        """
        one, other = _number(a), _number(b)
        left = list(self.left)
        for number, said in ((one, a), (other, b)):
            if number not in left:
                return Outcome(f"{said[:20]!r} is not among {self._report()}.", invalid=True)
            left.remove(number)
        assert one is not None and other is not None
        if operation == "/" and not other:
            return Outcome(f"Nothing can be divided by 0. {self._report()}", invalid=True)
        self.left = _combined(self.left, (one, operation, other))
        if self.left == (_GOAL,):
            return Outcome("24 is left.", reward=1.0, success=True)
        if len(self.left) == 1:
            return Outcome(f"{self._report()} is left, not 24. restart() begins again.")
        return Outcome(self._report())

    @tool
    def restart(self) -> Outcome:
        """Begin again with the first numbers."""
        return Outcome(self.begin(self.instance))

    def potential(self) -> float:
        """Share of the steps that are done; 0 where 24 cannot be reached any more."""
        first = len(self.instance.numbers)
        return (first - len(self.left)) / (first - 1) if _reachable(self.left) else 0.0

    def state_key(self) -> Hashable:
        """The numbers left and those of the start."""
        return self._report(), self.instance.numbers

    def legal(self) -> list[Call]:
        """Every step with two of the numbers, and a new beginning."""
        steps = [step for a, b in combinations(self.left, 2) for step, _ in _results(a, b)]
        calls = [Call("combine", {"a": str(a), "operation": o, "b": str(b)}) for a, o, b in steps]
        return [*calls, Call("restart", {})]

    def expert(self) -> Call:
        """A step after which 24 can still be reached."""
        ways = _ways(self.left)
        if not ways:
            return Call("restart", {})
        a, operation, b = ways[0]
        return Call("combine", {"a": str(a), "operation": operation, "b": str(b)})


def _number(text: str) -> Fraction | None:
    """A number of at most 40 characters, None for what is none."""
    text = text.strip()
    if len(text) > 40 or not text.removeprefix("-").replace("/", "", 1).isdecimal():
        return None
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def _results(a: Fraction, b: Fraction) -> list[tuple[Step, Fraction]]:
    found = [
        ((a, "+", b), a + b),
        ((a, "-", b), a - b),
        ((b, "-", a), b - a),
        ((a, "*", b), a * b),
    ]
    if b:
        found.append(((a, "/", b), a / b))
    if a:
        found.append(((b, "/", a), b / a))
    return found


def _combined(left: tuple[Fraction, ...], step: Step) -> tuple[Fraction, ...]:
    """The numbers after a step, in rising order."""
    a, operation, b = step
    rest = list(left)
    rest.remove(a)
    rest.remove(b)
    result = (
        a + b if operation == "+" else a - b if operation == "-" else a * b if operation == "*" else a / b
    )
    return tuple(sorted([*rest, result]))


@lru_cache(maxsize=200_000)
def _reachable(left: tuple[Fraction, ...]) -> bool:
    """Whether 24 can be made of all these numbers."""
    return _can(tuple((number.numerator, number.denominator) for number in left))


def _can(left: tuple[tuple[int, int], ...]) -> bool:
    """The same for pairs of numerator and denominator, never reduced: a tenth of the time that fractions take."""
    if len(left) == 1:
        return left[0][0] == 24 * left[0][1]
    for i, j in combinations(range(len(left)), 2):
        (a, b), (c, d) = left[i], left[j]
        rest = left[:i] + left[i + 1 : j] + left[j + 1 :]
        after = [(a * d + c * b, b * d), (a * d - c * b, b * d), (c * b - a * d, b * d), (a * c, b * d)]
        if c:
            after.append((a * d, b * c))
        if a:
            after.append((c * b, d * a))
        if any(_can((*rest, result)) for result in after):
            return True
    return False


def _ways(left: tuple[Fraction, ...]) -> list[Step]:
    """The steps after which 24 can be reached, each result once."""
    ways: dict[tuple[Fraction, ...], Step] = {}
    for a, b in combinations(left, 2):
        for step, _ in _results(a, b):
            after = _combined(left, step)
            if after not in ways and _reachable(after):
                ways[after] = step
    return list(ways.values())


@lru_cache(maxsize=4)
def _read(stamped: tuple[Path, int]) -> ListedTasks:
    """The rows of a file; its time of change stands in the key, so that a changed file is read again."""
    file, _ = stamped
    tasks = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines), 1):
            text, rate = row.get("Puzzles") or "", (row.get("Solved rate") or "").rstrip("%")
            try:
                numbers, solved = tuple(sorted(map(int, text.split()))), float(rate)
            except ValueError:
                numbers, solved = (), 0.0
            if len(numbers) < 2 or min(numbers) < 0:
                raise InvalidParameter(
                    f"{file}, row {number}: Puzzles={text!r}, Solved rate={rate!r}; a row has at least two whole numbers,"
                    " apart by spaces, and a rate such as 99.20%"
                )
            name = " ".join(map(str, numbers))
            level = "easy" if solved >= 90 else "medium" if solved >= 75 else "hard"
            tasks[name] = Task(name, split_of(name), data={"numbers": numbers}, difficulty=level)
    if not tasks:
        raise InvalidParameter(
            f"{file} holds no row; name a CSV file with the columns Puzzles and Solved rate"
        )
    return ListedTasks(list(tasks.values()))
