"""Several answers to one conversation: asking for them, what they cost together, and how they are made episodes of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic_core import to_jsonable_python

from ..envs.agent import Agent, Conversation, Reply
from ..envs.core import TurnEnv
from ..envs.errors import ContextFull, EnvFailure, UsageError
from ..envs.formats import answer_of, tool_format, writable
from ..envs.rollout import Job, agent_name, play
from ..envs.tools import Call
from ..envs.trajectory import Trajectory, Turn


class NoAttempt(EnvFailure):
    """Raised when none of several attempts at an episode came to an end: all of them failed."""


class Diverged(EnvFailure):
    """Raised when an episode does not go as the attempt went that it repeats: the environment is not reproducible."""


def close(agent: Agent, conversation: Conversation) -> None:
    """Tell an agent that a conversation is over, where it wants to know."""
    closing = getattr(agent, "close", None)
    if callable(closing):
        closing(conversation)


async def ask(agent: Agent, conversations: Sequence[Conversation]) -> list[Reply | None]:
    """Ask for an answer to each of these conversations at once, and end them; None where there is none.

    Raises:
        ContextFull: there is no room for any answer.
        Exception: what the first of them met with, where all failed.
    """

    async def one(conversation: Conversation) -> Reply | Exception:
        try:
            return await agent.act(conversation)
        except ContextFull as error:
            return error
        except UsageError:
            raise
        except Exception as error:
            return error
        finally:
            close(agent, conversation)

    answers: list[Reply | Exception] = []
    try:
        async with asyncio.TaskGroup() as group:  # waits for all of them, also where the episode is cancelled
            tasks = [group.create_task(one(c)) for c in conversations]
        answers = [task.result() for task in tasks]
    except* UsageError as errors:
        raise errors.exceptions[0] from None
    replies = [answer if isinstance(answer, Reply) else None for answer in answers]
    if not any(reply is not None for reply in replies):
        raise next(answer for answer in answers if isinstance(answer, Exception))
    return replies


def with_costs(reply: Reply, asked: Iterable[Reply | None]) -> Reply:
    """A reply that costs what all of these cost, itself among them."""
    paid = [other for other in asked if other is not None]
    return reply._replace(
        input_tokens=sum(other.input_tokens for other in paid),
        output_tokens=sum(other.output_tokens for other in paid),
        cached_tokens=sum(other.cached_tokens for other in paid),
    )


def read_call(env: TurnEnv, text: str) -> Call | None:
    """The call in an action, with arguments of the tool's types; None where the environment would turn it down."""
    call = tool_format(env.format).parse(answer_of(text), env.tools)
    if not isinstance(call, Call) or call.tool not in env.tools:
        return None
    arguments = env.tools[call.tool].validate(call.arguments)
    return Call(call.tool, arguments) if isinstance(arguments, dict) else None


def turn_of(observation: str, reply: Reply, env: TurnEnv) -> Turn:
    """A turn that has not been played: the action and its tokens."""
    text = writable(reply.text)
    call = read_call(env, text)
    return Turn(
        observation,
        text,
        tool=None if call is None else call.tool,
        arguments=None if call is None else to_jsonable_python(call.arguments, fallback=repr),
        invalid=call is None,
        prompt_ids=list(reply.prompt_ids),
        action_ids=list(reply.action_ids),
        action_log_probs=list(reply.action_log_probs),
    )


def unfinished(conversation: Conversation, turns: Sequence[Turn]) -> Trajectory:
    """The episode so far as a trajectory, with a turn that has not been played at its end."""
    env = conversation.env
    assert env.task is not None
    return Trajectory(
        env_id=env.env_id,
        env_kwargs=to_jsonable_python(env.parameters, fallback=repr),
        task_id=env.task.id,
        split=env.task.split,
        seed=env.np_random_seed,
        status="truncated",
        score=0.0,
        success=False,
        turns=list(turns),
        system=conversation[0]["content"] if conversation[0]["role"] == "system" else "",
        agent_seed=conversation.seed,
    )


class Attempt(NamedTuple):
    """An episode that was played to its end in a clone of the environment.

    Attributes:
        trajectory: what became of it.
        replies: one per turn, as the agent gave them.
        asked: all replies that it cost, those of a broken first try included.
    """

    trajectory: Trajectory
    replies: list[Reply]
    asked: list[Reply]


class _Listening:
    """An agent as it is, whose replies are written down by the seed of the conversation."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.name = agent_name(agent)
        self.replies: dict[int, dict[str, list[Reply]]] = {}

    async def act(self, conversation: Conversation) -> Reply:
        # An episode that broke is played a second time, under another id.
        said = self.replies.setdefault(conversation.seed, {}).setdefault(conversation.id, [])
        reply = await self._agent.act(conversation)
        said.append(reply)
        return reply

    def close(self, conversation: Conversation) -> None:
        close(self._agent, conversation)


async def attempts(agent: Agent, conversation: Conversation, numbers: Sequence[int]) -> list[Attempt]:
    """Play the episode of a conversation from its beginning, once for each number, in clones of its environment.

    Task and seed of the environment are those of the live episode, so that the same actions lead to the same end there.
    The number decides what the agent draws. Attempts that failed are left out.

    Raises:
        NoAttempt: all failed.
        UsageError: the conversation is past its beginning.
    """
    env = conversation.env
    if any(message["role"] == "assistant" for message in conversation):
        raise UsageError(
            f"an agent that plays whole episodes cannot go on from the middle of one ({conversation.id!r}); let it play"
            " from the beginning, or choose per turn"
        )
    assert env.task is not None
    jobs = [Job(env.np_random_seed, env.task.id, env.task.split, 0, number) for number in numbers]
    listening = _Listening(agent)
    episodes = play(env, listening, jobs, seed=conversation.seed, concurrency=len(jobs))
    async with contextlib.aclosing(episodes):  # none of them may go on when the live episode has ended
        found = {index: trajectory async for index, trajectory in episodes}
    played = []
    for index in range(len(jobs)):
        t = found[index]
        if t.status != "failed":
            tries = list(listening.replies.get(t.agent_seed, {}).values())
            played.append(Attempt(t, tries[-1] if tries else [], [reply for one in tries for reply in one]))
    if not played:
        raise NoAttempt(f"all {len(jobs)} attempts failed; the first: {found[0].error}")
    return played


class Repeated:
    """An attempt that is played again, turn by turn, in the live episode."""

    def __init__(self, attempt: Attempt, asked: Iterable[Reply]) -> None:
        self._turns, self._replies = attempt.trajectory.turns, list(attempt.replies)
        if self._replies:
            self._replies[0] = with_costs(self._replies[0], asked)
            # The first reply costs what all attempts cost; the others are paid for with it.
            self._replies[1:] = [with_costs(reply, ()) for reply in self._replies[1:]]

    def next(self, conversation: Conversation) -> Reply:
        """The attempt's reply in this turn.

        Raises:
            ContextFull: the attempt ended here, because its context was full.
            Diverged: the observation is another one than it was.
        """
        turn = sum(message["role"] == "assistant" for message in conversation)
        if turn >= len(self._replies):
            raise ContextFull("the chosen attempt ended here: its context was full")
        if conversation[-1]["content"] != self._turns[turn].observation:
            raise Diverged(
                f"turn {turn + 1} shows {conversation[-1]['content']!r:.200}, and the attempt saw"
                f" {self._turns[turn].observation!r:.200}: the same task, seed and actions gave another episode"
            )
        return self._replies[turn]
