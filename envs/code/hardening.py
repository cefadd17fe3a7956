"""More hidden tests for a published problem, made from its own: EvalPlus's idea (Liu et al., 2023), led by mutants.

Published tests are few: a program with a small mistake often passes them. Here new inputs are made from the published ones by
small changes that keep their types; the reference solution says what is right; and of those inputs the ones that tell a mutant of
the reference from the reference become hidden tests. A mutant that no input tells from it is equivalent as far as was looked.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

from .grading import RUNNER, Answer, lines_of, recorded_calls
from .mutation import Mutant, mutants
from .problems import Problem, Script
from .sessions import Sessions
from .values import decode, encode, same

_SECONDS = 1.0
"""For a call of the reference or a mutant: what takes longer is no input for a test."""
_FURTHER = 6
"""Further tests beyond those that tell mutants apart."""


class Hardened(NamedTuple):
    """A problem with more hidden tests.

    Attributes:
        problem: with the tests, and with the mutants that its tests tell from the reference.
        equivalent: mutants that no input told from the reference.
        inputs: how many inputs were looked at.
    """

    problem: Problem
    equivalent: tuple[Mutant, ...]
    inputs: int


def harden(sessions: Sessions, problem: Problem, *, inputs: int = 200, seed: int = 0) -> Hardened:
    """Add tests to a problem whose tests are test code; others are returned as they are.

    Args:
        sessions: where reference and mutants run.
        problem: of HumanEval or MBPP.
        inputs: how many to make, beside the published ones.
        seed: of the changes.
    """
    if not problem.hidden or not isinstance(problem.hidden[0], Script):
        return Hardened(problem, (), 0)
    return _harden(sessions, problem, inputs, seed)


@lru_cache(maxsize=1024)
def _harden(sessions: Sessions, problem: Problem, inputs: int, seed: int) -> Hardened:
    scripts = [t for t in problem.hidden if isinstance(t, Script)]
    published = recorded_calls(sessions, problem, scripts, 5.0)
    calls = changed_calls(published, inputs, seed)
    (answers,) = answers_to(sessions, problem, [problem.reference], calls)
    good = [(c, decode(a["value"])) for c, a in zip(calls, answers, strict=True) if _usable(c, a)]
    calls = [call for call, _ in good]
    wrapper = wrapper_of(problem)
    told: list[str] = []
    equivalent: list[Mutant] = []
    chosen: dict[int, None] = {}
    made = mutants(problem.reference)
    for mutant, found in zip(
        made, answers_to(sessions, problem, [m.program for m in made], calls), strict=True
    ):
        differing = [i for i, (_, value) in enumerate(good) if not agrees(wrapper, found[i], value)]
        if not differing:
            equivalent.append(mutant)
            continue
        told.append(mutant.program)
        if not any(i in chosen for i in differing):
            chosen[differing[0]] = None
    rng = Random(seed)
    for i in rng.sample(range(len(good)), min(_FURTHER, len(good))):
        chosen.setdefault(i)
    tests = [test_of(problem, wrapper, calls[i]) for i in sorted(chosen)]
    hardened = replace(problem, hidden=(*problem.hidden, *tests), mutants=tuple(told))
    return Hardened(hardened, tuple(equivalent), len(good))


def answers_to(
    sessions: Sessions, problem: Problem, programs: Sequence[str], calls: Sequence[Any]
) -> list[list[Answer]]:
    """What each program answers to each call, all in one sandbox; an unanswered call gives an empty answer."""
    numbered = [[i, *call] for i, call in enumerate(calls)]
    jobs = [
        json.dumps({"source": p, "entry": problem.entry, "calls": numbered, "seconds": _SECONDS})
        for p in programs
    ]
    results = sessions.run_cases(RUNNER, jobs, timeout=20.0) if jobs else []
    found = []
    for result in results:
        by_call = {line["call"]: line for line in lines_of(result) if isinstance(line.get("call"), int)}
        found.append([by_call.get(i, {}) for i in range(len(calls))])
    return found


def _usable(call: Any, answer: Answer) -> bool:
    """Whether the reference gave a plain value, and the call can be written as literals."""
    if "value" not in answer:
        return False
    try:
        ast.literal_eval(repr((decode(call[0]), decode(call[1]))))
    except (ValueError, SyntaxError):
        return False
    return '["o"' not in json.dumps(answer["value"])


def agrees(wrapper: str, answer: Answer, value: Any) -> bool:
    """Whether an answer is what the reference gave, as the problem's own tests compare: see `wrapper_of`."""
    if "value" not in answer:
        return False
    got = decode(answer["value"])
    try:
        got, value = _WRAPPERS[wrapper](got), _WRAPPERS[wrapper](value)
        return bool(got == value) or same(got, value)
    except TypeError:
        return False


_WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "": lambda x: x,
    "set": set,
    "sorted": sorted,
    "tuple": tuple,
    "list": list,
}


def wrapper_of(problem: Problem) -> str:
    """What the published tests put around the call before they compare, `set` for one: then order does not matter."""
    for test in problem.hidden:
        assert isinstance(test, Script)
        for node in ast.walk(ast.parse(test.code)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _WRAPPERS:
                inner = node.args[0] if node.args else None
                if (
                    isinstance(inner, ast.Call)
                    and isinstance(inner.func, ast.Name)
                    and inner.func.id == problem.called
                ):
                    return node.func.id
    return ""


def test_of(problem: Problem, wrapper: str, call: Any) -> Script:
    """A test that compares the function with the reference on one call."""
    arguments, named = decode(call[0]), decode(call[1])
    written = ", ".join([*map(repr, arguments), *(f"{n}={v!r}" for n, v in named.items())])
    return Script(f"assert agree({wrapper}({problem.called}({written})), {wrapper}(reference({written})))")


# ---- inputs ----


def changed_calls(published: Sequence[Any], number: int, seed: int) -> list[Any]:
    """The published calls, and as many changed ones as wanted, none twice."""
    rng = Random(seed)
    pool = _pool([decode(call[0]) for call in published])
    found = {json.dumps(call): call for call in published}
    for _ in range(4 * number):
        if len(found) >= number + len(published) or not published:
            break
        arguments, named = (decode(part) for part in rng.choice(published))
        arguments = list(arguments)
        for _ in range(rng.choice((1, 1, 2))):
            if arguments:
                i = rng.randrange(len(arguments))
                arguments[i] = _changed(arguments[i], rng, pool)
        call = [encode(tuple(arguments)), encode(named)]
        found.setdefault(json.dumps(call), call)
    return list(found.values())


def _pool(values: Any) -> dict[type, list[Any]]:
    """The scalars that stand in the published inputs, by type."""
    pool: dict[type, list[Any]] = {}
    waiting = list(values)
    while waiting:
        x = waiting.pop()
        if isinstance(x, (list, tuple, set, frozenset)):
            waiting += x
        elif isinstance(x, dict):
            waiting += [*x.keys(), *x.values()]
        if x not in pool.setdefault(type(x), []):
            pool[type(x)].append(x)
    return pool


def _changed(x: Any, rng: Random, pool: dict[type, list[Any]]) -> Any:
    """A value of the same type, a little different."""
    if rng.random() < 0.15 and len(pool.get(type(x), [])) > 1:
        return rng.choice(pool[type(x)])
    match x:
        case bool():
            return not x
        case int():
            return rng.choice((x + 1, x - 1, 0, 1, 2, x + rng.randint(2, 9), rng.randint(0, max(2, abs(x)))))
        case float():
            return rng.choice((x + 1.0, x - 0.5, 0.0, 1.0, round(x + rng.random(), 2), -x))
        case str():
            return _changed_text(x, rng, pool)
        case list():
            return _changed_list(x, rng, pool)
        case tuple():
            items = list(x)
            if items:
                i = rng.randrange(len(items))
                items[i] = _changed(items[i], rng, pool)
            return tuple(items) if rng.random() < 0.8 else tuple(_changed_list(list(x), rng, pool))
        case dict():
            return {
                k: (_changed(v, rng, pool) if rng.random() < 0.5 else v)
                for k, v in x.items()
                if rng.random() < 0.9
            }
        case set() | frozenset():
            return type(x)(v for v in sorted(x, key=repr) if rng.random() < 0.8)
        case _:
            return x


def _changed_text(x: str, rng: Random, pool: dict[type, list[Any]]) -> str:
    if " " in x and rng.random() < 0.5:
        parts = x.split(" ")
        known = [part for text in pool.get(str, []) for part in text.split(" ")]
        parts[rng.randrange(len(parts))] = rng.choice(known)
        rng.shuffle(parts)
        return " ".join(parts)
    i, j = sorted((rng.randrange(len(x) + 1), rng.randrange(len(x) + 1)))
    letter = rng.choice(x) if x and rng.random() < 0.8 else rng.choice("abcxyzABC 019")
    return rng.choice(
        (
            x[:i] + x[j:],
            x[:i] + letter + x[i:],
            x[::-1],
            x[:i] + x[i : i + 1] + x[i:],
            x + x[i:j],
            x.swapcase(),
            "",
        )
    )


def _changed_list(x: list[Any], rng: Random, pool: dict[type, list[Any]]) -> list[Any]:
    items = list(x)
    if not items:
        return [rng.choice(pool[int])] if pool.get(int) else items
    i = rng.randrange(len(items))
    match rng.randrange(7):
        case 0:
            del items[i]
        case 1:
            items.insert(i, rng.choice(items))
        case 2:
            rng.shuffle(items)
        case 3:
            items = items[:i]
        case 4 if all(isinstance(row, list) and len(row) == len(items[0]) for row in items):
            order = rng.sample(range(len(items[0])), len(items[0]))
            items = [[row[j] for j in order] for row in items]  # the columns of a matrix
        case _:
            items[i] = _changed(items[i], rng, pool)
    return items
