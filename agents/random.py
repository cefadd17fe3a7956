"""`RandomAgent`: well-formed actions, drawn at random."""

from __future__ import annotations

import numpy as np

from ..envs.agent import Conversation, Reply


class RandomAgent:
    """Draws one of the environment's tools, and arguments that its schema admits, in every turn.

    What it draws follows from the conversation's seed and the turn alone, so that an episode that is restored in the
    middle goes on as it did.
    """

    name = "random"

    async def act(self, conversation: Conversation) -> Reply:
        """A random well-formed action."""
        return Reply(conversation.env.sample_action(turn_rng(conversation)))


def turn_rng(conversation: Conversation) -> np.random.Generator:
    """A generator that depends on the conversation's seed and on how long it is, and on nothing else."""
    return np.random.Generator(np.random.PCG64([conversation.seed, len(conversation)]))
