"""`Hanoi-v1`: move a tower of disks to the last peg."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from ..core import Outcome
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

_PEGS = "ABC"
_DISKS = {"easy": 3, "medium": 4, "hard": 5}
_FEWEST = {"easy": 3, "medium": 8, "hard": 16}


class Pegs(NamedTuple):
    """The peg (0 to 2) of each disk, the smallest first."""

    pegs: tuple[int, ...]


class Hanoi(Puzzle[Pegs]):
    """Move all disks to peg C, one at a time, never a larger one onto a smaller one.

    Observation: a line for each peg with its disks from the bottom up, 1 the smallest, such as `A: 3 1`, or `A: -` where it is
        empty.
    Tools: `move(source, target)`, the pegs A, B or C. A move that the rules forbid is an invalid call.
    Reward: 1 when all disks are on C, else 0. With `reward="step"` the change of a potential is added: the share of the
        fewest moves from the start that is behind you.
    Terminated: all disks on C (success). Truncated: `max_turns`.
    Levels: 3, 4 and 5 disks spread over the pegs at random, at least 3, 8 and 16 moves from the end; 14, 30 and 62 turns,
        twice what the furthest start needs.
    State key: the pegs of the disks. Expert: fewest moves.
    Source: Lucas (1883); the fewest moves from any start: Hinz et al., The Tower of Hanoi: Myths and Maths (2013), 2.3.
    """

    turns: ClassVar[Mapping[str, int]] = {"easy": 14, "medium": 30, "hard": 62}
    rules = (
        "Disks lie on the pegs A, B and C. Move one disk at a time, from the top of a peg to the top of another, never onto a"
        " smaller one. Bring all disks to C."
    )

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> Pegs:
        while True:
            pegs = tuple(draws.below(3) for _ in range(_DISKS[level]))
            if _distance(pegs) >= _FEWEST[level]:
                return Pegs(pegs)

    @classmethod
    def solution(cls, instance: Pegs) -> list[str]:
        """The moves, each two letters: from and to."""
        pegs, moves = list(instance.pegs), []
        while (best := _best(pegs)) is not None:
            disk, target = best
            moves.append(_PEGS[pegs[disk]] + _PEGS[target])
            pegs[disk] = target
        return moves

    @classmethod
    def _holds(cls, instance: Pegs, solution: Sequence[str]) -> bool:
        """Whether these moves keep to the rules and end with all disks on C."""
        stacks: list[list[int]] = [[], [], []]
        for disk in reversed(range(len(instance.pegs))):
            stacks[instance.pegs[disk]].append(disk)
        for move in solution:
            here, there = (stacks[_PEGS.index(peg)] for peg in move)
            if not here or (there and there[-1] < here[-1]):
                return False
            there.append(here.pop())
        return not stacks[0] and not stacks[1]

    def begin(self, instance: Pegs) -> str:
        """Show the pegs."""
        self.pegs = list(instance.pegs)
        self.whole = _distance(self.pegs)
        return self._report()

    def _report(self) -> str:
        stacks: tuple[list[str], ...] = ([], [], [])
        for disk in reversed(range(len(self.pegs))):
            stacks[self.pegs[disk]].append(str(disk + 1))
        return "\n".join(
            f"{name}: {' '.join(stack) or '-'}" for name, stack in zip(_PEGS, stacks, strict=True)
        )

    @tool
    def move(self, source: Literal["A", "B", "C"], target: Literal["A", "B", "C"]) -> Outcome:
        """Move the top disk of a peg.

        Args:
            source: the peg it lies on.
            target: the peg it goes to.
        """
        here, there = _PEGS.index(source), _PEGS.index(target)
        if here not in self.pegs:
            return Outcome(f"{source} is empty.\n{self._report()}", invalid=True)
        disk = self.pegs.index(here)
        if there in self.pegs[: disk + 1]:
            why = "is there already" if here == there else "cannot lie on a smaller one"
            return Outcome(f"Disk {disk + 1} {why}.\n{self._report()}", invalid=True)
        self.pegs[disk] = there
        if self.pegs.count(2) == len(self.pegs):
            return Outcome("All disks are on C.", reward=1.0, success=True)
        return Outcome(self._report())

    def potential(self) -> float:
        """Share of the fewest moves that is done; negative further away than the start."""
        return (self.whole - _distance(self.pegs)) / self.whole

    def state_key(self) -> Hashable:
        """The pegs of the disks."""
        return tuple(self.pegs)

    def legal(self) -> list[Call]:
        """The moves that the rules allow."""
        tops = [self.pegs.index(peg) if peg in self.pegs else len(self.pegs) for peg in range(3)]
        return [
            Call("move", {"source": _PEGS[here], "target": _PEGS[there]})
            for here in range(3)
            for there in range(3)
            if tops[here] < tops[there]
        ]

    def expert(self) -> Call | None:
        """The first of the fewest moves."""
        best = _best(self.pegs)
        if best is None:
            return None
        disk, target = best
        return Call("move", {"source": _PEGS[self.pegs[disk]], "target": _PEGS[target]})


def _distance(pegs: Sequence[int]) -> int:
    """Fewest moves that bring all disks to the last peg.

    From the largest disk down: one that must still move costs 2**disk moves in all, and the smaller ones then have to
    meet on the third peg first.
    """
    target, moves = 2, 0
    for disk in reversed(range(len(pegs))):
        if pegs[disk] != target:
            moves += 1 << disk
            target = 3 - pegs[disk] - target
    return moves


def _best(pegs: Sequence[int]) -> tuple[int, int] | None:
    """The first of the fewest moves, as (disk, peg); None where all is done."""
    target, best = 2, None
    for disk in reversed(range(len(pegs))):
        if pegs[disk] != target:
            best = (disk, target)
            target = 3 - pegs[disk] - target
    return best
