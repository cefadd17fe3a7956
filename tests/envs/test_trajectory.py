"""Trajectories: every one that can be made is written and read back, and a broken file says where."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import turnwise as tw
from turnwise.envs import SCHEMA_VERSION
from turnwise.envs.errors import InvalidTrajectory

# Text of any kind that a file takes; `rollout` replaces the lone surrogates of what models write.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NUMBER = st.floats(allow_nan=True, allow_infinity=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
TURN = st.builds(
    tw.Turn,
    observation=TEXT,
    action=TEXT,
    tool=st.none() | TEXT,
    arguments=st.none() | st.dictionaries(TEXT, JSON, max_size=3),
    reward=NUMBER,
    rewards=st.dictionaries(TEXT, NUMBER, max_size=3),
    advantage=st.none() | NUMBER,
    state_key=TEXT,
    invalid=st.booleans(),
    agent_seconds=st.floats(0, 1e6),
    env_seconds=st.floats(0, 1e6),
    prompt_ids=st.lists(st.integers(0, 2**31), max_size=5),
    action_ids=st.lists(st.integers(0, 2**31), max_size=5),
    action_log_probs=st.lists(NUMBER, max_size=5),
)
TRAJECTORY = st.builds(
    tw.Trajectory,
    env_id=TEXT,
    task_id=TEXT,
    split=TEXT,
    seed=st.integers(0, 2**63),
    status=st.sampled_from(["terminated", "truncated", "failed"]),
    score=st.floats(0, 1),
    success=st.booleans(),
    turns=st.lists(TURN, max_size=3),
    env_kwargs=st.dictionaries(TEXT, JSON, max_size=3),
    group=st.integers(0, 2**31),
    agent=TEXT,
    agent_seed=st.integers(0, 2**63),
    reference=st.none() | st.lists(TEXT, max_size=3),
    error=st.none() | TEXT,
    attempts=st.integers(1, 2),
    system=TEXT,
    final_observation=TEXT,
)


def same(a: Any, b: Any) -> bool:
    """Equality in which NaN equals NaN."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, tw.Turn | tw.Trajectory):
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in type(a).__slots__)
    return type(a) is type(b) and a == b


def trajectory(**fields: Any) -> tw.Trajectory:
    turn = tw.Turn(observation="seen", action="done", reward=1.0, rewards={"env": 1.0})
    base = {"env_id": "A-v0", "task_id": "t", "split": "train", "seed": 0, "status": "terminated"}
    return tw.Trajectory(**{**base, "score": 1.0, "success": True, "turns": [turn], **fields})  # type: ignore[arg-type]


@given(TRAJECTORY)
def test_a_trajectory_is_read_as_it_was_written(t: tw.Trajectory) -> None:
    line = t.to_json()
    assert "\n" not in line
    assert "\r" not in line
    assert same(tw.Trajectory.from_json(line), t)
    assert same(tw.Trajectory.from_json(line.encode()), t)


@given(st.lists(TRAJECTORY, max_size=3))
def test_a_file_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, many: list[tw.Trajectory]
) -> None:
    path = tmp_path_factory.mktemp("t") / "new" / "folder" / "t.jsonl"
    assert tw.write_trajectories(path, many) == len(many)
    assert all(map(same, tw.read_trajectories(path), many))
    assert len(list(tw.read_trajectories(path))) == len(many)


def test_files_can_be_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    tw.write_trajectories(path, [trajectory(seed=1)])
    tw.write_trajectories(path, [trajectory(seed=2)], append=True)
    assert [t.seed for t in tw.read_trajectories(path)] == [1, 2]
    tw.write_trajectories(path, [trajectory(seed=3)])
    assert [t.seed for t in tw.read_trajectories(path)] == [3]


def test_a_line_that_was_cut_off_is_left_out_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    tw.write_trajectories(path, [trajectory(seed=1, agent="ü"), trajectory(seed=2, agent="ü")])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole), 7):
        path.write_bytes(whole[:cut])
        assert [t.seed for t in tw.read_trajectories(path)] == [1]


def test_a_broken_line_is_named_by_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    tw.write_trajectories(path, [trajectory()])
    path.write_bytes(path.read_bytes() + b"not json\n")
    with pytest.raises(InvalidTrajectory, match=r"t\.jsonl, line 2: not a line of JSON"):
        list(tw.read_trajectories(path))
    with pytest.raises(FileNotFoundError):
        list(tw.read_trajectories(tmp_path / "missing.jsonl"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"version": SCHEMA_VERSION + 1},
            "schema version 3 is later than 2, the latest known here; upgrade turnwise",
        ),
        ({"version": SCHEMA_VERSION + 1, "colour": "red"}, "is later than 2"),
        ({"colour": "red"}, "field colour: "),
        ({"status": "done"}, "field status: "),
        ({"turns": [{"observation": "a"}]}, "field turns.0.action: "),
        ({"seed": None}, "field seed: "),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], said: str) -> None:
    line = json.dumps({**json.loads(trajectory().to_json()), **change})
    with pytest.raises(InvalidTrajectory, match=said):
        tw.Trajectory.from_json(line)


@pytest.mark.parametrize("line", ["", "{}", "[]", "5", '"a"', "{", "\ud800", b"\xff\xfe", "[" * 100_000])
def test_what_is_no_trajectory_is_refused(line: str | bytes) -> None:
    with pytest.raises(InvalidTrajectory):
        tw.Trajectory.from_json(line)


def test_a_line_of_the_first_version_is_read_for_ever() -> None:
    # Written by version 0.1.0. A change of the schema keeps this test and adds one.
    line = (
        '{"env_id":"A-v0","task_id":"t","split":"train","seed":0,"status":"terminated","score":1.0,"success":true,'
        '"turns":[{"observation":"seen","action":"done","tool":"go","arguments":{"x":1},"reward":NaN,'
        '"rewards":{"env":1.0},"advantage":null,"state_key":"k","invalid":false,"agent_seconds":0.0,"env_seconds":0.0,'
        '"prompt_ids":[1],"action_ids":[2,3],"action_log_probs":[-0.5,-Infinity]}],"env_kwargs":{"size":4},"group":0,'
        '"agent":"a","agent_seed":7,"reference":["yes"],"error":null,"attempts":1,"system":"s","final_observation":"f",'
        '"version":1}'
    )
    t = tw.Trajectory.from_json(line)
    assert math.isnan(t.turns[0].reward)
    assert t.turns[0].action_log_probs == [-0.5, -math.inf]
    assert t.sample == t.turns[0].input_tokens == 0  # what version 2 added has its default
    assert t.version == SCHEMA_VERSION


def test_the_total_reward_is_the_sum_over_the_turns() -> None:
    turns = [tw.Turn(observation="", action="", reward=r) for r in (0.5, -0.25, 1.0)]
    assert trajectory(turns=turns).total_reward == 1.25


def test_a_line_of_the_second_version_is_read_for_ever() -> None:
    line = (
        '{"env_id":"A-v0","task_id":"t","split":"train","seed":0,"status":"terminated","score":1.0,"success":true,'
        '"turns":[{"observation":"seen","action":"done","tool":"go","arguments":{"x":1},"reward":NaN,'
        '"rewards":{"env":1.0},"advantage":null,"state_key":"k","invalid":false,"agent_seconds":0.0,"env_seconds":0.0,'
        '"prompt_ids":[1],"action_ids":[2,3],"action_log_probs":[-0.5,-Infinity],"input_tokens":9,"output_tokens":2,'
        '"cached_tokens":4}],"env_kwargs":{"size":4},"group":0,"sample":3,"family":"two hops","difficulty":"hard","role":"judge",'
        '"agent":"a","agent_seed":7,"reference":["yes"],"error":null,"attempts":1,"system":"s","final_observation":"f",'
        '"version":2}'
    )
    assert tw.Trajectory.from_json(line).to_json() == line
