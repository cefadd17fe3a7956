"""Discounted returns per turn, compared in the group."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor

from ..batch import TurnBatch
from .registry import Ddof, Discount, Epsilon, register_credit
from .statistics import (
    deviation,
    discounted,
    group_of_turns,
    grouping,
    index_of_turns,
    scattered,
    standardise,
    without_lone,
)

ReturnNorm: TypeAlias = Literal["turn_index", "pooled", "first", "none"]


@register_credit("turn_returns", shift_invariant=True)
def turn_returns(
    batch: TurnBatch,
    *,
    gamma: Discount = 1.0,
    norm: ReturnNorm = "turn_index",
    ddof: Ddof = 1,
    eps: Epsilon = 1e-6,
) -> Tensor:
    """Every turn gets the discounted rewards from it on, compared with the group's.

        G_t = sum over k >= t of gamma**(k - t) * r_k

    Args:
        batch: reads `rewards` (the outcome inside the last turn's) and `group`.
        gamma: discount per turn, not per token.
        norm: what G_t is compared with.
            "turn_index": standardised over the group's trajectories that have a turn t. The pool shrinks at late
            turns and a lone survivor gets 0.
            "pooled": standardised over all turns of the group. Long trajectories weigh more.
            "first": minus the mean of G_1, divided by the standard deviation of G_1; 0 where that deviation is 0.
            With gamma < 1 it is biased against late turns.
            "none": G_t itself, also for a group of one, which every other norm gives 0.
        ddof: 1 for the unbiased standard deviation, 0 for the population's.
        eps: added to the standard deviation.

    Returns:
        [B, K], in standard deviations (units of reward for "none").

    Source: the return of the turn-level Markov decision process; gamma 1 as in IGPO (arXiv 2510.14967). The choice of
    norms is ours.
    """
    return compare_returns(discounted(batch.rewards, gamma), batch, norm=norm, ddof=ddof, eps=eps)


def compare_returns(returns: Tensor, batch: TurnBatch, *, norm: ReturnNorm, ddof: Ddof, eps: float) -> Tensor:
    """[B, K]: returns [B, K] compared in the group as `norm` of `turn_returns` says."""
    if norm == "none":
        return returns
    if norm == "first":
        groups = grouping(batch.group)
        first = returns[:, 0]
        std = deviation(first, groups, ddof=ddof)
        compared = (returns - groups.mean(first)[groups.index, None]) / (std + eps)[groups.index, None]
        return compared.masked_fill((std == 0)[groups.index, None], 0.0)
    keys = [group_of_turns(batch)] + ([index_of_turns(batch)] if norm == "turn_index" else [])
    compared = standardise(returns[batch.turn_mask], grouping(*keys), ddof=ddof, eps=eps)
    return without_lone(scattered(compared, batch), batch)
