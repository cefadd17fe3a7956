"""What both engines do with the episodes of a step, beside rewards and credit: masks, penalties and figures."""

from __future__ import annotations

import torch

from ..configs.schema import TrainConfig
from ..envs import RolloutResult
from .batch import TurnBatch
from .sampling import overlong_penalty


def nothing_played(rollout: RolloutResult, config: TrainConfig, step: int) -> str:
    """Why a step has nothing to learn from, for the error that ends the run."""
    if rollout.failures:
        first = next(t.error for t in rollout.trajectories if t.error)
        return f"every episode of step {step} failed: {rollout.failures}; the first: {first}"
    return (
        f"in step {step} no episode had room for a single turn: the first prompt is longer than model.max_context="
        f"{config.model.max_context} tokens; raise it, or shorten the observation (format.system_prompt=false)"
    )


def less_for_long(batch: TurnBatch, limit: int, buffer: int) -> TurnBatch:
    """Add the overlong penalty to the outcome and to the reward of the last turn."""
    assert batch.turn_tokens is not None
    lengths = batch.turn_tokens.sum(1).tolist()
    penalty = torch.tensor([overlong_penalty(n, limit=limit, buffer=min(buffer, limit)) for n in lengths])
    last = torch.nn.functional.one_hot((batch.turns - 1).clamp(min=0), batch.rewards.shape[1])
    return batch.unchecked(
        outcome=batch.outcome + penalty.to(batch.outcome),
        rewards=batch.rewards + (penalty[:, None] * last).to(batch.rewards),
    )


def rows_in_loss(batch: TurnBatch, mask_truncated: bool) -> torch.Tensor:
    """[R] bool: rows of valid trajectories, without the truncated ones where these are masked."""
    assert batch.row_to_trajectory is not None
    keep = batch.valid & batch.terminated if mask_truncated else batch.valid
    return keep[batch.row_to_trajectory]


def rollout_metrics(rollout: RolloutResult) -> dict[str, float]:
    """The figures of the episodes, by the names of metrics.jsonl."""
    return {
        "success": rollout.success_rate,
        "score": rollout.mean_score,
        "reward": rollout.mean_reward,
        "turns": rollout.mean_turns,
        "invalid_share": rollout.invalid_share,
        "truncated_share": rollout.truncated_share,
        "failed": float(rollout.episodes - len(rollout.played)),
    }


def credit_metrics(batch: TurnBatch, advantage: torch.Tensor, level: str) -> dict[str, float]:
    """How much the credit says: its size, how many groups it is silent on, how many states it saw only once."""
    mask = batch.live
    metrics: dict[str, float] = {}
    if level == "turn":
        values = advantage[mask]
        silent = torch.zeros(int(batch.group.max()) + 1, dtype=torch.bool)
        loud = (advantage.abs() * mask).amax(1) > 1e-8
        silent[batch.group[batch.valid]] = True
        silent[batch.group[loud]] = False
        metrics |= {
            "advantage_mean": values.mean().item(),
            "advantage_std": values.std(correction=0).item(),
            "advantage_max": values.abs().max().item(),
            "zero_advantage_share": (values.abs() <= 1e-8).float().mean().item(),
            "silent_group_share": silent.sum().item() / batch.group[batch.valid].unique().numel(),
        }
    if batch.state is not None:
        keys = torch.stack([batch.group[:, None].expand_as(batch.state)[mask], batch.state[mask]], 1)
        counts = keys.unique(dim=0, return_counts=True)[1]
        metrics["singleton_anchor_share"] = (counts == 1).sum().item() / int(mask.sum())
    return metrics


def evaluation_metrics(result: RolloutResult) -> dict[str, float]:
    """The figures of an evaluation, with the 95 % interval of the success."""
    low, high = result.success_interval
    return {
        "success": result.success_rate,
        "success_low": low,
        "success_high": high,
        "score": result.mean_score,
        "turns": result.mean_turns,
        "invalid_share": result.invalid_share,
    }
