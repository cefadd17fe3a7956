"""Generated problems: a family's variant with tests, as a function or as a program on standard input and output.

What the reference solution returns is computed here, in this process: it is our own code. Programs of agents never run here.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import Any, TypeVar

from .families import FAMILIES, Family
from .problems import Case, Exchange, Problem, Test
from .values import same

T = TypeVar("T")

VISIBLE = 3
HIDDEN = 10
"""Fewest hidden tests; there are more where mutants need them."""
_INPUTS = (40, 160, 640)
"""How many inputs to draw; more where those before tell too few mutants."""
_MUTANTS = 3
"""Fewest mutants of a variant. A mutant that changes a branch which the variant never takes is no mutant of it."""


Program = tuple[str, Callable[..., Any]]
"""A program of our own as text, and its function."""


class GeneratorError(AssertionError):
    """Raised when a family breaks its promise: too few mutants that its tests tell from the solution."""


def generate(family: str, split: str, seed: int, form: str) -> Problem:
    """The problem of a task: which variant and which tests follows from the seed."""
    kind = FAMILIES[family]
    rng = Random(seed)
    variants = kind.variants[split]
    variant = rng.randrange(len(variants))
    return _problem(family, split, variant, rng.randrange(2**32), form)


@lru_cache(maxsize=1024)
def _problem(family: str, split: str, variant: int, seed: int, form: str) -> Problem:
    kind = FAMILIES[family]
    chosen = kind.variants[split][variant]
    rng = Random(seed)
    (reference, solve), wrongs = _programs(family, split, variant)
    for number in _INPUTS:
        inputs = kind.inputs(chosen, rng, number)
        cases = [Case(arguments, solve(*_fresh(arguments))) for arguments in inputs]
        mutants, places = _hidden(cases, wrongs, len(kind.inputs(chosen, rng, 0)), rng)
        if len(mutants) >= _MUTANTS:
            break
    else:
        raise GeneratorError(
            f"{family} {chosen} has {len(mutants)} mutants that tests tell from it, not {_MUTANTS}"
        )
    hidden = [cases[i] for i in places]
    others = [case for i, case in enumerate(cases) if i not in places]
    visible = _sample([c for c in others if any(c.arguments)], VISIBLE, rng)
    statement = kind.statement(chosen)
    if form == "function":
        return Problem(
            statement,
            "function",
            kind.name,
            kind.signature,
            tuple(visible),
            tuple(hidden),
            reference,
            tuple(mutants),
        )
    tests: list[tuple[Test, ...]] = [
        tuple(Exchange(written(kind, case.arguments), printed(case.expected, kind.returns)) for case in group)
        for group in (visible, hidden)
    ]
    programs = [f"{text}\n\n{main_of(kind)}" for text in (reference, *mutants)]
    return Problem(
        f"{statement}\n{layout(kind)}", "io", "", "", tests[0], tests[1], programs[0], tuple(programs[1:])
    )


@lru_cache(maxsize=4096)
def _programs(family: str, split: str, variant: int) -> tuple[Program, tuple[Program, ...]]:
    """The reference solution of a variant and its mutants, none twice."""
    kind = FAMILIES[family]
    chosen = kind.variants[split][variant]
    wrong = [text for text in dict.fromkeys(kind.wrong(chosen)) if text != kind.solution(chosen)]
    return _compiled(kind.solution(chosen), kind.name), tuple(_compiled(text, kind.name) for text in wrong)


def _hidden(
    cases: Sequence[Case], wrongs: Sequence[Program], edges: int, rng: Random
) -> tuple[list[str], list[int]]:
    """Mutants that the cases tell from the solution, and places of hidden tests: each mutant fails one at least.

    Args:
        cases: the edge cases first.
        wrongs: the mutants.
        edges: number of edge cases.
        rng: draws the others.
    """
    places = _sample(range(edges), HIDDEN // 2, rng)
    places += _sample([i for i in range(len(cases)) if i not in places], HIDDEN - len(places), rng)
    mutants = []
    for wrong, function in wrongs:
        first = [*places, *(i for i in range(len(cases)) if i not in places)]
        told = next((i for i in first if fails(function, cases[i])), None)
        if told is not None:
            mutants.append(wrong)
            if told not in places:
                places.append(told)
    rng.shuffle(places)
    return mutants, places


def _compiled(text: str, name: str) -> Program:
    return text, callable_of(text, name)


def _sample(choices: Sequence[T], number: int, rng: Random) -> list[T]:
    return rng.sample(choices, min(max(0, number), len(choices)))


def _fresh(arguments: Any) -> Any:
    """A copy that a function may change, as `copy.deepcopy` makes it, in a tenth of the time."""
    return marshal.loads(marshal.dumps(arguments))


def callable_of(source: str, name: str) -> Callable[..., Any]:
    """The function of a program of our own."""
    space: dict[str, Any] = {}
    exec(compile(source, f"<{name}>", "exec"), space)
    return space[name]  # type: ignore[no-any-return]


def fails(function: Callable[..., Any], case: Case) -> bool:
    """Whether a function of our own gets a case wrong."""
    try:
        return not same(function(*_fresh(case.arguments)), case.expected)
    except Exception:
        return True


# The form `io`: how arguments stand on standard input, and results on standard output.

_LAYOUT = {
    "int": "a line with the number {name}",
    "str": "a line with the text {name}",
    "list[int]": "a line with the length of {name}, then a line with its numbers, separated by blanks",
    "list[str]": "a line with the length of {name}, then a line for each of its texts",
    "list[list[int]]": "a line with the length of {name}, then a line for each of its lists, numbers separated by blanks",
    "list[tuple[int, int]]": "a line with the length of {name}, then a line for each of its pairs, separated by a blank",
    "dict[str, int]": "a line with the size of {name}, then a line for each entry: the number, a blank and the name",
}
_READ = {
    "int": "int(input())",
    "str": "input()",
    "list[int]": "read_numbers()",
    "list[str]": "[input() for _ in range(int(input()))]",
    "list[list[int]]": "[list(map(int, input().split())) for _ in range(int(input()))]",
    "list[tuple[int, int]]": "[tuple(map(int, input().split())) for _ in range(int(input()))]",
    "dict[str, int]": "{name: int(n) for n, _, name in (input().partition(' ') for _ in range(int(input())))}",
}
_ANSWER = {
    "int": "the number",
    "int | None": "the number, or None",
    "str": "the text",
    "list[int]": "the numbers in one line, separated by blanks",
    "list[str]": "each text in a line of its own",
    "list[list[int]]": "each list in a line of its own, numbers separated by blanks",
    "list[tuple[int, int]]": "each pair in a line of its own, separated by a blank",
    "dict[str, int]": "a line for each entry, the name, a blank and the number, in alphabetical order of the names",
}
_PRINT = {
    "int": "print(found)",
    "int | None": "print(found)",
    "str": "print(found)",
    "list[int]": "print(*found)",
    "list[str]": "print(*found, sep='\\n')",
    "list[list[int]]": "for row in found:\n    print(*row)",
    "list[tuple[int, int]]": "for row in found:\n    print(*row)",
    "dict[str, int]": "for name in sorted(found):\n    print(name, found[name])",
}


def has_io(kind: Family) -> bool:
    """Whether the arguments and the result of a family can be written on lines."""
    return all(a in _READ for a in kind.arguments.values()) and kind.returns in _PRINT


def layout(kind: Family) -> str:
    """What stands on standard input and what must be printed."""
    lines = "; ".join(_LAYOUT[a].format(name=name) for name, a in kind.arguments.items())
    return f"Standard input: {lines}. Print {_ANSWER[kind.returns]}."


def written(kind: Family, arguments: Sequence[Any]) -> str:
    """Arguments as standard input."""
    lines: list[str] = []
    for value, annotation in zip(arguments, kind.arguments.values(), strict=True):
        match annotation:
            case "int" | "str":
                lines.append(str(value))
            case "list[int]":
                lines += [str(len(value)), " ".join(map(str, value))]
            case "list[str]":
                lines += [str(len(value)), *value]
            case "dict[str, int]":
                lines += [str(len(value)), *(f"{n} {name}" for name, n in value.items())]
            case _:
                lines += [str(len(value)), *(" ".join(map(str, row)) for row in value)]
    return "".join(f"{line}\n" for line in lines)


def printed(value: Any, annotation: str) -> str:
    """A result as standard output."""
    match annotation:
        case "list[int]":
            lines = [" ".join(map(str, value))]
        case "list[str]":
            lines = list(value)
        case "list[list[int]]" | "list[tuple[int, int]]":
            lines = [" ".join(map(str, row)) for row in value]
        case "dict[str, int]":
            lines = [f"{name} {value[name]}" for name in sorted(value)]
        case _:
            lines = [str(value)]
    return "".join(f"{line}\n" for line in lines)


def main_of(kind: Family) -> str:
    """The part of a program that reads, calls the function and prints."""
    reads = [f"{name} = {_READ[annotation]}" for name, annotation in kind.arguments.items()]
    numbers = "def read_numbers():\n    input()\n    return list(map(int, input().split()))\n\n\n"
    head = numbers if "list[int]" in kind.arguments.values() else ""
    return "\n".join(
        [
            head + "\n".join(reads),
            f"found = {kind.name}({', '.join(kind.arguments)})",
            _PRINT[kind.returns],
            "",
        ]
    )
