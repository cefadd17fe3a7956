"""Every error that a sandbox raises on purpose.

    SandboxError
    +- SandboxFailure        (RuntimeError)      infrastructure broke; an environment makes it an `EnvFailure`
    |  +- SandboxUnavailable                     this backend cannot work on this machine, and why
    |  +- SandboxDied                            the sandbox went away or stopped answering: killed, daemon gone
    +- SandboxClosed         (ValueError)        a sandbox is used after `close`
    +- UnknownBackend        (ValueError, LookupError)
    +- UnknownLanguage       (ValueError, LookupError)
    +- InvalidOption         (ValueError)        a limit or an option that a backend does not take
    +- UnsafePath            (PermissionError)   a path that leads out of the working folder, or through a link

What a program does never raises: it is an `ExecResult`. What is wrong with a file (missing, a folder, disk full) raises
the OSError that `open` would raise.
"""

from collections.abc import Collection
from difflib import get_close_matches


class SandboxError(Exception):
    """The base of every error that a sandbox raises on purpose."""


class SandboxFailure(SandboxError, RuntimeError):
    """The base of what infrastructure does: the same call may work elsewhere or later."""


class SandboxUnavailable(SandboxFailure):
    """Raised when a backend cannot work on this machine; the message says what to install or allow."""


class SandboxDied(SandboxFailure):
    """Raised when a sandbox went away in the middle or stopped answering; open another."""


class SandboxClosed(SandboxError, ValueError):
    """Raised when a sandbox is used after `close`."""


class UnknownBackend(SandboxError, ValueError, LookupError):
    """Raised when no backend has this name."""

    def __init__(self, name: str, known: Collection[str]) -> None:
        super().__init__(
            f"no sandbox backend is called {name!r}.{nearest(name, known)} Known: {', '.join(known)}."
        )


class UnknownLanguage(SandboxError, ValueError, LookupError):
    """Raised when no language has this name."""

    def __init__(self, name: str, known: Collection[str]) -> None:
        super().__init__(f"no language is called {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")


class InvalidOption(SandboxError, ValueError):
    """Raised for a limit out of range, and for an option that a backend does not have or refuses."""


class UnsafePath(SandboxError, PermissionError):
    """Raised for a path that leads out of the working folder, or through a symbolic link."""


def nearest(name: str, known: Collection[str]) -> str:
    """The clause `` Did you mean 'x'?`` for the known name nearest to `name`, or an empty string."""
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
