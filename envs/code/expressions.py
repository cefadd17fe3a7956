"""Problems for small models: a line of steps such as `plus 3 times 2`, and the expression in x that takes them."""

from __future__ import annotations

from itertools import product
from random import Random

from ..tasks import split_of
from .problems import Case, Problem

OPERATIONS = {"plus": "+", "minus": "-", "times": "*"}
FAMILIES = {
    f"{first} {second}": "brackets" if second == "times" and first != "times" else "plain"
    for first, second in product(OPERATIONS, repeat=2)
}
"""Difficulty by family: which two operations there are, in order, and whether the expression needs brackets."""
_VISIBLE, _HIDDEN = 2, 4
_INPUTS = range(10)
HEAD = "def f(x):\n    return "


def generate(family: str, split: str, seed: int) -> Problem:
    """The problem of a task; a line of steps belongs to one split."""
    rng = Random(seed)
    names = family.split()
    while True:
        numbers = [rng.randint(2, 9) for _ in names]
        said = " ".join(f"{name} {number}" for name, number in zip(names, numbers, strict=True))
        if split_of(said) == split:
            break
    reference = _expression(names, numbers)
    swapped = {"plus": "minus", "minus": "plus", "times": "plus"}
    bare = "x" + "".join(f"{OPERATIONS[name]}{number}" for name, number in zip(names, numbers, strict=True))
    mutants = {
        _expression(names, [number + 1 for number in numbers]),
        _expression([swapped[name] for name in names], numbers),
        _expression([names[0], swapped[names[1]]], numbers),
        _expression([swapped[names[0]], names[1]], numbers),
        bare,
    }
    cases = [Case((x,), _value(names, numbers, x)) for x in rng.sample(_INPUTS, _VISIBLE + _HIDDEN)]
    return Problem(
        statement=said,
        form="function",
        entry="f",
        signature="",
        visible=tuple(cases[:_VISIBLE]),
        hidden=tuple(cases[_VISIBLE:]),
        reference=reference,
        mutants=tuple(sorted(m for m in mutants if _differs(m, cases[_VISIBLE:]))),
    )


def _differs(expression: str, cases: list[Case]) -> bool:
    return any(eval(expression, {"x": case.arguments[0]}) != case.expected for case in cases)


def _expression(names: list[str], numbers: list[int]) -> str:
    inner, outer = (f"{OPERATIONS[name]}{number}" for name, number in zip(names, numbers, strict=True))
    return f"(x{inner}){outer}" if FAMILIES[" ".join(names)] == "brackets" else f"x{inner}{outer}"


def _value(names: list[str], numbers: list[int], x: int) -> int:
    for name, number in zip(names, numbers, strict=True):
        x = {"plus": x + number, "minus": x - number, "times": x * number}[name]
    return x


def random_expression(rng: Random) -> str:
    """A random expression of the kind that is asked for."""
    names = rng.choice(list(FAMILIES)).split()
    return _expression(names, [rng.randint(2, 9) for _ in names])
