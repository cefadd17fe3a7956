"""`SelfCertainty`: what the agent is surest of."""

from __future__ import annotations

from collections.abc import Sequence

from ..envs.agent import Agent, Conversation
from ..envs.errors import UsageError
from ..envs.rollout import agent_name
from .rerank import Level, Option, Reranker


class SelfCertainty(Reranker):
    """Takes the candidate whose tokens were drawn from the most certain distributions.

    The certainty of a token is the Kullback-Leibler divergence of the model's distribution p, over a vocabulary of V, from the
    uniform one; of a candidate it is the mean over its tokens, at the level of episodes over those of all turns:

        C = 1/M sum_m KL(U || p_m) = -1/(M V) sum_m sum_v log(V p_m(v))

    It needs an agent that gives `Reply.certainties`: `LocalAgent(certainties=True)`, or `OpenAIAgent` with `top_log_probs`,
    where the sum goes over the likeliest k tokens alone, without the V, as the confidence of Fu et al. (arXiv 2508.15260).

    Source: Kang et al., Scalable Best-of-N Selection via Self-Certainty (arXiv 2502.18581).
    """

    def __init__(self, inner: Agent, n: int = 4, *, level: Level = "turn") -> None:
        super().__init__(inner, n, level=level)

    async def rate(self, conversation: Conversation, options: Sequence[Option]) -> Sequence[float]:
        """The mean certainty; that of a candidate without a token is below all others."""
        rows = [[c for reply in option.replies for c in reply.certainties] for option in options]
        if not any(rows):
            raise UsageError(
                f"{agent_name(self.inner)} gives no certainties; use LocalAgent(certainties=True) or a server's log-probabilities"
                " (top_log_probs)"
            )
        return [sum(row) / len(row) if row else float("-inf") for row in rows]
