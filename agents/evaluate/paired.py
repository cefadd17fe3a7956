"""Two agents on the same tasks: the difference, its interval, and whether chance alone would make as large a one."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...envs.errors import UsageError
from ...envs.trajectory import Trajectory, read_trajectories
from .figures import no_nan
from .folder import FILE
from .report import Table
from .statistics import mcnemar, paired_difference, resampled_means

_FLIPS = 10_000
_TOLD = ("format", "system_prompt")
"""Parameters that say how the agent is spoken to and leave the task what it is."""

Task = tuple[str, str, str]


@dataclass(frozen=True)
class Difference:
    """The second agent's figure minus the first's, on the same tasks.

    Attributes:
        first, second: the figures.
        value: second minus first.
        low, high: 95 % interval of that.
        p: two-sided p-value of no difference.
        test: `mcnemar` (exact) where each task has one attempt of each agent; else `permutation`, of the signs of the
            differences of the tasks.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    p: float
    test: str

    @property
    def clear(self) -> bool:
        """Whether chance alone would make so large a difference less than once in twenty times."""
        return self.p < 0.05


@dataclass(frozen=True)
class Comparison:
    """Two agents on one environment, or on all.

    Attributes:
        name: the environment's id; "all" for every task of every environment alike.
        tasks: number of tasks that both played.
        only_first: number of tasks that the first alone did (by more of its attempts than the second).
        only_second: number of tasks that the second alone did.
        success, score: the differences.
    """

    name: str
    tasks: int
    only_first: int
    only_second: int
    success: Difference
    score: Difference


@dataclass(frozen=True)
class PairedEvaluation:
    """What `compare_evaluations` found.

    Attributes:
        first, second: what was compared, as it was called.
        comparisons: one per environment, and `all` where there are several.
        left_out: number of tasks that only one of the two has played episodes of.
        failure_shares: of all episodes of the first and of the second.
    """

    first: str
    second: str
    comparisons: list[Comparison]
    left_out: int
    failure_shares: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """Everything as a dictionary that JSON takes."""
        data: dict[str, Any] = no_nan(asdict(self))
        return data


def compare_evaluations(
    first: Iterable[Trajectory], second: Iterable[Trajectory], *, names: tuple[str, str] = ("first", "second")
) -> PairedEvaluation:
    """Compare two evaluations task by task.

    A task is an environment with its parameters and the task's id; how the agent is spoken to (format, system prompt)
    may differ. Several attempts at a task count by their mean.

    Args:
        first: episodes; failed ones are left out.
        second: likewise.
        names: what to call them.

    Raises:
        UsageError: they have no task in common, and why.
    """
    sides, shares = [], []
    for episodes in (first, second):
        by_task: defaultdict[Task, list[Trajectory]] = defaultdict(list)
        count = failed = 0
        for t in episodes:
            count += 1
            failed += t.status == "failed"
            if t.status != "failed":
                by_task[_task(t)].append(t)
        sides.append(by_task)
        shares.append(failed / count if count else 0.0)
    common = sorted(sides[0].keys() & sides[1].keys())
    if not common:
        raise UsageError(f"{names[0]} and {names[1]} have no task in common: {_why(*sides)}")
    by_env: defaultdict[str, list[Task]] = defaultdict(list)
    for task in common:
        by_env[task[0]].append(task)
    comparisons = [_compared(name, tasks, *sides) for name, tasks in by_env.items()]
    if len(by_env) > 1:
        comparisons.append(_compared("all", common, *sides))
    return PairedEvaluation(
        *names,
        comparisons=comparisons,
        left_out=len(sides[0].keys() ^ sides[1].keys()),
        failure_shares=(shares[0], shares[1]),
    )


def read_evaluation(path: str | Path) -> list[Trajectory]:
    """The episodes of a folder of `turnwise eval`, or of a trajectory file.

    Raises:
        UsageError: there is no such thing.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UsageError(f"{path} is neither a folder of `turnwise eval` nor a trajectory file")
    return list(read_trajectories(file))


def tables(found: PairedEvaluation) -> list[Table]:
    """The comparison for people."""
    rows = []
    for c in found.comparisons:
        for what, d in (("success", c.success), ("score", c.score)):
            rows.append(
                [
                    c.name if what == "success" else "",
                    what,
                    f"{d.first:.3f}",
                    f"{d.second:.3f}",
                    f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})",
                    f"{d.p:.3g}",
                ]
            )
    columns = ["", "", "first", "second", "difference (95 %)", "p"]
    return [Table(f"first: {found.first}   second: {found.second}", columns, rows)]


def notes(found: PairedEvaluation) -> list[str]:
    """What the figures say in words."""
    said = []
    for c in found.comparisons:
        d = c.success
        verdict = (
            f"the {'second' if d.value > 0 else 'first'} succeeds more often"
            if d.clear
            else "the difference in success is within noise"
        )
        said.append(
            f"{c.name}: {verdict} ({c.tasks} tasks; the first alone did {c.only_first}, the second alone {c.only_second})."
        )
    if found.left_out:
        said.append(f"{found.left_out} tasks were played by one of the two only and are left out.")
    for name, share in zip((found.first, found.second), found.failure_shares, strict=True):
        if share > 0.05:
            said.append(f"{share:.1%} of the episodes of {name} failed: the comparison is not to be trusted.")
    return said


def _task(t: Trajectory) -> Task:
    parameters = {name: value for name, value in t.env_kwargs.items() if name not in _TOLD}
    return t.env_id, json.dumps(parameters, sort_keys=True), t.task_id


def _why(first: dict[Task, list[Trajectory]], second: dict[Task, list[Trajectory]]) -> str:
    if not first or not second:
        return f"the {'second' if first else 'first'} has no played episode"
    (env, parameters, task), (other, others, _) = min(first), min(second)
    if {t[0] for t in first}.isdisjoint(t[0] for t in second):
        return f"one is of {env}, the other of {other}"
    if {t[:2] for t in first}.isdisjoint(t[:2] for t in second):
        return f"{env} has the parameters {parameters} in one and {others} in the other"
    return f"for example {task!r} is in the first alone; give both the same split, seed and episodes"


def _compared(
    name: str,
    tasks: Sequence[Task],
    first: dict[Task, list[Trajectory]],
    second: dict[Task, list[Trajectory]],
) -> Comparison:
    success = np.array(
        [[np.mean([t.success for t in side[task]]) for side in (first, second)] for task in tasks]
    )
    score = np.array([[np.mean([t.score for t in side[task]]) for side in (first, second)] for task in tasks])
    only_first, only_second = (
        int((success[:, 0] > success[:, 1]).sum()),
        int((success[:, 0] < success[:, 1]).sum()),
    )
    once = all(len(side[task]) == 1 for side in (first, second) for task in tasks)
    by_tasks = _paired(success)
    if once:
        low, high = paired_difference(only_first, only_second, len(tasks))
        by_tasks = Difference(
            by_tasks.first,
            by_tasks.second,
            by_tasks.value,
            low,
            high,
            mcnemar(only_first, only_second),
            "mcnemar",
        )
    return Comparison(name, len(tasks), only_first, only_second, by_tasks, _paired(score))


def _paired(values: NDArray[Any]) -> Difference:
    """A paired bootstrap over tasks for the interval, and a permutation of signs for the p-value, from [tasks, 2]."""
    difference = values[:, 1] - values[:, 0]
    mean = float(difference.mean())
    low, high = np.percentile(resampled_means(difference[:, None])[:, 0], [2.5, 97.5])
    moved = difference[difference != 0]
    p = 1.0
    if len(moved):
        rng = np.random.Generator(np.random.PCG64(len(difference)))
        at_once = max(1, 2_000_000 // len(moved))
        larger = 0
        for done in range(0, _FLIPS, at_once):
            signs = rng.integers(0, 2, size=(min(at_once, _FLIPS - done), len(moved))) * 2 - 1
            # Rounding must not make a permutation with the same sum smaller.
            larger += int((np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9).sum())
        p = (1 + larger) / (1 + _FLIPS)  # the data as they are count as one permutation: never 0
    return Difference(
        float(values[:, 0].mean()),
        float(values[:, 1].mean()),
        mean,
        float(low),
        float(high),
        p,
        "permutation",
    )
