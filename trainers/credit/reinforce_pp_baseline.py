"""REINFORCE++ with a group baseline: centred in the group, whitened over the batch."""

from __future__ import annotations

from torch import Tensor

from ..batch import TurnBatch
from .registry import Epsilon, register_credit
from .statistics import centre, grouping, onto_turns, scattered, whiten, without_lone


@register_credit("reinforce_pp_baseline", scope="batch", shift_invariant=True)
def reinforce_pp_baseline(batch: TurnBatch, *, eps: Epsilon = 1e-8) -> Tensor:
    """Every turn gets its trajectory's outcome minus the group's mean, whitened over all action tokens of the batch.

        A_i = (R_i - mean_g R - mean) * rsqrt(var + eps)

    The mean and the unbiased variance run over action tokens where the batch has a token side, and over turns where it
    has not, so that long trajectories weigh more.

    Args:
        batch: reads `outcome`, `group` and, if present, the token side.
        eps: added to the variance.

    Returns:
        [B, K], in standard deviations of the batch. A group without variance is not 0 but minus the batch's mean, which
        differs from 0 only by the lengths; a group of one is 0.

    Source: Hu, REINFORCE++ (arXiv 2501.03262); verl `compute_reinforce_plus_plus_baseline_outcome_advantage`, which
    keeps the raw score of a group of one.
    """
    centred = onto_turns(centre(batch.outcome, grouping(batch.group)), batch)[batch.turn_mask]
    tokens = None if batch.turn_tokens is None else batch.turn_tokens[batch.turn_mask]
    return without_lone(scattered(whiten(centred, tokens, eps=eps), batch), batch)
