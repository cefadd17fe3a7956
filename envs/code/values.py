"""Values on their way out of a sandbox and back: an encoding in JSON, and equality that knows types.

Only plain values travel: what a program returns is read into None, truth values, numbers, texts, bytes, lists, tuples, sets
and dicts by their own types' methods, whatever a subclass says. An object of any other type becomes its type's name and
equals nothing, so that an `__eq__` that always says yes is worth nothing.

The runner sends this file's text into the sandbox, so it imports the standard library alone.
"""

from __future__ import annotations

import math
from typing import Any

TOLERANCE = 1e-9
"""Relative and absolute difference up to which floats are equal."""
_DEEPEST = 60


class Opaque:
    """A value that cannot travel; it equals nothing, not even itself.

    Attributes:
        said: its type's name.
    """

    def __init__(self, said: str) -> None:
        self.said = said

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<{self.said} object>"


def encode(x: Any, depth: int = 0) -> Any:
    """A value as JSON: scalars as they are, everything else as a list with a tag in front."""
    if x is None or x is True or x is False:
        return x
    kind = type(x)
    if kind is str:
        return x
    if kind is int:
        return x if -(2**53) < x < 2**53 else ["i", hex(x)]
    if kind is float:
        return ["f", float.__repr__(x)]
    if depth > _DEEPEST:
        return ["o", "too deeply nested"]
    if issubclass(kind, (list, tuple, set, frozenset)):
        for base, tag in ((list, "l"), (tuple, "t"), (set, "s"), (frozenset, "z")):
            if issubclass(kind, base):
                return [tag, *[encode(item, depth + 1) for item in base.__iter__(x)]]
    if issubclass(kind, dict):
        return ["d", *[[encode(k, depth + 1), encode(v, depth + 1)] for k, v in dict.items(x)]]
    if issubclass(kind, (bytes, bytearray)):
        return ["b", bytes(x).hex()]
    if issubclass(kind, str):
        return str.__str__(x)
    if issubclass(kind, int):
        return encode(int.__index__(x), depth)
    if issubclass(kind, float):
        return ["f", float.__repr__(float.__float__(x))]
    if kind is complex:
        return ["c", float.__repr__(x.real), float.__repr__(x.imag)]
    return ["o", kind.__name__[:80]]


def decode(x: Any) -> Any:
    """The value of what `encode` wrote.

    Raises:
        ValueError: it is nothing that `encode` writes.
    """
    if not isinstance(x, list):
        return x
    try:
        tag, *rest = x
        match tag:
            case "l":
                return [decode(item) for item in rest]
            case "t":
                return tuple(decode(item) for item in rest)
            case "s":
                return {decode(item) for item in rest}
            case "z":
                return frozenset(decode(item) for item in rest)
            case "d":
                return {decode(k): decode(v) for k, v in rest}
            case "i":
                return int(rest[0], 16)
            case "f":
                return float(rest[0])
            case "c":
                return complex(float(rest[0]), float(rest[1]))
            case "b":
                return bytes.fromhex(rest[0])
            case "o":
                return Opaque(str(rest[0]))
    except (TypeError, ValueError, IndexError, RecursionError) as error:
        raise ValueError(f"no encoded value: {error}") from error
    raise ValueError(f"no encoded value: unknown tag {tag!r}")


def same(a: Any, b: Any) -> bool:
    """Whether two decoded values are equal: of one type, but for int and float, and floats within `TOLERANCE`.

    True is not 1, a list is not a tuple, a text is not bytes; NaN equals NaN; dicts and sets have no order.
    """
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return a is b
    if isinstance(a, (int, float, complex)) and isinstance(b, (int, float, complex)):
        return _close(a, b)
    if isinstance(a, (set, frozenset)) and isinstance(b, (set, frozenset)):
        return _same_members(list(a), list(b))
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return _same_members(list(a.items()), list(b.items()))
    return bool(a == b)


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if isinstance(a, complex) or isinstance(b, complex):
        a, b = complex(a), complex(b)
        return _close(a.real, b.real) and _close(a.imag, b.imag)
    try:
        if math.isnan(a) or math.isnan(b):
            return math.isnan(a) and math.isnan(b)
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except OverflowError:  # an integer beyond every float
        return False


def _same_members(a: list[Any], b: list[Any]) -> bool:
    if len(a) != len(b):
        return False
    left = list(b)
    for x in a:
        at = next((i for i, y in enumerate(left) if same(x, y)), None)
        if at is None:
            return False
        del left[at]
    return True


def same_output(expected: str, got: str) -> bool:
    """Whether two standard outputs agree: line by line and word by word, but for empty lines at the end.

    Numbers with a point or an exponent agree within `TOLERANCE`.
    """
    a, b = ([line.rstrip() for line in text.rstrip().split("\n")] for text in (expected, got))
    return len(a) == len(b) and all(x == y or _same_line(x, y) for x, y in zip(a, b, strict=True))


def _same_line(a: str, b: str) -> bool:
    x, y = a.split(), b.split()
    return len(x) == len(y) and all(map(_same_word, x, y))


def _same_word(a: str, b: str) -> bool:
    if a == b:
        return True
    if not any(c in ".eE" for c in a):
        return False
    try:
        return _close(float(a), float(b))
    except ValueError:
        return False
