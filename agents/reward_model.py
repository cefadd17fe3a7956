"""`RewardModel`: what a reward model likes best."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from math import fsum
from typing import TypeAlias

from ..envs.agent import Agent, Conversation
from ..envs.core import TurnEnv
from ..envs.trajectory import Trajectory
from .rerank import Level, Option, Reranker

Scorer: TypeAlias = Callable[[TurnEnv, Sequence[Trajectory]], Awaitable[Sequence[Sequence[float | None]]]]
"""From trajectories of an environment to a number for each of their turns, None where there is none."""


class RewardModel(Reranker):
    """Takes the candidate that a reward model rates highest: an implicit process reward, a judge, or any other.

    At the level of turns a candidate is rated by the reward of its turn, before it is played; at the level of episodes by
    the sum over the turns. The true score is never looked at.

    Args:
        inner: the agent.
        scorer: rates turns; trajectories may be unfinished, and hold the agent's tokens where it knows them.
        n: candidates.
        level: what is compared.

    Source: Cobbe et al., Training Verifiers (arXiv 2110.14168) for outcomes; Lightman et al., Let's Verify Step by Step (arXiv
    2305.20050) for steps.
    """

    def __init__(self, inner: Agent, scorer: Scorer, n: int = 4, *, level: Level = "episode") -> None:
        super().__init__(inner, n, level=level)
        self._scorer = scorer

    async def rate(self, conversation: Conversation, options: Sequence[Option]) -> Sequence[float]:
        """The rewards; a candidate without one is below all others."""
        rows = await self._scorer(conversation.env, [option.trajectory for option in options])
        if self.level == "turn":
            return [float("-inf") if not row or row[-1] is None else row[-1] for row in rows]
        return [
            fsum(known) if (known := [x for x in row if x is not None]) else float("-inf") for row in rows
        ]
