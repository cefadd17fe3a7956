"""Step-GRPO: every turn's own reward, compared with all rewards of the group."""

from __future__ import annotations

from torch import Tensor

from ..batch import TurnBatch
from .registry import Ddof, Epsilon, register_credit
from .turn_returns import compare_returns


@register_credit("step_grpo")
def step_grpo(batch: TurnBatch, *, ddof: Ddof = 1, eps: Epsilon = 1e-6) -> Tensor:
    """Every turn gets its own reward, standardised over all turns of its group; nothing is accumulated.

        A_t = (r_t - mean r) / (std r + eps)   over all turns of all trajectories of the group

    Only for rewards that judge each turn by itself: a reward at the end reaches the last turn alone.

    Args:
        batch: reads `rewards` and `group`.
        ddof: 1 for the unbiased standard deviation, 0 for the population's.
        eps: added to the standard deviation.

    Returns:
        [B, K], in standard deviations; sums to 0 over the turns of a group. Equals `turn_returns` with gamma 0 and
        norm "pooled".

    Source: Lu et al., WebGen-Agent (arXiv 2509.22644), which found accumulated rewards worse (38.7 against 45.4).
    """
    return compare_returns(batch.rewards, batch, norm="pooled", ddof=ddof, eps=eps)
