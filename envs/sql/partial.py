"""Partial credit for a query that is not right: the parts of Reasoning-SQL (Pourreza et al., arXiv 2503.23157).

| part        | what it is, in [0, 1]                                                                 |
|-------------|---------------------------------------------------------------------------------------|
| `execution` | 1 where the query gives the rows of the reference (`match`)                           |
| `syntax`    | 1 where it runs                                                                       |
| `schema`    | the tables and columns that it shares with the reference, over those of either          |
| `ngram`     | the pairs of neighbouring tokens that it shares with the reference, over those of either |

The weights follow the script that the authors published: execution counts three times as much as each of the others. There
the schema part is the share of the reference's tables and columns alone, which a query that names everything gets whole;
here it is Jaccard's index, as for the pairs. A right query gets every part whole, however it is written: nothing is left
to hint at. The judge of the paper is turnwise's reward source `judge`.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

WEIGHTS = {"execution": 3 / 6, "syntax": 1 / 6, "schema": 1 / 6, "ngram": 1 / 6}
"""They sum to 1. A wrong query gets less than 1/2."""

_LONGEST = 5_000  # characters of a query that are still parsed
_DEEPEST = 100  # brackets in brackets
_QUERIES = frozenset(("select", "with", "values", "("))


class Sketch(NamedTuple):
    """What partial credit compares of a query.

    Attributes:
        schema: names of tables and columns, in lower case.
        ngrams: pairs of neighbouring tokens, in lower case.
        ordered: whether the outermost query orders its rows.
    """

    schema: frozenset[str]
    ngrams: frozenset[tuple[str, str]]
    ordered: bool


@lru_cache(maxsize=8192)
def sketch(sql: str, dialect: str) -> Sketch:
    """The sketch of a query; that of a text which cannot be read has no schema, and perhaps no pairs."""
    if len(sql) > _LONGEST or _depth(sql) > _DEEPEST:
        return Sketch(frozenset(), frozenset(), False)
    try:
        # A literal is one token whatever is in it, with its quotes apart from the word that it may also be.
        tokens = [
            f"'{t.text}'" if t.token_type.name == "STRING" else t.text.lower()
            for t in sqlglot.tokenize(sql, read=dialect)
        ]
    except (SqlglotError, ValueError):
        return Sketch(frozenset(), frozenset(), False)
    ngrams = frozenset(pairwise(tokens))
    if not tokens or tokens[0] not in _QUERIES:  # sqlglot complains on the screen of some commands
        return Sketch(frozenset(), ngrams, False)
    try:
        tree = sqlglot.parse_one(sql, read=dialect)
    except (SqlglotError, ValueError, RecursionError):
        return Sketch(frozenset(), ngrams, False)
    own = {c.alias_or_name.lower() for c in tree.find_all(exp.CTE)}
    names = {t.name.lower() for t in tree.find_all(exp.Table)} - own
    names |= {f".{c.name.lower()}" for c in tree.find_all(exp.Column)}
    return Sketch(frozenset(names), ngrams, tree.args.get("order") is not None)


def parts(sql: str, reference: str, dialect: str, *, runs: bool, right: bool) -> dict[str, float]:
    """The parts of a query by name.

    Args:
        sql: the query.
        reference: the reference query.
        dialect: sqlglot's name of the SQL of both.
        runs: whether the query gave a result.
        right: whether that is the reference's.
    """
    if right:
        return dict.fromkeys(WEIGHTS, 1.0)
    one, other = sketch(sql, dialect), sketch(reference, dialect)
    return {
        "execution": 0.0,
        "syntax": float(runs),
        "schema": _jaccard(one.schema, other.schema),
        "ngram": _jaccard(one.ngrams, other.ngrams),
    }


def _jaccard(one: frozenset[object], other: frozenset[object]) -> float:
    return len(one & other) / len(one | other) if one and other else 0.0


def _depth(sql: str) -> int:
    """How deep brackets are nested: the parser is recursive."""
    depth = deepest = 0
    for character in sql:
        if character == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif character == ")":
            depth -= 1
    return deepest
