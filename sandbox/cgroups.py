"""Control groups for a sandbox: memory and processes, counted over everything that runs in it.

Version 2 and version 1 are both spoken, since machines of both kinds exist. A group is made beside those that the machine
lets us make: below our own group where its controllers reach, or at the root of a version 1 hierarchy. Where nothing can
be made (an ordinary user without a delegated group, most containers), there is none, and limits rest on rlimits and on the
supervisor, which looks twenty times a second at what its programs hold.

Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from functools import cache
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_count = itertools.count()


class Cgroup:
    """A group with a bound on memory and on processes. `find` says where groups can be made."""

    def __init__(self, memory_bytes: int, processes: int) -> None:
        parents = find()
        assert parents, "cgroups.find() is empty: there is no group to be made on this machine"
        name = f"turnwise-{os.getpid()}-{next(_count)}"
        self.folders = []
        try:
            for parent in parents:
                folder = parent / name
                folder.mkdir()
                self.folders.append(folder)
            memory = self.folders[0]
            if (memory / "memory.max").exists():
                (memory / "memory.max").write_text(str(memory_bytes))
                with contextlib.suppress(OSError):  # no swap accounting in this kernel
                    (memory / "memory.swap.max").write_text("0")
                self.oom = memory / "memory.events"
            else:
                (memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
                with contextlib.suppress(OSError):
                    (memory / "memory.memsw.limit_in_bytes").write_text(str(memory_bytes))
                self.oom = memory / "memory.oom_control"
            (self.folders[-1] / "pids.max").write_text(str(processes))
        except BaseException:
            self.remove()
            raise

    def add(self, pid: int) -> None:
        """Move a process into the group; what it starts from now on is in it too."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Remove the group, as soon as what ran in it is gone."""
        for folder in self.folders:
            for _ in range(500):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)  # the last process is a moment from being gone
                else:
                    break


@cache
def find() -> tuple[Path, ...]:
    """The folders in which a group is to be made: memory first, processes last; empty where none may be made."""
    for candidate in _candidates():
        probe = [folder / f"turnwise-{os.getpid()}-probe" for folder in candidate]
        made = []
        try:
            for folder in probe:
                folder.mkdir()
                made.append(folder)
            for folder in candidate:
                _remove_stale(folder)
            files = (
                ("memory.max", "pids.max") if len(candidate) == 1 else ("memory.limit_in_bytes", "pids.max")
            )
            if all(
                (folder / file).exists() for folder, file in zip((probe[0], probe[-1]), files, strict=True)
            ):
                return candidate
        except OSError:
            pass
        finally:
            for folder in made:
                folder.rmdir()
    return ()


def _remove_stale(parent: Path) -> None:
    """Remove the groups of processes that were killed before they could."""
    for folder in parent.glob("turnwise-*"):
        pid = folder.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):  # another process removes it too
                folder.rmdir()


def _candidates() -> list[tuple[Path, ...]]:
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path.lstrip("/")
    found: list[tuple[Path, ...]] = []
    if "" in own and (_ROOT / "cgroup.controllers").exists():
        here = _ROOT / own[""]
        # a group with processes in it cannot bound its children, so a sister is made; the root is the exception
        found += [(here.parent,)] if here != _ROOT else [(here,)]
    if {"memory", "pids"} <= own.keys():
        memory, pids = _ROOT / "memory", _ROOT / "pids"
        found += [(memory / own["memory"], pids / own["pids"]), (memory, pids)]
    return found
