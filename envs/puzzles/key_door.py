"""`KeyDoor-v1`: rooms behind locked doors, with each key far from its door."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from ..core import Outcome
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

_STEPS: dict[str, tuple[int, int]] = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
_ROOMS = {"easy": 2, "medium": 3, "hard": 4}
_SIZE = {"easy": 3, "medium": 4, "hard": 5}
_PILLARS = {"easy": 0, "medium": 2, "hard": 5}
Cell = tuple[int, int]


class House(NamedTuple):
    """Rooms of `size` x `size` cells beside each other, a column of wall between two, in which row `doors[i]` is the door.

    Cells are (row, column), the column counted over the whole house. The key of door `i` lies in the room before it.
    """

    size: int
    pillars: tuple[Cell, ...]
    doors: tuple[int, ...]
    keys: tuple[Cell, ...]
    start: Cell
    goal: Cell


class KeyDoor(Puzzle[House]):
    """Cross several rooms to the goal; every door is locked, and its key lies far from it.

    Observation: the room you are in, one line per row, cells apart by spaces: `#` wall or pillar, `.` floor, `@` you, `k` the
        key, `D` the door (`/` once it is open), `*` the goal; then a line with the number of the room and what you hold.
    Tools: `move(direction)` with left, down, right or up. Walking onto a key takes it, walking against a door opens it with the
        key and goes through; against a wall or a locked door you stay where you are.
    Reward: 1 at the goal, else 0: nothing is paid for a key or a door. With `reward="step"` the change of a potential is
        added: the share of the fewest steps from the start that is behind you.
    Terminated: at the goal (success). Truncated: `max_turns`.
    Levels: 2 rooms of 3 x 3, 3 of 4 x 4 with 2 pillars each, 4 of 5 x 5 with 5; 30, 60 and 110 turns.
    State key: house, cell and the number of keys taken and doors opened. Expert: fewest steps.
    Source: Key-to-Door of Hung et al., Optimizing Agent Behavior over Long Time Scales (2019); DoorKey of MiniGrid.
    """

    turns: ClassVar[Mapping[str, int]] = {"easy": 30, "medium": 60, "hard": 110}
    rules = (
        "You see the room you are in: # wall, . floor, @ you, k key, D locked door, / open door, * goal. Fetch the key of each"
        " door, go through, and reach the goal in the last room."
    )

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> House:
        size, rooms = _SIZE[level], _ROOMS[level]
        while True:
            pillars: list[Cell] = []
            keys: list[Cell] = []
            doors = tuple(draws.below(size) for _ in range(rooms - 1))
            start = goal = (0, 0)
            for room in range(rooms):
                first = room * (size + 1)
                cells = [(row, first + column) for row in range(size) for column in range(size)]
                beside_doors = {(doors[room - 1], first)} if room else set()
                if room < rooms - 1:
                    beside_doors.add((doors[room], first + size - 1))
                inner = draws.shuffled([cell for cell in cells if cell not in beside_doors])
                pillars += inner[: _PILLARS[level]]
                free = inner[_PILLARS[level] :]
                if room == 0:
                    start = free.pop()
                if room < rooms - 1:
                    # The key lies in the half of the free cells that is further from the door.
                    free.sort(
                        key=lambda c: (abs(c[0] - doors[room]) + abs(c[1] - first - size), c), reverse=True
                    )
                    keys.append(draws.pick(free[: max(1, len(free) // 2)]))
                else:
                    goal = draws.pick(free)
            house = House(size, tuple(sorted(pillars)), doors, tuple(keys), start, goal)
            if _lengths(house) is not None:
                return house

    @classmethod
    def solution(cls, instance: House) -> list[str]:
        """Directions of the fewest steps."""
        cell, stage, way = instance.start, 0, []
        while cell != instance.goal:
            distance = _to_target(instance, stage)
            direction = min(_STEPS, key=lambda d: distance.get(_beside(cell, d), 10**9))
            cell = _beside(cell, direction)
            way.append(direction)
            stage += cell == _target(instance, stage)
        return way

    @classmethod
    def _holds(cls, instance: House, solution: Sequence[str]) -> bool:
        """Whether these steps lead to the goal, through no wall and no door without its key."""
        row, column = instance.start
        held: set[int] = set()
        width = len(instance.doors) * (instance.size + 1) + instance.size
        for direction in solution:
            down, right = _STEPS[direction]
            row, column = row + down, column + right
            if not (0 <= row < instance.size and 0 <= column < width) or (row, column) in instance.pillars:
                return False
            room, place = divmod(column, instance.size + 1)
            if place == instance.size and (row != instance.doors[room] or room not in held):
                return False
            held |= {number for number, key in enumerate(instance.keys) if key == (row, column)}
        return (row, column) == instance.goal

    def begin(self, instance: House) -> str:
        """Show the first room."""
        # The stage counts keys taken and doors opened: key, door, key, door, .., goal.
        self.cell, self.stage = instance.start, 0
        lengths = _lengths(instance)
        assert lengths is not None
        self.lengths = lengths
        self.whole = self._left()
        return self._report()

    def _left(self) -> int:
        distances, after = self.lengths[self.stage]
        return distances[self.cell] + after

    def _report(self) -> str:
        size, pillars, doors, keys, _, goal = self.instance
        room = self.cell[1] // (size + 1)
        first = room * (size + 1) - 1  # the wall on the left, which the first room does not have
        rows = [["#", *"." * size, "#"] for _ in range(size)]
        for row, column in pillars:
            if first < column <= first + size:
                rows[row][column - first] = "#"
        if room:
            rows[doors[room - 1]][0] = "/"
        if room < len(doors):
            rows[doors[room]][-1] = "/" if self.stage > 2 * room + 1 else "D"
            if self.stage <= 2 * room:
                rows[keys[room][0]][keys[room][1] - first] = "k"
        else:
            rows[goal[0]][goal[1] - first] = "*"
        rows[self.cell[0]][self.cell[1] - first] = "@"
        held = "a key" if self.stage % 2 else "nothing"
        drawn = "\n".join(map(" ".join, rows))
        return f"{drawn}\nroom {room + 1} of {len(doors) + 1}; you hold {held}"

    @tool
    def move(self, direction: Literal["left", "down", "right", "up"]) -> Outcome:
        """Take one step.

        Args:
            direction: where to.
        """
        there = _beside(self.cell, direction)
        if there in self.lengths[self.stage][0]:
            self.cell = there
            if there == _target(self.instance, self.stage):
                self.stage += 1
        if self.stage == len(self.lengths):
            return Outcome("You reached the goal.", reward=1.0, success=True)
        return Outcome(self._report())

    def potential(self) -> float:
        """Share of the fewest steps that is done; negative further away than the start."""
        return (self.whole - self._left()) / self.whole

    def state_key(self) -> Hashable:
        """House, cell, keys taken and doors opened."""
        return self.instance, self.cell, self.stage

    def legal(self) -> list[Call]:
        """The four directions."""
        return [Call("move", {"direction": direction}) for direction in _STEPS]

    def expert(self) -> Call:
        """A step of a shortest way."""
        if self.stage == len(self.lengths):
            return Call("move", {"direction": "left"})
        distance = self.lengths[self.stage][0]
        nearest = min(_STEPS, key=lambda d: distance.get(_beside(self.cell, d), 10**9))
        return Call("move", {"direction": nearest})


def _beside(cell: Cell, direction: str) -> Cell:
    down, right = _STEPS[direction]
    return cell[0] + down, cell[1] + right


def _target(house: House, stage: int) -> Cell:
    """What comes next: the key of a room, its door, and so on, at last the goal."""
    room, at_door = divmod(stage, 2)
    if room == len(house.doors):
        return house.goal
    return (house.doors[room], room * (house.size + 1) + house.size) if at_door else house.keys[room]


def _to_target(house: House, stage: int) -> dict[Cell, int]:
    """Steps to the target of a stage from every cell that can be walked on in it, the target included."""
    opened = stage // 2  # doors that are open; in odd stages the next one can be opened
    last = opened + stage % 2
    pillars = set(house.pillars)

    def free(cell: Cell) -> bool:
        row, column = cell
        if not (0 <= row < house.size and column >= 0) or cell in pillars:
            return False
        room, place = divmod(column, house.size + 1)
        if place == house.size:
            return room < min(last, len(house.doors)) and row == house.doors[room]
        return room <= opened

    target = _target(house, stage)
    distance = {target: 0}
    queue = [target]
    for cell in queue:
        for direction in _STEPS:
            there = _beside(cell, direction)
            if there not in distance and free(there):
                distance[there] = distance[cell] + 1
                queue.append(there)
    return distance


def _lengths(house: House) -> list[tuple[dict[Cell, int], int]] | None:
    """By stage: the steps to its target, and those from there to the goal. None where some target cannot be reached."""
    stages = [_to_target(house, stage) for stage in range(2 * len(house.doors) + 1)]
    targets = [_target(house, stage) for stage in range(len(stages))]
    after = [0] * len(stages)
    for stage in reversed(range(1, len(stages))):
        if targets[stage - 1] not in stages[stage]:
            return None
        after[stage - 1] = after[stage] + stages[stage][targets[stage - 1]]
    return list(zip(stages, after, strict=True)) if house.start in stages[0] else None
