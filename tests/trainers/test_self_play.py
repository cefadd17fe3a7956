"""Self-play in the local trainer: who sits where, what is learned from, and that a resumed run goes on bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import turnwise as tw
from turnwise.configs.compose import compose
from turnwise.configs.schema import TrainConfig
from turnwise.envs.errors import UsageError
from turnwise.trainers.credit import credit_schemes
from turnwise.trainers.local.train import train

SMALL = [
    "env=TicTacToe-v1", "model.size=xs", "model.warm_up.episodes=300", "model.warm_up.epochs=2", "trainer.tasks_per_step=4",
    "trainer.group_size=2", "trainer.eval_episodes=8", "trainer.eval_every=0", "trainer.save_trajectories_every=1",
    "trainer.loggers=[]", "trainer.minibatches=1",
]  # fmt: skip


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    config = compose(
        TrainConfig,
        [*SMALL, f"run={folder}", *overrides],
        registered={"env": tw.env_ids, "credit": credit_schemes},
    )
    return train(config, say=lambda line: None)


def episodes(folder: Path, step: int) -> list[tw.Trajectory]:
    return list(tw.read_trajectories(folder / "trajectories" / f"step-{step}.jsonl"))


def test_the_policy_learns_from_both_seats_and_rae_keeps_a_baseline_for_each(tmp_path: Path) -> None:
    run(
        tmp_path / "a",
        "trainer.self_play=current",
        "credit=rae",
        "env.parameters.illegal=forfeit",
        "trainer.steps=2",
    )
    played = episodes(tmp_path / "a", 2)
    assert len(played) == 8
    assert sorted(t.role for t in played) == ["O"] * 4 + ["X"] * 4
    by_group = {t.group: {u.role for u in played if u.group == t.group} for t in played}
    assert all(len(roles) == 1 for roles in by_group.values())
    # rae: the outcome less the running mean of the role, which has seen the first step alone.
    baseline = {}
    for role in ("X", "O"):
        mean, seen = 0.0, 0
        for t in episodes(tmp_path / "a", 1):
            if t.role == role and t.turns:
                mean, seen = 0.95 * mean + 0.05 * t.score, seen + 1
        baseline[role] = mean / (1 - 0.95**seen)
    assert any(baseline.values())
    for t in (t for t in played if t.turns):
        assert t.turns[-1].advantage == pytest.approx(t.score - baseline[t.role], abs=1e-6)


def test_an_earlier_policy_sits_opposite_and_a_resumed_run_meets_the_same_one(tmp_path: Path) -> None:
    options = ["trainer.self_play=earlier", "trainer.checkpoint_every=2"]
    run(tmp_path / "whole", *options, "trainer.steps=4")
    run(tmp_path / "cut", *options, "trainer.steps=2")
    config = compose(
        TrainConfig,
        [f"resume={tmp_path / 'cut'}", "trainer.steps=4"],
        registered={"env": tw.env_ids, "credit": credit_schemes},
    )
    train(config, say=lambda line: None)
    for step in (3, 4):
        one, other = episodes(tmp_path / "whole", step), episodes(tmp_path / "cut", step)
        assert [[turn.action for turn in t.turns] for t in one] == [
            [turn.action for turn in t.turns] for t in other
        ]
        assert {t.role for t in one} == {"X", "O"}
        assert len(one) == 8
    last = [json.loads((tmp_path / name / "summary.json").read_text())["after"] for name in ("whole", "cut")]
    assert last[0] == last[1]


def test_self_play_in_an_environment_for_one_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="self_play=current needs a game for several seats; HigherLower-v1"):
        run(tmp_path / "a", "trainer.self_play=current", "env=higher_lower")
    assert not (tmp_path / "a").exists()
