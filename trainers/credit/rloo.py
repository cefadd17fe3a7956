"""RLOO: compare the score of a trajectory with the others of its group."""

from __future__ import annotations

from torch import Tensor

from ..batch import TurnBatch
from .registry import Singleton, register_credit
from .statistics import grouping, leave_one_out, onto_turns


@register_credit("rloo", shift_invariant=True)
def rloo(batch: TurnBatch, *, singleton: Singleton = "zero") -> Tensor:
    """Every turn gets the outcome of its trajectory minus the mean outcome of the others of its group.

        A_i = R_i - mean over j != i of R_j = N / (N - 1) * (R_i - mean_g R)

    Args:
        batch: reads `outcome` and `group`.
        singleton: what a group of one gets: 0, or with "raw" its own score as in verl.

    Returns:
        [B, K], in units of reward. Sums to 0 over a group's trajectories.

    Source: Ahmadian et al., Back to Basics (arXiv 2402.14740); the baseline of Kool et al. (2019).
    """
    return onto_turns(leave_one_out(batch.outcome, grouping(batch.group), singleton=singleton), batch)
