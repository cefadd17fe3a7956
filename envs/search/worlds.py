"""Fictional worlds: documents that nobody has read before, and questions that only they answer.

A world holds people, cities, countries, companies, works and events that stand in relations to each other. Each has a
document that says what it relates to, and a question follows relations from one document to the next:

    In what year was the city founded where the author of "The Lanterns of Vorrudel" was born?

All names are invented, so no model knows them, and a relation links entities of one split only: what is asked in `test`
cannot be learned from `train`. Within a split no answer is that of more than one question in two hundred (or of two, where
there are few), so that no guess is a good one.

Relations are consistent: marriage is mutual, mentors are older, nobody writes before the age of twenty, a capital lies in
its country. Distractors are namesakes with documents of their own, facts that no question asks for, and mentions of
entities that have nothing to do with it.

Everything follows from the seed, in every process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import Literal, NamedTuple

from .library import Document, Question

Style = Literal["encyclopedia", "short"]

FEWEST_DOCUMENTS = 200
SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Share of the documents that each split has for itself."""
MOST_SHORT = 10_000
"""Documents in the style `short`, whose names are one of a hundred words and a number."""

_QUESTIONS_PER_DOCUMENT = 4
_MOST_QUESTIONS = {"train": 20_000, "val": 2_000, "test": 2_000}
_DISTRACTORS = 0.15
_ONE_ANSWER = 0.005


class Relation(NamedTuple):
    """What a document says about its subject.

    Attributes:
        to: kind of the value: of an entity, or `year` or `name` for a value without a document.
        sentences: that say it; {s} is the subject, {v} the value.
        questions: that ask for it.
        phrases: that stand for the value in a longer question; none where the value has no document.
    """

    to: str
    sentences: tuple[str, ...]
    questions: tuple[str, ...]
    phrases: tuple[str, ...] = ()


RELATIONS: dict[str, dict[str, Relation]] = {
    "person": {
        "birthplace": Relation(
            "city",
            ("{s} was born in {v}.", "The birthplace of {s} is {v}."),
            ("In which city was {s} born?", "What is the birthplace of {s}?"),
            ("the birthplace of {s}", "the city where {s} was born"),
        ),
        "spouse": Relation(
            "person",
            ("{s} is married to {v}.", "The spouse of {s} is {v}."),
            ("Who is the spouse of {s}?", "Who is {s} married to?"),
            ("the spouse of {s}", "the person who is married to {s}"),
        ),
        "mentor": Relation(
            "person",
            ("{s} learned the trade from {v}.", "{s} studied under {v}."),
            ("Who was the mentor of {s}?", "Under whom did {s} study?"),
            ("the mentor of {s}", "the teacher of {s}"),
        ),
        "employer": Relation(
            "company",
            ("{s} worked for {v} for many years.", "For most of that career {s} was employed by {v}."),
            ("Which company employed {s}?", "For which company did {s} work?"),
            ("the employer of {s}", "the company that employed {s}"),
        ),
        "born": Relation(
            "year", ("{s} was born in the year {v}.",), ("In what year was {s} born?",)
        ),
    },
    "city": {
        "country": Relation(
            "country",
            ("{s} lies in {v}.", "{s} belongs to {v}."),
            ("In which country does {s} lie?", "To which country does {s} belong?"),
            ("the country of {s}", "the country in which {s} lies"),
        ),
        "mayor": Relation(
            "person",
            ("The mayor of {s} is {v}.", "{s} is governed by its mayor, {v}."),
            ("Who is the mayor of {s}?", "Who governs {s} as mayor?"),
            ("the mayor of {s}",),
        ),
        "river": Relation(
            "name",
            ("The river {v} runs through {s}.", "{s} stands on the river {v}."),
            ("Which river runs through {s}?", "On which river does {s} stand?"),
        ),
        "founded": Relation(
            "year", ("{s} was founded in {v}.",), ("In what year was {s} founded?",)
        ),
    },
    "country": {
        "capital": Relation(
            "city",
            ("The capital of {s} is {v}.", "{s} is governed from its capital, {v}."),
            ("What is the capital of {s}?",),
            ("the capital of {s}",),
        ),
        "laureate": Relation(
            "person",
            ("The poet laureate of {s} is {v}.",),
            ("Who is the poet laureate of {s}?",),
            ("the poet laureate of {s}",),
        ),
        "currency": Relation(
            "name",
            ("The currency of {s} is the {v}.", "People in {s} pay with the {v}."),
            ("What is the currency of {s}?", "With what currency do people in {s} pay?"),
        ),
    },
    "company": {
        "founder": Relation(
            "person",
            ("{s} was established by {v}.", "The founder of {s} is {v}."),
            ("Who founded {s}?", "Who is the founder of {s}?"),
            ("the founder of {s}", "the person who established {s}"),
        ),
        "seat": Relation(
            "city",
            ("The headquarters of {s} are in {v}.", "{s} is run from {v}."),
            ("In which city are the headquarters of {s}?", "From which city is {s} run?"),
            ("the city with the headquarters of {s}", "the seat of {s}"),
        ),
        "product": Relation(
            "name",
            ("The best known product of {s} is the {v}.",),
            ("What is the best known product of {s}?",),
        ),
        "founded": Relation(
            "year", ("{s} has existed since {v}.",), ("Since what year has {s} existed?",)
        ),
    },
    "work": {
        "author": Relation(
            "person",
            ("{s} was written by {v}.", "The author of {s} is {v}."),
            ("Who wrote {s}?", "Who is the author of {s}?"),
            ("the author of {s}", "the person who wrote {s}"),
        ),
        "setting": Relation(
            "city",
            ("{s} is set in {v}.", "The story of {s} takes place in {v}."),
            ("In which city is {s} set?", "Where does the story of {s} take place?"),
            ("the city in which {s} is set",),
        ),
        "publisher": Relation(
            "company",
            ("{s} was published by {v}.", "{s} came out with {v}."),
            ("Which company published {s}?",),
            ("the publisher of {s}", "the company that published {s}"),
        ),
        "hero": Relation(
            "name",
            ("The main character of {s} is called {v}.",),
            ("What is the main character of {s} called?",),
        ),
        "published": Relation(
            "year", ("{s} appeared in {v}.",), ("In what year did {s} appear?",)
        ),
    },
    "event": {
        "site": Relation(
            "city",
            ("{s} was held in {v}.", "The site of {s} was {v}."),
            ("In which city was {s} held?",),
            ("the city that hosted {s}", "the site of {s}"),
        ),
        "leader": Relation(
            "person",
            ("{s} was led by {v}.", "At the head of {s} stood {v}."),
            ("Who led {s}?", "Who stood at the head of {s}?"),
            ("the leader of {s}", "the person who led {s}"),
        ),
        "sponsor": Relation(
            "company",
            ("{s} was paid for by {v}.", "The sponsor of {s} was {v}."),
            ("Which company paid for {s}?", "Which company was the sponsor of {s}?"),
            ("the sponsor of {s}",),
        ),
        "held": Relation(
            "year", ("{s} took place in {v}.",), ("In what year did {s} take place?",)
        ),
    },
}  # fmt: skip
"""What the documents of the style `encyclopedia` say, by kind of entity."""

SHORT: dict[str, dict[str, Relation]] = {
    "person": {
        "teacher": Relation("person", ("teacher {v}",), ("What is the teacher of {s}?",), ("the teacher of {s}",)),
        "home": Relation("city", ("home {v}",), ("What is the home of {s}?",), ("the home of {s}",)),
    },
    "city": {
        "mayor": Relation("person", ("mayor {v}",), ("What is the mayor of {s}?",), ("the mayor of {s}",)),
        "twin": Relation("city", ("twin {v}",), ("What is the twin of {s}?",), ("the twin of {s}",)),
    },
}  # fmt: skip
"""The same for the style `short`."""

_SHARES: dict[Style, dict[str, float]] = {
    "encyclopedia": {"person": 0.36, "city": 0.18, "country": 0.04, "company": 0.14, "work": 0.16, "event": 0.12},
    "short": {"person": 0.6, "city": 0.4},
}  # fmt: skip
_PREFIXES = ("Port", "Upper", "Saint", "Fort", "Lower", "Mount")
_TRADES = ("Foundry", "Mills", "Instruments", "Shipping", "Press", "Optics", "Glassworks", "Breweries")
_NOUNS = ("Lanterns", "Orchards", "Bridges", "Clocks", "Winters", "Shadows", "Gardens", "Letters")
_GATHERINGS = ("Regatta", "Expedition", "Congress", "Exhibition", "Uprising", "Tournament", "Pilgrimage")
_NOUN_OF = {
    "person": ("an engraver", "a botanist", "an engineer", "a painter", "a navigator", "a composer"),
    "city": ("a market town", "a harbour city", "a mining town", "a university city"),
    "country": ("a kingdom", "a republic", "a federation"),
    "company": ("a manufacturer", "a family business", "a trading house"),
    "work": ("a novel", "an opera", "a play", "a poem in twelve parts"),
    "event": ("a gathering", "an undertaking", "a celebrated occasion"),
}
_ASIDES = (
    "Older sources confuse {s} with {o}.",
    "A letter about {s} also mentions {o}.",
    "{o} is named beside {s} in a ballad.",
    "In the archive the file on {s} stands next to the one on {o}.",
    "Comparisons of {s} with {o} are frequent but mistaken.",
    "A stamp shows {s} together with {o}.",
    "Little is left of the diaries that describe {s}.",
    "Scholars still argue about the spelling of {s}.",
)
_ONSETS = [
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ai"]
_CODAS = ["", "", "", "", "", "l", "m", "n", "r", "s", "k", "th", "nd"]


@dataclass(eq=False, slots=True)
class Entity:
    """Something that has a document.

    Attributes:
        kind: person, city, country, company, work or event.
        title: its name, unique in the world.
        id: of its document.
        alias: another name that its document gives, or empty.
        distractor: a namesake that no question is about.
        facts: values by relation: an entity, or a text.
    """

    kind: str
    title: str
    id: str = ""
    alias: str = ""
    distractor: bool = False
    facts: dict[str, Entity | str] = field(default_factory=dict, repr=False)

    def year(self, relation: str) -> int:
        """A fact that is a year."""
        value = self.facts[relation]
        assert isinstance(value, str)
        return int(value)


class World:
    """A world.

    Args:
        documents: how many, `FEWEST_DOCUMENTS` at least; one per entity.
        hops: fewest and most relations that a question follows.
        style: `encyclopedia`, or `short` with a line of two facts per document.
        seed: of everything.

    Attributes:
        entities: by split.
    """

    def __init__(self, documents: int, hops: tuple[int, int], style: Style, seed: int) -> None:
        self._hops, self._style, self._seed = hops, style, seed
        self._relations = RELATIONS if style == "encyclopedia" else SHORT
        names = _Names(style, Random(f"names {seed}"))
        rest = documents - sum(int(documents * share) for share in SPLITS.values())
        self.entities: dict[str, list[Entity]] = {}
        for split, share in SPLITS.items():
            number = int(documents * share) + (rest if split == "train" else 0)
            self.entities[split] = _population(number, style, names, Random(f"{split} {seed}"))
        # Documents of all splits stand in one random order, so that a number says nothing about its document.
        everything = [e for entities in self.entities.values() for e in entities]
        Random(f"order {seed}").shuffle(everything)
        for number, entity in enumerate(everything, 1):
            entity.id = str(number)
        self._all = everything

    def documents(self) -> Iterator[Document]:
        """The documents in the order of their ids."""
        rng = Random(f"texts {self._seed}")
        near = {e.id: entities for entities in self.entities.values() for e in entities}
        for entity in self._all:
            yield Document(entity.id, entity.title, self._text(entity, near[entity.id], rng))

    def _text(self, entity: Entity, near: Sequence[Entity], rng: Random) -> str:
        relations = self._relations[entity.kind]
        facts = [
            rng.choice(relations[name].sentences).format(s=_said(entity), v=_said(value))
            for name, value in entity.facts.items()
        ]
        if self._style == "short":
            return f"{_said(entity)} has {' and '.join(facts)}."
        facts += (
            aside.format(s=_said(entity), o=_said(rng.choice(near))) for aside in rng.sample(_ASIDES, 3)
        )
        rng.shuffle(facts)
        known = f", also known as {entity.alias}," if entity.alias else ""
        return " ".join([f"{entity.title}{known} is {rng.choice(_NOUN_OF[entity.kind])}.", *facts])

    def questions(self) -> Iterator[Question]:
        """The questions of all splits."""
        for split, entities in self.entities.items():
            yield from self._asked(split, [e for e in entities if not e.distractor])

    def _asked(self, split: str, entities: Sequence[Entity]) -> Iterator[Question]:
        rng = Random(f"questions {split} {self._seed}")
        wanted = min(_MOST_QUESTIONS[split], _QUESTIONS_PER_DOCUMENT * len(entities))
        most = max(2, int(_ONE_ANSWER * wanted))
        asked: set[tuple[str, ...]] = set()
        given: Counter[str] = Counter()
        for _ in range(20 * wanted):
            hops = rng.randint(*self._hops)
            chain = self._chain(rng.choice(entities), hops, rng)
            if chain is None:
                continue
            visited, names, value = chain
            answers = (value,) if isinstance(value, str) else (value.title, value.alias)
            key = (visited[0].id, *names)
            if key in asked or given[answers[0]] >= most:
                continue
            asked.add(key)
            given[answers[0]] += 1
            yield Question(
                id=f"{split}-{len(asked) - 1}",
                split=split,
                text=self._sentence(visited, names, rng),
                answers=tuple(a for a in answers if a),
                support=tuple((e.id, e.title) for e in visited),
                hops=hops,
                kind=".".join([visited[0].kind, *names]),
            )
            if len(asked) == wanted:
                return

    def _chain(
        self, start: Entity, hops: int, rng: Random
    ) -> tuple[list[Entity], list[str], Entity | str] | None:
        """Entities whose documents are needed, the relations that are followed, and the answer."""
        visited = [start]
        names: list[str] = []
        while True:
            last = len(names) == hops - 1
            here = visited[-1]
            ways = [
                (name, value)
                for name, value in here.facts.items()
                if (last if isinstance(value, str) else value not in visited)
            ]
            if not ways:
                return None
            name, value = rng.choice(ways)
            names.append(name)
            if last:
                return visited, names, value
            assert isinstance(value, Entity)
            visited.append(value)

    def _sentence(self, visited: Sequence[Entity], names: Sequence[str], rng: Random) -> str:
        phrase = _said(visited[0])
        for entity, name in zip(visited[:-1], names[:-1], strict=True):
            phrase = rng.choice(self._relations[entity.kind][name].phrases).format(s=phrase)
        return rng.choice(self._relations[visited[-1].kind][names[-1]].questions).format(s=phrase)


def _said(value: Entity | str) -> str:
    """A name as it stands in a sentence; titles of works and names with a number in quotes."""
    if isinstance(value, str):
        return value
    return f'"{value.title}"' if value.kind == "work" or value.title[-1].isdigit() else value.title


class _Names:
    """Invented names, each given once."""

    def __init__(self, style: Style, rng: Random) -> None:
        self._rng = rng
        self._taken: set[str] = set()
        self._titles: set[str] = set()
        self._first = [self._word(2) for _ in range(400)]
        self._pairs: list[str] = []
        if style == "short":
            # Few words, each with a hundred numbers: a tokenizer that has seen them all writes names it has never seen.
            heads = [c + v + "l" + w for c in "BDGKMNPRTV" for v, w in product("aeiou", "au")]
            self._pairs = [f"{head}{number}" for head in heads for number in range(100)]
            rng.shuffle(self._pairs)

    def entity(self, kind: str, namesake: str) -> str:
        """A title; with a namesake, one that shares its last or first word."""
        if self._pairs:
            return self._pairs.pop()
        for _ in range(10):
            title = self._title(kind, namesake)
            if title not in self._titles:
                self._titles.add(title)
                return title
        return self.entity(kind, "")

    def _title(self, kind: str, namesake: str) -> str:
        words = namesake.split()
        choice = self._rng.choice
        match kind:
            case "person":
                return f"{choice(self._first)} {words[-1] if words else self.word()}"
            case "city" if words or self._rng.random() < 0.2:
                return f"{choice(_PREFIXES)} {words[-1] if words else self.word()}"
            case "company":
                return f"{words[0] if words else self.word()} {choice(_TRADES)}"
            case "work":
                return f"The {choice(_NOUNS)} of {words[-1] if words else self.word()}"
            case "event":
                return f"{words[0] if words else self.word()} {choice(_GATHERINGS)}"
            case _:
                return self.word()

    def word(self) -> str:
        """A word that is nowhere else."""
        while (word := self._word(self._rng.choice((2, 3, 3)))) in self._taken:
            pass
        self._taken.add(word)
        return word

    def _word(self, syllables: int) -> str:
        choice = self._rng.choice
        return "".join(
            choice(_ONSETS) + choice(_VOWELS) + choice(_CODAS) for _ in range(syllables)
        ).capitalize()


def _population(number: int, style: Style, names: _Names, rng: Random) -> list[Entity]:
    """The entities of a split, with their facts."""
    kinds = {kind: max(2, int(number * share)) for kind, share in _SHARES[style].items()}
    kinds["person"] += number - sum(kinds.values())
    of: dict[str, list[Entity]] = {}
    for kind, count in kinds.items():
        # Each country needs a city of its own that is no namesake.
        fewest = kinds["country"] + 1 if kind == "city" and style == "encyclopedia" else 2
        entities: list[Entity] = []
        for number_made in range(count):
            real = [e for e in entities[-50:] if not e.distractor]
            may_be = style == "encyclopedia" and kind != "country" and number_made >= fewest and bool(real)
            namesake = may_be and rng.random() < _DISTRACTORS
            title = names.entity(kind, rng.choice(real).title if namesake else "")
            alias = ""
            if (
                style == "encyclopedia"
                and not namesake
                and kind in ("person", "city", "company")
                and rng.random() < 0.3
            ):
                alias = names.word()
            entities.append(Entity(kind, title, alias=alias, distractor=namesake))
        of[kind] = entities
    real_of = {kind: [e for e in entities if not e.distractor] for kind, entities in of.items()}
    if style == "short":
        for kind, entities in of.items():
            for e in entities:
                for name, relation in SHORT[kind].items():
                    e.facts[name] = _other(real_of[relation.to], e, rng)
    else:
        _relate(of, real_of, names, rng)
    return [e for entities in of.values() for e in entities]


def _other(entities: Sequence[Entity], than: Entity, rng: Random) -> Entity:
    while (found := rng.choice(entities)) is than:
        pass
    return found


def _relate(of: dict[str, list[Entity]], real: dict[str, list[Entity]], names: _Names, rng: Random) -> None:
    """Facts of the style `encyclopedia`, so that what must be older is."""
    for number, city in enumerate(of["city"]):
        # Every country has a capital, and a capital lies in its country.
        owner = of["country"][number] if number < len(of["country"]) else rng.choice(of["country"])
        city.facts["country"] = owner
    inside: dict[str, list[Entity]] = {}
    for city in real["city"]:
        country = city.facts["country"]
        assert isinstance(country, Entity)
        inside.setdefault(country.title, []).append(city)
    for country in of["country"]:
        country.facts["capital"] = rng.choice(inside[country.title])
        country.facts["laureate"] = rng.choice(real["person"])
        country.facts["currency"] = names.word().lower()
    for city in of["city"]:
        city.facts |= {"mayor": rng.choice(real["person"]), "river": names.word()}
        city.facts["founded"] = str(rng.randint(900, 1650))
    for person in of["person"]:
        person.facts["birthplace"] = rng.choice(real["city"])
        person.facts["born"] = str(rng.randint(1700, 1960))
    for company in of["company"]:
        founder = rng.choice(real["person"])
        company.facts |= {"founder": founder, "seat": rng.choice(real["city"]), "product": names.word()}
        company.facts["founded"] = str(founder.year("born") + rng.randint(22, 50))
    by_age = sorted(real["person"], key=lambda p: p.year("born"))
    for one, other in zip(by_age[::2], by_age[1::2], strict=False):
        if rng.random() < 0.7 and other.year("born") - one.year("born") <= 20:
            one.facts["spouse"], other.facts["spouse"] = other, one
    for person in of["person"]:
        mentor = _mentor(real["person"], person.year("born"), rng)
        if mentor is not None:
            person.facts["mentor"] = mentor
        employer = _founded(real["company"], person.year("born") + 50, rng)
        if employer is not None:
            person.facts["employer"] = employer
    for kind, who, where, when, paid in (
        ("work", "author", "setting", "published", "publisher"),
        ("event", "leader", "site", "held", "sponsor"),
    ):
        for e in of[kind]:
            person = rng.choice(real["person"])
            year = person.year("born") + rng.randint(20, 60)
            e.facts |= {who: person, where: rng.choice(real["city"]), when: str(year)}
            company_then = _founded(real["company"], year, rng)
            if company_then is not None:
                e.facts[paid] = company_then
            if kind == "work":
                e.facts["hero"] = names.word()


def _mentor(people: Sequence[Entity], born: int, rng: Random) -> Entity | None:
    tries = (rng.choice(people) for _ in range(8))
    return next((p for p in tries if 15 <= born - p.year("born") <= 60), None)


def _founded(companies: Sequence[Entity], year: int, rng: Random) -> Entity | None:
    """A company that existed in that year."""
    tries = (rng.choice(companies) for _ in range(8))
    return next((c for c in tries if c.year("founded") <= year), None)
