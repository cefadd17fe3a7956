"""`FrozenLake-v1`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import turnwise as tw
from turnwise.envs.errors import InvalidParameter

MOVES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}


def lake(**parameters: Any) -> Any:
    return tw.make("FrozenLake-v1", format="bracket", **parameters)


def drawn(observation: str) -> list[list[str]]:
    *rows, _ = observation.splitlines()
    return [row.split(" ") for row in rows]


def find(rows: list[list[str]], sign: str) -> tuple[int, int]:
    ((row, column),) = [(r, c) for r, line in enumerate(rows) for c, s in enumerate(line) if s == sign]
    return row, column


def shortest(rows: list[list[str]]) -> int | None:
    """Breadth first from the drawing alone."""
    start, goal = find(rows, "@"), find(rows, "*")
    reached, steps = {start}, 0
    while goal not in reached:
        more = {
            (r + dr, c + dc)
            for r, c in reached
            for dr, dc in MOVES.values()
            if 0 <= r + dr < len(rows) and 0 <= c + dc < len(rows) and rows[r + dr][c + dc] != "O"
        }
        if more <= reached:
            return None
        reached, steps = reached | more, steps + 1
    return steps


@pytest.mark.parametrize(("size", "holes"), [(2, 0.6), (4, 0.25), (5, 0.5), (8, 0.4)])
def test_every_map_can_be_crossed_and_the_expert_takes_a_shortest_way(size: int, holes: float) -> None:
    env = lake(size=size, holes=holes, max_turns=200)
    for seed in range(60):
        rows = drawn(env.reset(seed=seed)[0])
        assert [len(row) for row in rows] == [size] * size
        start, goal = find(rows, "@"), find(rows, "*")
        assert abs(start[0] - goal[0]) + abs(start[1] - goal[1]) >= size - 1
        length = shortest(rows)
        assert length is not None
        for _ in range(length):
            _, _, terminated, _, info = env.step(env.write(env.expert()))
        assert terminated
        assert info["success"]


def test_holes_are_as_frequent_as_asked() -> None:
    env = lake(size=8, holes=0.2)
    signs = Counter(s for seed in range(200) for row in drawn(env.reset(seed=seed)[0]) for s in row)
    share = signs["O"] / (signs["O"] + signs["."])
    # Maps without a way are drawn again, which takes some away: 12,400 cells, standard error 0.004.
    assert 0.16 < share < 0.21


def test_the_map_belongs_to_the_task_and_not_to_the_seed() -> None:
    env = lake()
    maps = {env.reset(seed=seed, options={"task": "test-5"})[0] for seed in range(5)}
    assert len(maps) == 1
    assert len({env.reset(seed=seed)[0] for seed in range(50)}) == 50


def test_no_map_is_in_two_splits_wherever_one_starts() -> None:
    env = lake(size=3)
    maps: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        drawn = (env.reset(seed=s, options={"split": split})[0] for s in range(500))
        maps[split] = {d.rpartition("\n")[0].replace("@", ".") for d in drawn}
        assert len(maps[split]) > 20
    assert not maps["train"] & maps["test"]
    assert not maps["train"] & maps["val"]
    assert not maps["val"] & maps["test"]


def test_a_size_with_too_few_maps_is_refused_and_not_sought_for_ever() -> None:
    env = lake(size=3, holes=0.0)
    env.reset(seed=0)
    with pytest.raises(
        InvalidParameter, match="no map of size 3 with holes=0 was found for the split 'test'"
    ):
        env.reset(seed=0, options={"split": "test"})


def test_the_report_says_what_is_there() -> None:
    env = lake(size=5, holes=0.3, max_turns=100)
    rng = np.random.default_rng(0)
    for seed in range(30):
        observation, _ = env.reset(seed=seed)
        rows, (row, column) = drawn(observation), find(drawn(observation), "@")
        goal = find(rows, "*")
        names = {".": "ice", "@": "ice", "O": "hole", "*": "goal"}
        for _ in range(20):
            said = observation.splitlines()[-1]
            sides, _, way = said.partition("; goal ")
            for part in sides.split(", "):
                direction, what = part.split(" ")
                r, c = row + MOVES[direction][0], column + MOVES[direction][1]
                inside = 0 <= r < 5 and 0 <= c < 5
                assert what == (names[rows[r][c]] if inside else "edge")
            away = Counter[str]()
            words = way.split(" ")
            for number, direction in zip(words[::2], words[1::2], strict=True):
                away[direction] = int(number)
            assert (away["down"] - away["up"], away["right"] - away["left"]) == (
                goal[0] - row,
                goal[1] - column,
            )
            direction = str(rng.choice(list(MOVES)))
            observation, _, terminated, _, _ = env.step(f"move[{direction}]")
            r, c = row + MOVES[direction][0], column + MOVES[direction][1]
            row, column = (r, c) if 0 <= r < 5 and 0 <= c < 5 else (row, column)
            if terminated:
                assert (
                    observation
                    == {"O": "You fell into a hole.", "*": "You reached the goal."}[rows[row][column]]
                )
                break


def test_rewards_by_hand() -> None:
    env = lake(size=3, holes=0.0, max_turns=50)
    env.reset(seed=0)
    length = env.length
    ahead = env.expert().arguments["direction"]
    back = {"left": "right", "right": "left", "up": "down", "down": "up"}[ahead]
    assert env.step(f"move[{ahead}]")[1] == pytest.approx(1 / length)
    assert env.step(f"move[{back}]")[1] == pytest.approx(-1 / length)
    rewards = [env.step(env.write(env.expert()))[1] for _ in range(length)]
    # The last step pays 1 and takes back all that was paid for coming nearer.
    assert rewards == pytest.approx([1 / length] * (length - 1) + [1 - (length - 1) / length])


def test_the_shaping_of_every_episode_that_ends_sums_to_nothing() -> None:
    env = lake(max_turns=200)
    rng = np.random.default_rng(1)
    ends = Counter[bool]()
    for seed in range(100):
        env.reset(seed=seed)
        paid, terminated, truncated = 0.0, False, False
        while not (terminated or truncated):
            _, reward, terminated, truncated, info = env.step(env.sample_action(rng))
            paid += reward
        if terminated:
            ends[info["success"]] += 1
            assert paid == pytest.approx(float(info["success"]))
    assert ends[False] > 10
    assert ends[True] > 3


def test_moves_slip_to_the_sides_as_often_as_asked() -> None:
    env = lake(size=5, holes=0.0, slip=0.4, max_turns=1)
    ends: Counter[str] = Counter()
    for seed in range(3000):
        env.reset(seed=seed, options={"task": "train-0"})
        env.position, env.goal = (2, 2), (0, 0)
        env.step("move[right]")
        row, column = env.position
        ends[{(2, 3): "right", (1, 2): "up", (3, 2): "down", (2, 1): "left"}[row, column]] += 1
    # Binomial standard errors: 0.009 and 0.007.
    assert ends["right"] / 3000 == pytest.approx(0.6, abs=0.035)
    assert ends["up"] / 3000 == pytest.approx(0.2, abs=0.03)
    assert ends["down"] / 3000 == pytest.approx(0.2, abs=0.03)
    assert ends["left"] == 0


def test_the_slippery_expert_has_the_chance_that_a_search_over_all_outcomes_finds() -> None:
    env = lake(size=3, holes=0.3, slip=0.3, max_turns=4)

    def best(position: tuple[int, int], left: int) -> float:
        """Expectimax, written out."""
        if position == env.goal:
            return 1.0
        if left == 0 or env.cells[position[0]][position[1]]:
            return 0.0
        return max(expected(position, direction, left) for direction in MOVES)

    def expected(position: tuple[int, int], direction: str, left: int) -> float:
        sides = ("up", "down") if direction in ("left", "right") else ("left", "right")
        total = 0.0
        for way, chance in ((direction, 0.7), (sides[0], 0.15), (sides[1], 0.15)):
            row, column = position[0] + MOVES[way][0], position[1] + MOVES[way][1]
            there = (row, column) if 0 <= row < 3 and 0 <= column < 3 else position
            total += chance * best(there, left - 1)
        return total

    for seed in range(4):
        env.reset(seed=seed)
        direction = env.expert().arguments["direction"]
        assert expected(env.position, direction, 4) == pytest.approx(best(env.position, 4))


def test_the_slippery_expert_beats_the_shortest_way() -> None:
    def shortest_way(talk: Any) -> str:
        env = talk.env
        row, column = env.position
        return (
            "move["
            + min(MOVES, key=lambda d: env.distance.get((row + MOVES[d][0], column + MOVES[d][1]), 99))
            + "]"
        )

    env = lake(slip=0.4, max_turns=40)
    expert = env.rollout(tw.agents.ExpertAgent(), 300).success_rate
    assert expert > env.rollout(shortest_way, 300).success_rate + 0.05


def test_state_keys_tell_maps_and_positions_apart() -> None:
    env = lake()
    keys = {env.reset(seed=seed)[1]["state_key"] for seed in range(100)}
    assert len(keys) == 100
    env = lake(size=3, holes=0.0)
    _, info = env.reset(seed=0)
    first = info["state_key"]
    ahead = env.expert().arguments["direction"]
    back = {"left": "right", "right": "left", "up": "down", "down": "up"}[ahead]
    assert env.step(f"move[{ahead}]")[4]["state_key"] != first
    assert env.step(f"move[{back}]")[4]["state_key"] == first
