"""Errors that an analyser finds in a program without running it: the same program gives the same number."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

from ..errors import UsageError

Analyser = Callable[[str], int]
"""Number of errors in a program in Python."""


def analyser(name: str) -> Analyser:
    """The analyser of a name: `pyright` (names, types, calls, syntax) or `jedi` (syntax alone, a hundred times faster).

    Raises:
        UsageError: what it needs is not installed.
    """
    needs = {"pyright": "basedpyright", "jedi": "jedi"}[name]
    if find_spec(needs) is None:
        raise UsageError(f"diagnostics={name!r} needs {needs}: pip install 'turnwise[code]'")
    if name == "jedi":
        return _jedi
    from .pyright import errors

    return errors


@lru_cache(maxsize=4096)
def _jedi(program: str) -> int:
    import jedi

    return len(jedi.Script(program).get_syntax_errors())
