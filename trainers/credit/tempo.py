"""TEMPO: what a turn changed in the mean outcome of the trajectories that share its prefix."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..batch import TurnBatch
from .registry import Ddof, Epsilon, Weight, register_credit
from .salt import following_state
from .statistics import centre, deviation, group_of_turns, grouping


@register_credit("tempo", needs=("state", "action"), shift_invariant=True)
def tempo(
    batch: TurnBatch,
    *,
    lam: Weight = 1.0,
    luck: Literal["next", "same"] = "next",
    ddof: Ddof = 1,
    eps: Epsilon = 1e-6,
) -> Tensor:
    """The group's trajectories form a prefix tree; a turn gets GRPO's term plus the change of the prefix's value.

        A_t = [ R_i - mean_g R + lam * (V(p_t) - V(p_{t-1})) ] / (std_g R + eps)

    V(p) is the mean outcome of the group's trajectories that share the prefix p; V(p_0) is the group's mean.

    Args:
        batch: reads `outcome`, `group`, `state` and `action`.
        lam: weight of the change; 0 is GRPO. The paper has none, which is 1.
        luck: p_t is (s_1, a_1, .., s_t, a_t) for "next", so that a lucky observation is credited to the turn after it,
            or also holds s_{t+1} for "same".
        ddof: 1 for the unbiased standard deviation, 0 for the population's.
        eps: added to the standard deviation.

    Returns:
        [B, K], in standard deviations. The changes of a trajectory whose prefix nobody shares to the end sum to
        R_i - mean R; turns where no trajectory branches off have none.

    Source: Tran et al., Exploiting Tree Structure for Credit Assignment (arXiv 2509.18314), with turns for tokens. That
    the change is divided by the standard deviation too is confirmed by a public review; the rest of the layout of
    the bracket is unverified. Averaging raw outcomes in V and dividing once is our reading.
    """
    groups = grouping(batch.group)
    std = deviation(batch.outcome, groups, ddof=ddof) + eps
    changes = _changes(batch, groups.mean(batch.outcome)[groups.index], luck)
    # Where all outcomes of a group agree, so do its prefix values: the mean's rounding error is not a signal.
    changes = changes.masked_fill(groups.constant(batch.outcome)[groups.index, None], 0.0)
    own = centre(batch.outcome, groups)[:, None]
    return (own + lam * changes) / std[groups.index, None] * batch.turn_mask


def _changes(batch: TurnBatch, root: Tensor, luck: str) -> Tensor:
    """[B, K]: V(p_t) - V(p_{t-1}), given V(p_0) [B]; 0 in padding."""
    assert batch.state is not None and batch.action is not None
    mask = batch.turn_mask
    keys = [group_of_turns(batch), batch.state[mask], batch.action[mask]]
    if luck == "same":
        keys.append(following_state(batch)[mask])
    step = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
    step[mask] = grouping(*keys).index
    changes = torch.zeros_like(batch.rewards)
    prefix, value = grouping(batch.group).index, root
    for turn in range(mask.shape[1]):
        here = mask[:, turn].nonzero()[:, 0]
        shared = grouping(prefix[here], step[here, turn])
        below = shared.mean(batch.outcome[here])[shared.index]
        changes[here, turn] = below - value[here]
        # Trajectories that have ended stay behind; their entries are not read again.
        prefix, value = prefix.index_copy(0, here, shared.index), value.index_copy(0, here, below)
    return changes
