"""iStar: the outcome for the episode, an implicit process reward for the step."""

from __future__ import annotations

from torch import Tensor

from ..batch import TurnBatch
from .registry import Ddof, Epsilon, Weight, register_credit
from .statistics import (
    deviation,
    group_of_turns,
    grouping,
    onto_turns,
    scattered,
    standardise,
    without_lone,
)

SOURCE = "implicit_prm"


@register_credit("istar", needs=(f"extra.{SOURCE}",), shift_invariant=True)
def istar(
    batch: TurnBatch,
    *,
    alpha: Weight = 1.0,
    ddof: Ddof = 1,
    eps: Epsilon = 1e-6,
    character_rl_first_step_statistics: bool = False,
) -> Tensor:
    """The standardised outcome plus the standardised implicit step reward.

        A_t = z(R_i over the group's trajectories) + alpha * z(r_t over all turns of the group)

    r_t = beta * sum over the turn's tokens of log pi_phi / pi_old, from the reward source "implicit_prm".

    Args:
        batch: reads `outcome`, `group` and `extra["implicit_prm"]`.
        alpha: weight of the step advantage.
        ddof: 1 for the unbiased standard deviation, 0 for the population's.
        eps: added to the standard deviation.
        character_rl_first_step_statistics: take mean and standard deviation of r_t from the first turns only, as the
            released code CharacterRL-iStar does (it keeps one row per rollout in both pools).

    Returns:
        [B, K], in standard deviations. Where all outcomes agree the step advantage still teaches, as intended; a group
        of one gets 0. The step advantages sum to 0 over a group's turns.

    Source: Liu et al., Online Process Reward Learning (arXiv 2509.19199).
    """
    groups = grouping(batch.group)
    episode = standardise(batch.outcome, groups, ddof=ddof, eps=eps)
    reward = batch.extra[SOURCE]
    if character_rl_first_step_statistics:
        first = reward[:, 0]
        mean, std = groups.mean(first), deviation(first, groups, ddof=ddof)
        step = (reward - mean[groups.index, None]) / (std + eps)[groups.index, None]
        # One turn says nothing of the spread: without variance among first turns the code would divide by eps.
        step = step.masked_fill((std == 0)[groups.index, None], 0.0)
    else:
        pooled = standardise(reward[batch.turn_mask], grouping(group_of_turns(batch)), ddof=ddof, eps=eps)
        step = scattered(pooled, batch)
    return onto_turns(episode, batch) + alpha * without_lone(step, batch)
