"""A reward source as a scorer of what an agent says: `agent.scorer` of `agent=reward_model` and `agent=tree`."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from dataclasses import replace

from ..agents.reward_model import Scorer
from ..configs.schema import ScorerSection
from ..envs import Trajectory, TurnEnv
from ..envs.errors import UsageError
from .policy_of_run import open_policy
from .rewards import Models, RewardPipeline, build
from .rewards.registry import RewardSource, Scores


def build_scorer(config: ScorerSection) -> Scorer:
    """The reward source of a run with what it has learned there, or a source that needs no run.

    Raises:
        UsageError: the run does not have this source, or the source needs a model that only a run has.
    """
    if config.run is None:
        source = build(config.source, **config.parameters)
        if {"policy", "tokens"} & source.needs:
            raise UsageError(
                f"agent.scorer.source={config.source} reads the tokens of a policy: name the run in which it was trained,"
                " agent.scorer.run=RUN"
            )
        return Batched(source, None)
    if config.parameters:
        raise UsageError("agent.scorer.parameters are those of the run; leave them out, or agent.scorer.run")
    opened = open_policy(
        config.run, None, None, temperature=1.0, max_new_tokens=1, slots=1, seed=0, say=lambda _: None
    )
    if opened.trained is None or opened.state is None:
        raise UsageError(f"agent.scorer.run={config.run} is no run folder with a checkpoint")
    pipeline = RewardPipeline(opened.trained.reward)
    found = {entry.name: entry.source for entry in pipeline.entries}
    if config.source not in found:
        raise UsageError(
            f"the run {config.run} has no reward source {config.source!r}; it has {', '.join(found)}. Train one with"
            f" reward=[env,{config.source}]"
        )
    around = replace(opened.around, temperature=opened.trained.model.temperature)
    pipeline.check(around)
    pipeline.load_state_dict(opened.state["rewards"])
    return Batched(found[config.source], around)


class Batched:
    """A reward source that is asked by many episodes at once: it scores together what has come in.

    Args:
        source: what scores.
        models: around it; None for a source that needs nothing but the environment.
    """

    def __init__(self, source: RewardSource, models: Models | None) -> None:
        self._source, self._models = source, models
        self._waiting: list[tuple[TurnEnv, Sequence[Trajectory], asyncio.Future[Scores]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, env: TurnEnv, trajectories: Sequence[Trajectory]) -> Scores:
        """A number for every turn of each trajectory; None where there is none."""
        future: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()
        self._waiting.append((env, trajectories, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(0)  # let the others come in
                env = self._waiting[0][0]
                now = [entry for entry in self._waiting if entry[0].env_id == env.env_id]
                self._waiting = [entry for entry in self._waiting if entry[0].env_id != env.env_id]
                around = Models(env=env) if self._models is None else replace(self._models, env=env)
                try:
                    rows = await self._source.score(_in_groups([some for _, some, _ in now]), around)
                except Exception as error:
                    for _, _, future in now:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for _, some, future in now:
                    if not future.done():
                        future.set_result(rows[: len(some)])
                    rows = rows[len(some) :]
        except BaseException:
            self._waiting = []
            raise


def _in_groups(asked: Sequence[Sequence[Trajectory]]) -> list[Trajectory]:
    """The trajectories of several episodes, those of each in a group of its own."""
    found = []
    for group, some in enumerate(asked):
        for trajectory in map(copy.copy, some):
            trajectory.group = group
            found.append(trajectory)
    return found
