"""Where the metrics of a run go: always metrics.jsonl, beside it console, TensorBoard, W&B, MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..envs.errors import UsageError

Metrics = Mapping[str, float]


class Logger(Protocol):
    """Takes the metrics of a step."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Record the metrics of one step."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class JsonLines:
    """metrics.jsonl: one object per step, the step first; what is not a number is null.

    Opened for a run that goes on at `from_step`, the lines of that step and later ones are dropped: they belong to
    steps that are about to be played again.
    """

    def __init__(self, path: Path, from_step: int) -> None:
        kept = []
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < from_step]
        self._file = path.open("w", encoding="utf-8")
        self._file.writelines(kept)
        self._file.flush()

    def log(self, step: int, metrics: Metrics) -> None:
        """Append a line and flush it."""
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Console:
    """One plain line per step with the figures people watch."""

    SHOWN = (
        ("success", "success", "{:.2f}"),
        ("reward", "reward", "{:.2f}"),
        ("turns", "turns", "{:.1f}"),
        ("entropy", "entropy", "{:.3f}"),
        ("kl_old", "kl", "{:.4f}"),
        ("gradient_norm", "grad", "{:.2f}"),
        ("eval/success", "held-out", "{:.2f}"),
        ("seconds/step", "s", "{:.1f}"),
    )

    def __init__(self, say: Callable[[str], None], steps: int) -> None:
        self._say, self._steps = say, steps

    def log(self, step: int, metrics: Metrics) -> None:
        """Say the line."""
        parts = [
            f"{short} {form.format(metrics[name])}" for name, short, form in self.SHOWN if name in metrics
        ]
        self._say(f"step {step:>4}/{self._steps}  " + "  ".join(parts))

    def close(self) -> None:
        """Nothing to do."""


class TensorBoard:
    """Scalars for `tensorboard --logdir RUN`."""

    def __init__(self, folder: Path, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=from_step)

    def log(self, step: int, metrics: Metrics) -> None:
        """Write every metric as a scalar."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class Wandb:
    """Weights & Biases; works offline with WANDB_MODE=offline."""

    def __init__(self, folder: Path, config: Mapping[str, Any], from_step: int) -> None:
        import wandb

        self._run: Any = wandb.init(
            project="turnwise",
            name=folder.name,
            id=folder.name,
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Mlflow:
    """MLflow; the tracking store is MLFLOW_TRACKING_URI's."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        mlflow.set_experiment("turnwise")
        mlflow.start_run(run_name=folder.name)
        mlflow.log_dict(dict(config), "config.json")

    def log(self, step: int, metrics: Metrics) -> None:
        """Log the step."""
        self._mlflow.log_metrics(
            {name.replace("/", "."): value for name, value in metrics.items()}, step=step
        )

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


def open_loggers(
    names: Sequence[str],
    folder: Path,
    config: Mapping[str, Any],
    *,
    from_step: int,
    steps: int,
    say: Callable[[str], None],
) -> list[Logger]:
    """The loggers of a run; metrics.jsonl comes first and always.

    Raises:
        UsageError: the package behind a logger is not installed.
    """
    makers: dict[str, Callable[[], Logger]] = {
        "console": lambda: Console(say, steps),
        "tensorboard": lambda: TensorBoard(folder / "tensorboard", from_step),
        "wandb": lambda: Wandb(folder, config, from_step),
        "mlflow": lambda: Mlflow(folder, config),
    }
    loggers: list[Logger] = [JsonLines(folder / "metrics.jsonl", from_step)]
    for name in names:
        try:
            loggers.append(makers[name]())
        except ImportError as error:
            raise UsageError(
                f"the logger {name!r} needs the package {error.name!r}; pip install {name}, or leave it out of"
                " trainer.loggers"
            ) from error
    return loggers
