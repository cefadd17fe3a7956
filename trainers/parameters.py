"""Parameters of registered functions and classes, read from their signatures: how credit schemes and reward sources are
configured.

A keyword parameter has a default and one of the annotations float, int, bool, str, Literal[...], or Annotated[float,
Interval(low, high)], possibly `| None`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Interval:
    """The numbers that a parameter may take; an `open` interval leaves out its lower end."""

    low: float
    high: float = float("inf")
    open: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.open else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        return f"{'(' if self.open else '['}{self.low:g}, {self.high:g}{')' if self.high == float('inf') else ']'}"


Discount: TypeAlias = Annotated[float, Interval(0, 1)]
"""Annotation of a parameter that discounts per turn: a number in [0, 1]."""
Weight: TypeAlias = Annotated[float, Interval(0)]
Positive: TypeAlias = Annotated[float, Interval(0, open=True)]
Epsilon: TypeAlias = Positive
Ddof: TypeAlias = Literal[0, 1]


@dataclass(frozen=True)
class Parameter:
    """One configuration parameter.

    Args:
        kind: float, int, bool or str.
        default: its value when nothing is configured.
        choices: the values it may take, when they can be listed.
        interval: the numbers it may take.
        optional: whether None is allowed.
    """

    kind: type
    default: Any
    choices: tuple[Any, ...] | None = None
    interval: Interval | None = None
    optional: bool = False

    @property
    def allowed(self) -> str:
        """What values are allowed, in words."""
        if self.choices is not None:
            text = ", ".join(repr(choice) for choice in self.choices)
        else:
            text = {float: "a finite number", int: "a whole number", bool: "true or false", str: "a name"}[
                self.kind
            ]
            text += f" in {self.interval}" if self.interval else ""
        return text + (", or None" if self.optional else "")

    def allows(self, value: Any) -> bool:
        """Whether a value is of the right type and in range."""
        if value is None:
            return self.optional
        if self.choices is not None:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if self.kind is float:
            typed = (
                isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
            )
        elif self.kind is int:
            typed = isinstance(value, int) and not isinstance(value, bool)
        else:
            typed = isinstance(value, self.kind)
        return typed and (self.interval is None or value in self.interval)


def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword-only parameters of a function, as configuration; its first parameter is positional and none of them.

    Raises:
        TypeError: a parameter is positional, without a default, or of another type than configuration has.
    """
    hints = get_type_hints(function, include_extras=True)
    positional, *keywords = inspect.signature(function).parameters.values()
    found = {}
    for argument in keywords:
        if argument.kind is not inspect.Parameter.KEYWORD_ONLY or argument.default is inspect.Parameter.empty:
            raise TypeError(
                f"{argument.name} of {function.__qualname__} must be keyword-only and have a default; it"
                f" takes `{positional.name}` and then `*`."
            )
        found[argument.name] = _parameter(hints[argument.name], argument.default, function.__qualname__)
    return found


def _parameter(hint: Any, default: Any, owner: str) -> Parameter:
    optional = type(None) in get_args(hint)
    if optional:
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return Parameter(type(choices[0]), default, choices=choices, optional=optional)
    interval = None
    if get_origin(hint) is Annotated:
        hint, interval = get_args(hint)
    if hint not in (float, int, bool, str):
        raise TypeError(
            f"a parameter of {owner} has the type {hint!r}; allowed: float, int, bool, str, Literal."
        )
    return Parameter(hint, default, interval=interval, optional=optional)
