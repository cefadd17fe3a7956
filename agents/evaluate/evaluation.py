"""`evaluate`: panels of tasks, an agent, several attempts at each task; what came of it, and where to read it again."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...envs.agent import AgentLike
from ...envs.core import TurnEnv
from ...envs.errors import UsageError
from ...envs.rollout import Job, agent_name, make_jobs, play, run_async
from ...envs.trajectory import Trajectory
from .figures import Figures, Prices, figures, mean_of, no_nan
from .folder import Folder, write_text
from .statistics import Estimate


@dataclass(frozen=True)
class Panel:
    """Tasks of one environment that every agent is tried on.

    Attributes:
        name: unique in an evaluation; what its figures are called.
        env: with its parameters and format; episodes are played in clones of it.
        number: how many tasks, from where `seed` says on. With `tasks`, None or their number.
        tasks: ids of the tasks, instead of those that follow from the seed.
        split: where the tasks come from; None for the environment's own.
        seed: which tasks, as in `rollout`: the same seed, the same tasks.
        max_turns: truncates episodes earlier than the environment would.
    """

    name: str
    env: TurnEnv
    number: int | None = None
    tasks: Sequence[str] = ()
    split: str | None = None
    seed: int = 0
    max_turns: int | None = None

    def jobs(self, attempts: int, first_group: int) -> list[Job]:
        """`attempts` episodes of each task; groups are numbered from `first_group` on."""
        number = len(self.tasks) if self.tasks and self.number is None else self.number
        if number is None or (self.tasks and number != len(self.tasks)):
            raise UsageError(
                f"panel {self.name!r} has {len(self.tasks)} ids in tasks and number={number}; give one of the two"
            )
        jobs = make_jobs(
            self.env,
            number * attempts,
            seed=self.seed,
            split=self.split,
            tasks=self.tasks or None,
            group_size=attempts,
        )
        return [job._replace(group=first_group + job.group) for job in jobs]


@dataclass(frozen=True)
class Evaluation:
    """What an agent did on panels of tasks.

    Attributes:
        agent: its name.
        panels: by name, the environment id and the episodes in the order of the jobs.
        max_failure_share: a panel in which more of the episodes failed makes the whole not to be trusted.
        prices: of tokens, where they are given.
        played: number of episodes that were played now; the others were finished before.
        turns: number of turns of those.
        seconds: wall time for those.
    """

    agent: str
    panels: dict[str, tuple[TurnEnv, list[Trajectory]]]
    max_failure_share: float = 0.05
    prices: Prices | None = None
    played: int = 0
    turns: int = 0
    seconds: float = 0.0

    @cached_property
    def figures(self) -> dict[str, Figures]:
        """Those of each panel."""
        return {
            name: figures(episodes, stages=env.stages, prices=self.prices)
            for name, (env, episodes) in self.panels.items()
        }

    @property
    def trajectories(self) -> list[Trajectory]:
        """All episodes, panel by panel."""
        return [t for _, episodes in self.panels.values() for t in episodes]

    @property
    def success(self) -> Estimate:
        """Mean over the panels, each counting alike."""
        return _whole([f.success for f in self.figures.values()])

    @property
    def score(self) -> Estimate:
        """Mean over the panels, each counting alike."""
        return _whole([f.score for f in self.figures.values()])

    @property
    def untrusted(self) -> dict[str, float]:
        """The panels of which too many episodes failed, with that share."""
        return {
            name: f.failure_share
            for name, f in self.figures.items()
            if f.failure_share > self.max_failure_share or f.failed == f.episodes
        }

    def summary(self) -> dict[str, Any]:
        """Everything as a dictionary that JSON takes.

        With one panel its figures stand at the top; with several there are the means over the panels, and the figures
        of each under `panels`.
        """
        head: dict[str, Any] = {
            "agent": self.agent,
            "trusted": not self.untrusted,
            "max_failure_share": self.max_failure_share,
            "seconds": self.seconds,
            "played_now": self.played,
            "turns_per_second": self.turns / self.seconds if self.seconds and self.played else None,
        }
        if len(self.figures) == 1:
            ((name, only),) = self.figures.items()
            return {**head, "panel": name, **only.as_json()}
        costs = [f.cost for f in self.figures.values() if f.cost is not None]
        failed = sum(f.failed for f in self.figures.values())
        episodes = sum(f.episodes for f in self.figures.values())
        several: dict[str, Any] = no_nan(
            {
                **head,
                "episodes": episodes,
                "failed": failed,
                "failure_share": failed / episodes,
                **dict(zip(("success", "success_low", "success_high"), self.success, strict=False)),
                **dict(zip(("score", "score_low", "score_high"), self.score, strict=False)),
                "cost": sum(costs) if costs else None,
                "panels": {name: f.as_json() for name, f in self.figures.items()},
            }
        )
        return several

    def save(self, folder: str | Path) -> None:
        """Write summary.json and report.md."""
        from .report import markdown

        Path(folder).mkdir(parents=True, exist_ok=True)
        write_text(Path(folder) / "summary.json", json.dumps(self.summary(), indent=2) + "\n")
        write_text(Path(folder) / "report.md", markdown(self))


def evaluate(
    panels: Sequence[Panel],
    agent: AgentLike,
    *,
    attempts: int = 1,
    concurrency: int = 64,
    timeout: float | None = None,
    max_failure_share: float = 0.05,
    prices: Prices | None = None,
    out: str | Path | None = None,
    retry_failed: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Play the tasks of every panel and say what came of it.

    With `out` each episode is in the folder as soon as it has ended. Called again with the same arguments, after an
    interruption, a kill or the end, it plays only what is not there yet. That the arguments are the same is for the
    caller to see to; what an episode itself says (environment, seed, task, agent) is checked.

    Args:
        panels: what to play, one after another.
        agent: as for `rollout`.
        attempts: episodes of each task, which differ in what the agent draws.
        concurrency: episodes at a time.
        timeout: wall seconds for an episode, after which it has failed.
        max_failure_share: of a panel; above it the evaluation says that it is not to be trusted.
        prices: of tokens, to give the cost in money.
        out: folder for trajectories.jsonl, summary.json and report.md.
        retry_failed: play the episodes that failed before again; their lines are dropped.
        progress: called with (finished, total) after each episode.

    Raises:
        UsageError: a mistake in the arguments, or `out` holds other episodes than these.
    """
    if attempts < 1:
        raise UsageError(f"attempts must be at least 1, got {attempts}")
    if not panels or len({p.name for p in panels}) != len(panels):
        raise UsageError(
            f"an evaluation needs panels with names of their own, got {[p.name for p in panels]}"
        )
    jobs: dict[str, list[Job]] = {}
    for panel in panels:
        jobs[panel.name] = panel.jobs(attempts, sum(map(len, jobs.values())) // attempts)
    by_key = {(j.group, j.sample): (p.env.env_id, j) for p in panels for j in jobs[p.name]}
    found: dict[tuple[int, int], Trajectory] = {}
    with contextlib.ExitStack() as stack:
        folder = None if out is None else stack.enter_context(Folder(out))
        if folder is not None:
            done = folder.finished(by_key, agent_name(agent))
            if retry_failed and any(t.status == "failed" for t in done):
                done = [t for t in done if t.status != "failed"]
                folder.forget(done)
            found = {(t.group, t.sample): t for t in done}
        before = len(found)

        async def run() -> None:
            for panel in panels:
                owed = [j for j in jobs[panel.name] if (j.group, j.sample) not in found]
                episodes = play(
                    panel.env,
                    agent,
                    owed,
                    seed=panel.seed,
                    max_turns=panel.max_turns,
                    concurrency=concurrency,
                    timeout=timeout,
                )
                async with contextlib.aclosing(episodes):
                    async for index, trajectory in episodes:
                        found[owed[index].group, owed[index].sample] = trajectory
                        if folder is not None:
                            folder.add(trajectory)
                        if progress is not None:
                            progress(len(found), len(by_key))

        began = time.perf_counter()
        old = set(found)
        run_async(run())
        seconds = time.perf_counter() - began
        evaluation = Evaluation(
            agent=agent_name(agent),
            panels={p.name: (p.env, [found[j.group, j.sample] for j in jobs[p.name]]) for p in panels},
            max_failure_share=max_failure_share,
            prices=prices,
            played=len(found) - before,
            turns=sum(len(t.turns) for key, t in found.items() if key not in old),
            seconds=seconds,
        )
        if folder is not None:
            evaluation.save(folder.path)
    return evaluation


def _whole(estimates: Sequence[Estimate]) -> Estimate:
    return estimates[0] if len(estimates) == 1 else mean_of(estimates)
