"""The episode's score, paid in its last turn."""

from __future__ import annotations

from collections.abc import Sequence

from ...envs import Trajectory
from .registry import Models, RewardSource, Scores, register_reward


@register_reward("outcome")
class OutcomeReward(RewardSource):
    """The score in [0, 1] on the last turn and no number on the others.

    Unlike `env` with `reward="outcome"`, whose other turns are paid 0, these enter no statistic: `outcome` and
    `info_gain` side by side are the rewards of IGPO.
    """

    outcome = True

    async def score(self, trajectories: Sequence[Trajectory], models: Models) -> Scores:
        """None before the last turn, the score on it."""
        return [[None] * (len(t.turns) - 1) + [t.score] for t in trajectories]
