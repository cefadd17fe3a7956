"""The folder of a run: config.yaml, metrics.jsonl, checkpoints/, trajectories/, summary.json."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..agents.evaluate.folder import write_text as write_text
from ..configs.schema import TrainConfig
from ..envs.errors import UsageError


def create(config: TrainConfig) -> Path:
    """Make the folder of a new run and write its config.yaml.

    Raises:
        UsageError: the folder already holds a run.
    """
    if config.run is not None:
        folder = Path(config.run)
        if (folder / "config.yaml").exists():
            raise UsageError(
                f"{folder} already holds a run; choose another run=FOLDER, or go on with resume={folder}"
            )
        folder.mkdir(parents=True, exist_ok=True)
    else:
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.env.id}-{config.credit.name}-s{config.seed}"
        folder = _new("runs", stem)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config.model_dump())))
    return folder


def _new(parent: str, stem: str) -> Path:
    for name in (stem, *(f"{stem}-{n}" for n in range(2, 1000))):
        try:
            Path(parent, name).mkdir(parents=True)
        except FileExistsError:
            continue
        return Path(parent, name)
    raise UsageError(f"{parent} holds a thousand runs called {stem}; choose a folder with run=FOLDER")


def reopen(folder: Path) -> TrainConfig:
    """The configuration of a run that is to go on.

    Raises:
        UsageError: the folder holds no run.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UsageError(f"{folder} holds no run: there is no config.yaml in it")
    saved = OmegaConf.to_container(OmegaConf.load(path))
    return TrainConfig.model_validate(saved)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write summary.json."""
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
