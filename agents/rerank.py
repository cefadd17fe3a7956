"""Rerankers: ask an agent several times, rate what it says, and answer with the best."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from ..envs.agent import Agent, Conversation, Reply
from ..envs.errors import UsageError
from ..envs.rollout import agent_name, agent_seed
from ..envs.trajectory import Trajectory, Turn
from .candidates import Repeated, ask, attempts, turn_of, unfinished, with_costs

Level: TypeAlias = Literal["turn", "episode"]


class Option(NamedTuple):
    """One of the candidates.

    Attributes:
        trajectory: at the level of turns the episode so far, whose last turn is the candidate and has not been played; at the
            level of episodes the whole episode.
        replies: of the candidate: one, or one per turn of the episode.
    """

    trajectory: Trajectory
    replies: Sequence[Reply]


class Reranker(ABC):
    """Answers with the best of `n` candidates of the agent that it is around, as `rate` rates them.

    At the level of turns it asks for n actions in every turn, with seeds of their own, and takes one; the others are
    forgotten. At the level of episodes it plays n whole episodes in clones of the environment when the first turn is
    asked for, and then plays the best of them again in the live one. Of equals the first is taken. Everything follows
    from the conversation's seed.

    A reply has the tokens and log-probabilities of the action that was taken, and costs what all candidates cost (at the
    level of episodes in the first turn).

    Args:
        inner: the agent; it must draw its answers, at a temperature above 0.
        n: candidates.
        level: what is compared.

    Raises:
        UsageError: `n` is below 1.
    """

    def __init__(self, inner: Agent, n: int = 4, *, level: Level) -> None:
        if n < 1:
            raise UsageError(f"n must be at least 1, got {n}")
        self.inner, self.n, self.level = inner, n, level
        self.name = f"{type(self).__name__}(n={n}, {agent_name(inner)})"
        self._taken: dict[str, list[Turn]] = {}
        self._repeated: dict[str, Repeated] = {}

    @abstractmethod
    async def rate(self, conversation: Conversation, options: Sequence[Option]) -> Sequence[float]:
        """A number for each option; the highest is taken."""

    async def act(self, conversation: Conversation) -> Reply:
        """The best candidate."""
        return await (self._turn if self.level == "turn" else self._episode)(conversation)

    def close(self, conversation: Conversation) -> None:
        """Forget a conversation."""
        self._taken.pop(conversation.id, None)
        self._repeated.pop(conversation.id, None)

    async def _turn(self, conversation: Conversation) -> Reply:
        past = self._taken.setdefault(conversation.id, list(conversation.history))
        replies = await ask(self.inner, branches(conversation, past, self.n))
        observation = conversation[-1]["content"]
        turns = [None if r is None else turn_of(observation, r, conversation.env) for r in replies]
        found = [
            (reply, turn)
            for reply, turn in zip(replies, turns, strict=True)
            if reply is not None and turn is not None
        ]
        options = [Option(unfinished(conversation, [*past, turn]), [reply]) for reply, turn in found]
        reply, turn = found[await self._best(conversation, options)]
        past.append(turn)
        return with_costs(reply, replies)

    async def _episode(self, conversation: Conversation) -> Reply:
        if conversation.id not in self._repeated:
            played = await attempts(self.inner, conversation, range(self.n))
            best = await self._best(conversation, [Option(a.trajectory, a.replies) for a in played])
            asked = [reply for attempt in played for reply in attempt.asked]
            self._repeated[conversation.id] = Repeated(played[best], asked)
        return self._repeated[conversation.id].next(conversation)

    async def _best(self, conversation: Conversation, options: Sequence[Option]) -> int:
        ratings = list(await self.rate(conversation, options))
        return ratings.index(max(ratings))


def branches(conversation: Conversation, past: Sequence[Turn], n: int) -> list[Conversation]:
    """`n` conversations that go on from here, each with an id and a seed of its own."""
    return [
        Conversation(
            conversation,
            id=f"{conversation.id}/{len(past)}.{k}",
            seed=agent_seed(conversation.seed, len(past), k),
            env=conversation.env,
            history=tuple(past),
        )
        for k in range(n)
    ]
