"""What the adapters share: a library that is missing, and one that breaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ..errors import EnvFailure, UsageError


class ForeignEnvFailed(EnvFailure):
    """Raised when another library's environment raised an exception, which is the cause of this one."""


@contextmanager
def blamed(env_id: str, doing: str) -> Iterator[None]:
    """Turn whatever another library raises into `ForeignEnvFailed`."""
    try:
        yield
    except Exception as error:
        raise ForeignEnvFailed(f"{env_id} failed in {doing}: {type(error).__name__}: {error}") from error


def library(module: str, extra: str) -> Any:
    """Import a library.

    Raises:
        UsageError: it is not installed, or cannot be imported; names the extra that brings a version that fits.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(
            f"this needs {module}, which could not be imported ({error}); pip install 'turnwise[{extra}]'"
        ) from error
