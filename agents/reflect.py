"""`Reflect`: another attempt after each failure, with a note on what went wrong."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ..envs.agent import Agent, Conversation, Reply
from ..envs.core import TurnEnv
from ..envs.errors import UsageError
from ..envs.formats import answer_of
from ..envs.rollout import agent_name, agent_seed
from ..envs.trajectory import Trajectory
from .candidates import Attempt, Repeated, ask, attempts, close

Note: TypeAlias = Literal["reflection", "attempt", "none"]

_MOST = 2000  # characters of an observation, an action or a note
_ASKED = (
    "An attempt at the task above has failed. Say in a few sentences what went wrong, and what to do otherwise in the next"
    " attempt at the same task. Do not act: nothing that you write now is carried out."
)


class Reflect:
    """Plays the episode in clones until an attempt succeeds, and then plays the last attempt again in the live one.

    Between two attempts the task stays and a note is written, which stands behind the first observation of those that
    follow. It knows after each attempt whether it succeeded, as an agent knows that may try again; so compare it with
    `note="none"`, which is that alone, and with an oracle over as many episodes.

    The reply has the tokens of the last attempt, in whose context the notes stood, and costs what all attempts and notes cost,
    in the first turn.

    Args:
        inner: the agent.
        n: most attempts.
        note: "reflection", which the reflector writes from the failed attempt; "attempt", the failed attempt itself; or "none".
        reflector: who writes the notes; None for the agent itself. It is asked in a conversation of its own.
        memory: how many notes stand there, the latest ones.

    Raises:
        UsageError: a number is below 1.

    Source: Yao et al., Retroformer (arXiv 2308.02151), where the reflector is trained; Shinn et al., Reflexion (arXiv
    2303.11366). The words are ours.
    """

    def __init__(
        self,
        inner: Agent,
        n: int = 3,
        *,
        note: Note = "reflection",
        reflector: Agent | None = None,
        memory: int = 3,
    ) -> None:
        for name, value in (("n", n), ("memory", memory)):
            if value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        self.inner, self.n = inner, n
        self.name = f"Reflect(n={n}, note={note}, {agent_name(inner)})"
        self._note, self._reflector, self._memory = note, reflector or inner, memory
        self._repeated: dict[str, Repeated] = {}

    async def act(self, conversation: Conversation) -> Reply:
        """The last attempt's reply in this turn."""
        if conversation.id not in self._repeated:
            self._repeated[conversation.id] = await self._play(conversation)
        return self._repeated[conversation.id].next(conversation)

    def close(self, conversation: Conversation) -> None:
        """Forget a conversation."""
        self._repeated.pop(conversation.id, None)

    async def _play(self, conversation: Conversation) -> Repeated:
        notes: list[str] = []
        asked: list[Reply] = []
        for number in range(self.n):
            (attempt,) = await attempts(_Noted(self.inner, notes[-self._memory :]), conversation, [number])
            asked += attempt.asked
            if attempt.trajectory.success or number + 1 == self.n:
                break
            if self._note == "attempt":
                notes.append(told(attempt.trajectory, conversation.env))
            elif self._note == "reflection":
                reply = await self._reflect(conversation, attempt, number)
                asked.append(reply)
                notes.append(answer_of(reply.text).strip()[:_MOST])
        return Repeated(attempt, asked)

    async def _reflect(self, conversation: Conversation, attempt: Attempt, number: int) -> Reply:
        question = Conversation(
            [{"role": "user", "content": f"{told(attempt.trajectory, conversation.env)}\n\n{_ASKED}"}],
            id=f"{conversation.id}/note.{number}",
            seed=agent_seed(conversation.seed, "note", number),
            env=conversation.env,
        )
        (reply,) = await ask(self._reflector, [question])
        assert reply is not None
        return reply


def told(trajectory: Trajectory, env: TurnEnv) -> str:
    """An episode in words, without its true score and reference."""
    lines = [f"Task: {env.rules}"] if env.rules else []
    for number, turn in enumerate(trajectory.turns, 1):
        lines += [f"{number}. Seen: {turn.observation[:_MOST]}", f"   Done: {turn.action[:_MOST]}"]
    return "\n".join([*lines, f"At the end: {trajectory.final_observation[:_MOST]}"])


class _Noted:
    """An agent that reads notes behind the first observation."""

    def __init__(self, agent: Agent, notes: list[str]) -> None:
        self._agent, self._notes = agent, notes
        self.name = agent_name(agent)

    async def act(self, conversation: Conversation) -> Reply:
        if not self._notes:
            return await self._agent.act(conversation)
        first = next(i for i, message in enumerate(conversation) if message["role"] == "user")
        notes = "\n\n".join(f"Note on an earlier attempt:\n{note}" for note in self._notes)
        messages = list(conversation)
        messages[first] = {"role": "user", "content": f"{messages[first]['content']}\n\n{notes}"}
        told = Conversation(
            messages,
            id=conversation.id,
            seed=conversation.seed,
            env=conversation.env,
            history=conversation.history,
        )
        return await self._agent.act(told)

    def close(self, conversation: Conversation) -> None:
        close(self._agent, conversation)
