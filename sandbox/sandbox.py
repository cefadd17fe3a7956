"""What a sandbox is: the interface, its limits, what a run gives back, and the one way to open one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self

from .errors import InvalidOption, UnknownBackend

Status = Literal["ok", "error", "compile", "timeout", "memory", "killed"]
"""How a program ended: `ExecResult.status`."""

BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "bubblewrap": ".bubblewrap:BubblewrapSandbox",
        "docker": ".docker:DockerSandbox",
        "process": ".process:ProcessSandbox",
    }
)


@dataclass(frozen=True)
class Limits:
    """What a program may use. `docs/sandbox.md` says what enforces each on each backend.

    Attributes:
        wall_seconds: of one call, from start to end; the compiler is a call of its own.
        cpu_seconds: of one process, in whole seconds rounded up.
        memory_bytes: of all programs of the sandbox together.
        processes: and threads at once.
        open_files: of one process.
        disk_bytes: of all files of the sandbox together: working folder, temporary files, shared memory.
        output_bytes: that are kept of each of standard output and standard error; the rest is read and dropped.
        network: whether programs reach the network; off, not even the machine's own services are reached.

    Raises:
        InvalidOption: a limit that is not a positive number.
    """

    wall_seconds: float = 10.0
    cpu_seconds: float = 10.0
    memory_bytes: int = 512 << 20
    processes: int = 64
    open_files: int = 256
    disk_bytes: int = 64 << 20
    output_bytes: int = 1 << 20
    network: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole = not name.endswith("_seconds")
            good = (
                isinstance(value, int) if whole else isinstance(value, int | float) and math.isfinite(value)
            )
            if name != "network" and not (good and value > 0):
                kind = "a whole number" if whole else "a number"
                raise InvalidOption(f"Limits.{name} must be {kind} above 0, got {value!r}")


@dataclass(frozen=True)
class ExecResult:
    r"""How a run went.

    Attributes:
        stdout: what the program wrote, at most `output_bytes` of it; bytes that are no UTF-8 stand as `\\xff`.
        stderr: likewise.
        exit_code: of the program; -N when signal N ended it; 127 and 126, as in a shell, for a command that is not there
            or cannot be run.
        status: `ok` (exit code 0), `error` (another exit code), `compile` (the compiler's own exit code and output),
            `timeout` (wall or CPU time was up), `memory` (killed because the sandbox's memory was used up; a program that
            handles a refused allocation itself, as Python does, ends with `error`), `killed` (any other signal).
        seconds: of wall time.
        peak_memory: bytes, the largest resident set of any one process of the run.
        truncated: whether output was dropped.
    """

    stdout: str
    stderr: str
    exit_code: int
    status: Status
    seconds: float
    peak_memory: int
    truncated: bool

    @property
    def ok(self) -> bool:
        """Whether the program ended by itself with exit code 0."""
        return self.status == "ok"


class Sandbox(ABC):
    """A working folder and programs that run in it, away from everything else. Made by `open_sandbox`.

    It is a context manager; `close` ends every program and removes every file. Programs start in the working folder, see a
    private temporary folder beside it, and find what earlier runs left there. No program outlives its run, except the
    Python interpreter of a sandbox that was opened with `persistent=True`.

    Paths are relative to the working folder. A path that is absolute, has a `..` or leads through a symbolic link raises
    `UnsafePath`; a missing file, a folder in place of a file or a full disk raise the OSError that `open` would raise.
    Every method raises `SandboxClosed` after `close`, and `SandboxDied` when what runs the programs is gone.

    One sandbox serves one caller at a time: its methods wait for one another.
    """

    limits: Limits

    @abstractmethod
    def run(
        self,
        command: Sequence[str] | None = None,
        *,
        code: str | None = None,
        language: str = "python",
        stdin: str | bytes = "",
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command, or a program given as text, and wait for its end.

        Args:
            command: a program and its arguments; no shell reads them. Either this or `code`.
            code: the text of a program, stored outside the working folder.
            language: of `code`; a key of `LANGUAGES`.
            stdin: all that the program can read.
            timeout: seconds, at most `limits.wall_seconds`, which is the default.

        Raises:
            UnknownLanguage: no such language.
            InvalidOption: neither or both of `command` and `code`, or a timeout that is not positive.
        """

    @abstractmethod
    def run_cases(
        self,
        code: str,
        inputs: Sequence[str | bytes],
        *,
        language: str = "python",
        timeout: float | None = None,
    ) -> Sequence[ExecResult]:
        """Run a program once for each standard input, compiled once, each run a process tree of its own.

        The way to grade: expected outputs stay outside, where the program cannot read them, and nothing that one run
        prints, exits with or patches reaches the result of another. Files in the working folder do stay between the runs.

        Args:
            code: the text of the program.
            inputs: the standard inputs.
            language: of `code`.
            timeout: seconds for each run.

        Returns:
            One result for each input, in order. When the compiler fails, each is the compiler's.
        """

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The content of a regular file."""

    @abstractmethod
    def write(self, path: str, data: str | bytes) -> None:
        """Make a file, with the folders above it, or replace its content; text is stored as UTF-8."""

    @abstractmethod
    def list(self, path: str = ".") -> Sequence[str]:
        """The names in a folder, sorted, those of folders with a slash at the end."""

    @abstractmethod
    def snapshot(self) -> bytes:
        """The working folder as a tar archive: files, folders, symbolic links, modes, and times in whole seconds.

        The same folder gives the same bytes. What is elsewhere (temporary files, the variables of a persistent
        interpreter) is not part of it, nor are sockets and pipes. Folders nested more than 100 deep raise OSError.
        """

    @abstractmethod
    def restore(self, state: bytes) -> None:
        """Make the working folder what it was at `snapshot`, of this sandbox or of another, on any backend.

        The rest begins afresh: temporary files are gone, a persistent interpreter has no variables.
        """

    @abstractmethod
    def close(self) -> None:
        """End every program and remove every file. Closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def backends() -> tuple[str, ...]:
    """The names of the backends, the default first."""
    return tuple(BACKENDS)


def open_sandbox(
    backend: str = "bubblewrap",
    limits: Limits | None = None,
    files: Mapping[str, str | bytes] | None = None,
    **options: Any,
) -> Sandbox:
    """Open a sandbox.

    Args:
        backend: `bubblewrap` (Linux), `docker`, or `process` (protects from accidents alone, and wants `allow_unsafe=True`).
            None falls back to another.
        limits: what programs may use; None for the defaults of `Limits`.
        files: content by path, written into the working folder.
        **options: `persistent=True`, on every backend, keeps one Python interpreter for all `run(code=...)` in Python, with
            its variables; others belong to a backend and stand at its class.

    Raises:
        UnknownBackend: no such backend.
        InvalidOption: an option that the backend does not have.
        SandboxUnavailable: the backend cannot work on this machine; the message says what to install or allow.
    """
    if backend not in BACKENDS:
        raise UnknownBackend(backend, BACKENDS)
    module, _, name = BACKENDS[backend].partition(":")
    kind = getattr(import_module(module, __package__), name)
    sandbox: Sandbox = kind(limits or Limits(), **options)
    try:
        for path, data in (files or {}).items():
            sandbox.write(path, data)
    except BaseException:
        sandbox.close()
        raise
    return sandbox
