"""What the viewer was pointed at: runs, their configurations and metrics, and the rows of all their trajectory files."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import yaml
from pydantic_core import from_json

from ...envs.cache import cache_folder
from ...envs.errors import TurnwiseError, UsageError
from .index import ROW, STATUSES, TEXTS, FileIndex, Stamp, Texts, read_line

PLACE = np.dtype([("run", "<i4"), ("file", "<i4"), ("record", "<i8"), ("step", "<i8")])
"""Where a row comes from: numbers of its run and file, its place in the file from 0, the step (-1: none)."""

_STEP = re.compile(r"step-(\d+)$")
_CACHE_VERSION = 1
_WORTH_KEEPING = 1 << 25
"""Bytes scanned from which on an index is kept on disk; fewer are scanned again faster than anybody notices."""
_PUBLISH_SECONDS = 0.4


class Gone(TurnwiseError, LookupError):
    """Raised when a link names a run, file or record that is not there."""


@dataclass
class Run:
    """A run folder, or one trajectory file.

    Attributes:
        name: unique within the viewer.
        path: of the folder or file.
        config: what config.yaml holds, flat, keys joined by dots; empty without one.
        metrics: the lines of metrics.jsonl.
        problems: sentences about what could not be read.
        files: the indices of its trajectory files, by name without suffix, in the order of the steps.
    """

    name: str
    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    files: dict[str, FileIndex] = field(default_factory=dict)
    stamps: dict[str, Stamp] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """All rows at one moment.

    Attributes:
        version: changes when anything else does.
        rows: array with the fields of `ROW` and `PLACE`.
        names: the texts that rows give by number.
        runs: names, by the number that rows give.
        files: (run, file) names, by the number that rows give.
        progress: share of the bytes that is indexed.
        problems: sentences about what could not be read.
    """

    version: int
    rows: np.ndarray
    names: list[str]
    runs: list[str]
    files: list[tuple[str, str]]
    progress: float
    problems: list[str]


class Library:
    """Runs and files, followed while they grow.

    Args:
        paths: run folders, folders of run folders, or trajectory files.

    Raises:
        UsageError: there is nothing to see at a path.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._paths = [Path(p) for p in paths]
        self._texts = Texts()
        self._lock = threading.Lock()
        self.runs: dict[str, Run] = {}
        for path in self._paths:
            if not path.exists():
                raise UsageError(f"{path} does not exist; name a run folder or a .jsonl file of trajectories")
            if not list(_runs_at(path)):
                raise UsageError(
                    f"{path} holds no run and no trajectories: a run folder has config.yaml, metrics.jsonl or "
                    "trajectories/, a folder of runs has such folders in it"
                )
        self._version = 0
        self._scanned_since_kept: dict[str, int] = {}
        self.snapshot = Snapshot(0, np.empty(0, _full_dtype()), [], [], [], 0.0, [])
        self._find_runs()
        self._read_texts()

    def refresh(self) -> bool:
        """Take in what is new on the disk; True where anything is. Publishes a snapshot now and then on the way."""
        with self._lock:
            changed = self._find_runs()
            changed |= self._read_texts()
            files = [(run, file) for run in self.runs.values() for file in run.files.values()]
            sizes = {id(file): _size(file.path) for _, file in files}
            total = sum(sizes.values())
            published = time.monotonic()
            for run, file in files:
                try:
                    for count in file.scan():
                        changed = True
                        self._scanned_since_kept[run.name] = self._scanned_since_kept.get(run.name, 0) + count
                        if time.monotonic() - published > _PUBLISH_SECONDS:
                            done = sum(min(f.end, sizes[id(f)]) for _, f in files)
                            self._publish(done / total if total else 1.0)
                            published = time.monotonic()
                    run.problems.pop(file.path.name, None)
                except OSError as error:
                    run.problems[file.path.name] = f"{file.path} cannot be read: {error.strerror or error}"
                    changed = True
                if file.rest:
                    run.problems[file.path.name] = (
                        f"{file.path.name} ends in the middle of a line ({file.rest:,} bytes): it is being written, or was cut off"
                    )
            if changed or self.snapshot.version == 0:
                self._publish(1.0)
            for run in self.runs.values():
                if self._scanned_since_kept.get(run.name, 0) >= _WORTH_KEEPING:
                    self._scanned_since_kept[run.name] = 0
                    _keep(run, self._texts)
            return changed

    def record(self, run: str, file: str, record: int) -> dict[str, Any]:
        """A trajectory as it stands in its file.

        Raises:
            Gone: it is not there.
            ValueError: the line cannot be read.
        """
        index = self._file(run, file)
        rows = index.rows
        if not 0 <= record < len(rows):
            raise Gone(f"{file} of {run} has {len(rows):,} trajectories, and none with number {record + 1:,}")
        return read_line(read_bytes(index.path, int(rows["offset"][record]), int(rows["length"][record])))

    def path_of(self, run: str, file: str) -> Path:
        """The path of a trajectory file.

        Raises:
            Gone: it is not there.
        """
        return self._file(run, file).path

    def _file(self, run: str, file: str) -> FileIndex:
        if run not in self.runs:
            raise Gone(f"there is no run {run!r} here")
        if file not in self.runs[run].files:
            raise Gone(f"the run {run} has no trajectory file {file!r}")
        return self.runs[run].files[file]

    def _find_runs(self) -> bool:
        changed = False
        known = {run.path for run in self.runs.values()}
        for top in self._paths:
            for path in _runs_at(top):
                if path not in known:
                    known.add(path)
                    name = _new_name(path, self.runs)
                    self.runs[name] = Run(name, path)
                    changed = True
        for run in self.runs.values():
            indexed = {index.path for index in run.files.values()}
            new = [p for p in _trajectory_files(run.path) if p not in indexed]
            if new:
                kept = _kept(run, self._texts)
                for path in new:
                    index = FileIndex(path, self._texts)
                    if path.name in kept:
                        index.resume(*kept[path.name])
                    name = path.stem if path.stem not in run.files else path.name
                    run.files[name] = index
                run.files = dict(sorted(run.files.items(), key=lambda item: (_step(item[0]), item[0])))
                changed = True
        return changed

    def _read_texts(self) -> bool:
        """Read config.yaml and metrics.jsonl where they changed."""
        changed = False
        for run in self.runs.values():
            for name, read in (("config.yaml", read_config), ("metrics.jsonl", read_metrics)):
                path = run.path / name
                try:
                    status = path.stat()
                except OSError:
                    continue
                stamp = Stamp(status.st_size, status.st_mtime_ns)
                if run.stamps.get(name) == stamp:
                    continue
                run.stamps[name] = stamp
                changed = True
                try:
                    run.problems.pop(name, None)
                    read(run, path)
                except (OSError, ValueError, yaml.YAMLError) as error:
                    run.problems[name] = f"{path} cannot be read: {str(error).splitlines()[0]}"
        return changed

    def _publish(self, progress: float) -> None:
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        files: list[tuple[str, str]] = []
        for number, run in enumerate(self.runs.values()):
            for name, index in run.files.items():
                rows = index.rows
                place = np.empty(len(rows), PLACE)
                place["run"], place["file"], place["step"] = number, len(files), _step(name)
                place["record"] = np.arange(len(rows))
                files.append((run.name, name))
                parts.append((rows, place))
        full = np.empty(sum(len(rows) for rows, _ in parts), _full_dtype())
        for fields, which in ((ROW.names, 0), (PLACE.names, 1)):
            for name in fields or ():
                full[name] = np.concatenate([p[which][name] for p in parts]) if parts else 0
        self._version += 1
        problems = [f"{run.name}: {text}" for run in self.runs.values() for text in run.problems.values()]
        damaged = int((full["status"] == STATUSES.index("damaged")).sum())
        if damaged:
            problems.append(f"{damaged:,} lines cannot be read; the filter status:damaged shows them")
        self.snapshot = Snapshot(
            self._version, full, list(self._texts.names), list(self.runs), files, progress, problems
        )


def split_at(at: str) -> tuple[str, str, int]:
    """Run, file and place (from 0) of `RUN/FILE:NUMBER`.

    Raises:
        Gone: it is no such address.
    """
    path, _, number = at.rpartition(":")
    run, _, file = path.rpartition("/")
    if not (run and file and number.isascii() and number.isdigit() and len(number) < 16 and int(number)):
        raise Gone(f"{at!r} is not an address of a trajectory, which is RUN/FILE:NUMBER")
    return run, file, int(number) - 1


def read_bytes(path: Path, offset: int, length: int) -> bytes:
    """A part of a file."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _full_dtype() -> np.dtype[Any]:
    return np.dtype([*ROW.descr, *PLACE.descr])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _step(name: str) -> int:
    found = _STEP.search(name)
    return int(found[1]) if found else -1


def _runs_at(path: Path, depth: int = 2) -> Iterator[Path]:
    """The runs at a path: itself, or the run folders in it, down to folders of folders."""
    if path.is_file() or _is_run(path):
        yield path
    elif depth and path.is_dir():
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _runs_at(child, depth - 1)


def _is_run(folder: Path) -> bool:
    marks = ("config.yaml", "metrics.jsonl", "trajectories.jsonl", "trajectories")
    return any((folder / name).exists() for name in marks) or bool(_trajectory_files(folder))


def _trajectory_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = list(path.glob("trajectories/*.jsonl"))
    files += [p for p in path.glob("*.jsonl") if p.name != "metrics.jsonl" and _looks_right(p)]
    return files


def _looks_right(path: Path) -> bool:
    if path.name == "trajectories.jsonl":
        return True
    try:
        return b'"env_id"' in read_bytes(path, 0, 4096)
    except OSError:
        return False


def _new_name(path: Path, taken: dict[str, Run]) -> str:
    """The last part of the path, with as many before it as make it new."""
    path = path.resolve()
    parts = [*path.parts[:-1], path.stem if path.is_file() else path.name]
    for count in range(1, len(parts) + 1):
        name = "/".join(parts[-count:])
        if name not in taken:
            return name
    raise AssertionError(f"{path} is listed twice")


def read_config(run: Run, path: Path) -> None:
    """Read config.yaml into the run.

    Raises:
        OSError, ValueError, yaml.YAMLError: it cannot be read.
    """
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(loaded, dict):
        raise ValueError("it holds no mapping")
    run.config = dict(_flat(loaded))


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def read_metrics(run: Run, path: Path) -> None:
    """The whole lines; a step that stands there twice (a run that was taken up again) counts as it was played last."""
    data = path.read_bytes()
    by_step: dict[float, dict[str, Any]] = {}
    damaged = 0
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        try:
            values = read_line(line)
            by_step[float(values["step"])] = values
        except (ValueError, KeyError, TypeError):
            damaged += bool(line.strip())
    run.metrics = [by_step[step] for step in sorted(by_step)]
    if damaged:
        run.problems[path.name] = f"{damaged} lines of {path.name} cannot be read and are left out"


# The index on disk: one file per run. It is never trusted beyond what the stamps and prints of its files allow.


def _cache_path(run: Run) -> Path:
    key = hashlib.blake2b(
        str(run.path.resolve()).encode("utf-8", "surrogateescape"), digest_size=12
    ).hexdigest()
    return cache_folder() / "viewer" / f"{key}.npz"


def _keep(run: Run, texts: Texts) -> None:
    indices = [i for i in run.files.values() if i.stamp is not None]
    if not indices:
        return
    rows = np.concatenate([i.rows for i in indices])
    used, table = np.unique(np.concatenate([rows[name] for name in TEXTS]), return_inverse=True)
    for name, numbers in zip(TEXTS, np.split(table, len(TEXTS)), strict=True):
        rows[name] = numbers
    about = {
        "version": _CACHE_VERSION,
        "texts": [texts.names[n] for n in used],
        "files": {
            i.path.name: [len(i.rows), i.end, *i.stamp, i.print.hex()]  # type: ignore[misc]
            for i in indices
        },
    }
    path = _cache_path(run)
    # A cache that cannot be written costs the next start a scan, nothing else.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{threading.get_native_id()}.writing")
        with scratch.open("wb") as file:
            np.savez(file, rows=rows, about=np.frombuffer(json.dumps(about).encode(), np.uint8))
        scratch.replace(path)


def _kept(run: Run, texts: Texts) -> dict[str, tuple[np.ndarray, int, Stamp, bytes]]:
    """What is on disk, by name of file: rows, end, stamp, print."""
    try:
        with _cache_path(run).open("rb") as file, np.load(file, allow_pickle=False) as saved:
            about = from_json(saved["about"].tobytes())
            rows = saved["rows"]
            if about["version"] != _CACHE_VERSION or rows.dtype != ROW:
                return {}
            table = np.array([texts.number(text) for text in about["texts"]], np.int32)
            for name in TEXTS:
                rows[name] = table[rows[name]]
            found, start = {}, 0
            for name, (count, end, size, mtime, mark) in about["files"].items():
                found[name] = (rows[start : start + count], end, Stamp(size, mtime), bytes.fromhex(mark))
                start += count
            return found
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, BadZipFile, zlib.error):
        return {}
