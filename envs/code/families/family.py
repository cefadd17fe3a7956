"""What a family of programming tasks is, and the random inputs that its tests are drawn from."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from random import Random
from string import Template, ascii_lowercase
from types import SimpleNamespace
from typing import Any, Literal

Difficulty = Literal["easy", "medium", "hard"]
Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Family:
    """A kind of task. A variant fixes its parameters; a task is a variant with tests.

    Attributes:
        name: also the name of the function to write.
        topic: what it is about (strings, graphs, ...).
        difficulty: easy, medium or hard.
        arguments: annotation by argument.
        returns: annotation of what is returned.
        says: the statement; `$name` stands for a parameter, in the body too.
        body: of the reference solution.
        mutants: plausible wrong solutions: what of the body is replaced, by what.
        draw: random arguments, from a generator and the parameters.
        edges: arguments that tests must not miss, from the parameters.
        parameters: values of each.
    """

    name: str
    topic: str
    difficulty: Difficulty
    arguments: Mapping[str, str]
    returns: str
    says: str
    body: str
    mutants: tuple[tuple[str, str], ...]
    draw: Callable[[Random, Any], Arguments]
    edges: Callable[[Any], Sequence[Arguments]]
    parameters: Mapping[str, Sequence[Any]]

    @cached_property
    def variants(self) -> Mapping[str, list[dict[str, Any]]]:
        """The variants by split: no task of one split is solved by a program for a task of another."""
        drawn = [
            dict(zip(self.parameters, values, strict=True)) for values in product(*self.parameters.values())
        ]
        Random(self.name).shuffle(drawn)
        found: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
        for place, variant in enumerate(drawn):
            found[{8: "val", 9: "test"}.get(place % 10, "train")].append(variant)
        return found

    def statement(self, variant: Mapping[str, Any]) -> str:
        """What is asked."""
        return Template(self.says).substitute(variant)

    def solution(self, variant: Mapping[str, Any]) -> str:
        """The reference solution as a function."""
        return self._function(self.body, variant)

    def wrong(self, variant: Mapping[str, Any]) -> list[str]:
        """The mutants as functions."""
        bodies = []
        for old, new in self.mutants:
            assert old in self.body, f"{self.name}: the mutant {old!r} is not in the solution"
            bodies.append(self._function(self.body.replace(old, new), variant))
        return bodies

    @property
    def signature(self) -> str:
        """`def name(...) -> ...:`."""
        taken = ", ".join(f"{name}: {kind}" for name, kind in self.arguments.items())
        return f"def {self.name}({taken}) -> {self.returns}:"

    def _function(self, body: str, variant: Mapping[str, Any]) -> str:
        written = Template(textwrap.dedent(body).strip()).substitute(variant)
        return folded(f"{self.signature}\n{textwrap.indent(written, '    ')}\n")

    def inputs(self, variant: Mapping[str, Any], rng: Random, number: int) -> list[Arguments]:
        """The edge cases, and random arguments up to `number` in all, none twice."""
        p = SimpleNamespace(**variant)
        found = {repr(edge): edge for edge in self.edges(p)}
        for _ in range(4 * number):
            if len(found) >= number:
                break
            drawn = self.draw(rng, p)
            found.setdefault(repr(drawn), drawn)
        return list(found.values())


def family(
    name: str,
    difficulty: Difficulty,
    signature: str,
    says: str,
    body: str,
    mutants: Sequence[tuple[str, str]],
    draw: Callable[[Random, Any], Arguments],
    edges: Sequence[Arguments] | Callable[[Any], Sequence[Arguments]] = (),
    **parameters: Sequence[Any],
) -> Callable[[str], Family]:
    """A family without its topic, which the list that it stands in adds; `signature` is `a: int, b: str -> bool`."""
    taken, _, returns = signature.rpartition("->")
    arguments = {}
    for part in taken.replace(", ", ",,").split(",,"):
        if ":" in part:
            key, _, kind = part.partition(":")
            arguments[key.strip()] = kind.strip()
        else:  # the comma stood inside an annotation, as in tuple[int, int]
            arguments[key] += f", {part.strip()}"
    at_edges = edges if callable(edges) else lambda _: edges
    return lambda topic: Family(
        name,
        topic,
        difficulty,
        arguments,
        returns.strip(),
        " ".join(says.split()),
        body,
        tuple(mutants),
        draw,
        at_edges,
        parameters,
    )


def of_topic(topic: str, *families: Callable[[str], Family]) -> list[Family]:
    """The families of a topic."""
    return [made(topic) for made in families]


# A body chooses by its parameters, as in `if "$side" == "left"`. A variant's program has the choice made.


class _Fold(ast.NodeTransformer):
    """Evaluates choices between constants."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """`{"a": x, "b": y}["a"]` is x."""
        self.generic_visit(node)
        if isinstance(node.value, ast.Dict) and isinstance(node.slice, ast.Constant):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == node.slice.value:
                    return value
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Equality of two texts is True or False."""
        self.generic_visit(node)
        if len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            a, b = node.left, node.comparators[0]
            if _is_text(a) and _is_text(b):
                return ast.Constant((a.value == b.value) is isinstance(node.ops[0], ast.Eq))  # type: ignore[attr-defined]
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """`True and x` is x, `False and x` is False; the like for `or`."""
        self.generic_visit(node)
        neutral = isinstance(node.op, ast.And)
        left: list[ast.expr] = []
        for value in node.values:
            if isinstance(value, ast.Constant) and isinstance(value.value, bool):
                if value.value is neutral:
                    continue
                left.append(value)
                break
            left.append(value)
        if not left:
            return ast.Constant(neutral)
        if (
            isinstance(left[-1], ast.Constant)
            and left[-1].value is not neutral
            and isinstance(left[-1].value, bool)
        ):
            return left[-1]
        return left[0] if len(left) == 1 else ast.BoolOp(node.op, left)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """`x if True else y` is x."""
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant) and isinstance(node.test.value, bool):
            return node.body if node.test.value else node.orelse
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """The branch that is taken."""
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant) and isinstance(node.test.value, bool):
            return (node.body if node.test.value else node.orelse) or [ast.Pass()]
        return node


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def folded(program: str) -> str:
    """A program with the choices between constants made."""
    tree = _Fold().visit(ast.parse(program))
    for node in ast.walk(tree):  # `pass` stays only where nothing else stands
        for name in ("body", "orelse"):
            block = getattr(node, name, None)
            if isinstance(block, list) and len(block) > 1:
                setattr(node, name, [s for s in block if not isinstance(s, ast.Pass)] or [ast.Pass()])
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


# Random inputs.


def ints(r: Random, most: int = 10, low: int = -20, high: int = 20, fewest: int = 0) -> list[int]:
    """A list of `fewest` to `most` integers in [low, high]."""
    return [r.randint(low, high) for _ in range(r.randint(fewest, most))]


def word(r: Random, most: int = 8, letters: str = ascii_lowercase, fewest: int = 1) -> str:
    """A word of `fewest` to `most` letters."""
    return "".join(r.choice(letters) for _ in range(r.randint(fewest, most)))


def words(r: Random, most: int = 7, longest: int = 6, letters: str = "abcde", fewest: int = 0) -> list[str]:
    """A list of `fewest` to `most` words."""
    return [word(r, longest, letters) for _ in range(r.randint(fewest, most))]


def matrix(r: Random, most: int = 5, low: int = -9, high: int = 9) -> list[list[int]]:
    """1 to `most` rows of as many integers each."""
    columns = r.randint(1, most)
    return [[r.randint(low, high) for _ in range(columns)] for _ in range(r.randint(1, most))]


def pairs(r: Random, most: int, below: int) -> list[tuple[int, int]]:
    """Up to `most` pairs of two different numbers in [0, below)."""
    return [
        (a, b)
        for a, b in ((r.randrange(below), r.randrange(below)) for _ in range(r.randint(0, most)))
        if a != b
    ]


def spans(r: Random, most: int = 7, end: int = 30, longest: int = 8) -> list[tuple[int, int]]:
    """Up to `most` intervals (start, end) with 0 <= start < end."""
    found = []
    for _ in range(r.randint(0, most)):
        start = r.randrange(end)
        found.append((start, start + r.randint(1, longest)))
    return found
