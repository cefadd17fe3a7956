"""Reward sources inside the training loop: they are paid, recorded, learned from, and resumed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import turnwise as tw
from turnwise.configs.schema import TrainConfig
from turnwise.envs import errors
from turnwise.trainers.local.train import train

SMALL = {
    "env": {"id": "HigherLower-v1", "parameters": {"high": 7, "max_turns": 4}},
    "model": {
        "size": "xs",
        "max_context": 128,
        "warm_up": {"episodes": 800, "noise": 0.5, "epochs": 6, "batch": 16},
    },
    "trainer": {
        "steps": 3,
        "tasks_per_step": 4,
        "group_size": 4,
        "eval_every": 0,
        "eval_episodes": 4,
        "checkpoint_every": 1,
        "loggers": [],
        "save_trajectories_every": 1,
    },
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """One warmed-up model for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TURNWISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def run(folder: Path, reward, credit="gigpo", parameters: dict | None = None, **trainer) -> Path:
    parameters = parameters or {}
    data = json.loads(json.dumps(SMALL))
    data["trainer"] |= trainer
    train(
        TrainConfig.model_validate(
            {**data, "reward": reward, "credit": {"name": credit, **parameters}, "run": str(folder)}
        ),
        say=str,
    )
    return folder


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"step-{step}" / "model.safetensors")


def test_information_gain_is_paid_and_every_turn_carries_its_number(tmp_path):
    folder = run(tmp_path / "run", ["env", "info_gain"])
    for t in tw.read_trajectories(folder / "trajectories" / "step-1.jsonl"):
        assert all("env" in turn.rewards for turn in t.turns)
        for turn in t.turns[:-1]:
            assert turn.rewards.keys() == {"env", "info_gain", "info_gain/normalised"}
        assert "info_gain" not in t.turns[-1].rewards
    assert all(m["reward/info_gain/seconds"] > 0 for m in metrics(folder))


def test_a_reward_model_that_credit_does_not_read_changes_no_weight_of_the_policy(tmp_path):
    alone = run(tmp_path / "alone", ["env"], "grpo", steps=2)
    beside = run(tmp_path / "beside", ["env", "implicit_prm"], "istar", {"alpha": 0.0}, steps=2)
    assert any(m.get("reward/implicit_prm/pairs") for m in metrics(beside))  # it learned
    one, other = weights(alone, 2), weights(beside, 2)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("credit", ["istar", "gigpo", "prime"])
def test_an_implicit_process_reward_model_learns_beside_the_policy(tmp_path, credit):
    folder = run(tmp_path / "run", ["env", "implicit_prm"], credit)
    assert [m["step"] for m in metrics(folder)] == [1, 2, 3]
    assert any(key.startswith("reward/implicit_prm/") for key in metrics(folder)[0])


def test_a_run_with_a_process_reward_model_resumes_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole", ["env", "implicit_prm"], "istar")
    half = run(tmp_path / "half", ["env", "implicit_prm"], "istar", steps=2)
    train(TrainConfig.model_validate({"resume": str(half), "trainer": {"steps": 3}}), say=str)
    one, other = weights(whole, 3), weights(half, 3)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_source_without_weight_changes_no_weight_of_the_policy(tmp_path):
    alone = run(tmp_path / "alone", ["env"], steps=2)
    beside = run(tmp_path / "beside", ["env", {"name": "grounding", "weight": 0.0}], steps=2)
    assert metrics(beside)[0]["reward/grounding/weight"] == 0.0
    one, other = weights(alone, 2), weights(beside, 2)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_information_gain_without_a_reference_is_refused_before_the_first_rollout(tmp_path):
    data = json.loads(json.dumps(SMALL))
    data["env"] = {"id": "FrozenLake-v1"}
    data["model"]["warm_up"]["episodes"] = 0
    with pytest.raises(errors.UsageError, match="reference"):
        train(
            TrainConfig.model_validate(
                {**data, "reward": ["env", "info_gain"], "run": str(tmp_path / "run")}
            ),
            say=str,
        )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_scheme_that_reads_a_source_is_refused_without_it(tmp_path):
    with pytest.raises(ValueError, match="implicit_prm"):
        run(tmp_path / "run", ["env"], "istar")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_scheme_that_cannot_see_a_process_reward_is_named_in_the_log(tmp_path):
    def said_with(credit: str) -> bool:
        lines: list[str] = []
        data = json.loads(json.dumps(SMALL))
        data["trainer"] |= {"steps": 1, "tasks_per_step": 8}
        data |= {"reward": ["env", "info_gain"], "credit": {"name": credit}, "run": str(tmp_path / credit)}
        train(TrainConfig.model_validate(data), say=lines.append)
        return any(f"credit={credit} reads the outcome alone" in line for line in lines)

    assert said_with("grpo")
    assert not said_with("turn_returns")
