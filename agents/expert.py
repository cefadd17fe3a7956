"""`ExpertAgent`: the environment's own scripted policy, made worse where that is wanted."""

from __future__ import annotations

from ..envs.agent import Conversation, Reply
from ..envs.core import TurnEnv
from ..envs.errors import UsageError
from .random import turn_rng


class ExpertAgent:
    """Plays what `env.expert()` says: the upper line of a plot, and demonstrations for a warm start.

    Args:
        noise: share of turns, in [0, 1], in which it plays a random well-formed action instead.

    Raises:
        UsageError: `noise` is not in [0, 1]; from `act`, the environment has no expert.
    """

    name = "expert"

    def __init__(self, noise: float = 0.0) -> None:
        if not 0.0 <= noise <= 1.0:
            raise UsageError(f"noise is a share of turns in [0, 1], got {noise!r}")
        self.noise = noise

    async def act(self, conversation: Conversation) -> Reply:
        """The expert's action; a random one with probability `noise`, and where the expert gives up on a state."""
        env = conversation.env
        if self.noise:
            rng = turn_rng(conversation)
            if rng.random() < self.noise:
                return Reply(env.sample_action(rng))
        call = env.expert()
        if call is not None:
            return Reply(env.write(call))
        if type(env).expert is TurnEnv.expert:
            raise UsageError(
                f"{env.env_id} has no expert; define expert() in {type(env).__name__}, or use another agent"
            )
        return Reply(env.sample_action(turn_rng(conversation)))  # it gave up on this state
