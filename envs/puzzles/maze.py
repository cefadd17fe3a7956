"""`Maze-v1`: find the way through a maze."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from ..core import Outcome
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

# Bit of the open side, change of row, change of column.
_SIDES: dict[str, tuple[int, int, int]] = {
    "left": (1, 0, -1),
    "down": (2, 1, 0),
    "right": (4, 0, 1),
    "up": (8, -1, 0),
}
_OPPOSITE = {1: 4, 4: 1, 2: 8, 8: 2}
_SIZE = {"easy": 4, "medium": 6, "hard": 8}
_LOOPS = {"easy": 0, "medium": 2, "hard": 5}


class Labyrinth(NamedTuple):
    """A maze. Cell `(row, column)` has number `row * size + column`; `open_sides` holds the bits of its open sides."""

    size: int
    open_sides: tuple[int, ...]
    start: int
    goal: int
    shown: bool


class Maze(Puzzle[Labyrinth]):
    """Walk through a maze to the goal.

    Observation: the open sides of the cell and where the goal is, such as `open: down, right; goal 2 down 1 left`. On the
        levels easy and medium the first observation has the map above that line: `#` wall, `.` floor, `@` you, `*` goal.
        On hard there is no map: the maze is explored.
    Tools: `move(direction)` with left, down, right or up. Walking against a wall leaves you where you are.
    Reward: 1 at the goal, else 0. With `reward="step"` the change of a potential is added: the share of the shortest way
        that is behind you, (d(start) - d(here)) / d(start).
    Terminated: at the goal (success). Truncated: `max_turns`.
    Levels: 4 x 4, 6 x 6 and 8 x 8 cells; 20, 40 and 80 turns. A spanning tree by depth-first search, in which 0, 2 and 5
        walls more are opened; the start lies in the third of the cells that is furthest from the goal.
    State key: maze and cell. Expert: a shortest way.
    Source: recursive backtracker (Buck, Mazes for Programmers, 2015).
    """

    turns: ClassVar[Mapping[str, int]] = {"easy": 20, "medium": 40, "hard": 80}
    rules = "You are in a maze. Find the way to the goal."

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> Labyrinth:
        size = _SIZE[level]
        sides = [0] * (size * size)
        way = [draws.below(size * size)]
        seen = set(way)
        while way:
            free = [(bit, cell) for bit, cell in _beside(size, way[-1]) if cell not in seen]
            if not free:
                way.pop()
                continue
            bit, cell = draws.pick(free)
            sides[way[-1]] |= bit
            sides[cell] |= _OPPOSITE[bit]
            seen.add(cell)
            way.append(cell)
        for _ in range(_LOOPS[level]):
            cell = draws.below(size * size)
            bit, beside = draws.pick(_beside(size, cell))
            sides[cell] |= bit
            sides[beside] |= _OPPOSITE[bit]
        goal = draws.below(size * size)
        furthest = sorted(enumerate(_distances(size, sides, goal)), key=lambda d: (-d[1], d[0]))
        start = draws.pick(furthest[: len(furthest) // 3])[0]
        return Labyrinth(size, tuple(sides), start, goal, level != "hard")

    @classmethod
    def solution(cls, instance: Labyrinth) -> list[str]:
        """Directions of a shortest way."""
        distance = _distances(instance.size, instance.open_sides, instance.goal)
        cell, way = instance.start, []
        while cell != instance.goal:
            direction = _nearer(instance, distance, cell)
            way.append(direction)
            cell = _step(instance, cell, direction)
        return way

    @classmethod
    def _holds(cls, instance: Labyrinth, solution: Sequence[str]) -> bool:
        """Whether these directions lead to the goal and nowhere through a wall."""
        row, column = divmod(instance.start, instance.size)
        for direction in solution:
            bit, down, right = _SIDES[direction]
            if not instance.open_sides[row * instance.size + column] & bit:
                return False
            row, column = row + down, column + right
        return row * instance.size + column == instance.goal

    def begin(self, instance: Labyrinth) -> str:
        """Show the map, or the first cell of a maze without one."""
        self.cell = instance.start
        self.distance = _distances(instance.size, instance.open_sides, instance.goal)
        return f"{_map(instance)}\n{self._report()}" if instance.shown else self._report()

    def _report(self) -> str:
        size, sides, _, goal, _ = self.instance
        row, column = divmod(self.cell, size)
        down, right = goal // size - row, goal % size - column
        ways = ((down, "down"), (-down, "up"), (right, "right"), (-right, "left"))
        clear = ", ".join(name for name, (bit, _, _) in _SIDES.items() if sides[self.cell] & bit)
        return f"open: {clear}; goal {' '.join(f'{n} {way}' for n, way in ways if n > 0)}"

    @tool
    def move(self, direction: Literal["left", "down", "right", "up"]) -> Outcome:
        """Take one step.

        Args:
            direction: where to.
        """
        self.cell = _step(self.instance, self.cell, direction)
        if self.cell == self.instance.goal:
            return Outcome("You reached the goal.", reward=1.0, success=True)
        return Outcome(self._report())

    def potential(self) -> float:
        """Share of the shortest way that is done; negative further away than the start."""
        whole = self.distance[self.instance.start]
        return (whole - self.distance[self.cell]) / whole

    def state_key(self) -> Hashable:
        """Maze and cell."""
        return self.instance, self.cell

    def legal(self) -> list[Call]:
        """The four directions."""
        return [Call("move", {"direction": direction}) for direction in _SIDES]

    def expert(self) -> Call:
        """A step of a shortest way."""
        if self.cell == self.instance.goal:
            return Call("move", {"direction": "left"})
        return Call("move", {"direction": _nearer(self.instance, self.distance, self.cell)})


def _beside(size: int, cell: int) -> list[tuple[int, int]]:
    """Side and number of the cells beside one, walls or not."""
    row, column = divmod(cell, size)
    return [
        (bit, (row + down) * size + column + right)
        for bit, down, right in _SIDES.values()
        if 0 <= row + down < size and 0 <= column + right < size
    ]


def _step(maze: Labyrinth, cell: int, direction: str) -> int:
    bit, down, right = _SIDES[direction]
    return cell + down * maze.size + right if maze.open_sides[cell] & bit else cell


def _distances(size: int, sides: Sequence[int], goal: int) -> list[int]:
    """Steps to the goal from every cell."""
    distance = [-1] * (size * size)
    distance[goal] = 0
    queue = [goal]
    for cell in queue:
        for bit, beside in _beside(size, cell):
            if sides[cell] & bit and distance[beside] < 0:
                distance[beside] = distance[cell] + 1
                queue.append(beside)
    return distance


def _nearer(maze: Labyrinth, distance: Sequence[int], cell: int) -> str:
    return min(_SIDES, key=lambda direction: distance[_step(maze, cell, direction)])


def _map(maze: Labyrinth) -> str:
    size, sides, start, goal, _ = maze
    rows = [["#"] * (2 * size + 1) for _ in range(2 * size + 1)]
    for cell in range(size * size):
        row, column = 2 * (cell // size) + 1, 2 * (cell % size) + 1
        rows[row][column] = "@" if cell == start else "*" if cell == goal else "."
        for bit, down, right in _SIDES.values():
            if sides[cell] & bit:
                rows[row + down][column + right] = "."
    return "\n".join(map("".join, rows))
