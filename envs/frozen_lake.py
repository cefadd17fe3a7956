"""`FrozenLake-v1`: cross a frozen lake without falling into a hole."""

from __future__ import annotations

import ast
import math
from collections import deque
from collections.abc import Hashable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from .core import Outcome, TurnEnv
from .errors import InvalidParameter
from .pictures import Grid
from .tasks import Task, split_of
from .tools import Call, tool

_TRIES = 50_000
_MOVES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
_TURNED = {
    "left": ("up", "down"),
    "right": ("down", "up"),
    "up": ("right", "left"),
    "down": ("left", "right"),
}


class FrozenLake(TurnEnv):
    """Walk over a frozen lake from the start to the goal; a hole ends the episode.

    Observation: what lies on the four sides (ice, hole, edge, goal) and how far the goal is, such as `left ice, down
        hole, right edge, up ice; goal 2 down 1 left`. The first observation has the map above that line, one row a
        line, cells apart by spaces: `@` you, `.` ice, `O` hole, `*` goal. The map does not change and the goal's
        distance gives your place on it, so nothing is hidden. At the end a sentence says what happened.
    Tools: `move(direction)` with left, down, right or up. Walking against the edge leaves you where you are.
    Reward: 1 at the goal, else 0. With `reward="step"` the change of a potential is added: the share of the shortest
        safe way that is behind you, (d(start) - d(here)) / d(start), 0 once the episode is over; a step towards the
        goal pays 1 / d(start), and a fall takes back what was gained.
    Terminated: goal (success) or hole. Truncated: `max_turns` (12 as registered; give a larger map more).
    Task: a map of `size` x `size`; each cell but start and goal is a hole with probability `holes`, maps without a
        safe way are drawn again, and so are those of another split: no map is in two. Start and goal are drawn too, at least `size - 1` steps apart.
    Slippery: with probability `slip` a move goes to one of the two sides instead (each with half of it). Gymnasium's
        FrozenLake has 2/3 there and fixed maps.
    State key: map and position. Expert: a shortest safe way; with slip the policy with the greatest chance of reaching
        the goal in the turns that are left, which may still fall.
    Source: FrozenLake of Gymnasium (Brockman et al., OpenAI Gym, 2016), over generated maps as in RAGEN (Wang et al., 2025).
    """

    size: Annotated[int, Field(ge=2, le=16)] = 4
    holes: Annotated[float, Field(ge=0.0, le=0.6)] = 0.25
    slip: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0

    rules = (
        "You are on a frozen lake. On the map @ is you, . is ice, O is a hole, * is the goal. "
        "Reach the goal without stepping into a hole."
    )

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Draw a solvable map from the task's seed."""
        n = self.size
        generator = np.random.Generator(np.random.PCG64(task.seed))
        for _ in range(_TRIES):
            cells = (generator.random((n, n)) < self.holes).tolist()
            start, goal = (divmod(int(c), n) for c in generator.choice(n * n, 2, replace=False))
            if abs(start[0] - goal[0]) + abs(start[1] - goal[1]) < n - 1:
                continue
            cells[start[0]][start[1]] = cells[goal[0]][goal[1]] = False
            distance = _distances(cells, goal)
            key = "".join("O" if c else "." for row in cells for c in row) + f"{goal}"
            if start in distance and split_of(key) == task.split:
                break
        else:
            raise InvalidParameter(
                f"no map of size {n} with holes={self.holes:g} was found for the split {task.split!r} in {_TRIES:,} tries: "
                "there are too few different ones, or too few that can be crossed; choose another size"
            )
        self.cells, self.goal, self.position, self.distance = cells, goal, start, distance
        self.length = distance[start]
        self.policy: np.ndarray | None = None
        self.map_key = key
        return f"{self._map()}\n{self._report()}"

    def _map(self) -> str:
        rows = [["O" if hole else "." for hole in row] for row in self.cells]
        rows[self.goal[0]][self.goal[1]] = "*"
        rows[self.position[0]][self.position[1]] = "@"
        return "\n".join(" ".join(row) for row in rows)

    def _report(self) -> str:
        row, column = self.position
        sides = (f"{d} {self._at(row + down, column + right)}" for d, (down, right) in _MOVES.items())
        down, right = self.goal[0] - row, self.goal[1] - column
        ways = ((down, "down"), (-down, "up"), (right, "right"), (-right, "left"))
        return f"{', '.join(sides)}; goal {' '.join(f'{n} {way}' for n, way in ways if n > 0)}"

    def _at(self, row: int, column: int) -> str:
        if not (0 <= row < self.size and 0 <= column < self.size):
            return "edge"
        if (row, column) == self.goal:
            return "goal"
        return "hole" if self.cells[row][column] else "ice"

    @tool
    def move(self, direction: Literal["left", "down", "right", "up"]) -> Outcome:
        """Take one step.

        Args:
            direction: where to.
        """
        if self.slip and self.np_random.random() < self.slip:
            direction = _TURNED[direction][int(self.np_random.integers(2))]  # type: ignore[assignment]
        row, column = self.position
        down, right = _MOVES[direction]
        last = self.size - 1
        self.position = (min(max(row + down, 0), last), min(max(column + right, 0), last))
        if self.position == self.goal:
            return Outcome("You reached the goal.", reward=1.0, success=True)
        if self.cells[self.position[0]][self.position[1]]:
            return Outcome("You fell into a hole.", success=False)
        return Outcome(self._report())

    def potential(self) -> float:
        """Share of the shortest safe way that is done; negative further away than the start."""
        return (self.length - self.distance[self.position]) / self.length

    def state_key(self) -> Hashable:
        """Map and position."""
        return self.map_key, self.position

    @classmethod
    def picture(cls, observation: str, state_key: str) -> Grid | None:
        """The lake, from the state key."""
        try:
            map_key, position = ast.literal_eval(state_key)
            signs, _, goal = map_key.partition("(")
            size = math.isqrt(len(signs))
            rows = [
                ["hole" if sign == "O" else "ice" for sign in signs[r * size :][:size]] for r in range(size)
            ]
            goal_row, goal_column = ast.literal_eval(f"({goal}")
            rows[goal_row][goal_column] = "goal"
            rows[position[0]][position[1]] += "+player"
        except (ValueError, SyntaxError, TypeError, IndexError, AttributeError):
            return None
        return Grid(tuple(map(tuple, rows)))

    def expert(self) -> Call:
        """A step that shortens the way; with slip, the step with the best chance."""
        row, column = self.position
        if self.slip:
            if self.policy is None:
                self.policy = self._best_moves()
            best = self.policy[self.max_turns - self._turn - 1, row * self.size + column]
            return Call("move", {"direction": list(_MOVES)[best]})
        here = self.distance.get(self.position, 0)
        for direction, (down, right) in _MOVES.items():
            if self.distance.get((row + down, column + right), here) < here:
                return Call("move", {"direction": direction})
        return Call("move", {"direction": "left"})

    def _best_moves(self) -> np.ndarray:
        """The move with the best chance by turns left, less one, and by cell; backward induction over the turns."""
        n = self.size
        rows, columns = np.divmod(np.arange(n * n), n)
        to = {
            direction: (rows + down).clip(0, n - 1) * n + (columns + right).clip(0, n - 1)
            for direction, (down, right) in _MOVES.items()
        }
        over = np.array(self.cells).ravel()
        chance = np.zeros(n * n)
        over[self.goal[0] * n + self.goal[1]] = True
        chance[self.goal[0] * n + self.goal[1]] = 1.0
        moves = np.empty((self.max_turns, n * n), dtype=np.int8)
        for left in range(self.max_turns):
            after = {direction: chance[cells] for direction, cells in to.items()}
            chances = np.array(
                [
                    (1 - self.slip) * after[direction] + self.slip / 2 * (after[one] + after[other])
                    for direction, (one, other) in ((d, _TURNED[d]) for d in _MOVES)
                ]
            )
            moves[left] = chances.argmax(axis=0)
            chance = np.where(over, chance, chances.max(axis=0))
        return moves


def _distances(cells: list[list[bool]], goal: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Steps to the goal from every safe cell that can reach it."""
    n = len(cells)
    distance = {goal: 0}
    queue = deque([goal])
    while queue:
        row, column = queue.popleft()
        for down, right in _MOVES.values():
            there = (row + down, column + right)
            if (
                0 <= there[0] < n
                and 0 <= there[1] < n
                and there not in distance
                and not cells[there[0]][there[1]]
            ):
                distance[there] = distance[row, column] + 1
                queue.append(there)
    return distance
