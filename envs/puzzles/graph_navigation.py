"""`GraphNavigation-v1`: walk through a graph of places to one that is asked for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple

from ..core import Outcome
from ..tools import Call, tool
from .puzzle import Draws, Puzzle

_PLACES = (
    "abbey", "arcade", "bakery", "barn", "bridge", "canal", "castle", "cave", "chapel", "cinema", "clinic", "dock",
    "factory", "farm", "ferry", "forge", "fort", "garden", "harbour", "hotel", "island", "kiosk", "library", "market",
    "mill", "museum", "palace", "park", "pier", "prison", "quarry", "school", "square", "stable", "station", "theatre",
    "tower", "tunnel", "village", "well",
)  # fmt: skip
_SIZE = {"easy": 8, "medium": 16, "hard": 30}
_EXTRA = {"easy": 2, "medium": 5, "hard": 12}
_LEAST = {"easy": 3, "medium": 4, "hard": 5}


class Places(NamedTuple):
    """A graph: `ways[i]` holds the places that a way leads to from place `i`, in rising order."""

    names: tuple[str, ...]
    ways: tuple[tuple[int, ...], ...]
    start: int
    goal: int
    shown: bool


class GraphNavigation(Puzzle[Places]):
    """Go from place to place until you are where you are asked to be.

    Observation: where you are and where ways lead to from there, such as `mill. Ways to: cave, park. Find the tower.` On the
        levels easy and medium the first observation lists all ways above that line. On hard there is no list, and ways may
        lead in one direction only: the graph is explored.
    Tools: `go(place)`. A place to which no way leads from here is an invalid call.
    Reward: 1 at the goal, else 0. With `reward="step"` the change of a potential is added: the share of the shortest way
        that is behind you.
    Terminated: at the goal (success). Truncated: `max_turns`.
    Levels: 8, 16 and 30 places, a random tree with 2, 5 and 12 ways more (hard: a ring of one-way ways instead of the tree),
        at least 3, 4 and 5 ways from the goal; 10, 16 and 40 turns.
    State key: graph and place. Expert: a shortest way.
    Source: NLGraph (Wang et al., 2023) has the same task in one turn.
    """

    turns: ClassVar[Mapping[str, int]] = {"easy": 10, "medium": 16, "hard": 40}
    rules = "You walk from place to place along ways. Find the place that is asked for."

    @classmethod
    def _drawn(cls, draws: Draws, level: str) -> Places:
        size = _SIZE[level]
        while True:
            ways: list[set[int]] = [set() for _ in range(size)]
            for place in range(1, size):
                if level == "hard":
                    ways[place - 1].add(place)
                else:
                    other = draws.below(place)
                    ways[place].add(other)
                    ways[other].add(place)
            if level == "hard":
                ways[size - 1].add(0)
            for _ in range(_EXTRA[level]):
                one, other = draws.shuffled(range(size))[:2]
                ways[one].add(other)
                if level != "hard":
                    ways[other].add(one)
            goal = draws.below(size)
            distance = _distances(ways, goal)
            far = [p for p in range(size) if _LEAST[level] <= distance[p] <= 2 * _LEAST[level]]
            if far:
                names = tuple(draws.shuffled(_PLACES)[:size])
                return Places(
                    names, tuple(tuple(sorted(w)) for w in ways), draws.pick(far), goal, level != "hard"
                )

    @classmethod
    def solution(cls, instance: Places) -> list[str]:
        """The places of a shortest way, the start left out."""
        distance, place, way = _distances(instance.ways, instance.goal), instance.start, []
        while place != instance.goal:
            place = min(instance.ways[place], key=lambda p: distance[p])
            way.append(instance.names[place])
        return way

    @classmethod
    def _holds(cls, instance: Places, solution: Sequence[str]) -> bool:
        """Whether ways lead through these places to the goal."""
        edges = {
            (instance.names[one], instance.names[other])
            for one, ways in enumerate(instance.ways)
            for other in ways
        }
        stops = [instance.names[instance.start], *solution]
        return stops[-1] == instance.names[instance.goal] and all(step in edges for step in pairwise(stops))

    def begin(self, instance: Places) -> str:
        """Say where the episode begins, and list the ways where they are shown."""
        self.place = instance.start
        self.distance = _distances(instance.ways, instance.goal)
        if not instance.shown:
            return self._report()
        lines = [
            f"{name} - {', '.join(instance.names[p] for p in ways)}"
            for name, ways in zip(instance.names, instance.ways, strict=True)
        ]
        return "\n".join([*lines, self._report()])

    def _report(self) -> str:
        names, ways, _, goal, _ = self.instance
        return f"{names[self.place]}. Ways to: {', '.join(names[p] for p in ways[self.place])}. Find the {names[goal]}."

    @tool
    def go(self, place: str) -> Outcome:
        """Go to a place that a way leads to from here.

        Args:
            place: its name.
        """
        name = place.strip().lower()
        there = next((p for p in self.instance.ways[self.place] if self.instance.names[p] == name), None)
        if there is None:
            return Outcome(f"No way leads to {name[:20]!r} from here. {self._report()}", invalid=True)
        self.place = there
        if there == self.instance.goal:
            return Outcome(f"You found the {name}.", reward=1.0, success=True)
        return Outcome(self._report())

    def potential(self) -> float:
        """Share of the shortest way that is done; negative further away than the start."""
        whole = self.distance[self.instance.start]
        return (whole - self.distance[self.place]) / whole

    def state_key(self) -> Hashable:
        """Graph and place."""
        return self.instance, self.place

    def legal(self) -> list[Call]:
        """The places that ways lead to."""
        return [Call("go", {"place": self.instance.names[p]}) for p in self.instance.ways[self.place]]

    def expert(self) -> Call:
        """The next place of a shortest way."""
        there = min(self.instance.ways[self.place], key=lambda p: self.distance[p])
        return Call("go", {"place": self.instance.names[there]})


def _distances(ways: Sequence[Sequence[int] | set[int]], goal: int) -> list[int]:
    """Ways to the goal from every place; there is one from each."""
    into: list[list[int]] = [[] for _ in ways]
    for one, others in enumerate(ways):
        for other in others:
            into[other].append(one)
    distance = [-1] * len(ways)
    distance[goal] = 0
    queue = [goal]
    for place in queue:
        for other in into[place]:
            if distance[other] < 0:
                distance[other] = distance[place] + 1
                queue.append(other)
    return distance
