"""`SlidingTiles-v1`: bring numbered tiles into order by sliding them into the gap."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from heapq import heappop, heappush
from typing import ClassVar, NamedTuple

from ..core import Outcome
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

_WIDTH = 3
_HEIGHT = {"easy": 2, "medium": 3, "hard": 3}
_SLIDES = {"easy": (3, 9), "medium": (8, 14), "hard": (20, 30)}


class Tiles(NamedTuple):
    """A board of three columns: the tile of each cell, row by row, 0 the gap; `slides` are tiles that bring it into order."""

    board: tuple[int, ...]
    slides: tuple[int, ...]


class SlidingTiles(Puzzle[Tiles]):
    """Slide tiles into the gap until they stand in order, the gap last.

    Observation: the board, one line per row, cells apart by spaces, `_` the gap.
    Tools: `slide(tile)`. A tile that is not beside the gap is an invalid call.
    Reward: 1 when all tiles are in order, else 0. With `reward="step"` the change of a potential is added: the share of the
        tiles' distance from their places (rows plus columns, summed over the tiles) that is gone since the start.
    Terminated: in order (success). Truncated: `max_turns`.
    Levels: 2 rows of 3 after 3 to 9 slides, 3 rows after 8 to 14, 3 rows after 20 to 30 that are never taken back at once;
        18, 28 and 60 turns. Played backwards from the ordered board, so it can be solved.
    State key: the board. Expert: fewest slides, by A* with the distances of the tiles.
    Source: the 15 puzzle (N. Chapman, 1880); Korf, Depth-First Iterative-Deepening (1985).
    """

    turns: ClassVar[Mapping[str, int]] = {"easy": 18, "medium": 28, "hard": 60}
    rules = (
        "Numbered tiles lie on a board with a gap, shown as _. A tile beside the gap can slide into it. Bring the tiles into"
        " order, row by row, with the gap last."
    )

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> Tiles:
        size = _WIDTH * _HEIGHT[level]
        ordered = (*range(1, size), 0)
        least, most = _SLIDES[level]
        while True:
            board, slides, last = list(ordered), [], 0
            for _ in range(least + draws.below(most - least + 1)):
                gap = board.index(0)
                tile = draws.pick([board[c] for c in _beside(gap, size) if board[c] != last])
                board[board.index(tile)], board[gap] = 0, tile
                slides.append(tile)
                last = tile
            if _distance(board) >= least // 2 + 1:
                return Tiles(tuple(board), tuple(reversed(slides)))

    @classmethod
    def _content(cls, instance: Tiles) -> str:
        return repr(instance.board)

    @classmethod
    def solution(cls, instance: Tiles) -> list[int]:
        """The tiles to slide, in order."""
        return list(instance.slides)

    @classmethod
    def _holds(cls, instance: Tiles, solution: Sequence[int]) -> bool:
        """Whether these tiles can slide one after another and end in order."""
        place = {tile: divmod(cell, _WIDTH) for cell, tile in enumerate(instance.board)}
        for tile in solution:
            (row, column), (gap_row, gap_column) = place[tile], place[0]
            if abs(row - gap_row) + abs(column - gap_column) != 1:
                return False
            place[tile], place[0] = place[0], place[tile]
        last = len(instance.board)
        return all(place[tile] == divmod((tile or last) - 1, _WIDTH) for tile in range(last))

    def begin(self, instance: Tiles) -> str:
        """Show the board."""
        self.board = list(instance.board)
        self.whole = self.away = _distance(self.board)
        self.plan: dict[tuple[int, ...], int] = {}
        return self._report()

    def _report(self) -> str:
        signs = ["_" if tile == 0 else str(tile) for tile in self.board]
        return "\n".join(" ".join(signs[first : first + _WIDTH]) for first in range(0, len(signs), _WIDTH))

    @tool
    def slide(self, tile: int) -> Outcome:
        """Slide a tile into the gap.

        Args:
            tile: its number.
        """
        board = self.board
        gap = board.index(0)
        if tile == 0 or tile not in board:
            return Outcome(f"There is no tile {str(tile)[:20]}.\n{self._report()}", invalid=True)
        cell = board.index(tile)
        if cell not in _beside(gap, len(board)):
            return Outcome(f"Tile {tile} is not beside the gap.\n{self._report()}", invalid=True)
        self.away += _steps(tile, gap) - _steps(tile, cell)
        board[gap], board[cell] = tile, 0
        if not self.away:
            return Outcome("All tiles are in order.", reward=1.0, success=True)
        return Outcome(self._report())

    def potential(self) -> float:
        """Share of the tiles' distance that is gone; negative where they are further away than at the start."""
        return (self.whole - self.away) / self.whole

    def state_key(self) -> Hashable:
        """The board."""
        return tuple(self.board)

    def legal(self) -> list[Call]:
        """The tiles beside the gap."""
        beside = _beside(self.board.index(0), len(self.board))
        return [Call("slide", {"tile": self.board[cell]}) for cell in beside]

    def expert(self) -> Call | None:
        """The first of the fewest slides."""
        if not self.away:
            return None
        board = tuple(self.board)
        if board not in self.plan:
            for tile in _solve(board):
                self.plan[board] = tile
                board = _slid(board, tile)
        return Call("slide", {"tile": self.plan[tuple(self.board)]})


def _beside(cell: int, size: int) -> list[int]:
    """The cells beside one."""
    found = []
    if cell % _WIDTH:
        found.append(cell - 1)
    if cell % _WIDTH < _WIDTH - 1:
        found.append(cell + 1)
    if cell >= _WIDTH:
        found.append(cell - _WIDTH)
    if cell + _WIDTH < size:
        found.append(cell + _WIDTH)
    return found


def _steps(tile: int, cell: int) -> int:
    """Rows plus columns from a cell to the tile's place."""
    goal = tile - 1
    return abs(cell // _WIDTH - goal // _WIDTH) + abs(cell % _WIDTH - goal % _WIDTH)


def _distance(board: Sequence[int]) -> int:
    return sum(_steps(tile, cell) for cell, tile in enumerate(board) if tile)


def _slid(board: tuple[int, ...], tile: int) -> tuple[int, ...]:
    swapped = {0: tile, tile: 0}
    return tuple(swapped.get(t, t) for t in board)


def _solve(start: tuple[int, ...]) -> list[int]:
    """The fewest slides that bring the board into order."""
    fewest = {start: 0}
    came: dict[tuple[int, ...], tuple[tuple[int, ...], int]] = {}
    queue = [(_distance(start), 0, start)]
    while True:
        _, slides, board = heappop(queue)
        slides = -slides
        if board[-1] == 0 and not _distance(board):
            tiles = []
            while board in came:
                board, tile = came[board]
                tiles.append(tile)
            return tiles[::-1]
        if slides > fewest[board]:
            continue
        for cell in _beside(board.index(0), len(board)):
            after = _slid(board, board[cell])
            if slides + 1 < fewest.get(after, slides + 2):
                fewest[after] = slides + 1
                came[after] = (board, board[cell])
                heappush(queue, (slides + 1 + _distance(after), -slides - 1, after))
