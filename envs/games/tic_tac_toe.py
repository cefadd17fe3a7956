"""`TicTacToe-v1`: three in a row."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import Annotated

import numpy as np
from pydantic import Field

from ..core import Outcome
from ..tools import Call, tool
from .game import Game

_LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


class TicTacToe(Game):
    """Put three marks in a row before the other does.

    Observation: whose mark is yours, and the board, three rows of cells: `X`, `O`, or the number of an empty cell.
    Tools: `place(cell)`, 1 to 9. A cell that is taken is an illegal move.
    Reward: in the last turn 1 for a win, 0.5 for a draw, 0 for a loss.
    Terminated: three in a row, or the board is full. Truncated: `max_turns` (7 as registered, two more than the moves of a
        seat). Success: a win.
    Task: the board begins with two marks, one of each at random, so that games differ; X moves.
    State key: board and seat. Expert: minimax, so it never loses from a board that can be held; among equal moves the first.
    Source: the game; minimax as in Russell and Norvig, Artificial Intelligence, 5.2.
    """

    roles = ("X", "O")
    rules = "Two players put marks on a board of nine cells in turn. Three of your marks in a row win."

    def deal(self, draws: np.random.Generator) -> None:
        """A board with one mark of each."""
        board = ["."] * 9
        mine, other = draws.choice(9, 2, replace=False)
        board[int(mine)], board[int(other)] = "X", "O"
        self.board = "".join(board)

    def movers(self) -> tuple[int, ...]:
        """X when both have as many marks."""
        if _winner(self.board) or "." not in self.board:
            return ()
        return (0,) if self.board.count("X") == self.board.count("O") else (1,)

    def view(self, seat: int) -> str:
        """The board."""
        cells = [str(i + 1) if mark == "." else mark for i, mark in enumerate(self.board)]
        return "\n".join(" ".join(cells[first : first + 3]) for first in (0, 3, 6))

    def legal(self, seat: int) -> list[Call]:
        """The empty cells."""
        return [Call("place", {"cell": i + 1}) for i, mark in enumerate(self.board) if mark == "."]

    def refused(self, seat: int, call: Call) -> str | None:
        """A cell is taken once."""
        return None if self.board[call.arguments["cell"] - 1] == "." else "That cell is taken."

    def play(self, seat: int, call: Call) -> None:
        """Mark the cell."""
        cell = call.arguments["cell"] - 1
        self.board = f"{self.board[:cell]}{self.roles[seat]}{self.board[cell + 1 :]}"

    @tool
    def place(self, cell: Annotated[int, Field(ge=1, le=9)]) -> Outcome:
        """Put your mark on a cell.

        Args:
            cell: its number.
        """
        return self._take(Call("place", {"cell": cell}))

    def utilities(self) -> tuple[float, float]:
        """1 for three in a row, 0.5 for a full board."""
        winner = _winner(self.board)
        return (0.5, 0.5) if not winner else (1.0, 0.0) if winner == "X" else (0.0, 1.0)

    def state_key(self) -> Hashable:
        """Board and seat."""
        return self.board, self.me

    def best(self, seat: int) -> Call:
        """The first of the best cells."""
        return Call("place", {"cell": _best(self.board, self.roles[seat])[1] + 1})


def _winner(board: str) -> str:
    return next((board[a] for a, b, c in _LINES if board[a] != "." and board[a] == board[b] == board[c]), "")


@cache
def _best(board: str, mark: str) -> tuple[int, int]:
    """Value (1 win, 0 draw, -1 loss) for the mark that moves, and the cell."""
    if _winner(board):
        return -1, -1
    if "." not in board:
        return 0, -1
    other = "O" if mark == "X" else "X"
    return max(
        (
            (-_best(board[:cell] + mark + board[cell + 1 :], other)[0], cell)
            for cell in range(9)
            if board[cell] == "."
        ),
        key=lambda found: (found[0], -found[1]),
    )
