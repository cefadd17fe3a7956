"""`turnwise watch`: a training in the terminal, from the files of its run folder."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..envs.errors import UsageError
from .viewer.library import Run, read_config, read_metrics

SHOWN = (
    "success",
    "eval/success",
    "score",
    "reward",
    "turns",
    "invalid_share",
    "entropy",
    "kl_old_new",
    "gradient_norm",
)
"""What people watch, where the run has it; the mean of every reward source comes behind it."""

_BARS = "▁▂▃▄▅▆▇█"
_RECENT = 10


def watch(folder: Path, console: Console, *, seconds: float = 1.0) -> None:
    """Show a run until it ends: a table that is redrawn on a terminal, else a line for each step.

    Args:
        folder: of the run; its first step may still be to come.
        console: where to.
        seconds: between two looks at the files.

    Raises:
        UsageError: the folder holds no run.
    """
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder} holds no run: there is no config.yaml in it")
    if not console.is_terminal:
        said = 0.0
        while True:
            run, ended = look(folder), _ended(folder)
            for line in run.metrics:
                if line["step"] > said:
                    said = line["step"]
                    console.print(plain(run, line), soft_wrap=True, highlight=False, markup=False)
            if ended:
                break
            time.sleep(seconds)
    else:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                ended = _ended(folder)
                live.update(picture(look(folder), ended=ended, now=time.time()), refresh=True)
                if ended:
                    break
                time.sleep(seconds)
    console.print(last_words(folder), highlight=False, markup=False)


def look(folder: Path) -> Run:
    """Configuration and metrics of a run as they stand now."""
    run = Run(folder.name, folder)
    for name, read in (("config.yaml", read_config), ("metrics.jsonl", read_metrics)):
        try:
            read(run, folder / name)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, yaml.YAMLError) as error:
            run.problems[name] = f"{name} cannot be read: {str(error).splitlines()[0]}"
    return run


def _ended(folder: Path) -> bool:
    """Whether the run came to its end; a summary from before it was made longer does not count."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        planned = look(folder).config.get("trainer.steps", 0)
        return int(summary["steps"]) >= int(planned)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remaining(run: Run) -> tuple[float | None, float | None]:
    """Seconds per step over the last steps, and seconds that are left by them; None where unknown."""
    times = [v for line in run.metrics[-_RECENT:] if (v := _number(line.get("seconds/step"))) is not None]
    if not times:
        return None, None
    each = sum(times) / len(times)
    planned = run.config.get("trainer.steps")
    if not isinstance(planned, int):
        return each, None
    return each, max(0.0, planned - run.metrics[-1]["step"]) * each


def spark(values: Sequence[float | None], width: int = 32) -> str:
    """The course of some values in block characters, the last `width` stretches of it; a gap where none is known."""
    size = max(1, math.ceil(len(values) / width))
    means: list[float | None] = []
    for start in range(0, len(values), size):
        known = [v for v in values[start : start + size] if v is not None]
        means.append(sum(known) / len(known) if known else None)
    there = [v for v in means if v is not None]
    if not there:
        return ""
    low, high = min(there), max(there)
    span = high - low
    return "".join(
        " " if v is None else _BARS[round((v - low) / span * (len(_BARS) - 1)) if span else 0] for v in means
    )


def span(seconds: float | None) -> str:
    """A time for people: `3.2 s`, `4 min 10 s`, `2 h 5 min`."""
    if seconds is None:
        return "?"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def plain(run: Run, line: dict[str, Any]) -> str:
    """A step as a line of text."""
    figures = [
        f"{name} {value:.3g}" for name in _names(run) if (value := _number(line.get(name))) is not None
    ]
    planned = run.config.get("trainer.steps", "?")
    each = _number(line.get("seconds/step"))
    _, left = remaining(run)
    times = [] if each is None else [f"{span(each)} a step", f"{span(left)} left"]
    return f"step {line['step']:.0f}/{planned}  " + "  ".join([*figures, *times])


def picture(run: Run, *, ended: bool, now: float) -> RenderableType:
    """The run as a table.

    Args:
        run: as `look` gives it.
        ended: whether it came to its end.
        now: seconds since the epoch, for how long ago the last step was.
    """
    planned = run.config.get("trainer.steps")
    done = run.metrics[-1]["step"] if run.metrics else 0
    each, left = remaining(run)
    about = "  ".join(str(run.config[k]) for k in ("env.id", "credit.name", "seed") if k in run.config)
    parts: list[RenderableType] = [Text.assemble((run.name, "bold"), "  ", (about, "dim"))]
    parts += [Text(problem, "yellow") for problem in run.problems.values()]
    if not run.metrics:
        return Group(*parts, Text("waiting for the first step", "dim"))
    head = Table.grid(padding=(0, 2))
    ago = now - _changed(run.path / "metrics.jsonl")
    # Three times as long as a step takes, and no word of it: people should look.
    late = each is not None and not ended and ago > 3 * each + 10
    head.add_row(
        f"step {done:,.0f} of {planned if planned is not None else '?'}",
        ProgressBar(total=float(planned or done or 1), completed=float(done), width=28),
        f"{span(each)} a step",
        "done" if ended else f"{span(left)} left",
        Text(f"last step {span(ago)} ago" if late else "", "yellow"),
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("metric")
    table.add_column("now", justify="right")
    table.add_column(f"mean of {_RECENT}", justify="right")
    table.add_column("from the first step to now")
    for name in _names(run):
        values = [_number(line.get(name)) for line in run.metrics]
        known = [v for v in values if v is not None]
        if known:
            recent = known[-_RECENT:]
            style = "green" if name.endswith("success") else ""
            table.add_row(
                name, f"{known[-1]:.4g}", f"{sum(recent) / len(recent):.4g}", Text(spark(known), style)
            )
    return Group(*parts, head, Text(), table)


def last_words(folder: Path) -> str:
    """What the run came to, by its summary."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        found = [
            f"{when} training: success {s['success']:.3f} (95 % {s['success_low']:.3f} to {s['success_high']:.3f})"
            for when in ("before", "after")
            if isinstance(s := summary.get(when), dict) and s.get("success") is not None
        ]
    except (OSError, ValueError, KeyError, TypeError):
        found = []
    return "\n".join([*found, f"{folder} has ended"])


def _names(run: Run) -> list[str]:
    there = dict.fromkeys(name for line in run.metrics for name in line)
    sources = [name for name in there if re.fullmatch(r"reward/.*/mean", name)]
    return [name for name in (*SHOWN, *sources) if name in there]


def _number(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
