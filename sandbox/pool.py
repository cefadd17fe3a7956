"""A pool of warm interpreters: each program in a fresh folder and process tree, hundreds of them a second."""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import time
from queue import LifoQueue
from types import TracebackType
from typing import Self

from .bubblewrap import Member
from .errors import InvalidOption, SandboxClosed, SandboxDied
from .sandbox import ExecResult, Limits
from .session import GRACE, as_bytes

_VERDICT = struct.Struct("=8sidQ")  # as in inside.py
_CHUNK = 1 << 16


class Pool:
    """Runs programs in Python that have nothing to do with one another, in the way of the `bubblewrap` backend.

    Each starts in an empty working folder, as a fork of an interpreter that is warm and has read nothing of the programs
    before it. When it has ended its processes are killed and its folder is gone. What the programs of one worker share,
    one after the other, is a network namespace (in which nothing outlives a process), a control group and a user id.

    It may be used by as many threads as there are; those beyond `workers` wait. It is a context manager.

    Args:
        workers: how many programs run at once.
        limits: of each program.

    Raises:
        SandboxUnavailable: as `open_sandbox("bubblewrap")`.
    """

    def __init__(self, workers: int = 2, limits: Limits | None = None) -> None:
        if workers < 1:
            raise InvalidOption(f"a pool needs at least 1 worker, got {workers}")
        self.limits = limits or Limits()
        self._closed = False
        self._idle: LifoQueue[Member | None] = LifoQueue()
        for _ in range(workers - 1):
            self._idle.put(None)  # started when it is needed
        self._idle.put(Member(self.limits, pool=True))

    def run(self, code: str, stdin: str | bytes = "", *, timeout: float | None = None) -> ExecResult:
        """Run a program in Python and wait for its end; see `Sandbox.run`.

        Raises:
            SandboxClosed: after `close`.
            SandboxDied: the worker went away; the next call starts another.
        """
        if self._closed:
            raise SandboxClosed("this pool is closed; open another")
        worker = self._idle.get()
        try:
            if worker is None:
                worker = Member(self.limits, pool=True)
            seconds = self.limits.wall_seconds if timeout is None else min(timeout, self.limits.wall_seconds)
            return _run(worker.stream, as_bytes(code), as_bytes(stdin), seconds, self.limits.output_bytes)
        except BaseException:
            if worker is not None:
                worker.stream.close()
                worker.end()
                worker = None
            raise
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End every worker. Closing twice is harmless."""
        self._closed = True
        while not self._idle.empty():
            if (worker := self._idle.get()) is not None:
                worker.stream.close()
                worker.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _run(stream: socket.socket, code: bytes, stdin: bytes, seconds: float, most: int) -> ExecResult:
    """Hand a program to a worker and read what it writes."""
    (out_r, out_w), (err_r, err_w) = os.pipe(), os.pipe()
    text, feed = _readable(code), _readable(stdin)
    kept = {out_r: bytearray(), err_r: bytearray()}
    truncated, answer = False, b""
    try:
        try:
            rights = array.array("i", [text, feed, out_w, err_w])
            stream.sendmsg([struct.pack(">d", seconds)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        finally:
            for fd in (text, feed, out_w, err_w):
                os.close(fd)
        poll = select.poll()
        for fd in (out_r, err_r, stream.fileno()):
            poll.register(fd, select.POLLIN)
        waited_for = {out_r, err_r, stream.fileno()}
        deadline = time.monotonic() + seconds + GRACE
        while waited_for:
            events = poll.poll(1000 * max(0.0, deadline - time.monotonic()) + 1)
            if not events:
                raise SandboxDied(f"a worker of the pool did not answer within {seconds + GRACE:.0f} seconds")
            for fd, _event in events:
                if fd in kept:
                    chunk = os.read(fd, _CHUNK)
                    room = most - len(kept[fd])
                    kept[fd] += chunk[:room]
                    truncated |= len(chunk) > room
                    done = not chunk
                else:
                    answer = stream.recv(_VERDICT.size)
                    if not answer:
                        raise SandboxDied("a worker of the pool went away")
                    done = True
                if done:
                    poll.unregister(fd)
                    waited_for.discard(fd)
    except OSError as error:
        raise SandboxDied(f"a worker of the pool went away: {error.strerror}") from error
    finally:
        os.close(out_r)
        os.close(err_r)
    status, exit_code, took, peak = _VERDICT.unpack(answer)
    return ExecResult(
        stdout=kept[out_r].decode(errors="backslashreplace"),
        stderr=kept[err_r].decode(errors="backslashreplace"),
        exit_code=exit_code,
        status=status.rstrip(b"\0").decode(),
        seconds=took,
        peak_memory=peak,
        truncated=truncated,
    )


def _readable(data: bytes) -> int:
    """A descriptor from which `data` can be read."""
    fd = os.memfd_create("turnwise")
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
