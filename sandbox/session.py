"""The host's side of a session: requests to the supervisor (`inside.py`) and what they give back.

Every backend starts that supervisor in its own way and hands this class a socket to it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import InvalidOption, SandboxClosed, SandboxDied, UnsafePath
from .languages import language as find_language
from .sandbox import ExecResult, Limits, Sandbox

INSIDE = Path(__file__).with_name("inside.py")
GRACE = (
    20.0  # seconds that a supervisor may be late, on a machine that is very busy, before it counts as dead
)
LARGEST_HEADER = 1 << 20


def settings(limits: Limits, **how: Any) -> dict[str, Any]:
    """What a supervisor is told: see `inside.Session`. `how` replaces the settings of a backend that does least."""
    return {
        "limits": vars(limits),
        "work": "/work",
        "code": "/code",
        "uid": None,
        "isolated": True,
        "seccomp": "",
        "nproc": 0,
        "watch": False,
        "oom": 0,
        "remove": "",
        "pool": False,
        **how,
    }


class Connection:
    """Frames over a stream socket; the other side has gone when it closes, and counts as gone when it is too late."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream

    def ask(
        self, header: dict[str, Any], blobs: Sequence[bytes], seconds: float, most: int
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request and wait for its answer.

        Args:
            header: the request.
            blobs: what goes with it.
            seconds: until the answer has to be here.
            most: bytes that the answer's blobs may have.

        Raises:
            SandboxDied: no answer, or not one of a supervisor.
        """
        deadline = time.monotonic() + seconds
        head = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
        try:
            self.stream.settimeout(seconds)
            self.stream.sendall(struct.pack(">IQ", len(head), sum(map(len, blobs))) + head)
            for blob in blobs:
                self.stream.sendall(blob)
            size, payload = struct.unpack(">IQ", self.read(12, deadline))
            if size > LARGEST_HEADER or payload > most:
                raise SandboxDied(
                    f"the sandbox answered {size} + {payload} bytes, more than it may; it is not to be trusted"
                )
            answer = json.loads(self.read(size, deadline))
            return answer, [self.read(n, deadline) for n in answer.pop("blobs")]
        except TimeoutError:
            raise SandboxDied(f"the sandbox did not answer within {seconds:.0f} seconds") from None
        except OSError as error:
            raise SandboxDied(f"the sandbox went away: {error.strerror or error}") from error

    def read(self, size: int, deadline: float) -> bytes:
        """Exactly `size` bytes."""
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            self.stream.settimeout(max(0.001, deadline - time.monotonic()))
            count = self.stream.recv_into(view)
            if not count:
                raise SandboxDied("the sandbox went away")
            view = view[count:]
        return bytes(buffer)

    def close(self) -> None:
        """Hang up; the supervisor ends itself and everything below it."""
        self.stream.close()


class Session(Sandbox):
    """A sandbox whose supervisor speaks over a `Connection`."""

    def __init__(self, limits: Limits, *, persistent: bool = False) -> None:
        self.limits = limits
        self.persistent = persistent
        self._code = "/code"
        self._lock = threading.Lock()
        self._connection: Connection | None = self._begin()

    @abstractmethod
    def _begin(self) -> Connection:
        """Start a supervisor and connect to it."""

    @abstractmethod
    def _end(self) -> None:
        """Remove what is left once the connection is closed; called once for each `_begin`."""

    def run(
        self,
        command: Sequence[str] | None = None,
        *,
        code: str | None = None,
        language: str = "python",
        stdin: str | bytes = "",
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command, or a program given as text; see `Sandbox.run`."""
        if (command is None) == (code is None):
            raise InvalidOption("run takes either a command or code, and one of them")
        if code is not None:
            return self._run_code(code, [stdin], language, timeout)[0]
        if isinstance(command, str) or not command:
            raise InvalidOption(f"a command is a list of words such as ['ls', '-l'], got {command!r}")
        step = {"argv": [str(word) for word in command], "warm": False}
        return self._run([step], "", [as_bytes(stdin)], 1, timeout, keep=False)[0]

    def run_cases(
        self,
        code: str,
        inputs: Sequence[str | bytes],
        *,
        language: str = "python",
        timeout: float | None = None,
    ) -> Sequence[ExecResult]:
        """Run a program once for each standard input; see `Sandbox.run_cases`."""
        return self._run_code(code, inputs, language, timeout) if inputs else []

    def _run_code(
        self, code: str, inputs: Sequence[str | bytes], name: str, timeout: float | None
    ) -> Sequence[ExecResult]:
        spoken = find_language(name)
        python = name == "python"
        steps = [{"argv": argv, "warm": python} for argv in spoken.commands(self._code)]
        blobs = [as_bytes(code), *map(as_bytes, inputs)]
        return self._run(steps, spoken.file, blobs, len(inputs), timeout, keep=python and self.persistent)

    def _run(
        self,
        steps: Sequence[dict[str, Any]],
        file: str,
        blobs: Sequence[bytes],
        runs: int,
        timeout: float | None,
        *,
        keep: bool,
    ) -> Sequence[ExecResult]:
        seconds = self.limits.wall_seconds if timeout is None else min(timeout, self.limits.wall_seconds)
        if not seconds > 0:
            raise InvalidOption(f"a timeout must be above 0 seconds, got {timeout!r}")
        header = {"op": "run", "steps": steps, "file": file, "timeout": seconds, "keep": keep}
        most = 2 * runs * self.limits.output_bytes
        answer, data = self._ask(header, blobs, seconds * (runs + len(steps) - 1) + GRACE, most)
        results = []
        for n, result in enumerate(answer["results"]):
            results.append(
                ExecResult(
                    stdout=data[2 * n].decode(errors="backslashreplace"),
                    stderr=data[2 * n + 1].decode(errors="backslashreplace"),
                    exit_code=int(result["exit_code"]),
                    status=result["status"],
                    seconds=float(result["seconds"]),
                    peak_memory=int(result["peak_memory"]),
                    truncated=bool(result["truncated"]),
                )
            )
        return results

    def read(self, path: str) -> bytes:
        """The content of a regular file; see `Sandbox.read`."""
        return self._on_file("read", path)[0]

    def write(self, path: str, data: str | bytes) -> None:
        """Make or replace a file; see `Sandbox.write`."""
        self._on_file("write", path, as_bytes(data))

    def list(self, path: str = ".") -> Sequence[str]:
        """The names in a folder; see `Sandbox.list`."""
        names = self._on_file("list", path)[0].decode(errors="surrogateescape")
        return names.split("\0") if names else []

    def snapshot(self) -> bytes:
        """The working folder as a tar archive; see `Sandbox.snapshot`."""
        return self._on_file("pack", None)[0]

    def restore(self, state: bytes) -> None:
        """Begin a new session with the files of an archive; see `Sandbox.restore`."""
        with self._lock:
            self._hang_up()
            self._connection = self._begin()
        self._on_file("unpack", None, state)

    def _on_file(self, operation: str, path: str | None, *blobs: bytes) -> Sequence[bytes]:
        header: dict[str, Any] = {"op": operation}
        if path is not None:
            parts = path.split("/")
            if path.startswith("/") or ".." in parts or "\0" in path:
                raise UnsafePath(
                    f"a path must stay in the working folder, without a leading slash and '..', got {path!r}"
                )
            header["path"] = path
        # a sparse file is as large as RLIMIT_FSIZE lets it be, and an archive adds headers to its files
        answer, data = self._ask(
            header, blobs, self.limits.wall_seconds + GRACE, 8 * self.limits.disk_bytes + (64 << 20)
        )
        if number := answer.get("errno"):
            raise file_error(number, path)
        return data

    def _ask(
        self, header: dict[str, Any], blobs: Sequence[bytes], seconds: float, most: int
    ) -> tuple[dict[str, Any], Sequence[bytes]]:
        with self._lock:
            if self._connection is None:
                raise SandboxClosed("this sandbox is closed; open another")
            try:
                return self._connection.ask(header, blobs, seconds, most)
            except (
                BaseException
            ):  # also an interrupt: the answer to this request must not be taken for the next one's
                self._hang_up()
                raise

    def _hang_up(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()
            self._end()

    def close(self) -> None:
        """End every program and remove every file."""
        with self._lock:
            self._hang_up()


def as_bytes(text: str | bytes) -> bytes:
    """Text as UTF-8; lone surrogates, which a model can write as escapes, as the three bytes they would be."""
    return text.encode(errors="surrogatepass") if isinstance(text, str) else bytes(text)


def file_error(number: int, path: str | None) -> OSError:
    """The exception for an error number of a file operation inside."""
    if number in (errno.ELOOP, errno.EPERM, errno.EXDEV):
        return UnsafePath(number, "leads through a symbolic link or out of the working folder", path)
    return OSError(number, os.strerror(number), path)
