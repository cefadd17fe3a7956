"""`Minesweeper-v1`: open every cell without a mine; no guess is ever needed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from ..core import Outcome
from ..errors import InvalidParameter
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

_SIZE = {"easy": 5, "medium": 7, "hard": 9}
_MINES = {"easy": 4, "medium": 9, "hard": 18}
_TRIES = 20_000


class Field2D(NamedTuple):
    """A field of `size` x `size` cells, number `row * size + column`; `first` is open from the start."""

    size: int
    mines: tuple[int, ...]
    first: int


class Minesweeper(Puzzle[Field2D]):
    """Open every cell that has no mine under it; the numbers say how many mines touch a cell.

    Observation: the field, one line per row, cells apart by spaces: `?` closed, `.` open with no mine beside it, a digit
        open with so many mines beside it (of eight neighbours). At the end a sentence says what happened.
    Tools: `reveal(row, column)`, both counted from 1. Opening a cell without a mine beside it opens its neighbours too. A
        cell that is open or outside the field is an invalid call.
    Reward: 1 when every safe cell is open, else 0. With `reward="step"` the change of a potential is added: the share of
        the safe cells that are open, counted from the start.
    Score: of an episode that is cut off, that share.
    Terminated: all safe cells open (success), or a mine. Truncated: `max_turns`.
    Levels: 5 x 5 with 4 mines, 7 x 7 with 9, 9 x 9 with 18; 20, 40 and 63 turns. One cell is open from the start, and from
        there every field can be solved by reasoning alone: by single numbers on easy, by pairs of numbers too on the
        others, and by the number of mines that are left.
    State key: the mines and the open cells. Expert: a cell that the open numbers prove safe; it sees no more than the agent.
    Source: Minesweeper (Microsoft, 1990); the deductions are those of Becerra, Algorithmic Approaches to Playing Minesweeper
        (2015).
    """

    turns: ClassVar[Mapping[str, int]] = {"easy": 20, "medium": 40, "hard": 63}
    rules = "Mines are hidden in a field. A digit says how many of the eight cells around it hold a mine. Open all others."

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> Field2D:
        size, number = _SIZE[level], _MINES[level]
        beside = _neighbours(size)
        cells = range(size * size)
        for _ in range(_TRIES):
            first = draws.below(size * size)
            away = [c for c in cells if c != first and not beside[first] >> c & 1]
            field = Field2D(size, tuple(sorted(draws.shuffled(away)[:number])), first)
            if _solvable(field, pairs=level != "easy"):
                return field
        raise InvalidParameter(
            f"no field of {size} x {size} with {number} mines was found in {_TRIES:,} tries"
        )

    @classmethod
    def _content(cls, instance: Field2D) -> str:
        return repr(instance.mines)

    @classmethod
    def solution(cls, instance: Field2D) -> list[int]:
        """The cells without a mine, by number."""
        return [c for c in range(instance.size**2) if c not in instance.mines]

    @classmethod
    def _holds(cls, instance: Field2D, solution: Iterable[int]) -> bool:
        """Whether these are all cells without a mine, and no others."""
        opened = set(solution)
        return all((cell in opened) != (cell in instance.mines) for cell in range(instance.size**2)) and (
            opened <= set(range(instance.size**2))
        )

    def begin(self, instance: Field2D) -> str:
        """Show the field with its first cell open."""
        self.mines = sum(1 << cell for cell in instance.mines)
        self.numbers = _numbers(instance.size, self.mines)
        self.opened = _opened(instance.size, self.numbers, instance.first, 0)
        self.opened_at_start = self.opened.bit_count()
        self.to_open = instance.size**2 - len(instance.mines) - self.opened_at_start
        # The drawing is kept cell by cell, each followed by a space or a line end, and only what opens is drawn anew.
        self.drawing = list("\n".join(" ".join("?" * instance.size) for _ in range(instance.size)))
        self._draw(self.opened)
        return "".join(self.drawing)

    def _draw(self, cells: int) -> None:
        for cell in _bits(cells):
            self.drawing[2 * cell] = str(self.numbers[cell]) if self.numbers[cell] else "."

    @tool
    def reveal(self, row: Annotated[int, Field(ge=1)], column: Annotated[int, Field(ge=1)]) -> Outcome:
        """Open a cell.

        Args:
            row: from the top, the first is 1.
            column: from the left, the first is 1.
        """
        size = self.instance.size
        if row > size or column > size:
            return Outcome(f"There are {size} rows and columns.\n{''.join(self.drawing)}", invalid=True)
        cell = (row - 1) * size + column - 1
        if self.opened >> cell & 1:
            return Outcome(f"That cell is open.\n{''.join(self.drawing)}", invalid=True)
        if self.mines >> cell & 1:
            return Outcome("You hit a mine.", success=False, score=self.potential())
        opened = _opened(size, self.numbers, cell, self.opened)
        self._draw(opened & ~self.opened)
        self.opened = opened
        if self.potential() == 1.0:
            return Outcome("Every safe cell is open.", reward=1.0, success=True)
        return Outcome("".join(self.drawing))

    def potential(self) -> float:
        """Share of the safe cells that are open, those of the start not counted."""
        return (self.opened.bit_count() - self.opened_at_start) / self.to_open

    def score(self) -> float:
        """Share of the safe cells that are open."""
        return self.potential()

    def state_key(self) -> Hashable:
        """The mines and the open cells."""
        return self.mines, self.opened

    def legal(self) -> list[Call]:
        """Every closed cell."""
        size = self.instance.size
        closed = ~self.opened & (1 << size * size) - 1
        return [Call("reveal", {"row": c // size + 1, "column": c % size + 1}) for c in _bits(closed)]

    def expert(self) -> Call | None:
        """A cell that the open numbers prove safe."""
        size = self.instance.size
        safe = _proven_safe(size, self.numbers, self.opened, len(self.instance.mines), pairs=True)
        if not safe:
            return None
        row, column = divmod(next(_bits(safe)), size)
        return Call("reveal", {"row": row + 1, "column": column + 1})


@lru_cache
def _neighbours(size: int) -> tuple[int, ...]:
    """The cells around each cell, as bits."""
    found = []
    for cell in range(size * size):
        row, column = divmod(cell, size)
        around = [
            r * size + c
            for r in range(max(row - 1, 0), min(row + 2, size))
            for c in range(max(column - 1, 0), min(column + 2, size))
        ]
        found.append(sum(1 << c for c in around) ^ 1 << cell)
    return tuple(found)


def _numbers(size: int, mines: int) -> list[int]:
    return [(around & mines).bit_count() for around in _neighbours(size)]


def _opened(size: int, numbers: list[int], cell: int, opened: int) -> int:
    """What is open once this cell is opened too."""
    beside = _neighbours(size)
    queue = 1 << cell
    while queue:
        opened |= queue
        spread = 0
        for c in _bits(queue):
            if not numbers[c]:
                spread |= beside[c]
        queue = spread & ~opened
    return opened


def _proven_safe(size: int, numbers: list[int], opened: int, mines: int, *, pairs: bool) -> int:
    """The closed cells that the open numbers, and the number of mines, prove to be safe.

    Args:
        pairs: also compare two numbers whose closed cells lie one within the other.
    """
    beside = _neighbours(size)
    closed = ~opened & (1 << size * size) - 1
    known = 0
    while True:
        rules = {
            (beside[c] & closed & ~known, numbers[c] - (beside[c] & known).bit_count()) for c in _bits(opened)
        }
        rules.add((closed & ~known, mines - known.bit_count()))
        rules.discard((0, 0))
        if pairs:
            ordered = sorted(rules)
            rules |= {(b & ~a, m - n) for a, n in ordered for b, m in ordered if a != b and a & b == a}
        safe = found = 0
        for cells, number in rules:
            if number == 0:
                safe |= cells
            elif number == cells.bit_count():
                found |= cells
        if safe or not found & ~known:
            return safe
        known |= found


def _solvable(field: Field2D, *, pairs: bool) -> bool:
    """Whether reasoning opens all safe cells, at least `size` of them."""
    size = field.size
    mines = sum(1 << cell for cell in field.mines)
    numbers = _numbers(size, mines)
    opened = _opened(size, numbers, field.first, 0)
    if opened.bit_count() > size * size - len(field.mines) - size:
        return False  # hardly anything is left to find out
    while opened.bit_count() < size * size - len(field.mines):
        safe = _proven_safe(size, numbers, opened, len(field.mines), pairs=pairs)
        if not safe:
            return False
        for cell in _bits(safe):
            opened = _opened(size, numbers, cell, opened)
    return True


def _bits(cells: int) -> Iterator[int]:
    while cells:
        lowest = cells & -cells
        yield lowest.bit_length() - 1
        cells ^= lowest
