"""OPO: the length-weighted mean of the group as baseline."""

from __future__ import annotations

from torch import Tensor

from ..batch import TurnBatch
from .registry import register_credit
from .statistics import grouping, onto_turns


@register_credit("opo", shift_invariant=True)
def opo(batch: TurnBatch) -> Tensor:
    """Every turn gets the outcome of its trajectory minus the length-weighted mean of its group.

        A_i = R_i - sum_j l_j R_j / sum_j l_j

    The length l is the number of action tokens of the trajectory, or of its turns where the batch has no token side:
    under the assumption that the gradient's norm grows with the length, this is the baseline of least variance.

    Args:
        batch: reads `outcome`, `group` and, if present, the token side.

    Returns:
        [B, K], in units of reward. The length-weighted sum over a group's trajectories is 0.

    Source: Hao et al., On-Policy RL with Optimal Reward Baseline (arXiv 2505.23585); verl
    `compute_opo_outcome_advantage`.
    """
    groups = grouping(batch.group)
    tokens = batch.turns if batch.turn_tokens is None else batch.turn_tokens.sum(1)
    # A trajectory whose turns are all empty still counts as one token, so that no group has length 0.
    length = tokens.clamp(min=1).to(batch.outcome.dtype)
    baseline = groups.total(batch.outcome * length) / groups.total(length)
    same = groups.constant(batch.outcome)[groups.index]
    return onto_turns((batch.outcome - baseline[groups.index]).masked_fill(same, 0.0), batch)
