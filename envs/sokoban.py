"""`Sokoban-v1`: push boxes onto targets, in generated rooms or in Boxoban's levels."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import lru_cache
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from .core import Outcome, TurnEnv
from .errors import InvalidParameter
from .pictures import Grid
from .tasks import ListedTasks, ProceduralTasks, Task, TaskSet, split_of
from .tools import Call, tool

_TRIES = 20_000
_SEARCH_LIMIT = 100_000
_WALLS = 0.3


class Room(NamedTuple):
    """A room. Cell `(row, column)` is bit `row * width + column` of each set; the border is all wall."""

    width: int
    height: int
    floor: int
    targets: int
    boxes: int
    player: int


class Sokoban(TurnEnv):
    """Push every box onto a target. Boxes are pushed one at a time and never pulled, so a push can spoil the room.

    Observation: the room, one line per row, cells apart by spaces: `#` wall, `_` floor, `$` box, `.` target, `*` box on
        a target, `@` you, `+` you on a target. At the end a sentence says that all is done.
    Tools: `move(direction)` with left, down, right or up. A box in the way is pushed; where a wall or a second box
        stands behind it, and at a wall, nothing moves.
    Reward: 1 when the last box is on its target, else 0. With `reward="step"` the change of a potential is added: the
        share of the pushes that is done, (d(start) - d(here)) / d(start), d the sum over the boxes of the pushes to the
        nearest target with no other box in the way. A box that no push can bring to a target any more counts one push
        more than the furthest that can.
    Terminated: every box is on a target (success). A room that cannot be solved any more goes on: that the agent sees
        it coming is part of the task. Truncated: `max_turns` (30 as registered; Boxoban's hard levels want about 120).
    Task: a room of `size` x `size` with `boxes` boxes, all off their targets, that needs at least `pushes` pushes. It
        is found by playing backwards from the solved room, pulling boxes, so it can be solved. No room is in two splits,
        not even with the player elsewhere.
    Levels: with `levels`, a text file in the form of Boxoban or a folder of such `.txt` files, the tasks are its levels
        and `size`, `boxes` and `pushes` are not used. A level's id is `file:number`, with the path inside the folder.
        Files in folders called train, valid or test keep that split; any other level falls by a hash of its room, 8 in
        10 into train, 1 into val, 1 into test, wherever it stands. All levels are held in memory and shared by the environments.
    State key: the room as drawn, which is all there is.
    Expert: fewest pushes, by A* over pushes; from a state without a solution it moves anywhere. None where the
        search gives up after 100,000 positions, about two seconds.
    Source: Sokoban (H. Imabayashi, 1981); Boxoban: Guez et al., An Investigation of Model-Free Planning, 2019; generated
        rooms of 6 x 6 as in RAGEN (Wang et al., 2025).
    """

    size: Annotated[int, Field(ge=5, le=16)] = 6
    boxes: Annotated[int, Field(ge=1, le=3)] = 1
    pushes: Annotated[int, Field(ge=1, le=12)] = 3
    levels: Path | None = None

    rules = (
        "You see a room from above: # is wall, _ is floor, $ is a box, . is a target, * is a box on a target, @ is you, "
        "+ is you on a target. Push every box onto a target. You can push one box at a time and cannot pull."
    )

    def load_tasks(self) -> TaskSet:
        """Seeds, or the levels of the files."""
        if self.levels is None:
            return ProceduralTasks()
        files = sorted(self.levels.rglob("*.txt")) if self.levels.is_dir() else [self.levels]
        if not files or not files[0].is_file():
            raise InvalidParameter(
                f"levels={str(self.levels)!r} is neither a file nor a folder that holds .txt files"
            )
        return _read_levels(self.levels, tuple((file, file.stat().st_mtime_ns) for file in files))

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Draw the room from the task's seed, or take the level."""
        if "room" in task.data:
            room = _parse(task.data["room"].split("\n"))
        else:
            room = _generate(Random(task.seed), self.size, self.boxes, self.pushes, task.split)
        self.width, self.height, self.floor, self.targets, self.box_bits, self.player = room
        self.distance, self.alive = _push_distances(room)
        self.distance_at_start = self.distance_left = sum(self.distance[box] for box in _bits(room.boxes))
        self.plan: dict[tuple[int, int], str | None] = {}
        self.lost = False
        # The drawing is kept cell by cell, each followed by a space or a line end, and only what moves is drawn anew.
        self.drawing = list("\n".join(map(" ".join, _rows(room))))
        self.room = "".join(self.drawing)
        return self.room

    @tool
    def move(self, direction: Literal["left", "down", "right", "up"]) -> Outcome:
        """Take one step, pushing the box in the way if there is one.

        Args:
            direction: where to.
        """
        cells, here = self.drawing, self.player
        step = self._step(direction)
        there = here + step
        ahead = cells[2 * there]
        if ahead == "#":
            return Outcome(self.room)
        if ahead in "$*":
            beyond = there + step
            behind = cells[2 * beyond]
            if behind not in "_.":
                return Outcome(self.room)
            cells[2 * beyond] = "*" if behind == "." else "$"
            ahead = "." if ahead == "*" else "_"
            self.box_bits ^= 1 << there | 1 << beyond
            self.distance_left += self.distance[beyond] - self.distance[there]
        cells[2 * there] = "+" if ahead == "." else "@"
        cells[2 * here] = "." if cells[2 * here] == "+" else "_"
        self.player = there
        self.room = "".join(cells)
        if self.box_bits == self.targets:
            return Outcome("Every box is on a target.", reward=1.0, success=True)
        return Outcome(self.room)

    def _step(self, direction: str) -> int:
        return {"left": -1, "down": self.width, "right": 1, "up": -self.width}[direction]

    def potential(self) -> float:
        """Share of the least number of pushes that is done; negative where boxes are further away than at the start."""
        return (self.distance_at_start - self.distance_left) / self.distance_at_start

    def score(self) -> float:
        """Share of the boxes that are on a target."""
        return (self.box_bits & self.targets).bit_count() / self.targets.bit_count()

    def state_key(self) -> Hashable:
        """The room as drawn."""
        return self.room

    @classmethod
    def picture(cls, observation: str, state_key: str) -> Grid | None:
        """The room, which is the state key."""
        rows = tuple(tuple(_DRAWN.get(sign, "") for sign in row.split(" ")) for row in state_key.split("\n"))
        return Grid(rows) if all(all(row) for row in rows) else None

    def expert(self) -> Call | None:
        """The next step of a solution with the fewest pushes."""
        if not self.lost and (self.box_bits, self.player) not in self.plan:
            self._make_plan()
        if self.lost:
            return Call("move", {"direction": "left"})
        direction = self.plan[self.box_bits, self.player]
        return Call("move", {"direction": direction}) if direction else None

    def _make_plan(self) -> None:
        boxes, player = self.box_bits, self.player
        room = Room(self.width, self.height, self.floor, self.targets, boxes, player)
        pushes = _solve(room, self.distance, self.alive)
        if pushes is None:
            self.plan[boxes, player] = None
            return
        self.lost = not pushes
        for box, direction in pushes:
            step = self._step(direction)
            for way in [*_walk(room, player, box - step, boxes), direction]:
                self.plan[boxes, player] = way
                player += self._step(way)
            boxes ^= 1 << box | 1 << box + step


def _generate(rng: Random, size: int, boxes: int, pushes: int, split: str) -> Room:
    """Play backwards from solved rooms until a room of the split is found that needs at least so many pushes.

    Only `rng.random()` is drawn from: what it gives is the same in every version of Python.
    """
    random = rng.random
    inner = [row * size + column for row in range(1, size - 1) for column in range(1, size - 1)]
    for _ in range(_TRIES):
        floor = sum(1 << cell for cell in inner if random() >= _WALLS)
        cells = [cell for cell in inner if floor >> cell & 1]
        if not cells:
            continue
        floor = _reach(1 << cells[int(random() * len(cells))], floor, size)
        cells = [cell for cell in cells if floor >> cell & 1]
        if len(cells) < 2 * boxes + 3:
            continue
        targets = 0
        while targets.bit_count() < boxes:
            targets |= 1 << cells[int(random() * len(cells))]
        distance, _ = _push_distances(Room(size, size, floor, targets, targets, 0))
        free = [cell for cell in cells if not targets >> cell & 1]
        room = Room(size, size, floor, targets, targets, free[int(random() * len(free))])
        furthest, most = room, 0
        for _ in range(8 * boxes + 4):
            pulls = _pulls(room)
            if not pulls:
                break
            for _ in range(4):  # a pull that leads away from the targets is drawn more often
                box, to, player = pulls[int(random() * len(pulls))]
                if distance[to] > distance[box]:
                    break
            room = Room(size, size, floor, targets, room.boxes ^ (1 << box | 1 << to), player)
            if not room.boxes & targets:
                needed = sum(distance[cell] for cell in _bits(room.boxes))
                if needed > most:
                    furthest, most = room, needed
        if most >= pushes and _split(furthest) == split:
            free = list(_bits(_reach(1 << furthest.player, floor & ~furthest.boxes, size)))
            return furthest._replace(player=free[int(random() * len(free))])
    raise InvalidParameter(
        f"no room of size {size} with {boxes} boxes that needs {pushes} pushes was found for the split {split!r} in "
        f"{_TRIES:,} tries; make it larger or ask for fewer pushes"
    )


def _pulls(room: Room) -> list[tuple[int, int, int]]:
    """Every pull the player can make, after walking: where the box is, where it and the player get to."""
    boxes, width = room.boxes, room.width
    region = _reach(1 << room.player, room.floor & ~boxes, width)
    pulls = []
    for step in (1, width):
        pulls += [
            (box, box + step, box + 2 * step) for box in _bits(boxes & region >> step & region >> 2 * step)
        ]
        pulls += [
            (box, box - step, box - 2 * step) for box in _bits(boxes & region << step & region << 2 * step)
        ]
    return pulls


def _push_distances(room: Room) -> tuple[list[int], int]:
    """Least pushes from each cell to a target in an empty room, and the cells from which there is a way at all.

    Found backwards from the targets: a box can have come from a neighbour that has floor behind it for the player. A
    cell without a way gets one more than the greatest distance.
    """
    floor, width = room.floor, room.width
    layer = alive = room.targets
    distance = [0] * floor.bit_length()
    pushes = 0
    while layer:
        came = layer >> 1 & floor << 1 | layer << 1 & floor >> 1
        came |= layer >> width & floor << width | layer << width & floor >> width
        layer = came & floor & ~alive
        alive |= layer
        pushes += 1
        for cell in _bits(layer):
            distance[cell] = pushes
    for cell in _bits(floor & ~alive):
        distance[cell] = pushes
    return distance, alive


def _solve(room: Room, distance: list[int], alive: int) -> list[tuple[int, str]] | None:
    """A shortest list of pushes (cell of the box, direction) that solves the room.

    A* over the boxes and the region that the player can reach, with the sum of the push distances as lower bound.
    Positions with a dead box, or a square of boxes and walls that cannot come apart, are left out.

    Returns:
        The pushes; empty where there is no solution, None where the search gave up.
    """
    width, floor, targets = room.width, room.floor, room.targets
    if room.boxes & ~alive:
        return []
    walls = ~floor
    square = 1 | 2 | 1 << width | 2 << width
    steps = {"left": -1, "down": width, "right": 1, "up": -width}
    start = (room.boxes, _reach(1 << room.player, floor & ~room.boxes, width))
    fewest = {start: 0}
    came: dict[tuple[int, int], tuple[tuple[int, int], tuple[int, str]]] = {}
    queue = [(sum(distance[cell] for cell in _bits(room.boxes)), 0, start)]
    closed = set()
    while queue:
        _, _, state = heappop(queue)
        boxes, region = state
        if boxes == targets:
            pushes = []
            while state in came:
                state, push = came[state]
                pushes.append(push)
            return pushes[::-1]
        if state in closed:
            continue
        closed.add(state)
        if len(closed) > _SEARCH_LIMIT:
            return None
        count = fewest[state] + 1
        open_cells = floor & alive & ~boxes
        for direction, step in steps.items():
            if step > 0:
                movable = boxes & region << step & open_cells >> step
            else:
                movable = boxes & region >> -step & open_cells << -step
            for cell in _bits(movable):
                to = cell + step
                pushed = boxes ^ (1 << cell | 1 << to)
                full = walls | pushed
                corners = (square << to - corner for corner in (0, 1, width, width + 1))
                if any(full & q == q and q & pushed & ~targets for q in corners):
                    continue
                after = (pushed, _reach(1 << cell, floor & ~pushed, width))
                if count < fewest.get(after, count + 1):
                    fewest[after] = count
                    came[after] = (state, (cell, direction))
                    bound = count + sum(distance[c] for c in _bits(pushed))
                    heappush(queue, (bound, -count, after))
    return []


def _walk(room: Room, start: int, end: int, boxes: int) -> list[str]:
    """Directions of a shortest way of the player, who pushes nothing."""
    free = room.floor & ~boxes
    steps = {"left": -1, "down": room.width, "right": 1, "up": -room.width}
    came = {start: (start, "")}
    queue = [start]
    for cell in queue:
        if cell == end:
            break
        for direction, step in steps.items():
            there = cell + step
            if free >> there & 1 and there not in came:
                came[there] = (cell, direction)
                queue.append(there)
    way = []
    cell = end
    while cell != start:
        cell, direction = came[cell]
        way.append(direction)
    return way[::-1]


def _reach(cells: int, free: int, width: int) -> int:
    """All free cells that are connected with these."""
    while True:
        grown = (cells | cells << 1 | cells >> 1 | cells << width | cells >> width) & free
        if grown == cells:
            return cells
        cells = grown


def _bits(cells: int) -> Iterator[int]:
    while cells:
        lowest = cells & -cells
        yield lowest.bit_length() - 1
        cells ^= lowest


def _rows(room: Room) -> list[str]:
    width, height, floor, targets, boxes, player = room
    rows = []
    for first in range(0, width * height, width):
        cells = range(first, first + width)
        rows.append(
            "".join(_SIGNS[floor >> c & 1, targets >> c & 1, boxes >> c & 1, c == player] for c in cells)
        )
    return rows


_SIGNS = {
    (0, 0, 0, False): "#",
    (1, 0, 0, False): "_",
    (1, 0, 1, False): "$",
    (1, 1, 0, False): ".",
    (1, 1, 1, False): "*",
    (1, 0, 0, True): "@",
    (1, 1, 0, True): "+",
}
_DRAWN = {
    "#": "wall",
    "_": "floor",
    "$": "floor+box",
    ".": "target",
    "*": "target+box",
    "@": "floor+player",
    "+": "target+player",
}
_MEANING = {sign: meaning for meaning, sign in _SIGNS.items()} | {
    " ": (1, 0, 0, False),
    "-": (1, 0, 0, False),
}


def _parse(rows: list[str]) -> Room:
    """The room of a level's rows.

    Raises:
        InvalidParameter: the rows are not a room that can be played.
    """
    width = len(rows[0])
    wrong = next((sign for row in rows for sign in row if sign not in _MEANING), None)
    if wrong is not None:
        raise InvalidParameter(
            f"{wrong!r} is not a sign of a level; known are {' '.join(map(repr, _MEANING))}"
        )
    if any(len(row) != width for row in rows):
        raise InvalidParameter("the rows differ in length; fill them up with #")
    if set(rows[0] + rows[-1]) != {"#"} or any(row[0] != "#" or row[-1] != "#" for row in rows):
        raise InvalidParameter("the border of the room must be all #")
    sets = [0, 0, 0, 0]
    for cell, sign in enumerate("".join(rows)):
        for n, present in enumerate(_MEANING[sign]):
            sets[n] |= present << cell
    floor, targets, boxes, player = sets
    if player.bit_count() != 1:
        raise InvalidParameter(f"a room has one player, @ or +, this has {player.bit_count()}")
    if boxes.bit_count() != targets.bit_count() or boxes == targets:
        raise InvalidParameter(
            f"a room has as many boxes as targets, not all in place; this has {boxes.bit_count()} boxes and "
            f"{targets.bit_count()} targets, {(boxes & targets).bit_count()} in place"
        )
    return Room(width, len(rows), floor, targets, boxes, player.bit_length() - 1)


@lru_cache(maxsize=4)
def _read_levels(root: Path, files: tuple[tuple[Path, int], ...]) -> ListedTasks:
    """The levels of files; their times of change stand in the key, so that a changed file is read again."""
    tasks = []
    for file, _ in files:
        name = file.relative_to(root).with_suffix("").as_posix() if file != root else file.stem
        named = {"train": "train", "valid": "val", "val": "val", "test": "test"}
        split = next(
            (named[part] for part in reversed(file.relative_to(root.parent).parts[:-1]) if part in named),
            None,
        )
        for label, rows in _levels(file):
            try:
                room = _parse(rows)
            except InvalidParameter as error:
                raise InvalidParameter(f"{file}, level {label}: {error}") from None
            text = "\n".join(rows)
            tasks.append(Task(f"{name}:{label}", split or _split(room), data={"room": text}))
    if not tasks:
        raise InvalidParameter(
            f"{root} holds no level; a level is a line `; number` and the rows of its room"
        )
    return ListedTasks(tasks)


def _levels(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Label and rows of each level: the text behind `;`, else the level's place in the file, and the lines below."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidParameter(f"{file} is not a text file: {error}") from None
    label, count = "", 0
    rows: list[str] = []
    for line in [*lines, ";"]:
        if line.startswith(";") or not line.strip():
            if rows:
                yield label or str(count), rows
                label, rows, count = "", [], count + 1
            label = line[1:].strip() if line.startswith(";") else label
        else:
            rows.append(line)


def _split(room: Room) -> str:
    return split_of(repr(room[:-1]))
