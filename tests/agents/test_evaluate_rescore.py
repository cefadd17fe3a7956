"""Saved episodes played again: the same where nothing changed, and every change of the environment is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import turnwise as tw
from turnwise.__main__ import main
from turnwise.agents.evaluate import rescore


class Corridor(tw.TurnEnv):
    """Walk to the door."""

    length: int = 3
    prize: float = 1.0

    def start(self, task: tw.Task, rng: Any) -> str:
        self.at = 0
        return f"{self.length - self.at} steps to go."

    @tw.tool
    def walk(self, steps: int) -> tw.Outcome:
        """Walk.

        Args:
            steps: how far.
        """
        self.at += steps
        there = self.at >= self.length
        return tw.Outcome(
            f"{self.length - self.at} steps to go.",
            reward=self.prize * there,
            success=there or None,
            score=0.5,
        )

    def score(self) -> float:
        return self.at / self.length


@pytest.mark.parametrize("env_id", tw.env_ids())
def test_every_environment_gives_the_same_episodes_again(env_id: str) -> None:
    env = tw.make(env_id, format="bracket", split="test")
    agent = tw.agents.ExpertAgent(0.5)
    found = rescore(
        [*env.rollout(agent, 6).trajectories, *env.rollout(agent, 3, seed=1, max_turns=3).trajectories]
    )
    assert len(found.before) == 9
    assert found.changes == []
    assert found.after == found.before


def test_what_an_environment_does_otherwise_now_is_told(register: Any) -> None:
    env_id = register(Corridor)
    old = tw.make(env_id, format="bracket").rollout(lambda talk: "walk[1]", 2).trajectories
    register(type("Corridor", (Corridor,), {"prize": 2.0, "__doc__": "More."}), env_id)
    found = rescore(old)
    assert [(c.turn, c.field, c.recorded, c.now) for c in found.changes] == [(2, "reward", 1.0, 2.0)] * 2
    assert [t.total_reward for t in found.after] == [2.0, 2.0]
    assert [t.turns[-1].rewards["env"] for t in found.after] == [2.0, 2.0]
    assert [t.total_reward for t in old] == [1.0, 1.0]  # what was recorded is left alone
    assert found.changed == 2


def test_an_episode_that_ends_earlier_or_not_at_all_is_told(register: Any) -> None:
    env_id = register(Corridor)
    (old,) = tw.make(env_id, format="bracket").rollout(lambda talk: "walk[1]", 1).trajectories
    register(type("Corridor", (Corridor,), {"length": 2, "__annotations__": {"length": int}}), env_id)
    found = rescore([old])
    assert ("turns", 3, 2) in [(c.field, c.recorded, c.now) for c in found.changes]
    register(type("Corridor", (Corridor,), {"length": 6, "__annotations__": {"length": int}}), env_id)
    found = rescore([old])
    said = {c.field: (c.recorded, c.now) for c in found.changes if c.turn is None}
    assert said["status"] == ("terminated", "truncated")
    assert said["success"] == (True, False)
    assert found.after[0].score == 0.5


def test_what_cannot_be_played_again_is_counted_with_the_reason(register: Any) -> None:
    env_id = register(Corridor)
    (old,) = tw.make(env_id, format="bracket").rollout(lambda talk: "walk[1]", 1).trajectories

    def changed(**fields: Any) -> tw.Trajectory:
        return tw.Trajectory.from_json(old.to_json()) if not fields else _with(old, **fields)

    found = rescore(
        [
            changed(),
            changed(status="failed", error="ServerGone: x"),
            changed(env_id="Nowhere-v0"),
            changed(task_id="nothing"),
            changed(env_kwargs={"lenght": 4}),
        ]
    )
    assert len(found.before) == 1
    assert [why.partition(":")[0] for why in found.skipped] == [
        "failed when it was played",
        "UnknownEnv",
        "UnknownTask",
        "InvalidParameter",
    ]


def _with(trajectory: tw.Trajectory, **fields: Any) -> tw.Trajectory:
    copy = tw.Trajectory.from_json(trajectory.to_json())
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


def test_the_command_says_what_changed_and_exits_1(tmp_path: Path) -> None:
    def call(*arguments: str) -> Any:
        return CliRunner().invoke(main, list(arguments))

    run = tmp_path / "run"
    assert call("eval", "env=higher_lower", "agent=expert", "episodes=4", f"out={run}").exit_code == 0
    same = call("rescore", str(run))
    assert same.exit_code == 0, same.output
    assert "4 episodes played again, 4 as they were, 0 otherwise" in same.stdout
    file = run / "trajectories.jsonl"
    file.write_text(file.read_text().replace('"score":1.0', '"score":0.25'))
    changed = call("rescore", str(file), "--out", str(tmp_path / "new.jsonl"), "--show", "1")
    assert changed.exit_code == 1
    assert "score: 0.25 -> 1.0" in changed.stdout
    assert [t.score for t in tw.read_trajectories(tmp_path / "new.jsonl")] == [1.0] * 4
    assert call("rescore", str(file), "--out", str(tmp_path / "new.jsonl")).exit_code == 2
