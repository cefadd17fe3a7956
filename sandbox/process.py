"""The `process` backend: a child process with resource limits. It keeps accidents in, and nothing else.

A program run by it is you: it reads every file that you can read, also your keys and the hidden tests beside the grader, it
writes and deletes every file that you can write, reaches the network, and signals your other processes.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from typing import Any

from .errors import InvalidOption, SandboxUnavailable
from .sandbox import Limits
from .session import INSIDE, Connection, Session, settings


class ProcessSandbox(Session):
    """Programs in child processes of their own, in a temporary folder, under resource limits.

    What it does not protect from stands at the top of this module, and in docs/sandbox.md.

    Args:
        limits: `network` is not enforced, `disk_bytes` bounds each file and not their sum, `processes` counts everything
            that the user runs and does not bind root.
        allow_unsafe: must be True: that programs can do all that you can is what you want.
        persistent: keep one Python interpreter for all code in Python.

    Raises:
        InvalidOption: `allow_unsafe` is not True.
        SandboxUnavailable: the supervisor does not start.
    """

    def __init__(self, limits: Limits, *, allow_unsafe: bool = False, persistent: bool = False) -> None:
        if allow_unsafe is not True:
            raise InvalidOption(
                "the process backend does not keep programs from your files, your network or your processes; use"
                " backend='bubblewrap', or pass allow_unsafe=True where you trust what runs"
            )
        super().__init__(limits, persistent=persistent)

    def _begin(self) -> Connection:
        self._folder = tempfile.mkdtemp(prefix="turnwise-sandbox-")
        self._code = f"{self._folder}/code"
        for name in ("work", "code", "tmp"):
            os.mkdir(f"{self._folder}/{name}")
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-B", "-P", str(INSIDE), "streams"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                cwd=self._folder,
                env=self._environment(),
                start_new_session=True,
            )
        connection = Connection(ours)
        how: dict[str, Any] = {
            "work": f"{self._folder}/work",
            "code": self._code,
            "isolated": False,
            "remove": self._folder,  # by the supervisor, so that nothing stays when we are killed
            "watch": True,
            "nproc": self.limits.processes + threads_of(os.getuid()),
            "environment": self._environment(),
        }
        try:
            connection.ask(settings(self.limits, **how), [], 30.0, 0)
        except BaseException as error:
            connection.close()
            self._end()
            raise SandboxUnavailable(
                f"the supervisor of a process sandbox does not start: {error}"
            ) from error
        return connection

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin",
            "HOME": f"{self._folder}/work",
            "TMPDIR": f"{self._folder}/tmp",
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": f"{self._folder}/work",
        }

    def _end(self) -> None:
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def threads_of(uid: int) -> int:
    """How many threads a user has on this machine, which is what RLIMIT_NPROC counts."""
    total = 0
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                total += len(os.listdir(f"/proc/{entry.name}/task"))
        except OSError:
            continue  # it has ended meanwhile
    return total
