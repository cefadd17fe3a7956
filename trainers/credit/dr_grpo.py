"""Dr. GRPO: the group's mean as baseline, without its standard deviation."""

from __future__ import annotations

from torch import Tensor

from ..batch import TurnBatch
from .registry import Singleton, register_credit
from .statistics import centre, grouping, onto_turns


@register_credit("dr_grpo", shift_invariant=True)
def dr_grpo(batch: TurnBatch, *, singleton: Singleton = "zero") -> Tensor:
    """Every turn gets the outcome of its trajectory minus the mean of its group.

        A_i = R_i - mean_g R

    The other half of Dr. GRPO is in the loss: the sum over tokens divided by a constant, not by the length.

    Args:
        batch: reads `outcome` and `group`.
        singleton: what a group of one gets: 0, or with "raw" its own score as in verl.

    Returns:
        [B, K], in units of reward. Sums to 0 over a group's trajectories; (N - 1) / N times RLOO.

    Source: Liu et al., Understanding R1-Zero-Like Training (arXiv 2503.20783).
    """
    return onto_turns(centre(batch.outcome, grouping(batch.group), singleton=singleton), batch)
