"""Values of states, measured by playing on from them.

A recorded trajectory of T turns passes through the states 0 (its beginning) to T (its end). The environment is brought
back into state k by playing the recorded actions again, and the agent goes on from there with the exact tokens of the
trajectory. The mean over such re-rolls estimates what the agent gets from the state; the end is known.

    values = await rerolls.values(env, agent, trajectories, [[3, 4]], 64)
    advantage, error = rerolls.gain(values[0], 3)                        # of turn 3
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..envs import Job, Trajectory, TurnEnv
from ..envs.agent import AgentLike
from ..envs.errors import TurnwiseError, UsageError
from ..envs.rollout import Branch, agent_seed, collect

Target: TypeAlias = Literal["success", "score", "return"]
State: TypeAlias = tuple[int, int]
"""(number of the trajectory, turns taken): (i, 0) is the beginning of trajectory i."""


class ReplayMismatch(TurnwiseError, RuntimeError):
    """The recorded actions did not lead the environment where they led before."""

    def __init__(self, trajectory: str, turn: int, expected: str, found: str) -> None:
        super().__init__(
            f"playing trajectory {trajectory!r} again, turn {turn} was answered by {found!r:.200} instead of"
            f" {expected!r:.200}; its states cannot be measured. Same task, seed and actions must give the same episode."
        )


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of the value of a state.

    Args:
        samples: what each re-roll came to.
        known: the state is the end of the episode, and the one sample is its value.
    """

    samples: tuple[float, ...]
    known: bool = False

    @property
    def mean(self) -> float:
        """Mean of the samples; NaN without any."""
        return math.fsum(self.samples) / len(self.samples) if self.samples else math.nan

    @property
    def error(self) -> float:
        """Standard error of the mean; 0 where it is known, NaN for fewer than two samples.

        Of samples that are all the same it is 0, which says more than a few of them can know.
        """
        if self.known:
            return 0.0
        if len(self.samples) < 2:
            return math.nan
        mean, count = self.mean, len(self.samples)
        squares = math.fsum((x - mean) ** 2 for x in self.samples)
        return math.sqrt(squares / (count - 1) / count)


def gain(values: Mapping[int, Value], turn: int) -> tuple[float, float]:
    """What a turn changed: the value after it minus the value before it, and the standard error of that.

    Args:
        values: of one trajectory, by turns taken; holds `turn` and `turn + 1`.
        turn: 0-based.
    """
    before, after = values[turn], values[turn + 1]
    return after.mean - before.mean, math.hypot(before.error, after.error)


class Rerolls:
    """Re-rolls from the states of recorded trajectories, which accumulate.

    Trajectories that begin with the same actions in the same episode share these states and their samples. What is
    drawn in a re-roll follows from the seed, the state and the number of the re-roll alone, so neither the order of the
    requests nor the concurrency changes anything (up to the rounding of batched arithmetic in the agent). The environment's own
    random numbers are drawn anew in every re-roll.

    Args:
        env: of the trajectories; it is cloned.
        agent: plays on. A model goes on from the exact tokens of the trajectory.
        trajectories: none of them failed.
        target: of the whole episode: "success" (0 or 1), its "score", or its "return" (the sum of rewards, those of the
            recorded turns included, so that the change over a turn is its reward plus the change of what is to come).
        seed: of everything that is drawn.
        concurrency: episodes at a time.
        timeout: wall seconds for one re-roll, after which it has failed.

    Attributes:
        lost: trajectories that could not be played again, by number, with the error.
        played: number of re-rolls that came to an end.
        failed: re-rolls that failed twice, by type of error; they are in no mean.
    """

    def __init__(
        self,
        env: TurnEnv,
        agent: AgentLike,
        trajectories: Sequence[Trajectory],
        *,
        target: Target = "success",
        seed: int = 0,
        concurrency: int = 64,
        timeout: float | None = None,
    ) -> None:
        for t in trajectories:
            if t.status == "failed":
                raise UsageError(f"trajectory {t.id!r} failed, so it has no states to measure; leave it out")
        self._env, self._agent, self._trajectories = env, agent, trajectories
        self._target, self._seed = target, seed
        self._concurrency, self._timeout = concurrency, timeout
        self.lost: dict[int, TurnwiseError] = {}
        self.failed: Counter[str] = Counter()
        self.played = 0
        self._keys = [_keys(t) for t in trajectories]
        self._branches: dict[Hashable, Branch] = {}
        self._samples: dict[Hashable, list[float]] = {}
        self._asked: Counter[Hashable] = Counter()

    def key(self, state: State) -> Hashable:
        """What states of several trajectories have in common when they are the same."""
        trajectory, turns = state
        return self._keys[trajectory][turns]

    def value(self, state: State) -> Value:
        """What is known of a state so far."""
        number, turns = state
        t = self._trajectories[number]
        if turns == len(t.turns):
            return Value((_worth(t, self._target),), known=True)
        return Value(tuple(self._samples.get(self.key(state), ())))

    async def more(self, wanted: Mapping[State, int]) -> None:
        """Play on from each of these states so many times more; final states and states of lost trajectories are left.

        A state that is named more than once, through trajectories that share it, gets the largest of the numbers.
        """
        counts: dict[Hashable, int] = {}
        first: dict[Hashable, State] = {}
        for state, count in wanted.items():
            number, turns = state
            if not 0 <= turns <= len(self._trajectories[number].turns):
                raise UsageError(
                    f"trajectory {self._trajectories[number].id!r} has the states 0 to"
                    f" {len(self._trajectories[number].turns)}, got {turns}"
                )
            if turns < len(self._trajectories[number].turns) and count > 0 and number not in self.lost:
                key = self.key(state)
                counts[key] = max(counts.get(key, 0), count)
                first.setdefault(key, state)
        await self._visit([state for key, state in first.items() if key not in self._branches])
        jobs, owners = [], []
        for key, count in counts.items():
            branch = self._branches.get(key)
            if branch is None:
                continue
            t = self._trajectories[first[key][0]]
            for sample in range(self._asked[key], self._asked[key] + count):
                number = agent_seed(self._seed, key, sample)
                jobs.append(Job(t.seed, t.task_id, t.split, 0, number, branch))
                owners.append(key)
            self._asked[key] += count
        result = await collect(
            self._env,
            self._agent,
            jobs,
            seed=self._seed,
            concurrency=self._concurrency,
            timeout=self._timeout,
        )
        for key, t in zip(owners, result.trajectories, strict=True):
            if t.status == "failed":
                self.failed[(t.error or "").split(":")[0]] += 1
            else:
                self.played += 1
                self._samples.setdefault(key, []).append(_worth(t, self._target))

    async def _visit(self, states: Iterable[State]) -> None:
        """Play the trajectories again up to these states, and keep snapshots of them."""
        stops: dict[int, set[int]] = {}
        for number, turns in states:
            stops.setdefault(number, set()).add(turns)
        if not stops:
            return
        idle = asyncio.Semaphore(self._concurrency)

        async def visit(number: int, wanted: set[int]) -> None:
            async with idle:
                if self._env.blocking:
                    await asyncio.to_thread(self._replay, number, wanted)
                else:
                    self._replay(number, wanted)

        await asyncio.gather(*(visit(number, wanted) for number, wanted in stops.items()))

    def _replay(self, number: int, stops: set[int]) -> None:
        t = self._trajectories[number]
        env = self._env.clone()
        try:
            observation, info = env.reset(seed=t.seed, options={"task": t.task_id, "split": t.split})
            for turns, turn in enumerate(t.turns[: max(stops) + 1]):
                if observation != turn.observation:
                    raise ReplayMismatch(t.id, turns, turn.observation, observation)
                if turns in stops:
                    self._branches[self._keys[number][turns]] = Branch(
                        env.snapshot(), t.turns[:turns], observation, info["state_key"]
                    )
                if turns < max(stops):
                    observation, _, _, _, info = env.step(turn.action)
        except UsageError:
            raise
        except Exception as error:
            self.lost[number] = error if isinstance(error, TurnwiseError) else TurnwiseError(repr(error))


def _keys(t: Trajectory) -> list[Hashable]:
    """A key per state: the episode and the actions so far."""
    key: int = agent_seed(t.env_id, sorted(t.env_kwargs.items(), key=repr), t.task_id, t.split, t.seed)
    keys = [key]
    for turn in t.turns:
        # The same text in other tokens is another context for a model.
        key = agent_seed(key, turn.action, list(turn.action_ids))
        keys.append(key)
    return list(keys)


def _worth(t: Trajectory, target: Target) -> float:
    if target == "success":
        return float(t.success)
    return t.score if target == "score" else t.total_reward


async def values(
    env: TurnEnv,
    agent: AgentLike,
    trajectories: Sequence[Trajectory],
    states: Sequence[Sequence[int]],
    rerolls: int,
    *,
    target: Target = "success",
    seed: int = 0,
    concurrency: int = 64,
    timeout: float | None = None,
) -> list[dict[int, Value]]:
    """Measure states of trajectories; the value of each, by turns taken.

    Args:
        states: for each trajectory the states to measure, as turns taken: turn t is measured by the states t and t + 1.
        rerolls: episodes per state; final states need none.

    The other arguments are those of `Rerolls`.

    Raises:
        ReplayMismatch, EnvFailure: a trajectory cannot be played again.
        UsageError: a trajectory has failed, or has no such state.
    """
    found = Rerolls(
        env, agent, trajectories, target=target, seed=seed, concurrency=concurrency, timeout=timeout
    )
    await found.more({(i, k): rerolls for i, row in enumerate(states) for k in row})
    for error in found.lost.values():
        raise error
    return [{k: found.value((i, k)) for k in row} for i, row in enumerate(states)]
