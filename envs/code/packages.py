"""Generated packages with a bug: modules of functions, tests of their own, and one function that a mutant stands in for."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

from .families import FAMILIES, Family
from .generator import callable_of, fails, generate
from .problems import Case, Problem

LEVELS = ("easy", "medium", "hard")
TOPICS = tuple(dict.fromkeys(f.topic for f in FAMILIES.values()))
_MODULES, _FUNCTIONS = 3, 2
_SHOWN = 2
"""Tests of each function among the package's own."""
_NAMES = (
    "abacus",
    "almanac",
    "compass",
    "ledger",
    "lantern",
    "loom",
    "satchel",
    "sextant",
    "tackle",
    "workbench",
)


class Call(NamedTuple):
    """A test from outside: a function of the package, and what it must return.

    Attributes:
        module: dotted.
        function: its name.
        case: arguments and result.
    """

    module: str
    function: str
    case: Case


@dataclass(frozen=True)
class Package:
    """A package with a bug.

    Attributes:
        name: of the package.
        report: what is known of the bug, as a user tells it.
        files: content by path.
        repaired: the file with the bug, without it.
        path: of that file.
        wrong: the text of the function with the bug.
        right: the text that belongs there.
        shown: the package's own tests, as calls.
        hidden: those that decide.
        failing: places of the hidden ones that fail at first.
    """

    name: str
    report: str
    files: Mapping[str, str]
    repaired: str
    path: str
    wrong: str
    right: str
    shown: tuple[Call, ...]
    hidden: tuple[Call, ...]
    failing: tuple[int, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> Package:
        return self  # frozen: snapshots share it


@lru_cache(maxsize=512)
def package(topic: str, level: str, split: str, seed: int) -> Package:
    """The package of a task.

    Args:
        topic: of the function that has the bug.
        level: `easy`: the report shows a wrong result; `medium`: it says that tests fail; `hard`: the package's tests pass, and the
            report shows a wrong result that came through `batch`.
        split: of the variants of all functions.
        seed: everything else.
    """
    rng = Random(seed)
    topics = [topic, *rng.sample([t for t in TOPICS if t != topic], _MODULES - 1)]
    chosen: dict[str, list[tuple[Family, Problem]]] = {}
    for t in topics:
        families = [f for f in FAMILIES.values() if f.topic == t]
        picked = rng.sample(families, min(_FUNCTIONS, len(families)))
        chosen[t] = [(f, generate(f.name, split, rng.randrange(2**32), "function")) for f in picked]
    name = rng.choice(_NAMES)
    _, broken = chosen[topic][rng.randrange(len(chosen[topic]))]
    wrong = rng.choice(broken.mutants)
    mutant = callable_of(wrong, broken.entry)
    cases = [c for c in (*broken.visible, *broken.hidden) if isinstance(c, Case)]
    bad_cases = [c for c in cases if fails(mutant, c)]
    passing = [c for c in cases if c not in bad_cases]
    if level == "hard" and not passing:
        level = "medium"

    files = {
        "README.md": _readme(name, topics),
        f"{name}/__init__.py": f'"""{name}: small functions that are useful together."""\n',
        f"{name}/batch.py": _BATCH.format(name=name),
        "tests/__init__.py": "",
    }
    shown: list[Call] = []
    hidden: list[Call] = []
    rng.shuffle(topics)
    for t in topics:
        module = _module(t)
        functions, tests = [], []
        for family, problem in chosen[t]:
            own = [c for c in (*problem.visible, *problem.hidden) if isinstance(c, Case)]
            if problem is broken:
                kept = passing[:_SHOWN] if level == "hard" else [*passing[: _SHOWN - 1], bad_cases[0]]
            else:
                kept = own[:_SHOWN]
            text = wrong if problem is broken else problem.reference
            functions.append(_documented(text, problem.statement))
            tests += [(family.name, case) for case in kept]
            shown += [Call(f"{name}.{module}", family.name, case) for case in kept]
            hidden += [Call(f"{name}.{module}", family.name, case) for case in own]
        files[f"{name}/{module}.py"] = f'"""{t.capitalize()}."""\n\n\n' + "\n\n".join(functions)
        files[f"tests/test_{module}.py"] = _tests(name, module, tests)
    path = f"{name}/{_module(topic)}.py"
    bad, good = (_documented(text, broken.statement) for text in (wrong, broken.reference))
    where = [i for i, call in enumerate(hidden) if call.function == broken.entry and call.case in bad_cases]
    return Package(
        name,
        _report(level, name, _module(topic), broken, bad_cases[-1], mutant),
        files,
        files[path].replace(bad, good),
        path,
        bad,
        good,
        tuple(shown),
        tuple(hidden),
        tuple(where),
    )


def _module(topic: str) -> str:
    return topic.replace(" ", "_")


def _documented(function: str, statement: str) -> str:
    head, _, body = function.partition("\n")
    return f'{head}\n    """{statement}"""\n{body}'


def _readme(name: str, topics: list[str]) -> str:
    lines = [f"- `{name}.{_module(t)}`: {t}" for t in sorted(topics)]
    return (
        f"# {name}\n\nSmall functions, by module:\n\n"
        + "\n".join([*lines, f"- `{name}.batch`: many calls at once"])
        + "\n\n"
        "`python -m unittest` runs the tests.\n"
    )


_BATCH = '''"""Many calls at once."""

from importlib import import_module


def batch(function, calls):
    """Call a function, given as `module.name` of this package, with each of the argument lists."""
    module, _, name = function.rpartition(".")
    found = getattr(import_module("{name}." + module), name)
    return [found(*arguments) for arguments in calls]
'''


def _tests(name: str, module: str, tests: list[tuple[str, Case]]) -> str:
    functions = sorted({function for function, _ in tests})
    lines = ["import unittest", "", f"from {name}.{module} import {', '.join(functions)}", "", ""]
    lines.append(f"class Test{''.join(w.capitalize() for w in module.split('_'))}(unittest.TestCase):")
    numbers: dict[str, int] = {}
    for function, case in tests:
        numbers[function] = numbers.get(function, 0) + 1
        arguments = ", ".join(map(repr, case.arguments))
        lines += [
            f"    def test_{function}_{numbers[function]}(self):",
            f"        self.assertEqual({function}({arguments}), {case.expected!r})",
            "",
        ]
    if not tests:
        lines.append("    pass")
    return "\n".join(lines).rstrip() + "\n"


def _report(level: str, name: str, module: str, broken: Problem, case: Case, mutant: Any) -> str:
    if level == "medium":
        return "Some of its tests fail."
    try:
        got = f"gives {mutant(*copy.deepcopy(case.arguments))!r}"
    except Exception as error:
        got = f"raises {type(error).__name__}"
    arguments = ", ".join(map(repr, case.arguments))
    if level == "easy":
        return f"A user reports: {name}.{module}.{broken.entry}({arguments}) {got}, and should give {case.expected!r}."
    listed = f"[{arguments}]"
    return (
        f'A user reports: the first result of {name}.batch.batch("{module}.{broken.entry}", [{listed}]) is wrong, it should be'
        f" {case.expected!r}. The tests pass."
    )
