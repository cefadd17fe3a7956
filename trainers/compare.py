"""Training runs beside each other: grouped by configuration, with means and intervals over seeds.

What is said of a group rests on its seeds. Runs of the same seed saw the same tasks and began with the same weights, so
groups with the same seeds are compared seed by seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ..agents.evaluate.figures import no_nan
from ..agents.evaluate.folder import write_text
from ..agents.evaluate.report import Table
from ..agents.viewer.curves import groups
from ..agents.viewer.library import Library, Run
from ..envs.errors import UsageError

Axis = Literal["step", "seconds", "tokens", "env_steps"]
Array = NDArray[np.float64]

WINDOW = 10
"""Steps over which curves are smoothed, by a running mean, and which the end of a run is the mean of."""

_AXES: dict[str, tuple[str, tuple[str, ...]]] = {
    "step": ("step", ()),
    "seconds": ("seconds of training", ("seconds/step",)),
    "tokens": ("tokens read and sampled", ("tokens_per_second", "seconds/step")),
    "env_steps": ("environment steps", ("env_steps_per_second", "seconds/rollout")),
}
"""By axis: its label, and the metrics whose product is what a step adds to it; a step adds 1 to the first."""
_POINTS = 200


class Mean(NamedTuple):
    """A mean over seeds.

    Attributes:
        value: the mean.
        low, high: 95 % interval by Student's t; NaN of fewer than two seeds.
        seeds: how many.
    """

    value: float
    low: float
    high: float
    seeds: int


class Curve(NamedTuple):
    """A metric along an axis: x, mean over seeds, and the ends of its interval (the mean itself with one seed), each [P]."""

    x: Array
    mean: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Group:
    """Runs with the same configuration but for the seed.

    Attributes:
        label: the keys in which the groups differ, and their values.
        runs: paths.
        seeds: of the runs.
        measures: by name: `after` and `gain` (success on held-out tasks, from summary.json), `end` (of the metric, mean of
            the last 10 steps), `area` (mean over all steps), `seconds` (of the run), `tokens`; what a run has not is left
            out.
        values: the same for each run, in the order of `runs`.
        curve: of the metric along the axis.
    """

    label: str
    runs: list[str]
    seeds: list[int]
    measures: dict[str, Mean]
    values: dict[str, list[float]]
    curve: Curve


@dataclass(frozen=True)
class Difference:
    """A group's measure minus that of the best group.

    Attributes:
        label: of the group.
        mean: the difference with its interval.
        paired: whether it was taken seed by seed.
        noise: the interval holds 0, or there are too few seeds to say.
    """

    label: str
    mean: Mean
    paired: bool
    noise: bool


@dataclass(frozen=True)
class ComparedRuns:
    """What `compare` found.

    Attributes:
        groups: best first.
        measure: what they are ordered and compared by: `after`, or `end` where a run has no summary.
        differences: of every group but the best from the best.
        metric, axis: of the curves.
        left_out: runs that could not be used, with the reason.
    """

    groups: list[Group]
    measure: str
    differences: list[Difference]
    metric: str
    axis: Axis
    left_out: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Everything but the curves as a dictionary that JSON takes."""
        data = asdict(self)
        for group in data["groups"]:
            group.pop("curve")
        plain: dict[str, Any] = no_nan(data)
        return plain

    def save(self, folder: str | Path) -> None:
        """Write compare.json, compare.md, and the curves as compare.png and compare.svg."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        write_text(path / "compare.json", json.dumps(self.as_json(), indent=2) + "\n")
        write_text(path / "compare.md", markdown(self))
        panels = {"": {group.label: group.curve for group in self.groups}}
        for suffix in ("png", "svg"):
            draw(panels, path / f"compare.{suffix}", xlabel=_AXES[self.axis][0], ylabel=self.metric)


def compare(paths: Sequence[str | Path], *, metric: str = "success", axis: Axis = "step") -> ComparedRuns:
    """Read runs and compare them.

    Args:
        paths: run folders, or folders of run folders.
        metric: of metrics.jsonl, for the curves and for `end` and `area`.
        axis: of the curves.

    Raises:
        UsageError: no run has the metric, or what the axis is made of.
    """
    if axis not in get_args(Axis):
        raise UsageError(f"axis must be one of {', '.join(get_args(Axis))}, got {axis!r}")
    runs = list(Library(paths).runs.values())
    left_out: dict[str, str] = {}
    usable = []
    for run in runs:
        lacking = [name for name in (metric, *_AXES[axis][1]) if len(_column(run, name)) == 0]
        if lacking:
            left_out[str(run.path)] = next(iter(run.problems.values()), f"metrics.jsonl has no {lacking[0]}")
        else:
            usable.append(run)
    if not usable:
        said = "; ".join(f"{path}: {why}" for path, why in left_out.items())
        raise UsageError(f"there is no run to compare: {said}")
    found = [_group(label, members, metric, axis) for label, members in groups(usable)]
    measure = (
        "after"
        if all("after" in g.measures and len(g.values["after"]) == len(g.runs) for g in found)
        else "end"
    )
    found.sort(key=lambda g: -g.measures[measure].value)
    differences = [_difference(found[0], other, measure) for other in found[1:]]
    return ComparedRuns(found, measure, differences, metric, axis, left_out)


def tables(found: ComparedRuns) -> list[Table]:
    """The comparison for people: the groups, and how they differ from the best."""
    names = [
        n
        for n in ("after", "gain", "end", "area", "seconds", "tokens")
        if any(n in g.measures for g in found.groups)
    ]
    rows = [
        [g.label, f"{len(g.runs)}", *(_told(n, g.measures[n]) if n in g.measures else "" for n in names)]
        for g in found.groups
    ]
    heads = {"after": "test success", "end": f"{found.metric} at the end", "area": f"mean {found.metric}"}
    made = [Table("runs by configuration", ["", "seeds", *(heads.get(n, n) for n in names)], rows)]
    if found.differences:
        title = f"{heads[found.measure]}, less that of {found.groups[0].label}"
        made.append(
            Table(
                title,
                ["", "difference (95 %)", ""],
                [
                    [d.label, _told("difference", d.mean), "within noise" if d.noise else "clear"]
                    for d in found.differences
                ],
            )
        )
    return made


def notes(found: ComparedRuns) -> list[str]:
    """What a reader has to know."""
    said = []
    if any(len(g.runs) < 2 for g in found.groups):
        said.append(
            "One seed says nothing about others: its differences count as noise. Train with seed=1, seed=2, .."
        )
    if any(d.paired for d in found.differences):
        said.append("Groups with the same seeds are compared seed by seed.")
    if len(found.differences) > 2:
        said.append(
            f"{len(found.differences)} differences are looked at; one in twenty is called clear by chance."
        )
    said += [f"left out: {path}: {why}" for path, why in found.left_out.items()]
    return said


def markdown(found: ComparedRuns) -> str:
    """The comparison as Markdown."""
    lines = []
    for table in tables(found):
        lines += [f"## {table.title}", ""]
        for row in (table.columns, ["---"] * len(table.columns), *table.rows):
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |")
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in notes(found))]) + "\n"


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """The mean with a 95 % interval by Student's t."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Mean(mean, math.nan, math.nan, n)
    half = t_quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Mean(mean, mean - half, mean + half, n)


def t_quantile(degrees: float) -> float:
    """The 97.5 % quantile of Student's t, for degrees of freedom from 1 on, fractions too.

    Cornish and Fisher's series (Abramowitz and Stegun, 26.7.5) from 3 degrees on, where it is off by less than 1 %; below, where
    it fails, between the exact values at 1 and 2 and that at 3, straight in the logarithm over 1 / degrees, within 3 %.
    """
    p = 0.975
    if degrees < 3:
        exact = (math.tan(math.pi * (p - 0.5)), (2 * p - 1) / math.sqrt(2 * p * (1 - p)), t_quantile(3))
        lower = min(int(degrees), 2)
        share = (1 / lower - 1 / degrees) / (1 / lower - 1 / (lower + 1))
        return float(exact[lower - 1] ** (1 - share) * exact[lower] ** share)
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / degrees**i for i, term in enumerate(terms, 1))


def smooth(values: Array) -> Array:
    """Running mean over the last `WINDOW` steps; before the first step stands the first value."""
    kernel = np.ones(WINDOW) / WINDOW
    return np.convolve(np.pad(values, (WINDOW - 1, 0), mode="edge"), kernel, mode="valid")


def draw(
    panels: Mapping[str, Mapping[str, Curve]],
    path: Path,
    *,
    xlabel: str,
    ylabel: str,
    ylim: tuple[float, float] | None = None,
) -> None:
    """Draw curves with their bands, a panel for each title; the suffix of the path says what is written.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError("pictures need matplotlib: pip install 'turnwise[train]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    # Texts stay texts in an SVG, and the same curves give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "turnwise"}):
        figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 4.2), squeeze=False)
        for axis, (title, curves) in zip(axes[0], panels.items(), strict=True):
            for label, curve in curves.items():
                (line,) = axis.plot(curve.x, curve.mean, label=label)
                axis.fill_between(curve.x, curve.low, curve.high, alpha=0.12, color=line.get_color())
            axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
            if ylim is not None:
                axis.set_ylim(*ylim)
            axis.grid(alpha=0.3)
        axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
        figure.tight_layout()
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def _column(run: Run, name: str) -> Array:
    """A metric of a run by step, without the steps that have none."""
    values = [line.get(name) for line in run.metrics]
    return np.array([v for v in values if isinstance(v, int | float) and math.isfinite(v)], dtype=float)


def _along(run: Run, axis: Axis, metric: str) -> tuple[Array, Array]:
    """(x, metric) of the steps that have both."""
    needed = (metric, *_AXES[axis][1])
    lines = [
        [line.get(name) for name in needed]
        for line in run.metrics
        if all(isinstance(line.get(n), int | float) for n in needed)
    ]
    table = np.array(lines, dtype=float)
    return np.cumsum(table[:, 1:].prod(axis=1)), table[:, 0]


def _group(label: str, members: Sequence[Run], metric: str, axis: Axis) -> Group:
    values: dict[str, list[float]] = {}
    for run in members:
        series = _column(run, metric)
        for name, value in {
            **_held_out(run.path),
            "end": float(series[-WINDOW:].mean()),
            "area": float(series.mean()),
            "seconds": float(_column(run, "seconds/step").sum()),
            "tokens": float(_total(run, "tokens_per_second", "seconds/step")),
        }.items():
            values.setdefault(name, []).append(value)
    values = {name: found for name, found in values.items() if len(found) == len(members) and any(found)}
    return Group(
        label=label,
        runs=[str(run.path) for run in members],
        seeds=[int(run.config.get("seed", 0)) for run in members],
        measures={name: mean_over_seeds(found) for name, found in values.items()},
        values=values,
        curve=_curve([_along(run, axis, metric) for run in members]),
    )


def _total(run: Run, *names: str) -> float:
    lines = [line for line in run.metrics if all(isinstance(line.get(n), int | float) for n in names)]
    return math.fsum(math.prod(line[n] for n in names) for line in lines)


def _held_out(path: Path) -> dict[str, float]:
    """Success on held-out tasks after training, and what training added; nothing where the run is not at its end."""
    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        return {
            "after": float(summary["after"]["success"]),
            "gain": float(summary["after"]["success"]) - float(summary["before"]["success"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _curve(runs: Sequence[tuple[Array, Array]]) -> Curve:
    """Mean and interval over runs, where all of them have been; on a step axis at the steps themselves."""
    first, last = max(x[0] for x, _ in runs), min(x[-1] for x, _ in runs)
    x = runs[0][0]
    if any(len(other) != len(x) or (other != x).any() for other, _ in runs):
        x = np.linspace(first, max(first, last), _POINTS)
    values = np.stack([np.interp(x, at, smooth(y)) for at, y in runs])
    mean = values.mean(0)
    if len(runs) < 2:
        return Curve(x, mean, mean, mean)
    half = t_quantile(len(runs) - 1) * values.std(0, ddof=1) / math.sqrt(len(runs))
    return Curve(x, mean, mean - half, mean + half)


def _difference(best: Group, other: Group, measure: str) -> Difference:
    a, b = best.values[measure], other.values[measure]
    paired = len(a) > 1 and sorted(best.seeds) == sorted(other.seeds) and len(set(best.seeds)) == len(a)
    if paired:
        by_seed = dict(zip(best.seeds, a, strict=True))
        mean = mean_over_seeds([value - by_seed[seed] for seed, value in zip(other.seeds, b, strict=True)])
    elif len(a) > 1 and len(b) > 1:
        mean = _welch(a, b)
    else:
        mean = Mean(math.fsum(b) / len(b) - math.fsum(a) / len(a), math.nan, math.nan, min(len(a), len(b)))
    return Difference(other.label, mean, paired, not (mean.high < 0 or mean.low > 0))


def _welch(first: Sequence[float], second: Sequence[float]) -> Mean:
    """Second minus first, of samples with variances of their own (Welch, 1947)."""
    parts = [float(np.var(v, ddof=1)) / len(v) for v in (first, second)]
    mean = float(np.mean(second) - np.mean(first))
    total = sum(parts)
    degrees = (
        total**2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (first, second), strict=True))
        if total
        else 1.0
    )
    half = t_quantile(degrees) * math.sqrt(total)
    return Mean(mean, mean - half, mean + half, min(len(first), len(second)))


def _told(name: str, mean: Mean) -> str:
    form = {"gain": "+.3f", "difference": "+.3f", "seconds": ",.0f", "tokens": ",.0f"}.get(name, ".3f")
    if math.isnan(mean.low) or name in ("seconds", "tokens"):
        return f"{mean.value:{form}}"
    return f"{mean.value:{form}} ({mean.low:{form}} to {mean.high:{form}})"
