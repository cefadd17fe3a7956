"""HGPO: GiGPO's anchor groups, refined by the states that came before."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from ..batch import TurnBatch
from .registry import Discount, Epsilon, Interval, Weight, register_credit
from .statistics import (
    centre,
    discounted,
    group_of_turns,
    grouping,
    index_of_turns,
    scattered,
    standardise,
    without_lone,
)


@register_credit("hgpo", needs=("state",), shift_invariant=True)
def hgpo(
    batch: TurnBatch,
    *,
    gamma: Discount = 0.95,
    history: Annotated[int, Interval(0)] = 2,
    alpha: Weight = 1.0,
    norm: Literal["mean", "std"] = "std",
    eps: Epsilon = 1e-6,
) -> Tensor:
    """The return of a turn, compared in nested groups of turns that share 0, 1, .., `history` earlier states too.

        G_t = sum over k >= t of gamma**(k - t) * r_k
        A_t = sum_k w_k A_t^k / sum_k w_k,   w_k = (k + 2)**alpha

    A_t^k compares G_t in the group of turns with the same state and the same k states before it. Levels where the turn
    is alone, or where its advantage is 0, have no weight: the released code leaves them out. Turn t has t such levels
    at most.

    Args:
        batch: reads `rewards`, `group` and `state`.
        gamma: discount per turn.
        history: how many earlier states the finest level looks at.
        alpha: how much more a longer shared history weighs; 0 weighs all alike.
        norm: "mean" centres, "std" also divides by the population's standard deviation + eps.
        eps: added to the standard deviation and to the sum of the weights.

    Returns:
        [B, K], in standard deviations ("std") or units of reward ("mean"). There is no episode term: a turn whose state
        nobody shares gets 0, and so does a group of one.

    Source: He et al., Hierarchy-of-Groups Policy Optimization (arXiv 2602.22817), read in the released recipe of
    verl-agent (`recipe/hgpo/core_hgpo.py`, without `base_group`); the paper's text has not been compared.
    """
    assert batch.state is not None
    mask = batch.turn_mask
    returns = discounted(batch.rewards, gamma)[mask]
    state = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
    state[mask] = grouping(group_of_turns(batch), batch.state[mask]).index
    shared, index = state[mask], index_of_turns(batch)
    total, weights = torch.zeros_like(returns), torch.zeros_like(returns)
    for back in range(min(history, mask.shape[1] - 1) + 1):
        # Only turns with so much history have this level.
        here = (index >= back).nonzero()[:, 0]
        if back:
            before = torch.zeros_like(state)
            before[:, back:] = state[:, :-back]
            shared[here] = grouping(shared[here], before[mask][here]).index
        groups = grouping(shared[here])
        if norm == "std":
            advantage = standardise(returns[here], groups, ddof=0, eps=eps)
        else:
            advantage = centre(returns[here], groups)
        # A return at the mean of its group differs from it by a rounding error at most, which is no signal.
        weight = (back + 2.0) ** alpha * (advantage.abs() > 1e-9)
        total[here] += weight * advantage
        weights[here] += weight
    return without_lone(scattered(total / (weights + eps), batch), batch)
