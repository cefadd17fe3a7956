"""GRPO: compare the score of a trajectory with its group."""

from __future__ import annotations

from torch import Tensor

from ..batch import TurnBatch
from .registry import Ddof, Epsilon, Singleton, register_credit
from .statistics import centre, grouping, onto_turns, standardise


@register_credit("grpo", shift_invariant=True)
def grpo(
    batch: TurnBatch, *, std: bool = True, ddof: Ddof = 1, eps: Epsilon = 1e-6, singleton: Singleton = "zero"
) -> Tensor:
    """Every turn gets the outcome of its trajectory, standardised in the group.

        A_i = (R_i - mean_g R) / (std_g R + eps)

    Args:
        batch: reads `outcome` and `group`.
        std: whether to divide; without, this is Dr. GRPO.
        ddof: 1 for the unbiased standard deviation (verl), 0 for the population's.
        eps: added to the standard deviation.
        singleton: what a group of one gets: 0, or with "raw" its own score as in verl.

    Returns:
        [B, K], in standard deviations (or units of reward without `std`); at most (N - 1) / sqrt(N) in size for a
        group of N with ddof 1. Sums to 0 over a group's trajectories.

    Source: Shao et al., DeepSeekMath (arXiv 2402.03300), section 4.1; verl `compute_grpo_outcome_advantage`.
    """
    groups = grouping(batch.group)
    if std:
        advantage = standardise(batch.outcome, groups, ddof=ddof, eps=eps, singleton=singleton)
    else:
        advantage = centre(batch.outcome, groups, singleton=singleton)
    return onto_turns(advantage, batch)
