"""The kinds of questions: each writes a question, its reference query, and queries that are plausible and wrong.

A family is a function of an `Ask`, which picks tables, columns and values; it returns None where the domain has nothing to
ask for. The SQL is what SQLite and PostgreSQL have in common: every reference runs on both and means the same. Wrong
queries are what a hasty reader would write: the other bound, the other join, the forgotten filter. The generator keeps a
question only where its databases tell all of them from the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from .domains import Domain, Entity, Field, Rows


class Draft(NamedTuple):
    """A question of a family.

    Attributes:
        wordings: ways to ask it; the first is the plainest.
        sql: the reference query.
        wrong: plausible queries that are not right.
        short: the question in a few words, with names and values apart, where there is such a wording.
    """

    wordings: tuple[str, ...]
    sql: str
    wrong: tuple[str, ...]
    short: str = ""


class Family(NamedTuple):
    """A kind of question.

    Attributes:
        name: of the family.
        difficulty: easy (one table), medium (grouping or one join), hard (nesting, sets, several joins) or extra (windows,
            recursion and what needs several steps).
        draw: writes a question.
    """

    name: str
    difficulty: str
    draw: Callable[[Ask], Draft | None]


FAMILIES: dict[str, Family] = {}
"""The families by name."""


def _family(difficulty: str) -> Callable[[Callable[[Ask], Draft | None]], Callable[[Ask], Draft | None]]:
    def add(draw: Callable[[Ask], Draft | None]) -> Callable[[Ask], Draft | None]:
        name = draw.__name__.removeprefix("_")
        FAMILIES[name] = Family(name, difficulty, draw)
        return draw

    return add


class Ask:
    """Picks what a question is about.

    Args:
        domain: of the database.
        rows: of the database, for values that occur.
        rng: decides.
    """

    def __init__(self, domain: Domain, rows: Rows, rng: Random) -> None:
        self.domain, self.rows, self.rng = domain, rows, rng
        self.owner, self.item, self.partner, self.event = domain.entities

    def entity(self, *kinds: str) -> Entity:
        """A table with names, and with complete fields of these kinds (counted)."""
        fit = [
            e
            for e in (self.owner, self.item, self.partner)
            if all(
                len([f for f in e.fields if f.kind == k and not f.missing]) >= kinds.count(k) for k in kinds
            )
        ]
        return self.rng.choice(fit)

    def field(self, entity: Entity, kind: Any, *but: Field) -> Field:
        """A field of a table without missing values."""
        return self.rng.choice([f for f in entity.of(kind) if f not in but])

    def gap(self, entity: Entity) -> Field:
        """A category of a table that is sometimes missing."""
        return self.rng.choice(entity.of("category", missing=True))

    def value(self, entity: Entity, field: Field) -> Any:
        """A value that occurs; of numbers and days one from the middle."""
        found = sorted({r[field.name] for r in self.rows[entity.name] if r[field.name] is not None})  # type: ignore[type-var]
        if field.kind in ("number", "amount", "day") and len(found) > 4:
            found = found[len(found) // 4 : -(len(found) // 4)]
        return self.rng.choice(found)

    def two(self, entity: Entity, field: Field) -> tuple[Any, Any]:
        """Two values that occur, in order; of numbers and days apart from each other."""
        found = sorted({r[field.name] for r in self.rows[entity.name] if r[field.name] is not None})  # type: ignore[type-var]
        if len(found) < 2:
            return found[0], found[0]
        if field.kind in ("number", "amount", "day") and len(found) > 5:
            cut = len(found) // 3
            return self.rng.choice(found[:cut]), self.rng.choice(found[-cut:])
        one, other = sorted(self.rng.sample(found, 2))  # type: ignore[type-var]
        return one, other

    def name(self, entity: Entity, key: str, of: Entity) -> str:
        """The name of a row of `entity` that rows of `of` refer to by `key`."""
        used = sorted({int(r[key]) for r in self.rows[of.name] if r[key] is not None})  # type: ignore[arg-type]
        return str(self.rows[entity.name][self.rng.choice(used) - 1]["name"])

    @property
    def owned(self) -> str:
        """The column of an item that refers to its owner."""
        return f"{self.owner.name}_id"

    @property
    def keys(self) -> tuple[str, str]:
        """The columns of an event that refer to its item and its partner."""
        return f"{self.item.name}_id", f"{self.partner.name}_id"


def quoted(value: Any) -> str:
    """A value as SQL."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


q = quoted


# One table.


@_family("easy")
def _count_all(a: Ask) -> Draft:
    e = a.rng.choice(a.domain.entities)
    other = a.rng.choice([x for x in a.domain.entities if x is not e])
    return Draft(
        (f"How many {e.plural} are there?", f"Count the {e.plural}.", f"What is the number of {e.plural}?"),
        f"SELECT COUNT(*) FROM {e.name}",
        (
            f"SELECT COUNT(*) FROM {other.name}",
            f"SELECT MAX(id) + 1 FROM {e.name}",
            f"SELECT id FROM {e.name}",
        ),
    )


@_family("easy")
def _count_where(a: Ask) -> Draft:
    e = a.entity("category")
    c = a.field(e, "category")
    v = a.value(e, c)
    return Draft(
        (
            f"How many {e.plural} have the {c.said} {v}?",
            f"Count the {e.plural} whose {c.said} is {v}.",
            f"For how many {e.plural} is the {c.said} {v}?",
        ),
        f"SELECT COUNT(*) FROM {e.name} WHERE {c.name} = {q(v)}",
        (
            f"SELECT COUNT(*) FROM {e.name}",
            f"SELECT COUNT(*) FROM {e.name} WHERE {c.name} <> {q(v)}",
            f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)}",
        ),
        f"{e.name}, {c.name}: {v}. How many?",
    )


@_family("easy")
def _list_where(a: Ask) -> Draft:
    e = a.entity("category")
    c = a.field(e, "category")
    v = a.value(e, c)
    return Draft(
        (
            f"List the names of the {e.plural} with the {c.said} {v}.",
            f"Which {e.plural} have the {c.said} {v}? Give their names.",
            f"Name every {e.said} whose {c.said} is {v}.",
        ),
        f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)}",
        (
            f"SELECT name FROM {e.name}",
            f"SELECT name FROM {e.name} WHERE {c.name} <> {q(v)}",
            f"SELECT id FROM {e.name} WHERE {c.name} = {q(v)}",
        ),
        f"{e.name}, {c.name}: {v}. Which names?",
    )


@_family("easy")
def _above(a: Ask) -> Draft:
    e = a.entity("number")
    n = a.field(e, "number")
    x = a.value(e, n)
    return Draft(
        (
            f"Which {e.plural} have a {n.said} above {x}? Give their names.",
            f"List the names of the {e.plural} whose {n.said} is greater than {x}.",
            f"Name the {e.plural} that exceed {x} in {n.said}.",
        ),
        f"SELECT name FROM {e.name} WHERE {n.name} > {x}",
        (
            f"SELECT name FROM {e.name} WHERE {n.name} >= {x}",
            f"SELECT name FROM {e.name} WHERE {n.name} < {x}",
            f"SELECT name FROM {e.name}",
        ),
        f"{e.name}, {n.name} above: {x}. Which names?",
    )


@_family("easy")
def _both(a: Ask) -> Draft:
    e = a.entity("category", "number")
    c, n = a.field(e, "category"), a.field(e, "number")
    v, x = a.value(e, c), a.value(e, n)
    return Draft(
        (
            f"Name the {e.plural} whose {c.said} is {v} and whose {n.said} is at least {x}.",
            f"Which {e.plural} with the {c.said} {v} have a {n.said} of {x} or more? Give their names.",
            f"List the names of all {e.plural} that have the {c.said} {v} and also a {n.said} not below {x}.",
        ),
        f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)} AND {n.name} >= {x}",
        (
            f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)} OR {n.name} >= {x}",
            f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)}",
            f"SELECT name FROM {e.name} WHERE {n.name} >= {x}",
        ),
        f"{e.name}, {c.name}: {v}, {n.name} at least: {x}. Which names?",
    )


@_family("easy")
def _either(a: Ask) -> Draft:
    e = a.entity("category")
    c = a.field(e, "category")
    v, w = a.two(e, c)
    return Draft(
        (
            f"List the names of the {e.plural} whose {c.said} is {v} or {w}.",
            f"Which {e.plural} have {v} or {w} as their {c.said}? Give their names.",
            f"Name every {e.said} with one of the {c.said} values {v} and {w}.",
        ),
        f"SELECT name FROM {e.name} WHERE {c.name} IN ({q(v)}, {q(w)})",
        (
            f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)}",
            f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)} AND {c.name} = {q(w)}",
            f"SELECT name FROM {e.name} WHERE {c.name} NOT IN ({q(v)}, {q(w)})",
        ),
    )


@_family("easy")
def _between(a: Ask) -> Draft:
    e = a.entity("number")
    n = a.field(e, "number")
    x, y = a.two(e, n)
    return Draft(
        (
            f"How many {e.plural} have a {n.said} from {x} to {y}, both included?",
            f"Count the {e.plural} whose {n.said} lies between {x} and {y}, the bounds included.",
        ),
        f"SELECT COUNT(*) FROM {e.name} WHERE {n.name} BETWEEN {x} AND {y}",
        (
            f"SELECT COUNT(*) FROM {e.name} WHERE {n.name} > {x} AND {n.name} < {y}",
            f"SELECT COUNT(*) FROM {e.name} WHERE {n.name} >= {x}",
            f"SELECT COUNT(*) FROM {e.name} WHERE {n.name} <= {y}",
        ),
    )


@_family("easy")
def _distinct_values(a: Ask) -> Draft:
    e = a.entity("category")
    c = a.field(e, "category")
    n = a.rng.choice([f for f in e.fields if f.kind in ("number", "day")])
    x = a.value(e, n)
    said = f"a {n.said} of at least {x}" if n.kind == "number" else f"a date {n.said} of {x} or later"
    return Draft(
        (
            f"Which different values of {c.said} occur among the {e.plural} with {said}?",
            f"List every {c.said} once that some {e.said} with {said} has.",
        ),
        f"SELECT DISTINCT {c.name} FROM {e.name} WHERE {n.name} >= {q(x)}",
        (
            f"SELECT {c.name} FROM {e.name} WHERE {n.name} >= {q(x)}",
            f"SELECT COUNT(DISTINCT {c.name}) FROM {e.name} WHERE {n.name} >= {q(x)}",
            f"SELECT DISTINCT name FROM {e.name} WHERE {n.name} >= {q(x)}",
        ),
    )


@_family("easy")
def _count_distinct(a: Ask) -> Draft:
    e = a.event
    key, of = a.rng.choice([(a.keys[0], a.item), (a.keys[1], a.partner)])
    n = a.field(e, "amount")
    x = a.value(e, n)
    return Draft(
        (
            f"How many different {of.plural} occur in {e.plural} with a {n.said} above {x}?",
            f"Count the different {of.plural} among the {e.plural} whose {n.said} is greater than {x}.",
        ),
        f"SELECT COUNT(DISTINCT {key}) FROM {e.name} WHERE {n.name} > {x}",
        (
            f"SELECT COUNT({key}) FROM {e.name} WHERE {n.name} > {x}",
            f"SELECT COUNT(DISTINCT {key}) FROM {e.name}",
            f"SELECT COUNT(DISTINCT id) FROM {e.name} WHERE {n.name} > {x}",
        ),
    )


@_family("easy")
def _extreme(a: Ask) -> Draft:
    e = a.entity("number", "category")
    n, c = a.field(e, "number"), a.field(e, "category")
    v = a.value(e, c)
    word, f, g = a.rng.choice([("highest", "MAX", "MIN"), ("lowest", "MIN", "MAX")])
    return Draft(
        (
            f"What is the {word} {n.said} of the {e.plural} with the {c.said} {v}?",
            f"Give the {word} {n.said} among the {e.plural} whose {c.said} is {v}.",
        ),
        f"SELECT {f}({n.name}) FROM {e.name} WHERE {c.name} = {q(v)}",
        (
            f"SELECT {g}({n.name}) FROM {e.name} WHERE {c.name} = {q(v)}",
            f"SELECT {f}({n.name}) FROM {e.name}",
        ),
        f"{e.name}, {c.name}: {v}. The {word}: {n.name}?",
    )


@_family("easy")
def _average(a: Ask) -> Draft:
    e = a.entity("number", "category")
    n, c = a.field(e, "number"), a.field(e, "category")
    v = a.value(e, c)
    return Draft(
        (
            f"What is the average {n.said} of the {e.plural} with the {c.said} {v}?",
            f"Give the mean {n.said} of the {e.plural} whose {c.said} is {v}.",
        ),
        f"SELECT AVG({n.name}) FROM {e.name} WHERE {c.name} = {q(v)}",
        (
            f"SELECT AVG({n.name}) FROM {e.name}",
            f"SELECT SUM({n.name}) FROM {e.name} WHERE {c.name} = {q(v)}",
            f"SELECT AVG({n.name}) FROM {e.name} WHERE {c.name} <> {q(v)}",
        ),
        f"{e.name}, {c.name}: {v}. The average: {n.name}?",
    )


@_family("easy")
def _total(a: Ask) -> Draft:
    e = a.event
    m, d = a.field(e, "amount"), a.field(e, "day")
    x = a.value(e, d)
    return Draft(
        (
            f"What is the total {m.said} of the {e.plural} whose date {d.said} is {x} or earlier?",
            f"Add up the {m.said} of all {e.plural} {d.said} no later than {x}.",
        ),
        f"SELECT SUM({m.name}) FROM {e.name} WHERE {d.name} <= {q(x)}",
        (
            f"SELECT SUM({m.name}) FROM {e.name} WHERE {d.name} < {q(x)}",
            f"SELECT SUM({m.name}) FROM {e.name}",
            f"SELECT COUNT({m.name}) FROM {e.name} WHERE {d.name} <= {q(x)}",
        ),
    )


@_family("easy")
def _prefix(a: Ask) -> Draft:
    e = a.entity()
    letter = str(a.value(e, Field("name", "label")))[0]
    c = a.rng.choice([f for f in e.fields if f.kind in ("number", "category") and not f.missing])
    return Draft(
        (
            f"Give the name and the {c.said} of the {e.plural} whose name begins with {letter}.",
            f"For each {e.said} with a name that starts with {letter}, what are the name and the {c.said}?",
        ),
        f"SELECT name, {c.name} FROM {e.name} WHERE name LIKE '{letter}%'",
        (
            f"SELECT name, {c.name} FROM {e.name}",
            f"SELECT name, {c.name} FROM {e.name} WHERE name LIKE '%{letter.lower()}'",
            f"SELECT name FROM {e.name} WHERE name LIKE '{letter}%'",
        ),
    )


@_family("easy")
def _unknown(a: Ask) -> Draft:
    e = a.rng.choice([a.item, a.partner])
    g = a.gap(e)
    return Draft(
        (
            f"Which {e.plural} have no {g.said}? Give their names.",
            f"List the names of the {e.plural} whose {g.said} is unknown.",
            f"Name the {e.plural} for which the {g.said} is missing.",
        ),
        f"SELECT name FROM {e.name} WHERE {g.name} IS NULL",
        (
            f"SELECT name FROM {e.name} WHERE {g.name} = NULL",
            f"SELECT name FROM {e.name} WHERE {g.name} IS NOT NULL",
            f"SELECT name FROM {e.name}",
        ),
    )


@_family("easy")
def _count_known(a: Ask) -> Draft:
    e = a.event
    n = a.rng.choice(e.of("number", missing=True))
    m = a.field(e, "amount")
    x = a.value(e, m)
    return Draft(
        (
            f"For how many {e.plural} with a {m.said} below {x} is the {n.said} known?",
            f"Count the {e.plural} with a {m.said} less than {x} whose {n.said} is not missing.",
        ),
        f"SELECT COUNT({n.name}) FROM {e.name} WHERE {m.name} < {x}",
        (
            f"SELECT COUNT(*) FROM {e.name} WHERE {m.name} < {x}",
            f"SELECT COUNT({n.name}) FROM {e.name}",
            f"SELECT COUNT(*) FROM {e.name} WHERE {m.name} < {x} AND {n.name} IS NULL",
        ),
    )


@_family("easy")
def _null_default(a: Ask) -> Draft:
    e = a.rng.choice([a.item, a.partner])
    g, c = a.gap(e), a.field(e, "category")
    v = a.value(e, c)
    return Draft(
        (
            f"Give the name and the {g.said} of each {e.said} with the {c.said} {v}; write none where there is no {g.said}.",
            f"For the {e.plural} whose {c.said} is {v}, list the name and the {g.said}, and none where it is missing.",
        ),
        f"SELECT name, COALESCE({g.name}, 'none') FROM {e.name} WHERE {c.name} = {q(v)}",
        (
            f"SELECT name, {g.name} FROM {e.name} WHERE {c.name} = {q(v)}",
            f"SELECT name, {g.name} FROM {e.name} WHERE {c.name} = {q(v)} AND {g.name} IS NOT NULL",
            f"SELECT name, COALESCE({g.name}, 'none') FROM {e.name}",
        ),
    )


@_family("easy")
def _not_equal(a: Ask) -> Draft:
    e = a.rng.choice([a.item, a.partner])
    g = a.gap(e)
    v = a.value(e, g)
    return Draft(
        (
            f"How many {e.plural} do not have the {g.said} {v}? Count those without any {g.said} too.",
            f"Count the {e.plural} whose {g.said} is missing or other than {v}.",
        ),
        f"SELECT COUNT(*) FROM {e.name} WHERE {g.name} IS NULL OR {g.name} <> {q(v)}",
        (
            f"SELECT COUNT(*) FROM {e.name} WHERE {g.name} <> {q(v)}",
            f"SELECT COUNT(*) FROM {e.name} WHERE {g.name} IS NULL",
            f"SELECT COUNT(*) FROM {e.name} WHERE {g.name} = {q(v)}",
        ),
    )


@_family("easy")
def _since(a: Ask) -> Draft:
    e = a.entity("day")
    d = a.field(e, "day")
    x = a.value(e, d)
    return Draft(
        (
            f"Give the name and the date {d.said} of the {e.plural} {d.said} after {x}.",
            f"Which {e.plural} have a date {d.said} later than {x}? Give the name and that date.",
        ),
        f"SELECT name, {d.name} FROM {e.name} WHERE {d.name} > {q(x)}",
        (
            f"SELECT name, {d.name} FROM {e.name} WHERE {d.name} >= {q(x)}",
            f"SELECT name, {d.name} FROM {e.name} WHERE {d.name} < {q(x)}",
            f"SELECT name, {d.name} FROM {e.name}",
        ),
    )


@_family("easy")
def _in_year(a: Ask) -> Draft:
    e = a.event
    d, m = a.field(e, "day"), a.field(e, "amount")
    year = int(str(a.value(e, d))[:4])
    return Draft(
        (
            f"How many {e.plural} were {d.said} in {year}, and what is their total {m.said}?",
            f"Give the number and the total {m.said} of the {e.plural} {d.said} in the year {year}.",
        ),
        f"SELECT COUNT(*), SUM({m.name}) FROM {e.name} WHERE {d.name} BETWEEN '{year}-01-01' AND '{year}-12-31'",
        (
            f"SELECT COUNT(*), SUM({m.name}) FROM {e.name} WHERE {d.name} >= '{year}-01-01'",
            f"SELECT COUNT(*), SUM({m.name}) FROM {e.name} WHERE {d.name} <= '{year}-12-31'",
            f"SELECT COUNT(*), AVG({m.name}) FROM {e.name} WHERE {d.name} BETWEEN '{year}-01-01' AND '{year}-12-31'",
        ),
    )


@_family("easy")
def _latest(a: Ask) -> Draft:
    e = a.entity("day", "category")
    d, c = a.field(e, "day"), a.field(e, "category")
    v = a.value(e, c)
    word, one, other = a.rng.choice([("latest", "DESC", "ASC"), ("earliest", "ASC", "DESC")])
    return Draft(
        (
            f"Which {e.said} with the {c.said} {v} has the {word} date {d.said}? Give its name; among equals the first by name.",
            f"Name the {e.said} whose {c.said} is {v} with the {word} date {d.said}, the first by name among equals.",
        ),
        f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)} ORDER BY {d.name} {one}, name LIMIT 1",
        (
            f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)} ORDER BY {d.name} {other}, name LIMIT 1",
            f"SELECT name FROM {e.name} ORDER BY {d.name} {one}, name LIMIT 1",
            f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)} ORDER BY name LIMIT 1",
        ),
    )


@_family("easy")
def _top_k(a: Ask) -> Draft:
    e = a.entity("number")
    n = a.field(e, "number")
    k = a.rng.randint(2, 5)
    return Draft(
        (
            f"List the {k} {e.plural} with the highest {n.said}, the highest first; equal ones by name. Give name and {n.said}.",
            f"Give name and {n.said} of the top {k} {e.plural} by {n.said}, in falling order and by name where equal.",
        ),
        f"SELECT name, {n.name} FROM {e.name} ORDER BY {n.name} DESC, name LIMIT {k}",
        (
            f"SELECT name, {n.name} FROM {e.name} ORDER BY {n.name}, name LIMIT {k}",
            f"SELECT name, {n.name} FROM {e.name} ORDER BY {n.name} DESC, name LIMIT {k + 1}",
            f"SELECT name, {n.name} FROM {e.name} ORDER BY name LIMIT {k}",
        ),
    )


@_family("easy")
def _next_k(a: Ask) -> Draft:
    e = a.entity("number")
    n = a.field(e, "number")
    k = a.rng.randint(2, 4)
    return Draft(
        (
            f"Order the {e.plural} by falling {n.said} and, where equal, by name. Who is in place {k}? Give the name.",
            f"Which {e.said} comes {k} from the top when {e.plural} are sorted by {n.said} (highest first, then by name)? Name it.",
        ),
        f"SELECT name FROM {e.name} ORDER BY {n.name} DESC, name LIMIT 1 OFFSET {k - 1}",
        (
            f"SELECT name FROM {e.name} ORDER BY {n.name} DESC, name LIMIT 1 OFFSET {k}",
            f"SELECT name FROM {e.name} ORDER BY {n.name} DESC, name LIMIT {k}",
            f"SELECT name FROM {e.name} ORDER BY {n.name}, name LIMIT 1 OFFSET {k - 1}",
        ),
    )


@_family("easy")
def _sorted_list(a: Ask) -> Draft:
    e = a.entity("category", "number")
    c, n = a.field(e, "category"), a.field(e, "number")
    x = a.value(e, n)
    return Draft(
        (
            f"List name and {c.said} of the {e.plural} with a {n.said} of at most {x}, sorted by {c.said} and then by name.",
            f"Sort the {e.plural} whose {n.said} is not above {x} by {c.said}, then by name; give name and {c.said}.",
        ),
        f"SELECT name, {c.name} FROM {e.name} WHERE {n.name} <= {x} ORDER BY {c.name}, name",
        (
            f"SELECT name, {c.name} FROM {e.name} WHERE {n.name} <= {x} ORDER BY name",
            f"SELECT name, {c.name} FROM {e.name} WHERE {n.name} <= {x} ORDER BY {c.name} DESC, name",
            f"SELECT name, {c.name} FROM {e.name} WHERE {n.name} < {x} ORDER BY {c.name}, name",
        ),
    )


@_family("medium")
def _buckets(a: Ask) -> Draft:
    e = a.entity("number")
    n = a.field(e, "number")
    x = a.value(e, n)
    return Draft(
        (
            f"Call a {e.said} high where its {n.said} is at least {x}, else low. How many {e.plural} are there of each?",
            f"Count the {e.plural} in two classes, high for a {n.said} of {x} or more and low for the rest; give class and number.",
        ),
        f"SELECT CASE WHEN {n.name} >= {x} THEN 'high' ELSE 'low' END, COUNT(*) FROM {e.name} GROUP BY 1",
        (
            f"SELECT CASE WHEN {n.name} > {x} THEN 'high' ELSE 'low' END, COUNT(*) FROM {e.name} GROUP BY 1",
            f"SELECT CASE WHEN {n.name} >= {x} THEN 'low' ELSE 'high' END, COUNT(*) FROM {e.name} GROUP BY 1",
            f"SELECT 'high', COUNT(*) FROM {e.name} WHERE {n.name} >= {x}",
        ),
    )


# Grouping.


@_family("medium")
def _group_count(a: Ask) -> Draft:
    e = a.entity("category")
    c = a.field(e, "category")
    n = a.rng.choice([f for f in e.fields if f.kind in ("number", "day") and not f.missing])
    x = a.value(e, n)
    said = f"{n.said} of at least {x}" if n.kind == "number" else f"date {n.said} of {x} or later"
    return Draft(
        (
            f"For each {c.said}, how many {e.plural} with a {said} are there?",
            f"Count the {e.plural} with a {said} by {c.said}; give {c.said} and number.",
        ),
        f"SELECT {c.name}, COUNT(*) FROM {e.name} WHERE {n.name} >= {q(x)} GROUP BY {c.name}",
        (
            f"SELECT {c.name}, COUNT(*) FROM {e.name} GROUP BY {c.name}",
            f"SELECT {c.name}, COUNT(*) FROM {e.name} WHERE {n.name} > {q(x)} GROUP BY {c.name}",
            f"SELECT COUNT(*) FROM {e.name} WHERE {n.name} >= {q(x)}",
        ),
    )


@_family("medium")
def _group_average(a: Ask) -> Draft:
    e = a.entity("category", "number")
    c, n = a.field(e, "category"), a.field(e, "number")
    word, f, g = a.rng.choice(
        [
            ("average", "AVG", "MAX"),
            ("total", "SUM", "AVG"),
            ("highest", "MAX", "MIN"),
            ("lowest", "MIN", "MAX"),
        ]
    )
    return Draft(
        (
            f"What is the {word} {n.said} of the {e.plural} for each {c.said}?",
            f"Give every {c.said} with the {word} {n.said} of its {e.plural}.",
        ),
        f"SELECT {c.name}, {f}({n.name}) FROM {e.name} GROUP BY {c.name}",
        (
            f"SELECT {c.name}, {g}({n.name}) FROM {e.name} GROUP BY {c.name}",
            f"SELECT {f}({n.name}) FROM {e.name}",
            f"SELECT {c.name}, COUNT({n.name}) FROM {e.name} GROUP BY {c.name}",
        ),
    )


@_family("medium")
def _group_missing(a: Ask) -> Draft:
    e = a.rng.choice([a.item, a.partner])
    g = a.gap(e)
    n = a.field(e, "number")
    return Draft(
        (
            f"For each known {g.said}, what is the highest {n.said} of its {e.plural}? Leave out {e.plural} without a {g.said}.",
            f"Give the {g.said} and the highest {n.said} of the {e.plural} with that {g.said}, without the group of missing ones.",
        ),
        f"SELECT {g.name}, MAX({n.name}) FROM {e.name} WHERE {g.name} IS NOT NULL GROUP BY {g.name}",
        (
            f"SELECT {g.name}, MAX({n.name}) FROM {e.name} GROUP BY {g.name}",
            f"SELECT {g.name}, MIN({n.name}) FROM {e.name} WHERE {g.name} IS NOT NULL GROUP BY {g.name}",
        ),
    )


@_family("medium")
def _by_year(a: Ask) -> Draft:
    e = a.event
    d, m = a.field(e, "day"), a.field(e, "amount")
    x = a.value(e, m)
    year = f"substr(CAST({d.name} AS TEXT), 1, 4)"
    return Draft(
        (
            f"How many {e.plural} with a {m.said} above {x} are there per year of the date {d.said}? Give year and number.",
            f"Count the {e.plural} whose {m.said} is greater than {x} by the year {d.said}.",
        ),
        f"SELECT {year}, COUNT(*) FROM {e.name} WHERE {m.name} > {x} GROUP BY {year}",
        (
            f"SELECT {year}, COUNT(*) FROM {e.name} GROUP BY {year}",
            f"SELECT {d.name}, COUNT(*) FROM {e.name} WHERE {m.name} > {x} GROUP BY {d.name}",
            f"SELECT {year}, COUNT(*) FROM {e.name} WHERE {m.name} <= {x} GROUP BY {year}",
        ),
    )


@_family("medium")
def _having_count(a: Ask) -> Draft:
    e = a.item
    c = a.rng.choice(e.of("category"))
    k = a.rng.randint(3, 7)
    return Draft(
        (
            f"Which {c.said} values have at least {k} {e.plural}? Give {c.said} and number.",
            f"List every {c.said} that {k} or more {e.plural} share, with how many they are.",
        ),
        f"SELECT {c.name}, COUNT(*) FROM {e.name} GROUP BY {c.name} HAVING COUNT(*) >= {k}",
        (
            f"SELECT {c.name}, COUNT(*) FROM {e.name} GROUP BY {c.name} HAVING COUNT(*) > {k}",
            f"SELECT {c.name}, COUNT(*) FROM {e.name} GROUP BY {c.name} HAVING COUNT(*) < {k}",
            f"SELECT {c.name}, COUNT(*) FROM {e.name} GROUP BY {c.name}",
        ),
    )


@_family("medium")
def _having_average(a: Ask) -> Draft:
    e = a.entity("category", "number")
    c, n = a.field(e, "category"), a.field(e, "number")
    x = a.value(e, n)
    return Draft(
        (
            f"For which {c.said} is the average {n.said} of the {e.plural} above {x}?",
            f"List every {c.said} whose {e.plural} have a mean {n.said} greater than {x}.",
        ),
        f"SELECT {c.name} FROM {e.name} GROUP BY {c.name} HAVING AVG({n.name}) > {x}",
        (
            f"SELECT {c.name} FROM {e.name} WHERE {n.name} > {x} GROUP BY {c.name}",
            f"SELECT {c.name} FROM {e.name} GROUP BY {c.name} HAVING AVG({n.name}) < {x}",
            f"SELECT {c.name} FROM {e.name} GROUP BY {c.name}",
        ),
    )


@_family("medium")
def _most_common(a: Ask) -> Draft:
    e = a.item
    c = a.rng.choice(e.of("category"))
    n = a.field(e, "number")
    x = a.value(e, n)
    return Draft(
        (
            f"Which {c.said} do most {e.plural} with a {n.said} of {x} or more have? Among equals the first in alphabetical order.",
            f"What is the most common {c.said} of the {e.plural} whose {n.said} is at least {x}, the alphabetically first among equals?",
        ),
        f"SELECT {c.name} FROM {e.name} WHERE {n.name} >= {x} GROUP BY {c.name} ORDER BY COUNT(*) DESC, {c.name} LIMIT 1",
        (
            f"SELECT {c.name} FROM {e.name} WHERE {n.name} >= {x} GROUP BY {c.name} ORDER BY COUNT(*), {c.name} LIMIT 1",
            f"SELECT {c.name} FROM {e.name} GROUP BY {c.name} ORDER BY COUNT(*) DESC, {c.name} LIMIT 1",
            f"SELECT MAX({c.name}) FROM {e.name} WHERE {n.name} >= {x}",
        ),
    )


@_family("medium")
def _group_two(a: Ask) -> Draft:
    e = a.item
    c, g, n = a.field(e, "category"), a.gap(e), a.field(e, "number")
    x = a.value(e, n)
    return Draft(
        (
            f"How many {e.plural} with a {n.said} up to {x} are there for each pair of {c.said} and {g.said}, where a missing {g.said}"
            " counts as one?",
            f"Count the {e.plural} whose {n.said} is at most {x} by {c.said} and {g.said} (those without a {g.said} together); give both"
            " and the number.",
        ),
        f"SELECT {c.name}, {g.name}, COUNT(*) FROM {e.name} WHERE {n.name} <= {x} GROUP BY {c.name}, {g.name}",
        (
            f"SELECT {c.name}, {g.name}, COUNT({g.name}) FROM {e.name} WHERE {n.name} <= {x} GROUP BY {c.name}, {g.name}",
            f"SELECT {c.name}, {g.name}, COUNT(*) FROM {e.name} WHERE {n.name} <= {x} AND {g.name} IS NOT NULL"
            f" GROUP BY {c.name}, {g.name}",
            f"SELECT {c.name}, {g.name}, COUNT(*) FROM {e.name} GROUP BY {c.name}, {g.name}",
        ),
    )


@_family("medium")
def _group_range(a: Ask) -> Draft:
    e = a.entity("category", "number")
    c, n = a.field(e, "category"), a.field(e, "number")
    return Draft(
        (
            f"By how much does the {n.said} of the {e.plural} differ at most within each {c.said}?",
            f"Give each {c.said} with the difference between the highest and the lowest {n.said} of its {e.plural}.",
        ),
        f"SELECT {c.name}, MAX({n.name}) - MIN({n.name}) FROM {e.name} GROUP BY {c.name}",
        (
            f"SELECT {c.name}, MAX({n.name}) FROM {e.name} GROUP BY {c.name}",
            f"SELECT {c.name}, MIN({n.name}) - MAX({n.name}) FROM {e.name} GROUP BY {c.name}",
            f"SELECT MAX({n.name}) - MIN({n.name}) FROM {e.name}",
        ),
    )


@_family("medium")
def _share(a: Ask) -> Draft:
    e = a.entity("category")
    c = a.field(e, "category")
    v = a.value(e, c)
    return Draft(
        (
            f"What share of the {e.plural}, in percent, has the {c.said} {v}?",
            f"How many percent of all {e.plural} have {v} as their {c.said}?",
        ),
        f"SELECT 100.0 * SUM(CASE WHEN {c.name} = {q(v)} THEN 1 ELSE 0 END) / COUNT(*) FROM {e.name}",
        (
            f"SELECT 100 * SUM(CASE WHEN {c.name} = {q(v)} THEN 1 ELSE 0 END) / COUNT(*) FROM {e.name}",
            f"SELECT 1.0 * SUM(CASE WHEN {c.name} = {q(v)} THEN 1 ELSE 0 END) / COUNT(*) FROM {e.name}",
            f"SELECT COUNT(*) FROM {e.name} WHERE {c.name} = {q(v)}",
        ),
    )


# Joins.


@_family("medium")
def _join_list(a: Ask) -> Draft:
    o, i = a.owner, a.item
    c = a.field(o, "category")
    v = a.value(o, c)
    return Draft(
        (
            f"List the names of the {i.plural} whose {o.said} has the {c.said} {v}.",
            f"Which {i.plural} belong to a {o.said} with the {c.said} {v}? Give their names.",
        ),
        f"SELECT i.name FROM {i.name} AS i JOIN {o.name} AS o ON i.{a.owned} = o.id WHERE o.{c.name} = {q(v)}",
        (
            f"SELECT i.name FROM {i.name} AS i JOIN {o.name} AS o ON i.id = o.id WHERE o.{c.name} = {q(v)}",
            f"SELECT i.name FROM {i.name} AS i JOIN {o.name} AS o ON i.{a.owned} = o.id",
            f"SELECT o.name FROM {i.name} AS i JOIN {o.name} AS o ON i.{a.owned} = o.id WHERE o.{c.name} = {q(v)}",
        ),
    )


@_family("medium")
def _join_count(a: Ask) -> Draft:
    o, i = a.owner, a.item
    name = a.name(o, a.owned, i)
    return Draft(
        (
            f"How many {i.plural} does the {o.said} {name} have?",
            f"Count the {i.plural} that belong to the {o.said} {name}.",
        ),
        f"SELECT COUNT(*) FROM {i.name} AS i JOIN {o.name} AS o ON i.{a.owned} = o.id WHERE o.name = {q(name)}",
        (
            f"SELECT COUNT(*) FROM {i.name} WHERE name = {q(name)}",
            f"SELECT COUNT(*) FROM {i.name} AS i JOIN {o.name} AS o ON i.{a.owned} = o.id",
            f"SELECT COUNT(*) FROM {i.name} AS i JOIN {o.name} AS o ON i.id = o.id WHERE o.name = {q(name)}",
        ),
    )


@_family("medium")
def _join_pairs(a: Ask) -> Draft:
    o, i = a.owner, a.item
    n = a.field(i, "number")
    x = a.value(i, n)
    return Draft(
        (
            f"Give the name of each {i.said} with a {n.said} below {x} together with the name of its {o.said}; leave out those"
            f" without a {o.said}.",
            f"For the {i.plural} that have a {o.said} and a {n.said} less than {x}, list the {i.said} and the {o.said} by name.",
        ),
        f"SELECT i.name, o.name FROM {i.name} AS i JOIN {o.name} AS o ON i.{a.owned} = o.id WHERE i.{n.name} < {x}",
        (
            f"SELECT i.name, o.name FROM {i.name} AS i JOIN {o.name} AS o ON i.{a.owned} = o.id WHERE i.{n.name} <= {x}",
            f"SELECT i.name, o.name FROM {i.name} AS i JOIN {o.name} AS o ON i.{a.owned} = o.id",
            f"SELECT i.name, o.name FROM {i.name} AS i, {o.name} AS o WHERE i.{n.name} < {x}",
        ),
    )


@_family("medium")
def _outer_list(a: Ask) -> Draft:
    o, i = a.owner, a.item
    c = a.field(i, "category")
    v = a.value(i, c)
    return Draft(
        (
            f"List every {i.said} with the {c.said} {v} by name, with the name of its {o.said}, also where it has none.",
            f"Give the names of all {i.plural} whose {c.said} is {v} and of the {o.plural} they belong to; keep {i.plural} without"
            f" a {o.said}.",
        ),
        f"SELECT i.name, o.name FROM {i.name} AS i LEFT JOIN {o.name} AS o ON i.{a.owned} = o.id WHERE i.{c.name} = {q(v)}",
        (
            f"SELECT i.name, o.name FROM {i.name} AS i JOIN {o.name} AS o ON i.{a.owned} = o.id WHERE i.{c.name} = {q(v)}",
            f"SELECT i.name, o.name FROM {i.name} AS i LEFT JOIN {o.name} AS o ON i.{a.owned} = o.id",
        ),
    )


@_family("medium")
def _join_group(a: Ask) -> Draft:
    o, i = a.owner, a.item
    n = a.field(i, "number")
    word, f, g = a.rng.choice([("average", "AVG", "SUM"), ("total", "SUM", "AVG"), ("highest", "MAX", "MIN")])
    return Draft(
        (
            f"For each {o.said} with at least one {i.said}, what is the {word} {n.said} of its {i.plural}? Give the name and that.",
            f"Give the name of every {o.said} that has {i.plural}, and their {word} {n.said}.",
        ),
        f"SELECT o.name, {f}(i.{n.name}) FROM {o.name} AS o JOIN {i.name} AS i ON i.{a.owned} = o.id GROUP BY o.id, o.name",
        (
            f"SELECT o.name, {g}(i.{n.name}) FROM {o.name} AS o JOIN {i.name} AS i ON i.{a.owned} = o.id GROUP BY o.id, o.name",
            f"SELECT o.name, {f}(i.{n.name}) FROM {o.name} AS o LEFT JOIN {i.name} AS i ON i.{a.owned} = o.id GROUP BY o.id, o.name",
            f"SELECT {f}({n.name}) FROM {i.name}",
        ),
    )


@_family("medium")
def _outer_count(a: Ask) -> Draft:
    o, i = a.owner, a.item
    n = a.field(o, "number")
    x = a.value(o, n)
    return Draft(
        (
            f"How many {i.plural} has each {o.said} with a {n.said} of at least {x}? Give the name and the number, also where it is 0.",
            f"Give the name of every {o.said} whose {n.said} is {x} or more and the number of its {i.plural}, zero included.",
        ),
        f"SELECT o.name, COUNT(i.id) FROM {o.name} AS o LEFT JOIN {i.name} AS i ON i.{a.owned} = o.id WHERE o.{n.name} >= {x}"
        " GROUP BY o.id, o.name",
        (
            f"SELECT o.name, COUNT(i.id) FROM {o.name} AS o JOIN {i.name} AS i ON i.{a.owned} = o.id WHERE o.{n.name} >= {x}"
            " GROUP BY o.id, o.name",
            f"SELECT o.name, COUNT(*) FROM {o.name} AS o LEFT JOIN {i.name} AS i ON i.{a.owned} = o.id WHERE o.{n.name} >= {x}"
            " GROUP BY o.id, o.name",
            f"SELECT o.name, COUNT(i.id) FROM {o.name} AS o LEFT JOIN {i.name} AS i ON i.{a.owned} = o.id GROUP BY o.id, o.name",
        ),
    )


@_family("medium")
def _childless(a: Ask) -> Draft:
    one, many, key = a.rng.choice(
        [(a.owner, a.item, a.owned), (a.item, a.event, a.keys[0]), (a.partner, a.event, a.keys[1])]
    )
    c = a.rng.choice([f for f in one.fields if f.kind in ("category", "number") and not f.missing])
    return Draft(
        (
            f"Which {one.plural} have no {many.said}? Give name and {c.said}.",
            f"List name and {c.said} of the {one.plural} without any {many.said}.",
        ),
        f"SELECT o.name, o.{c.name} FROM {one.name} AS o LEFT JOIN {many.name} AS m ON m.{key} = o.id WHERE m.id IS NULL",
        (
            f"SELECT DISTINCT o.name, o.{c.name} FROM {one.name} AS o JOIN {many.name} AS m ON m.{key} = o.id",
            f"SELECT o.name, o.{c.name} FROM {one.name} AS o",
            f"SELECT o.name, o.{c.name} FROM {one.name} AS o JOIN {many.name} AS m ON m.{key} = o.id WHERE m.id IS NULL",
        ),
    )


@_family("medium")
def _join_having(a: Ask) -> Draft:
    one, many, key, k = a.rng.choice(
        [(a.owner, a.item, a.owned, 4), (a.item, a.event, a.keys[0], 4), (a.partner, a.event, a.keys[1], 6)]
    )
    k = a.rng.randint(k - 2, k)
    return Draft(
        (
            f"Which {one.plural} have more than {k} {many.plural}? Give their names.",
            f"Name every {one.said} with over {k} {many.plural}.",
        ),
        f"SELECT o.name FROM {one.name} AS o JOIN {many.name} AS m ON m.{key} = o.id GROUP BY o.id, o.name HAVING COUNT(*) > {k}",
        (
            f"SELECT o.name FROM {one.name} AS o JOIN {many.name} AS m ON m.{key} = o.id GROUP BY o.id, o.name HAVING COUNT(*) >= {k}",
            f"SELECT o.name FROM {one.name} AS o JOIN {many.name} AS m ON m.{key} = o.id GROUP BY o.id, o.name HAVING COUNT(*) < {k}",
            f"SELECT DISTINCT o.name FROM {one.name} AS o JOIN {many.name} AS m ON m.{key} = o.id",
        ),
    )


@_family("medium")
def _best_seller(a: Ask) -> Draft:
    one, key = a.rng.choice([(a.item, a.keys[0]), (a.partner, a.keys[1])])
    m = a.field(a.event, "amount")
    k = a.rng.randint(2, 3)
    return Draft(
        (
            f"Give the {k} {one.plural} with the largest total {m.said} over their {a.event.plural}, the largest first, equal ones by"
            " name: name and total.",
            f"List name and total {m.said} of the top {k} {one.plural} by total {m.said} of their {a.event.plural}, in falling order.",
        ),
        f"SELECT o.name, SUM(e.{m.name}) FROM {one.name} AS o JOIN {a.event.name} AS e ON e.{key} = o.id GROUP BY o.id, o.name"
        f" ORDER BY SUM(e.{m.name}) DESC, o.name LIMIT {k}",
        (
            f"SELECT o.name, SUM(e.{m.name}) FROM {one.name} AS o JOIN {a.event.name} AS e ON e.{key} = o.id GROUP BY o.id, o.name"
            f" ORDER BY SUM(e.{m.name}), o.name LIMIT {k}",
            f"SELECT o.name, e.{m.name} FROM {one.name} AS o JOIN {a.event.name} AS e ON e.{key} = o.id"
            f" ORDER BY e.{m.name} DESC, o.name LIMIT {k}",
            f"SELECT o.name, AVG(e.{m.name}) FROM {one.name} AS o JOIN {a.event.name} AS e ON e.{key} = o.id GROUP BY o.id, o.name"
            f" ORDER BY AVG(e.{m.name}) DESC, o.name LIMIT {k}",
        ),
    )


@_family("hard")
def _three_tables(a: Ask) -> Draft:
    e, i, p = a.event, a.item, a.partner
    name = a.name(p, a.keys[1], e)
    return Draft(
        (
            f"Which {i.plural} have a {e.said} with the {p.said} {name}? Give each name once.",
            f"List, without repeats, the names of the {i.plural} that the {p.said} {name} has a {e.said} with.",
        ),
        f"SELECT DISTINCT i.name FROM {i.name} AS i JOIN {e.name} AS e ON e.{a.keys[0]} = i.id JOIN {p.name} AS p ON e.{a.keys[1]} = p.id"
        f" WHERE p.name = {q(name)}",
        (
            f"SELECT i.name FROM {i.name} AS i JOIN {e.name} AS e ON e.{a.keys[0]} = i.id JOIN {p.name} AS p ON e.{a.keys[0]} = p.id"
            f" WHERE p.name = {q(name)}",
            f"SELECT DISTINCT i.name FROM {i.name} AS i JOIN {e.name} AS e ON e.{a.keys[0]} = i.id",
            f"SELECT DISTINCT p.name FROM {i.name} AS i JOIN {e.name} AS e ON e.{a.keys[0]} = i.id JOIN {p.name} AS p"
            f" ON e.{a.keys[1]} = p.id WHERE p.name = {q(name)}",
        ),
    )


@_family("hard")
def _chain(a: Ask) -> Draft:
    e, i, o = a.event, a.item, a.owner
    m, d = a.field(e, "amount"), a.field(e, "day")
    x = a.value(e, d)
    joined = f"JOIN {i.name} AS i ON i.{a.owned} = o.id JOIN {e.name} AS e ON e.{a.keys[0]} = i.id"
    return Draft(
        (
            f"For each {o.said} whose {i.plural} have {e.plural} {d.said} on {x} or later, what is the total {m.said} of those {e.plural}?"
            " Give name and total.",
            f"Give the name of every {o.said} and the sum of the {m.said} over the {e.plural} of its {i.plural} with a date {d.said} not"
            f" before {x}, where there are any.",
        ),
        f"SELECT o.name, SUM(e.{m.name}) FROM {o.name} AS o {joined} WHERE e.{d.name} >= {q(x)} GROUP BY o.id, o.name",
        (
            f"SELECT o.name, COUNT(e.{m.name}) FROM {o.name} AS o {joined} WHERE e.{d.name} >= {q(x)} GROUP BY o.id, o.name",
            f"SELECT o.name, SUM(e.{m.name}) FROM {o.name} AS o {joined} GROUP BY o.id, o.name",
            f"SELECT o.name, SUM(e.{m.name}) FROM {o.name} AS o JOIN {e.name} AS e ON e.{a.keys[0]} = o.id WHERE e.{d.name} >= {q(x)}"
            " GROUP BY o.id, o.name",
        ),
    )


@_family("hard")
def _four_tables(a: Ask) -> Draft:
    e, i, o, p = a.event, a.item, a.owner, a.partner
    c, d = a.field(o, "category"), a.field(p, "category")
    v, w = a.value(o, c), a.value(p, d)
    joined = (
        f"FROM {e.name} AS e JOIN {i.name} AS i ON e.{a.keys[0]} = i.id JOIN {o.name} AS o ON i.{a.owned} = o.id"
        f" JOIN {p.name} AS p ON e.{a.keys[1]} = p.id"
    )
    return Draft(
        (
            f"How many {e.plural} bring together a {i.said} of a {o.said} with the {c.said} {v} and a {p.said} with the {d.said} {w}?",
            f"Count the {e.plural} whose {p.said} has the {d.said} {w} and whose {i.said} belongs to a {o.said} with the {c.said} {v}.",
        ),
        f"SELECT COUNT(*) {joined} WHERE o.{c.name} = {q(v)} AND p.{d.name} = {q(w)}",
        (
            f"SELECT COUNT(*) {joined} WHERE o.{c.name} = {q(v)} OR p.{d.name} = {q(w)}",
            f"SELECT COUNT(*) {joined} WHERE o.{c.name} = {q(v)}",
            f"SELECT COUNT(*) {joined} WHERE p.{d.name} = {q(w)}",
        ),
    )


@_family("hard")
def _self_join(a: Ask) -> Draft:
    i = a.item
    c = a.field(i, "category")
    return Draft(
        (
            f"Which pairs of {i.plural} belong to the same {a.owner.said} and have the same {c.said}? Give both names, the one with"
            " the smaller id first.",
            f"List all pairs of {i.plural} that share both {a.owner.said} and {c.said}, each pair once, the smaller id first, by name.",
        ),
        f"SELECT x.name, y.name FROM {i.name} AS x JOIN {i.name} AS y ON x.{a.owned} = y.{a.owned} AND x.{c.name} = y.{c.name}"
        " WHERE x.id < y.id",
        (
            f"SELECT x.name, y.name FROM {i.name} AS x JOIN {i.name} AS y ON x.{a.owned} = y.{a.owned} AND x.{c.name} = y.{c.name}"
            " WHERE x.id <> y.id",
            f"SELECT x.name, y.name FROM {i.name} AS x JOIN {i.name} AS y ON x.{a.owned} = y.{a.owned} WHERE x.id < y.id",
            f"SELECT x.name, y.name FROM {i.name} AS x JOIN {i.name} AS y ON x.{c.name} = y.{c.name} WHERE x.id < y.id",
        ),
    )


# Nesting.


@_family("hard")
def _above_average(a: Ask) -> Draft:
    e = a.entity("number", "category")
    n, c = a.field(e, "number"), a.field(e, "category")
    v = a.value(e, c)
    word, one, other = a.rng.choice([("above", ">", "<"), ("below", "<", ">")])
    return Draft(
        (
            f"Which {e.plural} with the {c.said} {v} have a {n.said} {word} the average of all {e.plural}? Give their names.",
            f"Name the {e.plural} whose {c.said} is {v} and whose {n.said} is {word} the mean {n.said} of all {e.plural}.",
        ),
        f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)} AND {n.name} {one} (SELECT AVG({n.name}) FROM {e.name})",
        (
            f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)} AND {n.name} {other} (SELECT AVG({n.name}) FROM {e.name})",
            f"SELECT name FROM {e.name} WHERE {n.name} {one} (SELECT AVG({n.name}) FROM {e.name})",
            f"SELECT name FROM {e.name} WHERE {c.name} = {q(v)}",
        ),
    )


@_family("hard")
def _in_subquery(a: Ask) -> Draft:
    one, key = a.rng.choice([(a.item, a.keys[0]), (a.partner, a.keys[1])])
    m = a.field(a.event, "amount")
    x = sorted(float(r[m.name] or 0) for r in a.rows[a.event.name])[-a.rng.randint(5, 12)]
    return Draft(
        (
            f"Which {one.plural} have a {a.event.said} with a {m.said} of more than {x}? Give their names.",
            f"Name every {one.said} that occurs in a {a.event.said} whose {m.said} is above {x}.",
        ),
        f"SELECT name FROM {one.name} WHERE id IN (SELECT {key} FROM {a.event.name} WHERE {m.name} > {x})",
        (
            f"SELECT o.name FROM {one.name} AS o JOIN {a.event.name} AS e ON e.{key} = o.id WHERE e.{m.name} >= {x}",
            f"SELECT name FROM {one.name} WHERE id NOT IN (SELECT {key} FROM {a.event.name} WHERE {m.name} > {x})",
            f"SELECT name FROM {one.name} WHERE id IN (SELECT {key} FROM {a.event.name})",
        ),
    )


@_family("hard")
def _not_in_subquery(a: Ask) -> Draft:
    o, i = a.owner, a.item
    c = a.field(i, "category")
    v = a.value(i, c)
    return Draft(
        (
            f"Which {o.plural} have no {i.said} with the {c.said} {v}? Give their names.",
            f"Name the {o.plural} that none of the {i.plural} with the {c.said} {v} belongs to.",
        ),
        f"SELECT name FROM {o.name} WHERE id NOT IN (SELECT {a.owned} FROM {i.name} WHERE {c.name} = {q(v)} AND {a.owned} IS NOT NULL)",
        (
            f"SELECT DISTINCT o.name FROM {o.name} AS o JOIN {i.name} AS i ON i.{a.owned} = o.id WHERE i.{c.name} <> {q(v)}",
            f"SELECT name FROM {o.name} WHERE id IN (SELECT {a.owned} FROM {i.name} WHERE {c.name} = {q(v)})",
            f"SELECT name FROM {o.name} WHERE id NOT IN (SELECT {a.owned} FROM {i.name} WHERE {a.owned} IS NOT NULL)",
        ),
    )


@_family("hard")
def _exists(a: Ask) -> Draft:
    p, e = a.partner, a.event
    d, c = a.field(e, "day"), a.field(p, "category")
    x = sorted(str(r[d.name]) for r in a.rows[e.name])[-a.rng.randint(6, 14)]
    return Draft(
        (
            f"Give name and {c.said} of the {p.plural} with at least one {e.said} {d.said} after {x}.",
            f"Which {p.plural} have a {e.said} with a date {d.said} later than {x}? List name and {c.said}, each once.",
        ),
        f"SELECT p.name, p.{c.name} FROM {p.name} AS p WHERE EXISTS (SELECT 1 FROM {e.name} AS e WHERE e.{a.keys[1]} = p.id AND e.{d.name} > {q(x)})",
        (
            f"SELECT p.name, p.{c.name} FROM {p.name} AS p WHERE NOT EXISTS (SELECT 1 FROM {e.name} AS e WHERE e.{a.keys[1]} = p.id"
            f" AND e.{d.name} > {q(x)})",
            f"SELECT p.name, p.{c.name} FROM {p.name} AS p JOIN {e.name} AS e ON e.{a.keys[1]} = p.id WHERE e.{d.name} > {q(x)}",
            f"SELECT p.name, p.{c.name} FROM {p.name} AS p WHERE EXISTS (SELECT 1 FROM {e.name} AS e WHERE e.{d.name} > {q(x)})",
        ),
    )


@_family("hard")
def _never(a: Ask) -> Draft:
    i, e = a.item, a.event
    n = a.rng.choice(e.of("number", missing=True))
    x = a.value(e, n)
    c = a.field(i, "category")
    return Draft(
        (
            f"Name the {i.plural} and their {c.said} for which no {e.said} has a {n.said} above {x}.",
            f"Which {i.plural} have no {e.said} with a {n.said} greater than {x}? Give name and {c.said}.",
        ),
        f"SELECT i.name, i.{c.name} FROM {i.name} AS i WHERE NOT EXISTS (SELECT 1 FROM {e.name} AS e WHERE e.{a.keys[0]} = i.id AND e.{n.name} > {x})",
        (
            f"SELECT DISTINCT i.name, i.{c.name} FROM {i.name} AS i JOIN {e.name} AS e ON e.{a.keys[0]} = i.id WHERE e.{n.name} <= {x}",
            f"SELECT i.name, i.{c.name} FROM {i.name} AS i WHERE EXISTS (SELECT 1 FROM {e.name} AS e WHERE e.{a.keys[0]} = i.id AND e.{n.name} > {x})",
            f"SELECT i.name, i.{c.name} FROM {i.name} AS i WHERE NOT EXISTS (SELECT 1 FROM {e.name} AS e WHERE e.{a.keys[0]} = i.id)",
        ),
    )


@_family("hard")
def _best_of_group(a: Ask) -> Draft:
    e = a.entity("category", "number")
    c, n = a.field(e, "category"), a.field(e, "number")
    return Draft(
        (
            f"For each {c.said}, which {e.plural} have the highest {n.said}? Give {c.said} and name, all of them where several are equal.",
            f"List {c.said} and name of the {e.plural} whose {n.said} is the highest within their {c.said}.",
        ),
        f"SELECT x.{c.name}, x.name FROM {e.name} AS x WHERE x.{n.name} = (SELECT MAX(y.{n.name}) FROM {e.name} AS y WHERE y.{c.name} = x.{c.name})",
        (
            f"SELECT x.{c.name}, x.name FROM {e.name} AS x WHERE x.{n.name} = (SELECT MAX(y.{n.name}) FROM {e.name} AS y)",
            f"SELECT x.{c.name}, x.name FROM {e.name} AS x WHERE x.{n.name} = (SELECT MIN(y.{n.name}) FROM {e.name} AS y WHERE y.{c.name} = x.{c.name})",
            f"SELECT {c.name}, MAX(name) FROM {e.name} GROUP BY {c.name}",
        ),
    )


@_family("hard")
def _most_children(a: Ask) -> Draft:
    one, many, key = a.rng.choice(
        [(a.owner, a.item, a.owned), (a.item, a.event, a.keys[0]), (a.partner, a.event, a.keys[1])]
    )
    counts = f"SELECT {key}, COUNT(*) AS n FROM {many.name} WHERE {key} IS NOT NULL GROUP BY {key}"
    return Draft(
        (
            f"Which {one.plural} have the most {many.plural}? Give all of them by name where several are equal.",
            f"Name the {one.said} with the largest number of {many.plural}, and everyone else who has as many.",
        ),
        f"SELECT o.name FROM {one.name} AS o JOIN ({counts}) AS t ON t.{key} = o.id WHERE t.n = (SELECT MAX(u.n) FROM ({counts}) AS u)",
        (
            f"SELECT o.name FROM {one.name} AS o JOIN ({counts}) AS t ON t.{key} = o.id WHERE t.n = (SELECT MIN(u.n) FROM ({counts}) AS u)",
            f"SELECT o.name FROM {one.name} AS o JOIN ({counts}) AS t ON t.{key} = o.id WHERE t.n > (SELECT AVG(u.n) FROM ({counts}) AS u)",
            f"SELECT MAX(o.name) FROM {one.name} AS o JOIN {many.name} AS m ON m.{key} = o.id WHERE m.id > 1",
        ),
    )


@_family("hard")
def _more_than_all(a: Ask) -> Draft:
    e = a.item
    c, n = a.field(e, "category"), a.field(e, "number")
    v = a.value(e, c)
    return Draft(
        (
            f"Which {e.plural} of another {c.said} have a {n.said} above that of every {e.said} with the {c.said} {v}? Give their names.",
            f"Name the {e.plural} whose {c.said} is not {v} and whose {n.said} exceeds that of all {e.plural} with the {c.said} {v}.",
        ),
        f"SELECT name FROM {e.name} WHERE {c.name} <> {q(v)} AND {n.name} > (SELECT MAX({n.name}) FROM {e.name} WHERE {c.name} = {q(v)})",
        (
            f"SELECT name FROM {e.name} WHERE {c.name} <> {q(v)} AND {n.name} > (SELECT MIN({n.name}) FROM {e.name} WHERE {c.name} = {q(v)})",
            f"SELECT name FROM {e.name} WHERE {n.name} > (SELECT MAX({n.name}) FROM {e.name} WHERE {c.name} <> {q(v)})",
            f"SELECT name FROM {e.name} WHERE {c.name} <> {q(v)}",
        ),
    )


@_family("hard")
def _difference(a: Ask) -> Draft:
    e = a.entity("category", "number")
    c, n = a.field(e, "category"), a.field(e, "number")
    v, w = a.two(e, c)
    return Draft(
        (
            f"By how much is the average {n.said} of {e.plural} with the {c.said} {v} above that of those with the {c.said} {w}?",
            f"Subtract the mean {n.said} of the {e.plural} whose {c.said} is {w} from that of those whose {c.said} is {v}.",
        ),
        f"SELECT (SELECT AVG({n.name}) FROM {e.name} WHERE {c.name} = {q(v)}) - (SELECT AVG({n.name}) FROM {e.name} WHERE {c.name} = {q(w)})",
        (
            f"SELECT (SELECT AVG({n.name}) FROM {e.name} WHERE {c.name} = {q(w)}) - (SELECT AVG({n.name}) FROM {e.name} WHERE {c.name} = {q(v)})",
            f"SELECT AVG({n.name}) FROM {e.name} WHERE {c.name} = {q(v)}",
            f"SELECT (SELECT SUM({n.name}) FROM {e.name} WHERE {c.name} = {q(v)}) - (SELECT SUM({n.name}) FROM {e.name} WHERE {c.name} = {q(w)})",
        ),
    )


@_family("hard")
def _average_of_counts(a: Ask) -> Draft:
    one, many, key = a.rng.choice([(a.item, a.event, a.keys[0]), (a.partner, a.event, a.keys[1])])
    m = a.field(a.event, "amount")
    x = a.value(a.event, m)
    return Draft(
        (
            f"How many {many.plural} with a {m.said} above {x} do {one.plural} have on average? Only {one.plural} with at least one count.",
            f"What is the mean number of {many.plural} whose {m.said} exceeds {x} per {one.said} that has such a {many.said}?",
        ),
        f"SELECT AVG(t.n) FROM (SELECT COUNT(*) AS n FROM {many.name} WHERE {m.name} > {x} GROUP BY {key}) AS t",
        (
            f"SELECT AVG(t.n) FROM (SELECT COUNT(*) AS n FROM {many.name} GROUP BY {key}) AS t",
            f"SELECT 1.0 * COUNT(*) / (SELECT COUNT(*) FROM {one.name}) FROM {many.name} WHERE {m.name} > {x}",
            f"SELECT MAX(t.n) FROM (SELECT COUNT(*) AS n FROM {many.name} WHERE {m.name} > {x} GROUP BY {key}) AS t",
        ),
    )


# Sets.


def _sets(
    a: Ask, operator: str, wrong: str, wordings: Callable[[str, str, str, str], tuple[str, ...]]
) -> Draft:
    # Towns, countries and the like of the one table against those of another where both have them; else of one table.
    e = a.item
    c = a.rng.choice(e.of("category"))
    n, m = a.rng.sample(e.of("number"), 2)
    x, y = a.value(e, n), a.value(e, m)
    one, other = (
        f"SELECT {c.name} FROM {e.name} WHERE {n.name} > {x}",
        f"SELECT {c.name} FROM {e.name} WHERE {m.name} > {y}",
    )
    return Draft(
        wordings(c.said, e.plural, f"{n.said} above {x}", f"{m.said} above {y}"),
        f"{one} {operator} {other}",
        (f"{one} {wrong} {other}", one, other),
    )


@_family("hard")
def _union(a: Ask) -> Draft:
    return _sets(
        a,
        "UNION",
        "INTERSECT",
        lambda c, e, x, y: (
            f"Which {c} values occur among the {e} with a {x} or among those with a {y}? Give each once.",
            f"List every {c} once that {e} with a {x}, or {e} with a {y}, have.",
        ),
    )


@_family("hard")
def _intersect(a: Ask) -> Draft:
    return _sets(
        a,
        "INTERSECT",
        "UNION",
        lambda c, e, x, y: (
            f"Which {c} values occur both among the {e} with a {x} and among those with a {y}? Give each once.",
            f"List every {c} once that some of the {e} with a {x} and also some of the {e} with a {y} have.",
        ),
    )


@_family("hard")
def _except(a: Ask) -> Draft:
    return _sets(
        a,
        "EXCEPT",
        "UNION",
        lambda c, e, x, y: (
            f"Which {c} values occur among the {e} with a {x} but not among those with a {y}? Give each once.",
            f"List every {c} once that {e} with a {x} have and no {e} with a {y} have.",
        ),
    )


@_family("hard")
def _union_tables(a: Ask) -> Draft:
    o, p = a.owner, a.partner
    n, m = a.field(o, "number"), a.field(p, "number")
    x, y = a.value(o, n), a.value(p, m)
    one, other = (
        f"SELECT name FROM {o.name} WHERE {n.name} > {x}",
        f"SELECT name FROM {p.name} WHERE {m.name} > {y}",
    )
    return Draft(
        (
            f"Give in one list the names of the {o.plural} with a {n.said} above {x} and of the {p.plural} with a {m.said} above {y}.",
            f"List together the names of all {o.plural} whose {n.said} exceeds {x} and all {p.plural} whose {m.said} exceeds {y}.",
        ),
        f"{one} UNION ALL {other}",
        (
            f"{one} INTERSECT {other}",
            one,
            other,
            f"SELECT name FROM {o.name} UNION ALL SELECT name FROM {p.name}",
        ),
    )


# Common table expressions and windows.


@_family("extra")
def _cte_average(a: Ask) -> Draft:
    one, key = a.rng.choice([(a.item, a.keys[0]), (a.partner, a.keys[1])])
    m = a.field(a.event, "amount")
    totals = f"WITH totals AS (SELECT {key} AS id, SUM({m.name}) AS total FROM {a.event.name} GROUP BY {key})"
    word, sign, other = a.rng.choice([("above", ">", "<"), ("below", "<", ">")])
    return Draft(
        (
            f"Which {one.plural} have a total {m.said} over their {a.event.plural} that is {word} the average total of those {one.plural}"
            f" that have any? Give name and total.",
            f"Sum the {m.said} of the {a.event.plural} for each {one.said} that has some; give name and sum where it is {word} the mean sum.",
        ),
        f"{totals} SELECT o.name, t.total FROM totals AS t JOIN {one.name} AS o ON o.id = t.id WHERE t.total {sign} (SELECT AVG(total) FROM totals)",
        (
            f"{totals} SELECT o.name, t.total FROM totals AS t JOIN {one.name} AS o ON o.id = t.id WHERE t.total {other} (SELECT AVG(total) FROM totals)",
            f"{totals} SELECT o.name, t.total FROM totals AS t JOIN {one.name} AS o ON o.id = t.id"
            f" WHERE t.total {sign} (SELECT AVG({m.name}) FROM {a.event.name})",
            f"{totals} SELECT o.name, t.total FROM totals AS t JOIN {one.name} AS o ON o.id = t.id",
        ),
    )


@_family("extra")
def _cte_share(a: Ask) -> Draft:
    i, e = a.item, a.event
    c, m, d = a.field(i, "category"), a.field(e, "amount"), a.field(e, "day")
    x = a.value(e, d)
    joined = f"FROM {e.name} AS e JOIN {i.name} AS i ON e.{a.keys[0]} = i.id WHERE e.{d.name} >= {q(x)} GROUP BY i.{c.name}"
    sums = f"WITH sums AS (SELECT i.{c.name} AS part, SUM(e.{m.name}) AS total {joined})"
    return Draft(
        (
            f"What percentage of the total {m.said} of all {e.plural} {d.said} on {x} or later falls to each {c.said} of the {i.plural}?"
            f" Give {c.said} and percentage.",
            f"For the {e.plural} with a date {d.said} not before {x}, give every {c.said} of their {i.plural} and its percentage of the"
            f" {m.said} of them all.",
        ),
        f"{sums} SELECT part, 100.0 * total / (SELECT SUM(total) FROM sums) FROM sums",
        (
            f"{sums} SELECT part, total FROM sums",
            f"{sums} SELECT part, 100.0 * total / (SELECT MAX(total) FROM sums) FROM sums",
            f"{sums} SELECT part, 100.0 * total / (SELECT SUM({m.name}) FROM {e.name}) FROM sums",
        ),
    )


@_family("extra")
def _rank_in_group(a: Ask) -> Draft:
    e = a.item
    c, n = a.field(e, "category"), a.field(e, "number")
    k = a.rng.randint(2, 3)

    def ranked(order: str, limit: int) -> str:
        return (
            f"SELECT {c.name}, name FROM (SELECT {c.name}, name, ROW_NUMBER() OVER (PARTITION BY {c.name} ORDER BY {order}) AS place"
            f" FROM {e.name}) AS t WHERE place <= {limit}"
        )

    return Draft(
        (
            f"For each {c.said}, give the {k} {e.plural} with the highest {n.said}, equal ones by name: {c.said} and name.",
            f"List {c.said} and name of the first {k} {e.plural} of every {c.said}, ranked by falling {n.said} and then by name.",
        ),
        ranked(f"{n.name} DESC, name", k),
        (
            ranked(f"{n.name}, name", k),
            ranked(f"{n.name} DESC, name", k + 1),
            f"SELECT {c.name}, name FROM {e.name} ORDER BY {n.name} DESC, name LIMIT {k}",
        ),
    )


@_family("extra")
def _second_in_group(a: Ask) -> Draft:
    e = a.item
    c, n = a.field(e, "category"), a.field(e, "number")

    def at(place: int, order: str) -> str:
        return (
            f"SELECT {c.name}, name FROM (SELECT {c.name}, name, DENSE_RANK() OVER (PARTITION BY {c.name} ORDER BY {n.name} {order}) AS place"
            f" FROM {e.name}) AS t WHERE place = {place}"
        )

    return Draft(
        (
            f"Which {e.plural} have the second highest {n.said} of their {c.said}? Equal values share a rank. Give {c.said} and name.",
            f"For each {c.said}, name the {e.plural} with the second largest different {n.said}; give {c.said} and name.",
        ),
        at(2, "DESC"),
        (at(1, "DESC"), at(2, "ASC"), at(3, "DESC")),
    )


@_family("extra")
def _running_total(a: Ask) -> Draft:
    e = a.event
    key, of = a.rng.choice([(a.keys[0], a.item), (a.keys[1], a.partner)])
    m, d = a.field(e, "amount"), a.field(e, "day")
    name = a.name(of, key, e)
    start = f"SELECT e.{d.name}, SUM(e.{m.name}) OVER (ORDER BY e.{d.name}, e.id) FROM {e.name} AS e JOIN {of.name} AS o ON e.{key} = o.id"
    return Draft(
        (
            f"List the {e.plural} of the {of.said} {name} in the order of the date {d.said} (then id): that date and the total {m.said} so far.",
            f"Give the date {d.said} and the running total of the {m.said} for the {e.plural} of the {of.said} {name}, by date and id.",
        ),
        f"{start} WHERE o.name = {q(name)} ORDER BY e.{d.name}, e.id",
        (
            f"SELECT e.{d.name}, e.{m.name} FROM {e.name} AS e JOIN {of.name} AS o ON e.{key} = o.id WHERE o.name = {q(name)}"
            f" ORDER BY e.{d.name}, e.id",
            f"SELECT e.{d.name}, SUM(e.{m.name}) OVER () FROM {e.name} AS e JOIN {of.name} AS o ON e.{key} = o.id WHERE o.name = {q(name)}"
            f" ORDER BY e.{d.name}, e.id",
            f"{start} ORDER BY e.{d.name}, e.id",
        ),
    )


@_family("extra")
def _against_group(a: Ask) -> Draft:
    e = a.entity("category", "number")
    c, n = a.field(e, "category"), a.field(e, "number")
    return Draft(
        (
            f"For every {e.said}, how far is its {n.said} above the average of its {c.said}? Give name and difference.",
            f"List each {e.said} by name with its {n.said} minus the mean {n.said} of all {e.plural} with the same {c.said}.",
        ),
        f"SELECT name, {n.name} - AVG({n.name}) OVER (PARTITION BY {c.name}) FROM {e.name}",
        (
            f"SELECT name, {n.name} - AVG({n.name}) OVER () FROM {e.name}",
            f"SELECT name, AVG({n.name}) OVER (PARTITION BY {c.name}) FROM {e.name}",
            f"SELECT name, {n.name} - MAX({n.name}) OVER (PARTITION BY {c.name}) FROM {e.name}",
        ),
    )


@_family("extra")
def _change(a: Ask) -> Draft:
    e = a.event
    d, m = a.field(e, "day"), a.field(e, "amount")
    x = a.value(e, m)
    year = f"substr(CAST({d.name} AS TEXT), 1, 4)"
    sums = f"WITH sums AS (SELECT {year} AS year_of, SUM({m.name}) AS total FROM {e.name} WHERE {m.name} >= {x} GROUP BY {year})"
    return Draft(
        (
            f"For each year of the date {d.said}, by how much did the total {m.said} of the {e.plural} with a {m.said} of at least {x}"
            " change from the year before it in the data? Give year and change in the order of years, nothing for the first.",
            f"Among the {e.plural} whose {m.said} is {x} or more, list year and difference of the total {m.said} to the preceding year"
            f" {d.said}, by year; the first has none.",
        ),
        f"{sums} SELECT year_of, total - LAG(total) OVER (ORDER BY year_of) FROM sums ORDER BY year_of",
        (
            f"{sums} SELECT year_of, total FROM sums ORDER BY year_of",
            f"{sums} SELECT year_of, total - LEAD(total) OVER (ORDER BY year_of) FROM sums ORDER BY year_of",
            f"{sums} SELECT year_of, LAG(total) OVER (ORDER BY year_of) FROM sums ORDER BY year_of",
        ),
    )


@_family("extra")
def _every(a: Ask) -> Draft:
    one, key = a.rng.choice([(a.item, a.keys[0]), (a.partner, a.keys[1])])
    other, link = (a.partner, a.keys[1]) if one is a.item else (a.item, a.keys[0])
    e = a.event
    c = a.field(other, "category")
    n = a.field(one, "number")
    x = a.value(one, n)
    joined = (
        f"FROM {one.name} AS o JOIN {e.name} AS e ON e.{key} = o.id JOIN {other.name} AS x ON e.{link} = x.id"
        f" WHERE o.{n.name} >= {x} GROUP BY o.id, o.name"
    )
    return Draft(
        (
            f"Which {one.plural} with a {n.said} of at least {x} have {e.plural} with {other.plural} of every {c.said} that occurs? Give"
            " their names.",
            f"Name each {one.said} whose {n.said} is {x} or more and whose {e.plural} leave out no {c.said} that any {other.said} has.",
        ),
        f"SELECT o.name {joined} HAVING COUNT(DISTINCT x.{c.name}) = (SELECT COUNT(DISTINCT {c.name}) FROM {other.name})",
        (
            f"SELECT o.name {joined} HAVING COUNT(x.{c.name}) = (SELECT COUNT(DISTINCT {c.name}) FROM {other.name})",
            f"SELECT o.name {joined} HAVING COUNT(DISTINCT x.{c.name}) < (SELECT COUNT(DISTINCT {c.name}) FROM {other.name})",
            f"SELECT o.name {joined}",
        ),
    )


@_family("extra")
def _first_event(a: Ask) -> Draft:
    p, e, i = a.partner, a.event, a.item
    d, c = a.field(e, "day"), a.field(p, "category")
    v = a.value(p, c)
    rank = f"SELECT e.*, ROW_NUMBER() OVER (PARTITION BY e.{a.keys[1]} ORDER BY e.{d.name}{{}}, e.id) AS place FROM {e.name} AS e"
    start = f"SELECT p.name, i.name FROM {p.name} AS p JOIN ({rank}) AS t ON t.{a.keys[1]} = p.id JOIN {i.name} AS i ON t.{a.keys[0]} = i.id"
    return Draft(
        (
            f"For each {p.said} with the {c.said} {v}, which {i.said} was its first {e.said} by the date {d.said} (then id) with? Give both names.",
            f"Give the names of the {p.plural} whose {c.said} is {v} and of the {i.said} in the earliest {e.said} of each, by date {d.said}, then id.",
        ),
        f"{start.format('')} WHERE t.place = 1 AND p.{c.name} = {q(v)}",
        (
            f"{start.format(' DESC')} WHERE t.place = 1 AND p.{c.name} = {q(v)}",
            f"{start.format('')} WHERE t.place = 1",
            f"{start.format('')} WHERE t.place = 2 AND p.{c.name} = {q(v)}",
        ),
    )


@_family("extra")
def _below(a: Ask) -> Draft | None:
    if not any(f.name == "boss_id" for f in a.item.fields):
        return None
    i = a.item
    n = a.field(i, "number")
    name, x = a.name(i, "boss_id", i), a.value(i, n)

    def under(start: str) -> str:
        return (
            f"WITH RECURSIVE under(id) AS (SELECT id FROM {i.name} WHERE {start} UNION ALL SELECT x.id FROM {i.name} AS x JOIN under AS u"
            " ON x.boss_id = u.id)"
        )

    boss = f"boss_id = (SELECT id FROM {i.name} WHERE name = {q(name)})"
    counted = f"SELECT COUNT(*) FROM under AS u JOIN {i.name} AS i ON i.id = u.id WHERE i.{n.name} <= {x}"
    return Draft(
        (
            f"How many {i.plural} with a {n.said} of at most {x} work under {name}, directly or through others?",
            f"Count everyone whose {n.said} is not above {x} and whose boss is {name}, or whose boss's boss is, and so on.",
        ),
        f"{under(boss)} {counted}",
        (
            f"SELECT COUNT(*) FROM {i.name} WHERE {boss} AND {n.name} <= {x}",
            f"{under(boss)} SELECT COUNT(*) FROM under",
            f"SELECT COUNT(*) FROM {i.name} WHERE boss_id IS NOT NULL AND {n.name} <= {x}",
        ),
    )
