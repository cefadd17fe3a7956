"""`ScriptedAgent`: the same actions in every episode."""

from __future__ import annotations

from collections.abc import Sequence

from ..envs.agent import Conversation, Reply
from ..envs.errors import UsageError


class ScriptedAgent:
    """Plays a list of actions from the first turn on.

    Args:
        actions: texts of assistant messages, as the model would write them.

    Raises:
        UsageError: `actions` is a single text; from `act`, the episode goes on after the last action.
    """

    name = "scripted"

    def __init__(self, actions: Sequence[str]) -> None:
        if isinstance(actions, str):
            raise UsageError(
                f"actions is a list of texts, one per turn, got the text {actions!r}; write [{actions!r}]"
            )
        self.actions = tuple(actions)

    async def act(self, conversation: Conversation) -> Reply:
        """The action of this turn."""
        turn = sum(message["role"] == "assistant" for message in conversation)
        if turn >= len(self.actions):
            raise UsageError(
                f"the script has {len(self.actions)} actions, and {conversation.env.env_id} wants another one in turn"
                f" {turn + 1}; write a longer script, or set max_turns={len(self.actions)}"
            )
        return Reply(self.actions[turn])
