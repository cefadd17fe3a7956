"""`ConnectFour-v1`: four in a row, dropped into columns."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated

import numpy as np
from pydantic import Field

from ..core import Outcome
from ..tools import Call, tool
from .game import Game

_ROWS, _COLUMNS = 6, 7
_STRIDE = _ROWS + 1  # one bit above each column stays empty, so that no line wraps
_DEPTH = 4


class ConnectFour(Game):
    """Drop stones into columns; four of yours in a line win.

    Observation: the board from above down, six rows of seven cells, `X`, `O` or `.`, and the numbers of the columns below.
    Tools: `drop(column)`, 1 to 7. A full column is an illegal move.
    Reward: in the last turn 1 for a win, 0.5 for a draw, 0 for a loss.
    Terminated: four in a line, or the board is full. Truncated: `max_turns` (24 as registered). Success: a win.
    Task: two stones of each, dropped at random without four in a line; X moves.
    State key: board and seat. Expert: alpha-beta over the next four moves with lines that can still be made as the value.
    Source: Connect Four (Milton Bradley, 1974); bit boards as in Tromp's Fhourstones.
    """

    roles = ("X", "O")
    rules = "Two players drop stones into the seven columns of a board in turn. Four of your stones in a line win."

    def deal(self, draws: np.random.Generator) -> None:
        """Two stones of each."""
        self.stones = [0, 0]
        self.heights = [0] * _COLUMNS
        for seat in (0, 1, 0, 1):
            self.play(seat, Call("drop", {"column": int(draws.integers(_COLUMNS)) + 1}))

    def movers(self) -> tuple[int, ...]:
        """X when both have as many stones."""
        counts = [stones.bit_count() for stones in self.stones]
        if any(map(_four, self.stones)) or sum(counts) == _ROWS * _COLUMNS:
            return ()
        return (0,) if counts[0] == counts[1] else (1,)

    def view(self, seat: int) -> str:
        """The board."""
        rows = [
            " ".join(
                next((self.roles[s] for s in (0, 1) if self.stones[s] >> c * _STRIDE + row & 1), ".")
                for c in range(_COLUMNS)
            )
            for row in reversed(range(_ROWS))
        ]
        return "\n".join([*rows, " ".join(str(c + 1) for c in range(_COLUMNS))])

    def legal(self, seat: int) -> list[Call]:
        """The columns with room."""
        return [Call("drop", {"column": c + 1}) for c in range(_COLUMNS) if self.heights[c] < _ROWS]

    def refused(self, seat: int, call: Call) -> str | None:
        """A column holds six stones."""
        return None if self.heights[call.arguments["column"] - 1] < _ROWS else "That column is full."

    def play(self, seat: int, call: Call) -> None:
        """Drop the stone."""
        column = call.arguments["column"] - 1
        self.stones[seat] |= 1 << column * _STRIDE + self.heights[column]
        self.heights[column] += 1

    @tool
    def drop(self, column: Annotated[int, Field(ge=1, le=_COLUMNS)]) -> Outcome:
        """Drop a stone.

        Args:
            column: its number.
        """
        return self._take(Call("drop", {"column": column}))

    def utilities(self) -> tuple[float, float]:
        """1 for four in a line, 0.5 for a full board."""
        return (1.0, 0.0) if _four(self.stones[0]) else (0.0, 1.0) if _four(self.stones[1]) else (0.5, 0.5)

    def state_key(self) -> Hashable:
        """Board and seat."""
        return *self.stones, self.me

    def best(self, seat: int) -> Call:
        """The column that alpha-beta finds."""
        _, column = _search(self.stones[seat], self.stones[1 - seat], self.heights, _DEPTH, -1000, 1000)
        return Call("drop", {"column": column + 1})


def _four(stones: int) -> bool:
    for step in (1, _STRIDE, _STRIDE - 1, _STRIDE + 1):
        pairs = stones & stones >> step
        if pairs & pairs >> 2 * step:
            return True
    return False


def _windows() -> list[int]:
    found = []
    for column in range(_COLUMNS):
        for row in range(_ROWS):
            for right, up in ((0, 1), (1, 0), (1, 1), (1, -1)):
                if column + 3 * right < _COLUMNS and 0 <= row + 3 * up < _ROWS:
                    cells = [(column + i * right) * _STRIDE + row + i * up for i in range(4)]
                    found.append(sum(1 << cell for cell in cells))
    return found


_WINDOWS = _windows()


def _value(mine: int, other: int) -> int:
    """Lines that can still be made, weighted by the stones in them: the mover's less the other's."""
    value = 0
    for window in _WINDOWS:
        a, b = window & mine, window & other
        if not b:
            value += a.bit_count() ** 2
        elif not a:
            value -= b.bit_count() ** 2
    return value


def _search(mine: int, other: int, heights: list[int], depth: int, low: int, high: int) -> tuple[int, int]:
    """Value for the mover, within (low, high), and the column."""
    free = [c for c in (3, 2, 4, 1, 5, 0, 6) if heights[c] < _ROWS]
    if not free:
        return 0, -1
    best = free[0]
    for column in free:
        after = mine | 1 << column * _STRIDE + heights[column]
        if _four(after):
            return 900 + depth, column
    if not depth:
        return _value(mine, other), best
    for column in free:
        after = mine | 1 << column * _STRIDE + heights[column]
        heights[column] += 1
        value = -_search(other, after, heights, depth - 1, -high, -low)[0]
        heights[column] -= 1
        if value > low:
            low, best = value, column
        if low >= high:
            break
    return low, best
