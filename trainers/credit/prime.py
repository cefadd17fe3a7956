"""PRIME: the implicit reward of the tokens to come, and the outcome, each against the other rollouts of the group."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch import TurnBatch
from .bilevel_gae import segment_suffix_sums, whitened_tokens
from .registry import Discount, Epsilon, Weight, register_credit
from .spreading import only_inside
from .statistics import grouping, leave_one_out


@register_credit("prime", needs=("token_rewards",), level="token", scope="batch", shift_invariant=True)
def prime(
    batch: TurnBatch,
    *,
    process: Weight = 5.0,
    outcome: Weight = 5.0,
    gamma: Discount = 1.0,
    whitened: bool = True,
    eps: Epsilon = 1e-8,
    prime_own_mean: bool = False,
) -> Tensor:
    """RLOO on the implicit rewards of tokens plus RLOO on the outcome, whitened over the batch.

        A_m = process * sum over the action tokens s >= m of the trajectory of gamma^(s - m) (r_s - b_i)
              + outcome * (R_i - mean of the group's other R)

    b_i is the mean over the group's other trajectories of their mean token reward (0 for one without action tokens); gamma
    counts action tokens, over the borders of turns. The result is whitened over the action tokens of the batch.

    Args:
        batch: reads `outcome`, `group`, `token_rewards` and the token side.
        process: c_p, weight of the implicit rewards.
        outcome: c_o, weight of the outcome.
        gamma: discount per action token.
        whitened: whether to whiten.
        eps: added to the variance when whitening.
        prime_own_mean: take the baseline as the released code does, r_s n/(n-1) - sum over the whole group of the means /
            (n-1): a token is then worth (r_s - its own trajectory's mean) / (n-1) more.

    Returns:
        [R, L], in standard deviations of the batch (units of reward when not whitened). A group of one gets 0.

    Source: Cui et al., PRIME (arXiv 2502.01456); the coefficients are those of its recipe in verl.
    """
    assert batch.row_to_trajectory is not None
    count = len(batch.turns)
    rows = batch.row_to_trajectory
    if gamma == 1 and len(rows) == count and torch.equal(rows, torch.arange(count, device=rows.device)):
        result, lone = _whole_rows(batch, process, outcome, prime_own_mean)
    else:
        result, lone = _any_rows(batch, process, outcome, gamma, prime_own_mean)
    alone = lone[rows, None] if bool(lone.any()) else None
    if alone is not None:
        result.masked_fill_(alone, 0.0)  # in the whitening too
    if whitened:
        result = whitened_tokens(result, batch, eps)
    return result if alone is None else result.masked_fill_(alone, 0.0)


def _baselines(mean: Tensor, batch: TurnBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[B] each: b_i, the number of others (at least 1), the outcome's term, and who is alone in its group."""
    groups = grouping(batch.group)
    members = groups.count()[groups.index]
    others = (members - 1).clamp(min=1)
    baseline = (groups.total(mean)[groups.index] - mean) / others
    return baseline, others, leave_one_out(batch.outcome, groups), members == 1


def _whole_rows(
    batch: TurnBatch, process: float, outcome: float, prime_own_mean: bool
) -> tuple[Tensor, Tensor]:
    """Where row i is trajectory i and nothing is discounted, in place: memory for all tokens is the cost."""
    assert batch.action_mask is not None and batch.token_rewards is not None and batch.turn_tokens is not None
    inside, tokens = batch.action_mask, batch.turn_tokens.sum(1)
    result = only_inside(batch.token_rewards.clone(), inside)
    mean = result.sum(1).to(batch.rewards.dtype) / tokens.clamp(min=1)
    baseline, others, from_outcome, lone = _baselines(mean, batch)
    scale: Tensor | float = 1.0
    if prime_own_mean:  # r + (r - mean) / others - b = (1 + 1 / others) r - (b + mean / others)
        scale, baseline = (1 + 1 / others)[:, None].to(result.dtype), baseline + mean / others
    result = only_inside(result.mul_(scale).sub_(baseline[:, None].to(result.dtype)), inside)
    total = result.sum(1, keepdim=True)
    # The sum from a token on is the whole less what came before it.
    result = result.sub_(result.cumsum(1)).add_(total)
    result.mul_(process).add_(outcome * from_outcome[:, None].to(result.dtype))
    return only_inside(result, inside), lone


def _any_rows(
    batch: TurnBatch, process: float, outcome: float, gamma: float, prime_own_mean: bool
) -> tuple[Tensor, Tensor]:
    """The tokens of a trajectory are gathered from its rows, in the order of its turns."""
    assert batch.action_mask is not None and batch.turn_of_token is not None
    assert batch.row_to_trajectory is not None and batch.token_rewards is not None
    count, turns = batch.turn_mask.shape
    position = batch.action_mask.flatten().nonzero()[:, 0]
    owner = batch.row_to_trajectory[position // max(batch.action_mask.shape[1], 1)]
    order = (owner * turns + batch.turn_of_token.flatten()[position]).argsort(stable=True)
    position, owner = position[order], owner[order]
    tokens = torch.bincount(owner, minlength=count)
    reward = batch.token_rewards.flatten()[position].to(batch.rewards.dtype)
    mean = reward.new_zeros(count).index_add_(0, owner, reward) / tokens.clamp(min=1)
    baseline, others, from_outcome, lone = _baselines(mean, batch)
    if prime_own_mean:
        reward = reward + (reward - mean[owner]) / others[owner]
    above = reward - baseline[owner]
    to_come = segment_suffix_sums(above, tokens.cumsum(0)[owner] - 1, gamma)
    each = process * to_come + outcome * from_outcome[owner]
    result = each.new_zeros(batch.action_mask.numel()).index_copy_(0, position, each)
    return result.view(batch.action_mask.shape), lone
