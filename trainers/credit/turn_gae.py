"""Turn-level GAE: a critic's value per turn, and generalised advantages over turns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import TurnBatch
from .registry import Discount, Epsilon, MissingInput, register_credit
from .statistics import discounted, index_grid, scattered, whiten


class GAE(NamedTuple):
    """Advantages before whitening, and what the critic should have said."""

    advantage: Tensor
    returns: Tensor


def _targets(batch: TurnBatch, *, gamma: float = 0.99, lam: float = 0.95) -> Tensor:
    return turn_gae_returns(batch, gamma=gamma, lam=lam).returns


@register_credit("turn_gae", needs=("values",), scope="batch", baseline="critic", targets=_targets)
def turn_gae(
    batch: TurnBatch,
    *,
    gamma: Discount = 0.99,
    lam: Discount = 0.95,
    whitened: bool = True,
    eps: Epsilon = 1e-8,
) -> Tensor:
    """Generalised advantage estimation where a step is a turn, whitened over the turns of the batch.

        delta_t = r_t + gamma * V_{t+1} - V_t,   A_t = delta_t + gamma * lam * A_{t+1}

    V_t is the critic's value of the state BEFORE the turn, read at the last token before the action. After the last
    turn V is 0 where the episode terminated and `last_value` where a limit cut it.

    Args:
        batch: reads `rewards`, `values`, `terminated` and, for truncated trajectories, `last_value`.
        gamma: discount per turn.
        lam: 0 trusts the critic (A = delta), 1 the rewards (Monte Carlo).
        whitened: whether to whiten over turns, so that long turns do not dominate.
        eps: added to the variance when whitening.

    Returns:
        [B, K], in standard deviations of the batch (units of reward when not whitened).

    Raises:
        MissingInput: a trajectory is truncated and there is no `last_value`.

    Source: Schulman et al., GAE (arXiv 1506.02438), with turns as steps; the defaults and the whitening over turns
    are ours. VAGEN reads the value at the last token of the response, which has seen the action: a Q, not a V.
    """
    advantage = turn_gae_returns(batch, gamma=gamma, lam=lam).advantage
    if not whitened:
        return advantage
    return scattered(whiten(advantage[batch.turn_mask], eps=eps), batch)


def turn_gae_returns(batch: TurnBatch, *, gamma: float = 0.99, lam: float = 0.95) -> GAE:
    """The advantages of `turn_gae` before whitening, [B, K], and the critic's targets A_t + V_t, [B, K].

    Both are 0 in padding and for invalid trajectories, whose turns the critic's loss must leave out.

    Raises:
        MissingInput: the batch has no `values`, or a truncated trajectory and no `last_value`.
    """
    if batch.values is None:
        raise MissingInput("turn_gae", "values")
    live = batch.live
    values = batch.values.masked_fill(~live, 0.0)
    after = torch.zeros_like(values)
    after[:, :-1] = values[:, 1:]
    after = torch.where(
        index_grid(batch) == batch.turns[:, None] - 1, last_values(batch, "turn_gae")[:, None], after
    )
    delta = batch.rewards.masked_fill(~live, 0.0) + gamma * after.to(values.dtype) - values
    advantage = discounted(delta.masked_fill(~live, 0.0), gamma * lam)
    return GAE(advantage, advantage + values)


def last_values(batch: TurnBatch, scheme: str) -> Tensor:
    """[B]: the critic's value after the last turn: 0 where the episode terminated, `last_value` where it was cut."""
    truncated = batch.valid & ~batch.terminated
    if not bool(truncated.any()):
        return torch.zeros_like(batch.outcome)
    if batch.last_value is None:
        example = batch.ids[int(truncated.nonzero()[0])]
        raise MissingInput(
            scheme,
            "last_value",
            f"trajectory {example!r} was truncated, so the critic's value of the state after its last turn is needed.",
        )
    return batch.last_value.masked_fill(~truncated, 0.0)
