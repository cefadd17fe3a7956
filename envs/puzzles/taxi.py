"""`Taxi-v1`: fetch a passenger and bring them where they want to go."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from ..core import Outcome
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

_STEPS: dict[str, tuple[int, int]] = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
_STANDS = ("red", "green", "yellow", "blue")
_SIZE = {"easy": 4, "medium": 5, "hard": 7}
_WALLS = {"easy": 0, "medium": 5, "hard": 14}


class City(NamedTuple):
    """A city of `size` x `size` cells, number `row * size + column`, with walls between neighbours.

    `walls` holds pairs of cells, the smaller first; `stands` the cells of the four stands; `origin` and `destination` are
    stands by number.
    """

    size: int
    walls: tuple[tuple[int, int], ...]
    stands: tuple[int, int, int, int]
    taxi: int
    origin: int
    destination: int


class Taxi(Puzzle[City]):
    """Drive a taxi: fetch the passenger at one stand and set them down at another.

    Observation: where the taxi is, which sides are walled off, and how far the stand is that matters next, such as `You are
        at red. Walls: up, left. The passenger waits at blue, 3 down 2 right, and wants to go to green.` The first
        observation has the map above: `R`, `G`, `Y`, `B` the stands, `T` the taxi, `|` and `-` walls.
    Tools: `drive(direction)`, `pick_up()`, `set_down()`. Driving against a wall leaves you where you are; picking up where
        nobody waits and setting down anywhere but at the destination is an invalid call.
    Reward: 1 when the passenger is set down at the destination, else 0. With `reward="step"` the change of a potential is
        added: the share of the fewest actions from the start that is behind you.
    Terminated: the passenger has arrived (success). Truncated: `max_turns`.
    Levels: 4 x 4 without walls, 5 x 5 with 5, 7 x 7 with 14 walls; 24, 40 and 70 turns. All cells stay connected.
    State key: city, place of the taxi and whether the passenger is in it. Expert: a shortest drive.
    Source: Taxi (Dietterich, 2000), as in Gymnasium, with generated cities.
    """

    turns: ClassVar[Mapping[str, int]] = {"easy": 24, "medium": 40, "hard": 70}
    rules = "You drive a taxi. Pick up the passenger and set them down where they want to go."

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> City:
        size = _SIZE[level]
        cells = range(size * size)
        pairs = [(c, c + 1) for c in cells if c % size < size - 1]
        pairs += [(c, c + size) for c in cells if c // size < size - 1]
        walls: list[tuple[int, int]] = []
        for pair in draws.shuffled(pairs):
            if len(walls) == _WALLS[level]:
                break
            if min(_distances(size, frozenset([*walls, pair]), 0)) >= 0:
                walls.append(pair)
        red, green, yellow, blue, taxi = draws.shuffled(cells)[:5]
        origin, destination = draws.shuffled(range(4))[:2]
        return City(size, tuple(sorted(walls)), (red, green, yellow, blue), taxi, origin, destination)

    @classmethod
    def solution(cls, instance: City) -> list[str]:
        """Directions, `pick_up` and `set_down` of a shortest drive."""
        walls = frozenset(instance.walls)
        cell, actions = instance.taxi, []
        for stand, action in ((instance.origin, "pick_up"), (instance.destination, "set_down")):
            distance = _distances(instance.size, walls, instance.stands[stand])
            while distance[cell]:
                actions.append(_nearer(instance.size, walls, distance, cell))
                cell = _step(instance.size, walls, cell, actions[-1])
            actions.append(action)
        return actions

    @classmethod
    def _holds(cls, instance: City, solution: Sequence[str]) -> bool:
        """Whether these actions bring the passenger to the destination, none of them against a wall or out of place."""
        size, walls, stands, taxi, origin, destination = instance
        row, column = divmod(taxi, size)
        aboard = arrived = False
        for action in solution:
            if arrived:
                return False
            if action == "pick_up":
                if aboard or row * size + column != stands[origin]:
                    return False
                aboard = True
            elif action == "set_down":
                if not aboard or row * size + column != stands[destination]:
                    return False
                arrived = True
            else:
                down, right = _STEPS[action]
                here, there = row * size + column, (row + down) * size + column + right
                if not (0 <= row + down < size and 0 <= column + right < size):
                    return False
                if (min(here, there), max(here, there)) in walls:
                    return False
                row, column = row + down, column + right
        return arrived

    def begin(self, instance: City) -> str:
        """Show the city."""
        self.cell, self.aboard = instance.taxi, False
        self.walls = frozenset(instance.walls)
        self.to_origin, self.to_destination = (
            _distances(instance.size, self.walls, instance.stands[stand])
            for stand in (instance.origin, instance.destination)
        )
        self.drive_after = self.to_destination[instance.stands[instance.origin]] + 2
        self.whole = self.to_origin[self.cell] + self.drive_after
        return f"{_map(instance)}\n{self._report()}"

    def _report(self) -> str:
        size, _, stands, _, origin, destination = self.instance
        at = next(
            (f"at {name}" for name, cell in zip(_STANDS, stands, strict=True) if cell == self.cell),
            "on the road",
        )
        shut = [d for d in _STEPS if _step(size, self.walls, self.cell, d) == self.cell]
        next_stand = destination if self.aboard else origin
        row, column = divmod(self.cell, size)
        down, right = stands[next_stand] // size - row, stands[next_stand] % size - column
        ways = ((down, "down"), (-down, "up"), (right, "right"), (-right, "left"))
        far = " ".join(f"{n} {way}" for n, way in ways if n > 0) or "here"
        said = (
            f"The passenger is aboard and wants to go to {_STANDS[destination]}, {far}."
            if self.aboard
            else f"The passenger waits at {_STANDS[origin]}, {far}, and wants to go to {_STANDS[destination]}."
        )
        return f"You are {at}. Walls: {', '.join(shut) or 'none'}. {said}"

    @tool
    def drive(self, direction: Literal["left", "down", "right", "up"]) -> Outcome:
        """Drive to the next cell.

        Args:
            direction: where to.
        """
        self.cell = _step(self.instance.size, self.walls, self.cell, direction)
        return Outcome(self._report())

    @tool
    def pick_up(self) -> Outcome:
        """Let the passenger in."""
        if self.aboard or self.cell != self.instance.stands[self.instance.origin]:
            return Outcome(f"Nobody waits here. {self._report()}", invalid=True)
        self.aboard = True
        return Outcome(self._report())

    @tool
    def set_down(self) -> Outcome:
        """Let the passenger out."""
        if not self.aboard:
            return Outcome(f"Nobody is in the taxi. {self._report()}", invalid=True)
        if self.cell != self.instance.stands[self.instance.destination]:
            return Outcome(f"The passenger does not want to get out here. {self._report()}", invalid=True)
        return Outcome("The passenger has arrived.", reward=1.0, success=True)

    def potential(self) -> float:
        """Share of the fewest actions that is done; negative further away than the start."""
        left = (
            self.to_destination[self.cell] + 1
            if self.aboard
            else self.to_origin[self.cell] + self.drive_after
        )
        return (self.whole - left) / self.whole

    def state_key(self) -> Hashable:
        """City, cell and whether the passenger is aboard."""
        return self.instance, self.cell, self.aboard

    def legal(self) -> list[Call]:
        """The four directions, and what can be done where the taxi is."""
        calls = [Call("drive", {"direction": direction}) for direction in _STEPS]
        if not self.aboard and self.cell == self.instance.stands[self.instance.origin]:
            calls.append(Call("pick_up", {}))
        if self.aboard and self.cell == self.instance.stands[self.instance.destination]:
            calls.append(Call("set_down", {}))
        return calls

    def expert(self) -> Call:
        """An action of a shortest drive."""
        distance = self.to_destination if self.aboard else self.to_origin
        if not distance[self.cell]:
            return Call("set_down" if self.aboard else "pick_up", {})
        return Call("drive", {"direction": _nearer(self.instance.size, self.walls, distance, self.cell)})


def _step(size: int, walls: frozenset[tuple[int, int]], cell: int, direction: str) -> int:
    row, column = divmod(cell, size)
    down, right = _STEPS[direction]
    if not (0 <= row + down < size and 0 <= column + right < size):
        return cell
    there = (row + down) * size + column + right
    return cell if (min(cell, there), max(cell, there)) in walls else there


def _distances(size: int, walls: frozenset[tuple[int, int]], goal: int) -> list[int]:
    """Steps to the goal from every cell, -1 where there is no way."""
    distance = [-1] * (size * size)
    distance[goal] = 0
    queue = [goal]
    for cell in queue:
        for direction in _STEPS:
            there = _step(size, walls, cell, direction)
            if distance[there] < 0:
                distance[there] = distance[cell] + 1
                queue.append(there)
    return distance


def _nearer(size: int, walls: frozenset[tuple[int, int]], distance: Sequence[int], cell: int) -> str:
    return min(_STEPS, key=lambda direction: distance[_step(size, walls, cell, direction)])


def _map(city: City) -> str:
    size, walls, stands, taxi, _, _ = city
    rows = [["."] * (2 * size - 1) for _ in range(2 * size - 1)]
    for r in range(2 * size - 1):
        for c in range(2 * size - 1):
            if r % 2 or c % 2:
                rows[r][c] = " "
    for one, other in walls:
        row, column = divmod(one, size)
        if other == one + 1:
            rows[2 * row][2 * column + 1] = "|"
        else:
            rows[2 * row + 1][2 * column] = "-"
    for name, cell in zip(_STANDS, stands, strict=True):
        rows[2 * (cell // size)][2 * (cell % size)] = name[0].upper()
    rows[2 * (taxi // size)][2 * (taxi % size)] = "T"
    return "\n".join("".join(row).rstrip() for row in rows)
