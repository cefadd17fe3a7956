"""SPA-RL: a learned estimator splits the outcome over the turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..batch import TurnBatch
from .registry import Ddof, Discount, Epsilon, Weight, register_credit
from .statistics import discounted
from .turn_returns import ReturnNorm, compare_returns


def _needs(params: Mapping[str, Any]) -> tuple[str, ...]:
    return ("extra.grounding",) if params["beta"] else ()


@register_credit("spa", needs=("extra.spa",), needs_for=_needs)
def spa(
    batch: TurnBatch,
    *,
    alpha: Weight = 1.0,
    beta: Weight = 0.5,
    residual: bool = True,
    gamma: Discount = 1.0,
    norm: ReturnNorm = "turn_index",
    ddof: Ddof = 1,
    eps: Epsilon = 1e-6,
) -> Tensor:
    """Every turn is paid its estimated contribution to the outcome, and the returns are compared in the group.

        r_t = alpha * c_t + beta * g_t,   then as in `turn_returns`

    c_t is the estimator's progress of the turn, trained so that its sum over the trajectory predicts the outcome; g_t is
    1 where the action could be executed and 0 where not.

    Args:
        batch: reads `group`, `extra["spa"]` (c_t), `outcome` with `residual`, and `extra["grounding"]` (g_t) unless beta
            is 0.
        alpha: weight of the contribution.
        beta: weight of the grounding.
        residual: add (R - sum c) / T to each c_t, so that the contributions sum to the outcome exactly; ours.
        gamma: discount per turn.
        norm: as in `turn_returns`.
        ddof: 1 for the unbiased standard deviation, 0 for the population's.
        eps: added to the standard deviation.

    Returns:
        [B, K], in standard deviations (units of reward for norm "none").

    Source: Wang et al., SPA-RL (arXiv 2505.20732). The weights 1 and 0.5 are from memory, unverified; the paper trains
    with PPO and a critic on r_t, the comparison in the group is ours. The released data script overwrites every c_t
    with one number per trajectory.
    """
    contribution = batch.extra["spa"]
    if residual:
        contribution = contribution + ((batch.outcome - contribution.sum(1)) / batch.turns)[:, None]
    reward = alpha * contribution
    if beta:
        reward = reward + beta * batch.extra["grounding"]
    return compare_returns(
        discounted(reward * batch.turn_mask, gamma), batch, norm=norm, ddof=ddof, eps=eps
    )  # fmt: skip
