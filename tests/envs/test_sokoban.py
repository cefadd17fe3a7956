"""`Sokoban-v1`: rooms that can be solved, rules, rewards, and Boxoban's levels as published."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import turnwise as tw
from turnwise.envs.errors import InvalidParameter, UnknownSplit, UnknownTask, UsageError

MOVES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}

ROOM = """\
#######
#     #
# $@$ #
#.   .#
#######"""


def sokoban(**parameters: Any) -> Any:
    return tw.make("Sokoban-v1", format="bracket", **parameters)


def level(tmp_path: Path, *rooms: str, **parameters: Any) -> Any:
    path = tmp_path / "levels.txt"
    path.write_text("".join(f"; {n}\n{room}\n\n" for n, room in enumerate(rooms)))
    return sokoban(levels=path, split=parameters.pop("split", only_split(path)), **parameters)


def only_split(path: Path) -> str:
    """A split that is there: which one follows from the room."""
    for split in ("train", "val", "test"):
        try:
            return str(sokoban(levels=path, split=split).split)
        except UnknownSplit:
            continue
    raise AssertionError("no split")


def grid(observation: str) -> list[list[str]]:
    return [row.split(" ") for row in observation.splitlines()]


def read(observation: str) -> tuple[Any, Any, Any, Any]:
    """Walls, targets, boxes and player of a drawing."""
    cells = {(r, c): s for r, row in enumerate(grid(observation)) for c, s in enumerate(row)}
    walls = frozenset(p for p, s in cells.items() if s == "#")
    targets = frozenset(p for p, s in cells.items() if s in ".*+")
    boxes = frozenset(p for p, s in cells.items() if s in "$*")
    (player,) = [p for p, s in cells.items() if s in "@+"]
    return walls, targets, boxes, player


def fewest_pushes(observation: str) -> int | None:
    """By plain search over single steps, a push costing one and a walk nothing."""
    walls, targets, boxes, player = read(observation)
    pushes = {(boxes, player): 0}
    queue = deque([(boxes, player)])
    while queue:
        state = queue.popleft()
        boxes, player = state
        if boxes == targets:
            return pushes[state]
        for dr, dc in MOVES.values():
            there, beyond = (player[0] + dr, player[1] + dc), (player[0] + 2 * dr, player[1] + 2 * dc)
            if there in walls or (there in boxes and (beyond in walls or beyond in boxes)):
                continue
            cost = int(there in boxes)
            after = (boxes - {there} | {beyond} if cost else boxes, there)
            if pushes[state] + cost < pushes.get(after, 10**9):
                pushes[after] = pushes[state] + cost
                (queue.append if cost else queue.appendleft)(after)
    return None


@pytest.mark.parametrize(
    ("parameters", "rooms"),
    [
        ({}, 60),
        ({"boxes": 2, "pushes": 5}, 25),
        ({"boxes": 3, "pushes": 1}, 6),
        ({"size": 5, "pushes": 2}, 30),
    ],
)
def test_every_room_can_be_solved_needs_the_pushes_asked_for_and_the_expert_makes_no_more(
    parameters: dict[str, Any], rooms: int
) -> None:
    env = sokoban(max_turns=300, **parameters)
    lengths = []
    for seed in range(rooms):
        observation, _ = env.reset(seed=seed)
        _, targets, boxes, _ = read(observation)
        assert len(boxes) == len(targets) == parameters.get("boxes", 1)
        assert not boxes & targets
        least = fewest_pushes(observation)
        assert least is not None
        assert least >= parameters.get("pushes", 3)
        pushes, terminated = 0, False
        while not terminated:
            before = env.box_bits
            observation, _, terminated, _, info = env.step(env.write(env.expert()))
            pushes += env.box_bits != before
        assert info["success"]
        assert pushes == least
        lengths.append(info["turn"])
    assert max(lengths) > min(lengths)


def test_the_default_room_is_solved_within_the_default_turns() -> None:
    result = sokoban().rollout(tw.agents.ExpertAgent(), 200, split="test")
    assert result.success_rate == 1.0
    assert sokoban(boxes=2).rollout(tw.agents.ExpertAgent(), 100).success_rate > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("boxes", [1, 2, 3])
@pytest.mark.parametrize("size", [5, 6, 8, 10, 13, 16])
def test_rooms_of_every_size_can_be_solved(size: int, boxes: int) -> None:
    env = sokoban(size=size, boxes=boxes, pushes=1 if size == 5 else 3, max_turns=2000)
    result = env.rollout(tw.agents.ExpertAgent(), 40)
    assert result.failures == {}
    assert result.success_rate == 1.0


def test_a_room_that_cannot_be_had_is_refused_and_not_sought_for_ever() -> None:
    env = sokoban(size=5, boxes=3, pushes=12)
    began = time.perf_counter()
    with pytest.raises(
        InvalidParameter, match="no room of size 5 with 3 boxes that needs 12 pushes was found"
    ):
        env.reset(seed=0)
    assert time.perf_counter() - began < 5
    for parameters in ({"boxes": 4}, {"boxes": 0}, {"size": 4}, {"pushes": 0}):
        with pytest.raises(InvalidParameter):
            sokoban(**parameters)


def test_rooms_are_the_same_in_every_process() -> None:
    code = "import turnwise as tw; print(tw.make('Sokoban-v1', boxes=2).reset(seed=5)[0])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.rstrip("\n") == sokoban(boxes=2).reset(seed=5)[0]
    # And in every version: a change of what is generated needs a new id.
    assert sokoban().reset(seed=0)[0] == (
        "# # # # # #\n# # @ _ # #\n# _ $ # # #\n# _ _ _ . #\n# # _ _ # #\n# # # # # #"
    )


def test_rooms_differ_and_no_room_is_in_two_splits() -> None:
    for boxes, least in ((1, 150), (2, 250)):
        env = sokoban(boxes=boxes)
        rooms: dict[str, set[str]] = {}
        for split in ("train", "val", "test"):
            drawn = (env.reset(seed=s, options={"split": split})[0] for s in range(300))
            # Without the player, who may stand anywhere.
            rooms[split] = {d.replace("@", "_").replace("+", ".") for d in drawn}
            assert len(rooms[split]) > least
        assert not rooms["train"] & rooms["test"]
        assert not rooms["train"] & rooms["val"]
        assert not rooms["val"] & rooms["test"]


def test_the_rules_by_an_independent_game() -> None:
    rng = np.random.default_rng(0)
    for parameters in ({}, {"boxes": 3, "pushes": 1, "size": 7}):
        env = sokoban(max_turns=60, **parameters)
        for seed in range(30):
            observation, _ = env.reset(seed=seed)
            walls, targets, boxes, player = read(observation)
            for _ in range(60):
                direction = str(rng.choice(list(MOVES)))
                dr, dc = MOVES[direction]
                there, beyond = (player[0] + dr, player[1] + dc), (player[0] + 2 * dr, player[1] + 2 * dc)
                if there not in walls and not (there in boxes and (beyond in walls or beyond in boxes)):
                    boxes = boxes - {there} | {beyond} if there in boxes else boxes
                    player = there
                observation, _, terminated, _, info = env.step(f"move[{direction}]")
                assert terminated == (boxes == targets)
                assert not info["invalid"]
                if terminated:
                    assert observation == "Every box is on a target."
                    break
                assert read(observation) == (walls, targets, boxes, player)
                assert info["state_key"] == observation


def test_signs_of_boxes_and_player_on_targets(tmp_path: Path) -> None:
    env = level(tmp_path, "######\n#@$.*#\n#    #\n######")
    env.reset(seed=0)
    assert env.step("move[down]")[0] == "# # # # # #\n# _ $ . * #\n# @ _ _ _ #\n# # # # # #"
    for direction in ("right", "right"):
        env.step(f"move[{direction}]")
    assert env.step("move[up]")[0] == "# # # # # #\n# _ $ + * #\n# _ _ _ _ #\n# # # # # #"
    assert env.step("move[down]")[0] == "# # # # # #\n# _ $ . * #\n# _ _ @ _ #\n# # # # # #"


def test_rewards_and_score_by_hand(tmp_path: Path) -> None:
    # Each box is two pushes from its target: d = 4 at the start.
    env = level(tmp_path, ROOM, max_turns=50)
    observation, _ = env.reset(seed=0)
    assert observation.splitlines()[2] == "# _ $ @ $ _ #"
    assert env.step("move[left]")[1] == pytest.approx(0.25)  # the left box into the column of its target
    assert env.step("move[right]")[1] == 0.0
    # Down on the right-hand side is no push; the right box goes to the right: one more done.
    assert env.step("move[right]")[1] == pytest.approx(0.25)
    way = ["up", "right", "down"]  # push the right box down onto its target
    assert [env.step(f"move[{d}]")[1] for d in way] == pytest.approx([0.0, 0.0, 0.25])
    assert env.score() == 0.5
    for direction in ("up", "left", "left", "left", "left"):
        assert env.step(f"move[{direction}]")[1] == 0.0
    _, reward, terminated, _, info = env.step("move[down]")
    assert terminated
    assert info["success"]
    assert info["score"] == 1.0
    assert reward == pytest.approx(1.0 - 0.75)  # what was paid for coming nearer is taken back


def test_a_spoilt_room_goes_on_and_its_box_counts_as_furthest(tmp_path: Path) -> None:
    room = "######\n#    #\n# $@ #\n#   .#\n######"
    env = level(tmp_path, room, max_turns=6)
    env.reset(seed=0)
    # d(start): two pushes right and one down. At the left wall no push leads back, so the box counts one more than the
    # furthest cell that has a way: (1, 2) and (2, 2) are 4 and 3 pushes away, at most 4 in this room.
    assert env.distance_at_start == 3
    _, reward, terminated, _, info = env.step("move[left]")
    assert (terminated, info["invalid"]) == (False, False)
    greatest = max(d for cell, d in enumerate(env.distance) if env.alive >> cell & 1)
    assert reward == pytest.approx((3 - (greatest + 1)) / 3)
    assert fewest_pushes(env.render()) is None
    began = time.perf_counter()
    for _ in range(5):
        call = env.expert()
        assert call is not None
        _, _, terminated, truncated, _ = env.step(env.write(call))
    assert time.perf_counter() - began < 0.5
    assert (terminated, truncated) == (False, True)


def test_the_expert_finds_its_way_back_after_the_agent_left_its_plan_and_gives_up_only_when_all_is_lost() -> (
    None
):
    rng = np.random.default_rng(0)
    env = sokoban(boxes=2, max_turns=60)
    ends = Counter[str]()
    for seed in range(60):
        observation, _ = env.reset(seed=seed)
        terminated = truncated = False
        while not (terminated or truncated or env.lost):
            action = env.sample_action(rng) if rng.random() < 0.5 else env.write(env.expert())
            if env.lost:
                assert fewest_pushes(observation) is None
            else:
                observation, _, terminated, truncated, _ = env.step(action)
        ends["lost" if env.lost else "solved" if terminated else "cut off"] += 1
    assert ends["solved"] > 10
    assert ends["lost"] > 10


def test_shaping_sums_to_nothing_in_episodes_that_end_and_in_those_that_run_out_of_turns() -> None:
    rng = np.random.default_rng(0)
    env = sokoban()
    for seed in range(60):
        env.reset(seed=seed)
        paid, over = 0.0, False
        while not over:
            action = env.write(env.expert()) if seed % 2 else env.sample_action(rng)
            _, _, terminated, truncated, info = env.step(action)
            paid += info["shaping"]
            over = terminated or truncated
        assert paid == pytest.approx(0.0)


# Levels.


def test_boxobans_file_is_read_as_published(boxoban: Path) -> None:
    env = sokoban(levels=boxoban, max_turns=400)
    assert sum(env.tasks.splits.values()) == 200
    assert set(env.tasks.splits) == {"train", "val", "test"}
    assert env.tasks.size("train") > 130
    # Level 0 by hand, from the file.
    observation, info = env.reset(seed=0, options={"task": "boxoban_hard_200:0"})
    assert info["task"] == "boxoban_hard_200:0"
    expected = boxoban.read_text().split("; 0\n")[1].split("\n\n")[0]
    assert observation.replace(" ", "").replace("_", " ") == expected
    ids = [env.tasks.get(split, i).id for split, size in env.tasks.splits.items() for i in range(size)]
    assert sorted(ids) == sorted(f"boxoban_hard_200:{n}" for n in range(200))


def test_every_level_of_boxobans_file_has_four_boxes_and_ten_by_ten_cells(boxoban: Path) -> None:
    env = sokoban(levels=boxoban)
    for split, size in env.tasks.splits.items():
        for index in range(size):
            observation, _ = env.reset(seed=0, options={"task": env.tasks.get(split, index).id})
            _, targets, boxes, _ = read(observation)
            assert len(boxes) == len(targets) == 4
            assert [len(row) for row in grid(observation)] == [10] * 10


def test_the_expert_solves_hard_levels(boxoban: Path) -> None:
    result = sokoban(levels=boxoban, max_turns=400).rollout(tw.agents.ExpertAgent(), 20, split="test")
    assert result.success_rate == 1.0
    assert result.mean_turns > 40


@pytest.mark.slow
def test_the_expert_solves_every_hard_level_of_the_sample(boxoban: Path) -> None:
    env = sokoban(levels=boxoban, max_turns=1000)
    for split, size in env.tasks.splits.items():
        tasks = [env.tasks.get(split, i).id for i in range(size)]
        assert env.rollout(tw.agents.ExpertAgent(), size, tasks=tasks).success_rate == 1.0


def test_splits_of_a_folder_follow_its_names_and_else_the_room_alone(tmp_path: Path) -> None:
    rooms = [ROOM.replace("     ", f"{'#' * n}{' ' * (5 - n)}", 1) for n in range(6)]
    for folder in ("unfiltered/train", "medium/valid", "unfiltered/test", "hard"):
        (tmp_path / folder).mkdir(parents=True)
    names = {
        "unfiltered/train/000": 0,
        "medium/valid/000": 1,
        "unfiltered/test/000": 2,
        "hard/000": 3,
        "hard/001": 4,
    }
    for name, n in names.items():
        (tmp_path / f"{name}.txt").write_text(f"; 0\n{rooms[n]}\n")
    (tmp_path / "README.md").write_text("no level")
    tasks = sokoban(levels=tmp_path).tasks
    assert tasks.find("unfiltered/train/000:0").split == "train"
    assert tasks.find("medium/valid/000:0").split == "val"
    assert tasks.find("unfiltered/test/000:0").split == "test"
    # Where the folder says nothing, the same room is in the same split in any file and any order.
    alone = tmp_path / "other.txt"
    alone.write_text(f"; 7\n{rooms[4]}\n; 8\n{rooms[3]}\n")
    other = sokoban(levels=alone, split=only_split(alone)).tasks
    assert other.find("other:7").split == tasks.find("hard/001:0").split
    assert other.find("other:8").split == tasks.find("hard/000:0").split


def test_hashed_splits_are_about_eight_one_and_one_of_ten(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "many.txt"
    rooms = set()
    while len(rooms) < 2000:
        inner = "".join(rng.permutation(list("@$." + "#" * 5 + " " * 17)))
        rooms.add("\n".join(["#######", *(f"#{inner[i : i + 5]}#" for i in range(0, 25, 5)), "#######"]))
    path.write_text("".join(f"; {n}\n{room}\n\n" for n, room in enumerate(sorted(rooms))))
    splits = sokoban(levels=path).tasks.splits
    assert splits["train"] / 2000 == pytest.approx(0.8, abs=0.04)
    assert splits["val"] / 2000 == pytest.approx(0.1, abs=0.03)
    assert splits["test"] / 2000 == pytest.approx(0.1, abs=0.03)


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_shared(tmp_path: Path) -> None:
    env = level(tmp_path, ROOM)
    assert env.clone().tasks is env.tasks
    time.sleep(0.01)
    other = level(tmp_path, ROOM, ROOM.replace("@$ ", "@ $"))
    assert sum(other.tasks.splits.values()) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no level"),
        ("; 0\n\n; 1\n", "holds no level"),
        ("; 0\n####\n#@$#\n#x.#\n####\n", "level 0: 'x' is not a sign of a level"),
        ("; 0\n#####\n#@$.#\n####\n", "level 0: the rows differ in length"),
        ("; 0\n#####\n#@$. \n#####\n", "border of the room must be all #"),
        ("; 0\n#####\n#@$.#\n", "border of the room must be all #"),
        ("; 0\n#####\n# $.#\n#####\n", "one player, @ or \\+, this has 0"),
        ("; 0\n######\n#@@$.#\n######\n", "this has 2"),
        ("; 0\n#####\n#@$ #\n#####\n", "1 boxes and 0 targets"),
        ("; 0\n#####\n#@* #\n#####\n", "1 boxes and 1 targets, 1 in place"),
        ("; 0\n#####\n#@  #\n#####\n", "0 boxes and 0 targets"),
        (f"; 4\n{ROOM}\n\n; 5\n###\n#@#\n###\n", "level 5: "),
    ],
)
def test_a_broken_level_is_named_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "broken.txt"
    path.write_text(text)
    with pytest.raises(InvalidParameter, match=said) as caught:
        sokoban(levels=path)
    assert "broken.txt" in str(caught.value)


def test_levels_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "missing.txt", tmp_path / "empty"):
        with pytest.raises(InvalidParameter, match="neither a file nor a folder that holds"):
            sokoban(levels=path)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidParameter, match="is not a text file"):
        sokoban(levels=tmp_path / "binary.txt")
    (tmp_path / "twice.txt").write_text(f"; 0\n{ROOM}\n\n; 0\n{ROOM}\n")
    with pytest.raises(UsageError, match="two tasks have the id 'twice:0'"):
        sokoban(levels=str(tmp_path / "twice.txt"))


def test_levels_without_numbers_and_with_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "plain.txt"
    path.write_bytes((ROOM + "\n\n" + ROOM.replace("@$ ", "@ $") + "\n").replace("\n", "\r\n").encode())
    env = sokoban(levels=path, split=only_split(path))
    assert {task for task in ("plain:0", "plain:1") if env.tasks.find(task)} == {"plain:0", "plain:1"}
    with pytest.raises(UnknownTask, match=r"Did you mean 'plain:[01]'"):
        env.tasks.find("plain:2")
