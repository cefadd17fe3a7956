"""Whether the environment could execute the turn's action."""

from __future__ import annotations

from collections.abc import Sequence

from ...envs import Trajectory
from .registry import Models, RewardSource, Scores, register_reward


@register_reward("grounding")
class Grounding(RewardSource):
    """1 for a turn whose action could be executed, 0 for one that was malformed or not allowed.

    g_t of `credit=spa` (Wang et al., SPA-RL, arXiv 2505.20732).
    """

    async def score(self, trajectories: Sequence[Trajectory], models: Models) -> Scores:
        """From `Turn.invalid`."""
        return [[float(not turn.invalid) for turn in t.turns] for t in trajectories]
