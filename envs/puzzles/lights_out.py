"""`LightsOut-v1`: switch all lights off, where each switch toggles its neighbours too."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from functools import lru_cache
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from ..core import Outcome
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

_SIZE = {"easy": 3, "medium": 4, "hard": 5}
_PRESSES = {"easy": (2, 4), "medium": (3, 6), "hard": (7, 11)}


class Lights(NamedTuple):
    """A square of lights, bit `row * size + column`; `presses` are the fewest that switch all off."""

    size: int
    lit: int
    presses: int


class LightsOut(Puzzle[Lights]):
    """Switch all lights off. A press toggles a light and those left, right, above and below it.

    Observation: the lights, one line per row, cells apart by spaces: `#` on, `.` off.
    Tools: `press(row, column)`, both counted from 1. A light outside the square is an invalid call.
    Reward: 1 when all lights are off, else 0. With `reward="step"` the change of a potential is added: the share of the
        fewest presses from the start that is behind you.
    Terminated: all lights off (success). Truncated: `max_turns`.
    Levels: 3 x 3 lights that need 2 to 4 presses, 4 x 4 with 3 to 6, 5 x 5 with 7 to 11; 8, 14 and 26 turns.
    State key: the lights. Expert: fewest presses, by linear algebra over two elements.
    Source: Lights Out (Tiger Electronics, 1995); Anderson and Feil, Turning Lights Out with Linear Algebra (1998).
    """

    turns: ClassVar[Mapping[str, int]] = {"easy": 8, "medium": 14, "hard": 26}
    rules = (
        "You see lights: # is on, . is off. A press toggles a light and its neighbours left, right, above and below. Switch all"
        " lights off."
    )

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> Lights:
        size = _SIZE[level]
        least, most = _PRESSES[level]
        while True:
            presses = 0
            for cell in draws.shuffled(range(size * size))[: least + draws.below(most - least + 1)]:
                presses |= 1 << cell
            presses = _fewest(size, presses)
            if presses.bit_count() >= least:
                return Lights(size, _toggled(size, presses), presses)

    @classmethod
    def solution(cls, instance: Lights) -> list[int]:
        """The lights to press, by number."""
        return [cell for cell in range(instance.size**2) if instance.presses >> cell & 1]

    @classmethod
    def _holds(cls, instance: Lights, solution: Iterable[int]) -> bool:
        """Whether pressing these, in any order, leaves all lights off."""
        size = instance.size
        lit = [
            [bool(instance.lit >> row * size + column & 1) for column in range(size)] for row in range(size)
        ]
        for cell in solution:
            row, column = divmod(cell, size)
            for r, c in (
                (row, column),
                (row - 1, column),
                (row + 1, column),
                (row, column - 1),
                (row, column + 1),
            ):
                if 0 <= r < size and 0 <= c < size:
                    lit[r][c] = not lit[r][c]
        return not any(map(any, lit))

    def begin(self, instance: Lights) -> str:
        """Show the lights."""
        self.lit, self.presses = instance.lit, instance.presses
        return self._report()

    def _report(self) -> str:
        size, lit = self.instance.size, self.lit
        signs = ["#" if lit >> cell & 1 else "." for cell in range(size * size)]
        return "\n".join(" ".join(signs[first : first + size]) for first in range(0, size * size, size))

    @tool
    def press(self, row: Annotated[int, Field(ge=1)], column: Annotated[int, Field(ge=1)]) -> Outcome:
        """Press a light.

        Args:
            row: from the top, the first is 1.
            column: from the left, the first is 1.
        """
        size = self.instance.size
        if row > size or column > size:
            return Outcome(f"There are {size} rows and columns.\n{self._report()}", invalid=True)
        cell = (row - 1) * size + column - 1
        self.lit ^= _toggles(size)[cell]
        self.presses = _fewest(size, self.presses ^ 1 << cell)
        if not self.lit:
            return Outcome("All lights are off.", reward=1.0, success=True)
        return Outcome(self._report())

    def potential(self) -> float:
        """Share of the fewest presses that is done; negative where more are needed than at the start."""
        whole = self.instance.presses.bit_count()
        return (whole - self.presses.bit_count()) / whole

    def state_key(self) -> Hashable:
        """The lights."""
        return self.lit

    def legal(self) -> list[Call]:
        """Every light."""
        size = self.instance.size
        return [Call("press", {"row": c // size + 1, "column": c % size + 1}) for c in range(size * size)]

    def expert(self) -> Call | None:
        """One of the fewest presses."""
        if not self.presses:
            return None
        row, column = divmod((self.presses & -self.presses).bit_length() - 1, self.instance.size)
        return Call("press", {"row": row + 1, "column": column + 1})


@lru_cache
def _toggles(size: int) -> tuple[int, ...]:
    """The lights that each press toggles, as bits."""
    found = []
    for cell in range(size * size):
        row, column = divmod(cell, size)
        plus = [(row, column), (row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        found.append(sum(1 << r * size + c for r, c in plus if 0 <= r < size and 0 <= c < size))
    return tuple(found)


def _toggled(size: int, presses: int) -> int:
    lit = 0
    for cell, toggles in enumerate(_toggles(size)):
        if presses >> cell & 1:
            lit ^= toggles
    return lit


@lru_cache
def _silent(size: int) -> tuple[int, ...]:
    """Every set of presses that changes no light: the kernel of the toggles over two elements."""
    # Each row is (lights toggled, presses); elimination leaves the silent ones with no light.
    rows = [(toggles, 1 << cell) for cell, toggles in enumerate(_toggles(size))]
    for light in range(size * size):
        pivot = next((row for row in rows if row[0] >> light & 1), None)
        if pivot is not None:
            rows.remove(pivot)
            rows = [(a ^ pivot[0], b ^ pivot[1]) if a >> light & 1 else (a, b) for a, b in rows]
    silent = [0]
    for _, presses in rows:
        silent += [other ^ presses for other in silent]
    return tuple(silent)


def _fewest(size: int, presses: int) -> int:
    """The smallest set of presses that toggles what these do; the lowest number among equals."""
    return min((presses ^ silent for silent in _silent(size)), key=lambda p: (p.bit_count(), p))
