"""The folder of an evaluation, which loses no finished episode however its process ends, and plays none twice.

    config.yaml          what was asked for
    trajectories.jsonl   one line per episode, as they end
    summary.json         the figures
    report.md            the same for people

Episodes are known by group and sample. What is in trajectories.jsonl is done; what is not is owed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from ...envs.errors import UsageError
from ...envs.rollout import Job
from ...envs.trajectory import Trajectory, read_trajectories

FILE = "trajectories.jsonl"


class Folder:
    """The trajectories of an evaluation, open for more; a second process is refused meanwhile.

    A last line without its end is a write that was cut off: it is removed, and its episode is owed.

    Args:
        path: the folder, made if needed.

    Raises:
        UsageError: another process has it open.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / ".lock", "w", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UsageError(
                f"another process is evaluating into {path}; wait for it, or choose another folder with out="
            ) from None
        self._file: IO[bytes] = open(self.path / FILE, "ab+")  # noqa: SIM115
        self._cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._lock.close()

    def _cut(self) -> None:
        """Drop what stands behind the last line end."""
        end = self._file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - (1 << 16))
            self._file.seek(start)
            at = self._file.read(end - start).rfind(b"\n")
            if at >= 0:
                end = start + at + 1
                break
            end = start
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)

    def finished(self, jobs: Mapping[tuple[int, int], tuple[str, Job]], agent: str) -> list[Trajectory]:
        """The episodes that are done, each of which must be one of the jobs.

        Args:
            jobs: environment id and job, by group and sample.
            agent: what plays now.

        Raises:
            UsageError: an episode is not of this evaluation, or is there twice.
            InvalidTrajectory: a line cannot be read.
        """
        found: dict[tuple[int, int], Trajectory] = {}
        for t in read_trajectories(self.path / FILE):
            key = (t.group, t.sample)
            if key not in jobs:
                raise UsageError(f"{self.path} {_OTHER}: it has group {t.group}, sample {t.sample}")
            env_id, job = jobs[key]
            for name, old, new in (
                ("environment", t.env_id, env_id),
                ("seed", t.seed, job.seed),
                ("task", t.task_id, job.task or t.task_id),
                ("agent", t.agent, agent),
            ):
                if old != new:
                    raise UsageError(
                        f"{self.path} {_OTHER}: {t.id} was played with {name} {old!r}, and now {name} is {new!r}"
                    )
            if key in found:
                raise UsageError(
                    f"{self.path / FILE} holds group {t.group}, sample {t.sample} twice; it was written by two"
                    " evaluations. Choose another folder with out="
                )
            found[key] = t
        return list(found.values())

    def forget(self, kept: Sequence[Trajectory]) -> None:
        """Leave only these episodes; the others are owed again."""
        self._file.close()
        write_text(self.path / FILE, "".join(t.to_json() + "\n" for t in kept))
        self._file = open(self.path / FILE, "ab+")  # noqa: SIM115

    def add(self, trajectory: Trajectory) -> None:
        """Write an episode that has ended."""
        self._file.write(trajectory.to_json().encode() + b"\n")
        self._file.flush()


_OTHER = "holds episodes of another evaluation; choose another folder with out="


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    scratch = path.with_name(f".{path.name}.writing")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
