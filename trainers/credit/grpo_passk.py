"""GRPO for pass@k: only the best trajectory of a group is rewarded, by its lead over the second best."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch import TurnBatch
from .registry import Ddof, Epsilon, register_credit
from .statistics import deviation, grouping, onto_turns


@register_credit("grpo_passk", shift_invariant=True)
def grpo_passk(batch: TurnBatch, *, std: bool = True, ddof: Ddof = 1, eps: Epsilon = 1e-6) -> Tensor:
    """The best trajectory of a group gets its lead over the second best; all others get 0.

        A_best = (R_best - R_second) / (std_g R + eps)

    Args:
        batch: reads `outcome` and `group`.
        std: whether to divide by the group's standard deviation.
        ddof: 1 for the unbiased standard deviation, 0 for the population's.
        eps: added to the standard deviation.

    Returns:
        [B, K], never negative; 0 for the whole group when two trajectories share the best outcome.

    Source: Walder and Karkhanis, Pass@K Policy Optimization (arXiv 2503.19595), in the form of verl's
    `compute_grpo_passk_outcome_advantage`, which we know from its description and have not run.
    """
    groups = grouping(batch.group)
    outcome = batch.outcome
    low = outcome.new_full((groups.size,), -torch.inf)
    best = low.scatter_reduce(0, groups.index, outcome, "amax")
    is_best = outcome == best[groups.index]
    others = outcome.masked_fill(is_best, -torch.inf)
    second = low.scatter_reduce(0, groups.index, others, "amax")
    lead = torch.where((groups.total(is_best.double()) == 1) & second.isfinite(), best - second, 0.0)
    if std:
        lead = lead / (deviation(outcome, groups, ddof=ddof) + eps)
    return onto_turns(lead[groups.index] * is_best, batch)
