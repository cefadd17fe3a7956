"""MT-GRPO: the outcome for every turn, plus its own reward for every turn that has one."""

from __future__ import annotations

from torch import Tensor

from ..batch import TurnBatch
from .registry import Ddof, Epsilon, Weight, register_credit
from .statistics import (
    group_of_turns,
    grouping,
    index_grid,
    index_of_turns,
    onto_turns,
    scattered,
    standardise,
)


@register_credit("mt_grpo", shift_invariant=True)
def mt_grpo(batch: TurnBatch, *, coefficient: Weight = 1.0, ddof: Ddof = 1, eps: Epsilon = 1e-4) -> Tensor:
    """Every turn gets the standardised outcome; every turn but the last also its own standardised reward.

        A_t = z(R) + c * z(r_t)  for t < T,     A_T = z(R)

    z(R) is the z-score of the outcome in the group, z(r_t) that of the reward among the group's trajectories that
    have a turn t which is not their last. The last turn is the answer, whose reward is the outcome. A trajectory of one
    turn, which answered without a tool, gets the z-score of its summed reward among those of the group.

    The original has one tool turn and one answer; the form for T turns is ours, and so is comparing the rewards of the
    same turn only.

    Args:
        batch: reads `rewards`, `outcome` and `group`.
        coefficient: weight c of the turn's own reward.
        ddof: 1 for the unbiased standard deviation, 0 for the population's.
        eps: added to the standard deviation.

    Returns:
        [B, K], in standard deviations.

    Source: Zeng et al., Multi-Turn GRPO (arXiv 2505.11821); c and eps from its code
    (`verifiers/trainers/mt_grpo_env_trainer.py`, estimator "aae").
    """
    groups = grouping(batch.group)
    turns = batch.turns
    outcome = standardise(batch.outcome, groups, ddof=ddof, eps=eps)
    combined = standardise(batch.rewards.sum(1), groups, ddof=ddof, eps=eps)
    inner = batch.unchecked(turn_mask=batch.turn_mask & (index_grid(batch) < turns[:, None] - 1))
    same_turn = grouping(group_of_turns(inner), index_of_turns(inner))
    own = scattered(standardise(batch.rewards[inner.turn_mask], same_turn, ddof=ddof, eps=eps), inner)
    return onto_turns(outcome.where(turns > 1, combined), batch) + coefficient * own
