"""Mutants of a program: one small change each, of the kinds that mutation testing makes.

| change     | example                                    |
|------------|--------------------------------------------|
| comparison | `<` becomes `<=`, `==` becomes `!=`           |
| constant   | `1` becomes `2` or `0`, `True` becomes `False` |
| operator   | `+` becomes `-`, `and` becomes `or`           |
| condition  | `if x` becomes `if not x`                    |
| statement  | an assignment or a call is left out          |
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from typing import NamedTuple

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


class Mutant(NamedTuple):
    """A changed program.

    Attributes:
        program: its text.
        change: what was changed, as `line 3: < becomes <=`.
    """

    program: str
    change: str


def mutants(program: str) -> list[Mutant]:
    """Every mutant of a program, in the order of the places; none twice, and none that is the program.

    Raises:
        SyntaxError: the program is not Python.
    """
    tree = ast.parse(program)
    found: dict[str, Mutant] = {}
    original = ast.unparse(tree)
    for place, node in enumerate(ast.walk(tree)):
        for variant in range(_variants(node)):
            changed = copy.deepcopy(tree)
            target = next(n for i, n in enumerate(ast.walk(changed)) if i == place)
            change = _change(target, variant)
            text = ast.unparse(ast.fix_missing_locations(changed)) + "\n"
            if text.strip() != original and text not in found:
                found[text] = Mutant(text, f"line {getattr(node, 'lineno', 0)}: {change}")
    return list(found.values())


def _variants(node: ast.AST) -> int:
    match node:
        case ast.Compare(ops=ops):
            return len(ops)
        case ast.BinOp(op=op) | ast.AugAssign(op=op):
            return int(type(op) in _OPERATORS)
        case ast.BoolOp() | ast.If() | ast.While() | ast.IfExp():
            return 1
        case ast.Constant(value=bool()):
            return 1
        case ast.Constant(value=int()):
            return 2
        case ast.FunctionDef(body=body) | ast.For(body=body) | ast.With(body=body):
            return len(list(_droppable(body)))
        case _:
            return 0


def _change(node: ast.AST, variant: int) -> str:
    """Change a node in place and say how."""
    match node:
        case ast.Compare(ops=ops):
            old = ops[variant]
            ops[variant] = _COMPARISONS[type(old)]()
            return f"{type(old).__name__} becomes {type(ops[variant]).__name__}"
        case ast.BinOp(op=op) | ast.AugAssign(op=op):
            node.op = _OPERATORS[type(op)]()
            return f"{type(op).__name__} becomes {type(node.op).__name__}"
        case ast.BoolOp(op=boolean):
            node.op = ast.Or() if isinstance(boolean, ast.And) else ast.And()
            return f"{type(boolean).__name__} becomes {type(node.op).__name__}"
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            node.test = ast.UnaryOp(ast.Not(), test)
            return "a condition is negated"
        case ast.Constant(value=bool(value)):
            node.value = not value
            return f"{value} becomes {not value}"
        case ast.Constant(value=int(number)):
            node.value = number + (1, -1)[variant]
            return f"{number} becomes {node.value}"
        case ast.FunctionDef(body=body) | ast.For(body=body) | ast.With(body=body):
            place = list(_droppable(body))[variant]
            said = ast.unparse(body[place]).splitlines()[0]
            body[place] = ast.Pass()
            return f"{said} is left out"
    raise AssertionError(f"{node} has no variants")


def _droppable(body: list[ast.stmt]) -> Iterator[int]:
    """Places of statements without which a program can still run: not the first binding of a name."""
    bound: set[str] = set()
    for place, statement in enumerate(body):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]):
                if name in bound:
                    yield place
                bound.add(name)
            case ast.AugAssign() | ast.Assign(targets=[ast.Subscript() | ast.Attribute()]):
                yield place
            case ast.Expr(value=ast.Call()) | ast.If() | ast.Return():
                yield place
