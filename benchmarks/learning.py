"""Learning curves of credit schemes: schemes x environments x seeds, equal episodes, the same warm start.

    python benchmarks/learning.py                                   # everything, goes on where it was stopped
    python benchmarks/learning.py --envs frozen_lake --schemes grpo gigpo --seeds 5 --steps 60
    python benchmarks/learning.py --report                          # only read what is there

Each run is `turnwise train` in a process of its own with one torch thread, as many at a time as `--processes`. All runs
of an environment start from the same warmed-up model (made once, in the cache of tiny models), and runs of one seed see
the same tasks, so equal steps are equal episodes. Printed, and written to
`<out>/learning.md` and `.png`:

    success     held-out test success after training, sampled as in training
    gain        the same minus the success before training
    area        mean success of the training episodes over the whole run: who learns early wins
    steps       first step at which the running mean of training success reaches the final one of `grpo`
    seconds     of a step, and the credit's own share

with 95 % intervals by bootstrap over seeds (10,000 resamples).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from turnwise.trainers.compare import WINDOW, Curve, draw, smooth

SCHEMES = ["grpo", "rloo", "turn_returns", "gigpo", "salt", "tempo", "empg", "turn_gae"]
ENVS = ["frozen_lake", "sokoban", "higher_lower"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--envs", nargs="+", default=ENVS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--report", action="store_true", help="read the runs that are there, train nothing")
    parser.add_argument("overrides", nargs="*", default=[], help="further overrides of every run, behind --")
    args = parser.parse_args()
    if not args.report:
        with ThreadPoolExecutor(args.processes) as pool:
            started = dict(
                zip(args.envs, pool.map(lambda env: _warm_start(env, args.overrides), args.envs), strict=True)
            )
            jobs = [(env, s, seed) for seed in range(args.seeds) for env in args.envs for s in args.schemes]
            list(
                pool.map(
                    lambda j: _run(
                        args.out, *j, args.steps, [f"model.path={started[j[0]]}", *args.overrides]
                    ),
                    jobs,
                )
            )
    report(args.out, args.envs, args.schemes)


WARM_START = """
import sys
from turnwise.configs.compose import compose
from turnwise.configs.schema import TrainConfig
from turnwise.envs import make
from turnwise.trainers.local.model import find
config = compose(TrainConfig, sys.argv[1:], registered={})
form = {"format": config.format.name, "system_prompt": config.format.system_prompt}
print(find(config.model, make(config.env.id, **form, **config.env.parameters), seed=0, say=lambda _: None))
"""


def _warm_start(env: str, overrides: Sequence[str]) -> str:
    """Folder of the warmed-up model that all runs of an environment start from."""
    command = [sys.executable, "-c", WARM_START, f"env={env}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the warm start of {env} failed:\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def _run(out: Path, env: str, scheme: str, seed: int, steps: int, overrides: Sequence[str]) -> None:
    folder = out / env / scheme / f"s{seed}"
    if (folder / "summary.json").exists():
        return
    if (folder / "checkpoints").is_dir():
        command = [f"resume={folder}"]
    else:
        command = [
            f"env={env}",
            f"credit={scheme}",
            f"seed={seed}",
            f"run={folder}",
            f"trainer.steps={steps}",
            "trainer.eval_every=0",
            "trainer.save_trajectories_every=0",
            "trainer.loggers=[]",
            *overrides,
        ]
    if (folder / "config.yaml").exists() and not (folder / "checkpoints").is_dir():
        (folder / "config.yaml").unlink()  # stopped before its first checkpoint
    done = subprocess.run(
        [sys.executable, "-m", "turnwise", "train", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    print(f"{env} {scheme} seed {seed}: {'done' if done.returncode == 0 else done.stderr[-800:]}", flush=True)


def report(out: Path, envs: Sequence[str], schemes: Sequence[str]) -> None:
    """Print the tables and write learning.md and learning.png."""
    lines: list[str] = []
    curves: dict[str, dict[str, np.ndarray]] = {}
    for env in envs:
        runs = {scheme: _read(out / env / scheme) for scheme in schemes}
        runs = {scheme: found for scheme, found in runs.items() if found}
        if not runs:
            continue
        curves[env] = {s: np.stack([r["curve"] for r in found]) for s, found in runs.items()}
        target = float(np.mean([c[-1] for c in _smooth(curves[env]["grpo"])])) if "grpo" in runs else math.nan
        lines += [
            f"### {env}: {len(next(iter(runs.values())))} seeds, {next(iter(curves[env].values())).shape[1]} steps",
            "",
            "| scheme | success | gain | area | steps to grpo's end | s per step | credit ms |",
            "|---|---|---|---|---|---|---|",
        ]
        for scheme, found in runs.items():
            reached = [_first(c, target) for c in _smooth(curves[env][scheme])]
            columns = [
                _interval([r["after"] for r in found]),
                _interval([r["after"] - r["before"] for r in found], signed=True),
                _interval([float(r["curve"].mean()) for r in found]),
                _reached(reached),
                f"{np.mean([r['seconds'] for r in found]):.2f}",
                f"{1e3 * np.mean([r['credit'] for r in found]):.1f}",
            ]
            lines.append(f"| `{scheme}` | " + " | ".join(columns) + " |")
        lines.append("")
    text = "\n".join(lines)
    print(text)
    if curves:
        (out / "learning.md").write_text(text)
        _plot(curves, out / "learning.png")


def _read(folder: Path) -> list[dict[str, Any]]:
    found = []
    for run in sorted(folder.glob("s*")):
        if not (run / "summary.json").exists():
            continue
        summary = json.loads((run / "summary.json").read_text())
        steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        found.append(
            {
                "curve": np.array([s["success"] for s in steps]),
                "before": summary["before"]["success"],
                "after": summary["after"]["success"],
                "seconds": np.mean([s["seconds/step"] for s in steps]),
                "credit": np.mean([s["seconds/credit"] for s in steps]),
            }
        )
    return found


def _smooth(curves: np.ndarray) -> list[np.ndarray]:
    """Running mean of each run."""
    return [smooth(c) for c in curves]


def _first(curve: np.ndarray, target: float) -> float:
    reached = np.nonzero(curve >= target)[0]
    return float(reached[0] + 1) if len(reached) else math.inf


def _reached(steps: list[float]) -> str:
    there = [s for s in steps if math.isfinite(s)]
    if not there:
        return f"0 of {len(steps)}"
    return f"{np.median(steps):.0f} (median; {len(there)} of {len(steps)})"


def bootstrap(values: Sequence[float], statistic: Callable[..., Any] = np.mean) -> tuple[float, float]:
    """95 % percentile interval of a statistic over seeds, 10,000 resamples."""
    rng = np.random.default_rng(0)
    samples = rng.choice(np.asarray(values), (10_000, len(values)))
    low, high = np.percentile(statistic(samples, axis=1), [2.5, 97.5])
    return float(low), float(high)


def _interval(values: Sequence[float], signed: bool = False) -> str:
    low, high = bootstrap(values)
    form = "+.3f" if signed else ".3f"
    return f"{np.mean(values):{form}} ({low:{form}} to {high:{form}})"


def _plot(curves: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    panels = {env: {scheme: _band(runs) for scheme, runs in found.items()} for env, found in curves.items()}
    draw(
        panels,
        path,
        xlabel="step",
        ylabel=f"success of training episodes (mean of {WINDOW})",
        ylim=(0, 1),
    )


def _band(runs: np.ndarray) -> Curve:
    values = np.stack(_smooth(runs))
    bands = np.array([bootstrap(values[:, i]) for i in range(values.shape[1])])
    return Curve(np.arange(1.0, values.shape[1] + 1), values.mean(0), bands[:, 0], bands[:, 1])


if __name__ == "__main__":
    main()
