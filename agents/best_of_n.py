"""`BestOfN`: the best of several whole episodes, by the true score."""

from __future__ import annotations

from collections.abc import Sequence

from ..envs.agent import Agent, Conversation
from .rerank import Option, Reranker


class BestOfN(Reranker):
    """Plays n episodes and takes the one with the highest true score: an oracle.

    It knows what no agent knows before it answers, so it is the bound for everything that chooses among n episodes of the
    same agent, and not a way to act. How often it succeeds is pass@n.
    """

    def __init__(self, inner: Agent, n: int = 4) -> None:
        super().__init__(inner, n, level="episode")

    async def rate(self, conversation: Conversation, options: Sequence[Option]) -> Sequence[float]:
        """The scores."""
        return [option.trajectory.score for option in options]
