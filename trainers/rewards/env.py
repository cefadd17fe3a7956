"""What the environment pays: each turn's reward, or the outcome alone."""

from __future__ import annotations

from collections.abc import Sequence

from ...envs import Trajectory
from .registry import Models, RewardSource, Scores, register_reward


@register_reward("env")
class EnvReward(RewardSource):
    """The reward that the environment paid for the turn, in its own units."""

    outcome = True

    async def score(self, trajectories: Sequence[Trajectory], models: Models) -> Scores:
        """The turns' own rewards."""
        return [[turn.reward for turn in t.turns] for t in trajectories]
