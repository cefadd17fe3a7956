"""An evaluation as tables for people: the same ones in the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .figures import Figures
from .statistics import Estimate

if TYPE_CHECKING:
    from .evaluation import Evaluation


class Table(NamedTuple):
    """A table.

    Attributes:
        title: above it.
        columns: their heads; empty where the rows are names with a value.
        rows: of texts.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def estimate(e: Estimate) -> str:
    """A figure with its interval."""
    return f"{e.value:.3f}  (95 % {e.low:.3f} to {e.high:.3f})"


def _short_estimate(e: Estimate) -> str:
    return f"{e.value:.3f} ({e.low:.2f}-{e.high:.2f})"


def tables(evaluation: Evaluation, *, details: bool = True) -> list[Table]:
    """What there is to show: one panel in detail, or several beside each other with, on request, their details behind."""
    every = evaluation.figures
    if len(every) == 1:
        ((name, only),) = every.items()
        speed = evaluation.turns / evaluation.seconds if evaluation.played else None
        return [_one(f"{evaluation.agent} on {name}", only, speed), *_parts(only)]
    rows = [
        [
            name,
            f"{f.tasks}" + (f" x {f.attempts}" if f.attempts > 1 else ""),
            _short_estimate(f.success),
            f"{f.score.value:.3f}",
            f"{f.turns:.1f}",
            f"{f.invalid:.1%}",
            f"{f.failed}",
        ]
        for name, f in every.items()
    ]
    whole = [
        "mean",
        "",
        _short_estimate(evaluation.success),
        f"{evaluation.score.value:.3f}",
        "",
        "",
        f"{sum(f.failed for f in every.values())}",
    ]
    columns = ["panel", "tasks", "success (95 %)", "score", "turns", "invalid", "failed"]
    found = [Table(f"{evaluation.agent} on {len(every)} panels", columns, [*rows, whole])]
    for name, f in every.items() if details else ():
        found += [part._replace(title=f"{name}: {part.title}") for part in _parts(f)]
    return found


def notes(evaluation: Evaluation) -> list[str]:
    """What a reader has to know before believing the figures."""
    found = []
    for name, share in evaluation.untrusted.items():
        failures = ", ".join(f"{n} {kind}" for kind, n in evaluation.figures[name].failures.items())
        found.append(
            f"{name}: {share:.1%} of the episodes failed ({failures}), more than max_failure_share="
            f"{evaluation.max_failure_share:g} allows: its score is not to be trusted."
        )
    visible = sorted({f"{f.visible:.2f}" for f in evaluation.figures.values() if f.success.tasks})
    if visible:
        tasks = sorted({f.success.tasks for f in evaluation.figures.values() if f.success.tasks})
        found.append(
            f"Power: between two agents on {_range(tasks)} tasks a difference in success shows, 4 times of 5, from about"
            f" {_range(visible)} on."
        )
    return found


def _range(values: Sequence[object]) -> str:
    return f"{values[0]} to {values[-1]}" if len(values) > 1 else f"{values[0]}"


def markdown(evaluation: Evaluation) -> str:
    """The report as Markdown."""
    lines = [f"# {evaluation.agent}", ""]
    for table in tables(evaluation):
        columns = table.columns or ("figure", "value")
        lines += [f"## {_cell(table.title)}", ""]
        lines += [
            f"| {' | '.join(map(_cell, row))} |" for row in (columns, ["---"] * len(columns), *table.rows)
        ]
        lines.append("")
    lines += [f"- {_cell(note)}" for note in notes(evaluation)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A text that cannot break the table: the names of environments and tools are a user's."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _one(title: str, f: Figures, speed: float | None) -> Table:
    failures = ", ".join(f"{n} {kind}" for kind, n in f.failures.items())
    rows = {
        "success": estimate(f.success),
        "score": estimate(f.score),
        **{f"pass@{k}": estimate(e) for k, e in f.pass_at.items() if k > 1},
        **{f"pass^{k}": estimate(e) for k, e in f.pass_all.items() if k > 1},
        **{f"best of {k}": estimate(e) for k, e in f.best_of.items() if k > 1},
        "reward": f"{f.reward:.3f}",
        "turns": f"{f.turns:.1f}",
        "invalid actions": f"{f.invalid:.1%}",
        "repeated actions": f"{f.repeated:.1%}",
        "truncated": f"{f.truncated:.1%}",
        "tools": ", ".join(f"{name or '(none)'} {n:,}" for name, n in f.tools.items()),
        "tokens": _tokens(f),
        "cost": "" if f.cost is None else _cost(f),
        "seconds of the agent": _latency(f.agent_seconds),
        "seconds of the environment": _latency(f.env_seconds),
        "episodes": f"{f.episodes}"
        + (f"  ({f.tasks} tasks, {f.attempts} attempts)" if f.attempts > 1 else ""),
        "failed": f"{f.failed}" + (f"  ({failures})" if failures else ""),
        "turns per second": "" if speed is None else f"{speed:,.0f}",
    }
    return Table(title, (), [(name, value) for name, value in rows.items() if value])


def _parts(f: Figures) -> list[Table]:
    """By level, by kind, by stage."""
    columns = ["", "tasks", "success (95 %)", "score", "turns", "invalid", "failed"]
    found = []
    for title, parts in (("by difficulty", f.by_difficulty), ("by family", f.by_family)):
        if len(parts) > 1:
            rows = [
                [
                    name or "(unknown)",
                    f"{p.tasks}",
                    _short_estimate(p.success),
                    f"{p.score.value:.3f}",
                    f"{p.turns:.1f}",
                    f"{p.invalid:.1%}",
                    f"{p.failed}",
                ]
                for name, p in parts.items()
            ]
            found.append(Table(title, columns, rows))
    if f.stages:
        rows = [[name, estimate(e), f"{e.tasks}"] for name, e in f.stages.items()]
        found.append(Table("stages", ["stage", "passed", "tasks"], rows))
    return found


def _tokens(f: Figures) -> str:
    if not any(f.tokens.values()):
        return ""
    said = f"{f.tokens['input']:,} read ({f.tokens['cached']:,} from a cache), {f.tokens['output']:,} written"
    played = f.episodes - f.failed
    return f"{said}; {(f.tokens['input'] + f.tokens['output']) / played:,.0f} an episode" if played else said


def _cost(f: Figures) -> str:
    assert f.cost is not None
    successes = f.success.value * (f.episodes - f.failed)
    each = f"; {f.cost / successes:.4f} a success" if successes > 0 else ""
    return f"{f.cost:.4f} {f.currency}{each}"


def _latency(seconds: Mapping[int, float]) -> str:
    return "  ".join(f"{f'p{p}' if p < 100 else 'max'} {_short(s)}" for p, s in seconds.items())


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
