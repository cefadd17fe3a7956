"""What the episode loop and an agent say to each other: `Conversation` in, `Reply` out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .core import TurnEnv
    from .trajectory import Turn

Message = dict[str, str]
"""One chat message: `role` (system, user, assistant or tool) and `content`."""


class Reply(NamedTuple):
    """One assistant message.

    Attributes:
        text: the message, without end-of-turn marks.
        prompt_ids: token ids that were added to the context before this message was sampled; empty when the agent
            does not know tokens.
        action_ids: the sampled token ids, the end-of-turn token included where it was sampled.
        action_log_probs: log-probability in nats of each sampled token under the sampling distribution at its
            temperature, as long as `action_ids`.
        input_tokens: tokens that the model read for this message, by its own account; 0 where that is not known.
        output_tokens: tokens that it wrote, those of its thinking included.
        cached_tokens: those of `input_tokens` that were served from a cache.
        certainties: of each sampled token, how far the distribution it was drawn from is from the uniform one, in nats;
            empty unless the agent was asked for it.
    """

    text: str
    prompt_ids: Sequence[int] = ()
    action_ids: Sequence[int] = ()
    action_log_probs: Sequence[float] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    certainties: Sequence[float] = ()


class Conversation(list[Message]):
    """The chat messages of one episode so far; it only ever grows.

    Attributes:
        id: unique to the episode, the same in every turn.
        seed: the seed of everything the agent draws in this episode.
        env: the live environment. Scripted agents read it; a model must not.
        history: the turns that were taken before the agent came in, when the episode is a branch of another. They stand in
            the messages too; here are the exact tokens, for a model to go on from.
    """

    def __init__(
        self, messages: Sequence[Message], *, id: str, seed: int, env: TurnEnv, history: Sequence[Turn] = ()
    ) -> None:
        super().__init__(messages)
        self.id = id
        self.seed = seed
        self.env = env
        self.history = history

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The environment's tools as JSON schemas in the form of OpenAI's chat API."""
        return [spec.openai() for spec in self.env.tools.values()]


@runtime_checkable
class Agent(Protocol):
    """Whatever can take a turn.

    An agent may also have `close(conversation)`, called once when the episode is over, and `name`, which trajectories
    record.
    """

    async def act(self, conversation: Conversation) -> Reply:
        """Answer the last message of the conversation."""
        ...


AgentLike = Agent | Callable[[Conversation], "str | Reply | Awaitable[str | Reply]"]
"""An `Agent`, or a plain function from the messages to the text of the answer (or to a `Reply`)."""
