"""Checkpoints: a Hugging Face folder and the trainer's state beside it, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ...envs.errors import UsageError

STATE_FILE = "trainer.pt"


class CheckpointError(UsageError):
    """Raised when a checkpoint cannot be written, or is not whole when it is read; older ones stay as they are."""


def save(
    folder: Path,
    step: int,
    model: Any,
    tokenizer: Any,
    state: Mapping[str, Any],
    keep: int,
    extra: Mapping[str, Callable[[Path], None]] | None = None,
) -> Path:
    """Write `folder/step-N` and delete all but the newest `keep`; `extra` are writers of further sub-folders.

    Everything goes to a scratch folder first, which is renamed once it is on the disk: a crash or a full disk leaves
    the checkpoints before it untouched.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    final = folder / f"step-{step}"
    scratch = folder / f".writing-step-{step}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        torch.save(dict(state), scratch / STATE_FILE)
        for name, write in (extra or {}).items():
            (scratch / name).mkdir()
            write(scratch / name)
        files = sorted(f for f in scratch.rglob("*") if f.is_file())
        sizes = {str(f.relative_to(scratch)): f.stat().st_size for f in files}
        (scratch / "complete.json").write_text(json.dumps({"step": step, "files": sizes}))
        for file in (*files, scratch / "complete.json"):
            _sync(file)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(scratch, final)
        _sync(folder)
    except Exception as error:  # safetensors reports a full disk by an error of its own
        shutil.rmtree(scratch, ignore_errors=True)
        last = latest(folder)
        kept = f"the last good one is {last}" if last else "there is no earlier one"
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {folder}: {error}; {kept}. Free space or choose"
            " another folder, and go on with resume=RUN"
        ) from error
    for old in _numbered(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _numbered(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("step-*") if p.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint under a `checkpoints` folder, None where there is none."""
    for path in reversed(_numbered(folder)):
        try:
            verify(path)
        except CheckpointError:
            continue
        return path
    return None


def verify(path: Path) -> None:
    """Check that every file of a checkpoint is there in full.

    Raises:
        CheckpointError: one is missing or has another size.
    """
    try:
        listed = json.loads((path / "complete.json").read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not a whole checkpoint: complete.json cannot be read ({error})"
        ) from error
    for name, size in listed.items():
        file = path / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            raise CheckpointError(
                f"{path} is corrupt: {name} should have {size} bytes and {'is missing' if found is None else f'has {found}'};"
                " use an earlier checkpoint"
            )


def load_state(path: Path) -> dict[str, Any]:
    """The trainer's state of a checkpoint.

    Raises:
        CheckpointError: the checkpoint is not whole.
    """
    verify(path)
    try:
        state = torch.load(path / STATE_FILE, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path / STATE_FILE} cannot be read: {error}; use an earlier checkpoint"
        ) from error
    assert isinstance(state, dict)
    return state
