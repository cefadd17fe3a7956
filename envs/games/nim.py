"""`Nim-v1`: take matches from heaps; whoever takes the last one wins."""

from __future__ import annotations

from collections.abc import Hashable
from functools import reduce
from operator import xor
from typing import Annotated

import numpy as np
from pydantic import Field

from ..core import Outcome
from ..tools import Call, tool
from .game import Game


class Nim(Game):
    """Take matches from one heap in turn; whoever takes the last match wins.

    Observation: the heaps, such as `heap 1: 3, heap 2: 5`.
    Tools: `take(heap, number)`. More matches than the heap has, or a heap that does not exist, is an illegal move.
    Reward: in the last turn 1 for a win, 0 for a loss.
    Terminated: no match is left. Truncated: `max_turns` (15 as registered). Success: a win.
    Task: `heaps` heaps of 1 to `most` matches, which the first seat can win.
    State key: heaps and seat. Expert: leaves heaps whose binary digits add up to even numbers where it can, else takes one.
    Source: Bouton, Nim, a game with a complete mathematical theory (1901).
    """

    heaps: Annotated[int, Field(ge=2, le=6)] = 3
    most: Annotated[int, Field(ge=2, le=15)] = 7

    roles = ("first", "second")
    rules = "Two players take matches in turn, as many as they like from one heap. Whoever takes the last match wins."

    def deal(self, draws: np.random.Generator) -> None:
        """Heaps that the first seat can win."""
        self.left = [0]
        while not reduce(xor, self.left):
            self.left = [int(n) for n in draws.integers(1, self.most + 1, self.heaps)]
        self.next = 0

    def movers(self) -> tuple[int, ...]:
        """In turn, while matches are left."""
        return (self.next,) if any(self.left) else ()

    def view(self, seat: int) -> str:
        """The heaps."""
        return ", ".join(f"heap {i + 1}: {number}" for i, number in enumerate(self.left))

    def legal(self, seat: int) -> list[Call]:
        """Every number from every heap."""
        return [
            Call("take", {"heap": i + 1, "number": n + 1})
            for i, left in enumerate(self.left)
            for n in range(left)
        ]

    def refused(self, seat: int, call: Call) -> str | None:
        """The heap must have so many."""
        heap, number = call.arguments["heap"], call.arguments["number"]
        if heap > len(self.left):
            return f"There is no heap {str(heap)[:20]}."
        return None if number <= self.left[heap - 1] else f"Heap {heap} has only {self.left[heap - 1]}."

    def play(self, seat: int, call: Call) -> None:
        """Take the matches away."""
        self.left[call.arguments["heap"] - 1] -= call.arguments["number"]
        self.next = 1 - self.next

    @tool
    def take(self, heap: Annotated[int, Field(ge=1)], number: Annotated[int, Field(ge=1)]) -> Outcome:
        """Take matches from a heap.

        Args:
            heap: its number.
            number: how many.
        """
        return self._take(Call("take", {"heap": heap, "number": number}))

    def utilities(self) -> tuple[float, float]:
        """1 for whoever took the last match."""
        return (0.0, 1.0) if self.next == 0 else (1.0, 0.0)

    def state_key(self) -> Hashable:
        """Heaps and seat."""
        return tuple(self.left), self.me

    def best(self, seat: int) -> Call:
        """A move after which the heaps add up to nothing, without carrying."""
        whole = reduce(xor, self.left)
        for heap, left in enumerate(self.left):
            if left ^ whole < left:
                return Call("take", {"heap": heap + 1, "number": left - (left ^ whole)})
        heap = max(range(len(self.left)), key=self.left.__getitem__)
        return Call("take", {"heap": heap + 1, "number": 1})
