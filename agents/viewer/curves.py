"""Learning curves: runs grouped by configuration, mean and interval over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from .library import Run

NOT_COMPARED = ("seed", "run", "resume")
"""Keys of a configuration in which runs of one group may differ."""

POINTS = 600
"""A curve has at most so many points; of longer ones, neighbours are averaged."""

# Student's t at 97.5 % by degrees of freedom; beyond the table the normal's.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)  # fmt: skip


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None of fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = (_T[n - 2] if n - 2 < len(_T) else 1.96) * deviation / math.sqrt(n)
    return mean - half, mean + half


def groups(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Runs with metrics, by configuration: what tells a group from the others, and its runs."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.metrics:
            same = {k: v for k, v in run.config.items() if k not in NOT_COMPARED}
            # Without a configuration nobody knows what a run has in common with others.
            key = json.dumps(same, sort_keys=True, default=str) if same else run.name
            found.setdefault(key, []).append(run)
    configs = [members[0].config for members in found.values()]
    keys = dict.fromkeys(k for config in configs for k in config if k not in NOT_COMPARED)
    differ = [k for k in keys if len({json.dumps(c.get(k), default=str) for c in configs}) > 1]
    named = []
    for members in found.values():
        config = members[0].config
        label = "  ".join(
            f"{k.removesuffix('.name').removesuffix('.id')}={_short(config[k])}"
            for k in differ
            if k in config
        )
        if not label:
            label = "  ".join(str(config[k]) for k in ("env.id", "credit.name") if k in config)
        named.append((label or members[0].name, members))
    return named


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def metric_names(runs: Sequence[Run]) -> list[str]:
    """Every metric that is a number somewhere, in the order in which runs give them."""
    names: dict[str, None] = {}
    for run in runs:
        for line in run.metrics:
            for name, value in line.items():
                if name != "step" and isinstance(value, (int, float)):
                    names.setdefault(name)
    return list(names)


def curve(members: Sequence[Run], metric: str) -> dict[str, Any]:
    """One metric of a group.

    Returns:
        `steps`, `mean`, and `low` and `high` (95 % over seeds; with one run the interval that the run itself gives as
        `METRIC_low` and `METRIC_high`, else null), and `runs`, the values of each run on these steps.
    """
    tables = [{line["step"]: line for line in run.metrics} for run in members]
    steps = sorted({s for t in tables for s, line in t.items() if _finite(line.get(metric)) is not None})
    values = [[_finite(t.get(s, {}).get(metric)) for s in steps] for t in tables]
    low: list[float | None] = []
    high: list[float | None] = []
    mean: list[float] = []
    for place, step in enumerate(steps):
        there = [row[place] for row in values if row[place] is not None]
        known = [v for v in there if v is not None]
        mean.append(sum(known) / len(known))
        if len(members) == 1:
            line = tables[0][step]
            band = (_finite(line.get(f"{metric}_low")), _finite(line.get(f"{metric}_high")))
        else:
            band = interval(known) or (None, None)
        low.append(band[0])
        high.append(band[1])
    stride = math.ceil(len(steps) / POINTS) or 1
    return {
        "steps": _thin([float(s) for s in steps], stride),
        "mean": _thin(mean, stride),
        "low": _thin(low, stride),
        "high": _thin(high, stride),
        "runs": [_thin(row, stride) for row in values],
    }


def _finite(value: Any) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _thin(values: Sequence[float | None], stride: int) -> list[float | None]:
    if stride == 1:
        return list(values)
    thin: list[float | None] = []
    for start in range(0, len(values), stride):
        known = [v for v in values[start : start + stride] if v is not None]
        thin.append(sum(known) / len(known) if known else None)
    return thin
