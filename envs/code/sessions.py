"""The sandboxes of an environment: a fresh one for every call, forked from a process that is warm.

Nothing that one program leaves behind, a file, a shared memory or a process, reaches another: an episode gives the same bytes
again, and what a grading of hidden tests knew is gone with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ...sandbox import (
    ExecResult,
    Limits,
    Sandbox,
    SandboxDied,
    SandboxError,
    SandboxUnavailable,
    open_sandbox,
)
from ..errors import EnvFailure, InvalidParameter


class SandboxLost(EnvFailure):
    """Raised when a sandbox went away in the middle of a call; the episode is played once more."""


class SandboxMissing(EnvFailure):
    """Raised when no sandbox can be opened any more, although there was one when the environment was made."""


class Sessions:
    """Sandboxes of one kind.

    Args:
        backend: of `open_sandbox`.
        limits: of each sandbox.
        allow_unsafe: that the backend may be `process`, which isolates nothing.

    Raises:
        InvalidParameter: the backend is unknown, not allowed, or does not work on this machine.
    """

    def __init__(self, backend: str, limits: Limits, *, allow_unsafe: bool) -> None:
        self.backend, self.limits = backend, limits
        self._options: Mapping[str, Any] = {"allow_unsafe": allow_unsafe} if backend == "process" else {}
        try:
            self._opened({}).close()
        except SandboxError as error:
            raise InvalidParameter(
                f"sandbox={backend!r} cannot be used: {error}. Where you trust what the model writes, programs run without"
                " isolation by sandbox=process allow_unsafe=true"
            ) from error

    def _opened(self, files: Mapping[str, bytes]) -> Sandbox:
        return open_sandbox(self.backend, self.limits, files, **self._options)

    @contextmanager
    def open(self, files: Mapping[str, bytes] | None = None) -> Iterator[Sandbox]:
        """A fresh sandbox with these files, for one use.

        Raises:
            SandboxLost, SandboxMissing: see the classes.
        """
        try:
            with self._opened(files or {}) as sandbox:
                yield sandbox
        except SandboxUnavailable as error:
            raise SandboxMissing(str(error)) from error
        except SandboxDied as error:
            raise SandboxLost(str(error)) from error

    def run_cases(
        self,
        code: str,
        inputs: Sequence[str],
        *,
        language: str = "python",
        timeout: float,
        files: Mapping[str, bytes] | None = None,
    ) -> Sequence[ExecResult]:
        """Run a program once for each input in a fresh sandbox with these files; see `Sandbox.run_cases`."""
        with self.open(files) as sandbox:
            return sandbox.run_cases(code, inputs, language=language, timeout=timeout)
