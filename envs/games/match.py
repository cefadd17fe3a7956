"""`match`: the episode loop of a game with an agent in every seat, and one trajectory per seat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from ..agent import AgentLike, Conversation, Message, Reply
from ..errors import ContextFull, UsageError, nearest
from ..formats import writable
from ..rollout import Job, RolloutResult, agent_name, as_act, make_jobs, recorded, run_async, unplayed
from ..trajectory import Trajectory
from .game import Game


@dataclass
class MatchResult(RolloutResult):
    """What games came to: the trajectories of all seats, game after game, the seats of a game side by side."""

    @property
    def by_role(self) -> dict[str, RolloutResult]:
        """The same for each role alone."""
        roles = dict.fromkeys(t.role for t in self.trajectories)
        return {r: RolloutResult([t for t in self.trajectories if t.role == r], self.seconds) for r in roles}

    def __str__(self) -> str:
        return "\n".join(f"{role}: {result}" for role, result in self.by_role.items())


def match(
    game: Game,
    agents: Mapping[str, AgentLike],
    episodes: int = 64,
    *,
    seed: int = 0,
    split: str | None = None,
    tasks: Sequence[str] | None = None,
    group_size: int = 1,
    concurrency: int = 64,
    timeout: float | None = None,
) -> MatchResult:
    """Play games between agents.

    Args:
        game: a game; it is played in clones.
        agents: one for each of its roles, which may be the same object (self-play).
        episodes: how many games; a multiple of `group_size`.
        seed: which panel of tasks, and the agents' randomness.
        split: where the tasks come from; None for the game's own.
        tasks: ids of the tasks to play, in turn, instead of those that follow from the seed.
        group_size: games of each task.
        concurrency: games at a time.
        timeout: wall seconds for a game, after which it has failed.

    Returns:
        One trajectory per game and seat. Its group is that of task and role: credit compares a seat with the same seat.

    Raises:
        UsageError: a role without an agent, or a name that is no role; an agent's mistake.
    """
    jobs = make_jobs(game, episodes, seed=seed, split=split, tasks=tasks, group_size=group_size)
    return run_async(play_matches(game, agents, jobs, seed=seed, concurrency=concurrency, timeout=timeout))


async def play_matches(
    game: Game,
    agents: Mapping[str, AgentLike],
    jobs: Sequence[Job],
    *,
    seed: int = 0,
    concurrency: int = 64,
    timeout: float | None = None,
) -> MatchResult:
    """The same for a list of jobs; see `match`.

    A game in which something broke is played once more in a fresh clone; then the trajectories of all its seats are recorded as
    failed.
    """
    if not isinstance(game, Game):
        raise UsageError(f"a match needs a game with several seats; {game.env_id} is for one agent")
    for role in agents:
        if role not in game.roles:
            raise UsageError(
                f"{game.env_id} has no role {role!r}.{nearest(role, game.roles)} Roles: {', '.join(game.roles)}."
            )
    missing = [role for role in game.roles if role not in agents]
    if missing:
        raise UsageError(
            f"no agent for {', '.join(missing)} of {game.env_id}; name one for each of {', '.join(game.roles)}"
        )
    began = time.perf_counter()
    places = asyncio.Semaphore(concurrency)

    async def one(job: Job) -> list[Trajectory]:
        async with places:
            for attempt in (1, 2):
                played = await _game(game, agents, job, attempt, seed, timeout)
                if played[0].status != "failed":
                    break
            return played

    rows = await asyncio.gather(*map(one, jobs))
    return MatchResult([t for row in rows for t in row], time.perf_counter() - began)


async def _game(
    template: Game, agents: Mapping[str, AgentLike], job: Job, attempt: int, seed: int, timeout: float | None
) -> list[Trajectory]:
    """Play one game; every exception but the caller's mistakes makes its trajectories failed ones."""
    seats = [
        _Seat(template, role, agents[role], number, job, attempt, seed)
        for number, role in enumerate(template.roles)
    ]
    try:
        try:
            async with asyncio.timeout(timeout):
                await _moves(template, seats, job)
        finally:
            for seat in seats:
                seat.close()
    except UsageError:
        raise
    except Exception as error:
        for seat in seats:
            t = seat.trajectory
            t.status, t.score, t.success = "failed", 0.0, False
            t.error = f"{type(error).__name__}: {writable(str(error))}"[:2000]
    return [seat.trajectory for seat in seats]


async def _moves(template: Game, seats: Sequence[_Seat], job: Job) -> None:
    game = template.clone()
    assert isinstance(game, Game)
    game.everyone = True
    game.max_turns = template.max_turns * len(
        seats
    )  # the game counts the moves of all, the loop those of each
    game.reset(seed=job.seed, options={"task": job.task, "split": job.split})
    assert game.task is not None
    status = "terminated"
    while not game.over():
        movers = [seats[number] for number in game.movers()]
        if any(len(seat.trajectory.turns) == template.max_turns for seat in movers):
            status = "truncated"
            break
        try:
            # At the same time: nobody's choice is made before all have chosen.
            replies = await asyncio.gather(*(seat.ask(game) for seat in movers))
        except ContextFull:
            status = "truncated"
            break
        for seat, (reply, seconds) in zip(movers, replies, strict=True):
            if game.over():
                break
            seat.move(game, reply, seconds)
    result = game.result() if game.over() else (0.0,) * len(seats)
    for seat, utility in zip(seats, result, strict=True):
        t = seat.trajectory
        t.task_id, t.split = game.task.id, game.task.split
        t.family, t.difficulty, t.reference = game.task.family, game.task.difficulty, game.reference()
        t.status = status  # type: ignore[assignment]
        t.score, t.success, t.final_observation = utility, utility > 0.5, game.view(seat.number)
        if t.turns:
            t.turns[-1].reward = t.turns[-1].rewards["env"] = utility


class _Seat:
    """One agent in one game: its conversation and its trajectory."""

    def __init__(
        self, template: Game, role: str, agent: AgentLike, number: int, job: Job, attempt: int, seed: int
    ) -> None:
        self.template, self.agent, self.number = template, agent, number
        self._act: Callable[[Conversation], Awaitable[Reply]] = as_act(agent)
        self._conversation: Conversation | None = None
        self._refused: str | None = (
            None  # the answer to an illegal move, which is seen instead of the plain view
        )
        self._seen = ""
        self.trajectory = unplayed(template, job, agent_name(agent), seed=seed, attempt=attempt, role=role)
        self.trajectory.group = job.group * len(template.roles) + number

    async def ask(self, game: Game) -> tuple[Reply, float]:
        """The agent's answer to what the seat sees, and the seconds it took."""
        t = self.trajectory
        if self._conversation is None:
            self._seen = game.first_view(self.number)
            opening: list[Message] = self.template.messages(self._seen)
            t.system = opening[0]["content"] if opening[0]["role"] == "system" else ""
            episode = f"{t.id}:{t.group}.{t.sample}.{t.attempts}"
            self._conversation = Conversation(opening, id=episode, seed=t.agent_seed, env=game)
        else:
            self._seen = self._refused or game.view(self.number)
            self._conversation.append({"role": game.observation_role, "content": self._seen})
        began = time.perf_counter()
        game.me = self.number  # scripted agents ask the game for the seat's moves
        reply = await self._act(self._conversation)
        return reply, time.perf_counter() - began

    def move(self, game: Game, reply: Reply, seconds: float) -> None:
        """Make the move that the agent wrote."""
        assert self._conversation is not None
        game.me = self.number
        key = game.state_key()
        began = time.perf_counter()
        observation, _, _, _, info = game.step(writable(reply.text))
        self.trajectory.turns.append(
            recorded(self._seen, reply, 0.0, key, info, (seconds, time.perf_counter() - began))
        )
        self._refused = observation if info["invalid"] else None
        if info["invalid"] and game.illegal == "forfeit":
            game.forfeited = self.number  # also by what is no move at all
        self._conversation.append({"role": "assistant", "content": writable(reply.text)})

    def close(self) -> None:
        """Tell the agent that the game is over."""
        close = getattr(self.agent, "close", None)
        if self._conversation is not None and callable(close):
            close(self._conversation)
