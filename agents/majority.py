"""`Majority`: what the agent says most often."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from ..envs.agent import Agent, Conversation
from .rerank import Option, Reranker


class Majority(Reranker):
    """Takes in every turn the call that most of n candidates make: self-consistency, over calls in place of answers.

    Calls are the same where the environment would understand the same: tool and arguments, after conversion to the tool's
    types. A candidate that the environment would turn down has no vote. It needs nothing but the agent.

    Source: Wang et al., Self-Consistency Improves Chain of Thought Reasoning (arXiv 2203.11171).
    """

    def __init__(self, inner: Agent, n: int = 4) -> None:
        super().__init__(inner, n, level="turn")

    async def rate(self, conversation: Conversation, options: Sequence[Option]) -> Sequence[float]:
        """How many candidates make the same call."""
        last = [option.trajectory.turns[-1] for option in options]
        calls = [
            None if turn.invalid else json.dumps([turn.tool, turn.arguments], sort_keys=True, default=repr)
            for turn in last
        ]
        votes = Counter(calls)
        return [0.0 if call is None else float(votes[call]) for call in calls]
