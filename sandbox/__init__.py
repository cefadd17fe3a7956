"""Layer 0: run untrusted code.

    with open_sandbox(limits=Limits(wall_seconds=2)) as sandbox:
        result = sandbox.run(code="print(6 * 7)")

`docs/sandbox.md` says what each backend keeps programs from, and what it does not.
"""

from .. import __version__ as __version__  # a plain `import sandbox` from the root must fail
from .errors import (
    InvalidOption,
    SandboxClosed,
    SandboxDied,
    SandboxError,
    SandboxFailure,
    SandboxUnavailable,
    UnknownBackend,
    UnknownLanguage,
    UnsafePath,
)
from .languages import LANGUAGES, Language
from .pool import Pool
from .sandbox import ExecResult, Limits, Sandbox, Status, backends, open_sandbox

__all__ = [
    "LANGUAGES",
    "ExecResult",
    "InvalidOption",
    "Language",
    "Limits",
    "Pool",
    "Sandbox",
    "SandboxClosed",
    "SandboxDied",
    "SandboxError",
    "SandboxFailure",
    "SandboxUnavailable",
    "Status",
    "UnknownBackend",
    "UnknownLanguage",
    "UnsafePath",
    "backends",
    "open_sandbox",
]
