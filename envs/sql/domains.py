"""What the generated databases are about: fifteen domains of four tables, and a small one.

Every domain has the same build, so that every kind of question can be asked in all of them:

    owner <- item <- event -> partner

An item belongs to an owner, an event joins an item and a partner; some owners have no item, some partners no event, some
values are missing. An item may also refer to another item (`boss_id`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any, Literal, NamedTuple

Kind = Literal["id", "label", "category", "number", "amount", "day", "ref"]
Value = str | int | float | None


class Field(NamedTuple):
    """A column of a generated table.

    Attributes:
        name: of the column.
        kind: what it holds: a key, a name that is unique in the table, one of a few texts, a whole number, an amount with
            two decimals, a date, or a reference.
        values: of a category: the texts; of a label: the second words of names, none for people; of a reference: the table.
        low: smallest number; first year of a day.
        high: largest number; last year of a day.
        missing: share of rows in which it is NULL.
    """

    name: str
    kind: Kind
    values: tuple[str, ...] = ()
    low: int = 0
    high: int = 0
    missing: float = 0.0

    @property
    def said(self) -> str:
        """The column in a question."""
        said = self.name.removesuffix("_id").replace("_", " ")
        return f"number of {said}" if self.kind == "number" and said.endswith("s") else said

    @property
    def type(self) -> str:
        """Its type in SQL."""
        return {
            "id": "INTEGER",
            "number": "INTEGER",
            "ref": "INTEGER",
            "amount": "NUMERIC",
            "day": "DATE",
        }.get(self.kind, "TEXT")


@dataclass(frozen=True)
class Entity:
    """A table of a domain.

    Attributes:
        name: of the table.
        plural: in a question.
        rows: fewest and most.
        fields: the columns.
    """

    name: str
    plural: str
    rows: tuple[int, int]
    fields: tuple[Field, ...]

    def of(self, *kinds: Kind, missing: bool = False) -> list[Field]:
        """The fields of these kinds, with or without missing values."""
        return [f for f in self.fields if f.kind in kinds and bool(f.missing) == missing]

    @property
    def said(self) -> str:
        """The table in a question."""
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class Domain:
    """What a generated database is about.

    Attributes:
        name: of the domain.
        owner: see the module.
        item: has a field `OWNER_id`.
        partner: see the module.
        event: has the fields `ITEM_id` and `PARTNER_id`.
    """

    name: str
    owner: Entity
    item: Entity
    partner: Entity
    event: Entity

    @property
    def entities(self) -> tuple[Entity, ...]:
        """The tables, referenced ones first."""
        return self.owner, self.item, self.partner, self.event


Rows = dict[str, list[dict[str, Value]]]
"""The rows of a database, by table."""

_ID = Field("id", "id")
_PEOPLE = (
    [
        "Ada",
        "Ben",
        "Cleo",
        "Dan",
        "Eva",
        "Finn",
        "Gina",
        "Hugo",
        "Ida",
        "Jon",
        "Kira",
        "Leo",
        "Mia",
        "Nils",
        "Olga",
        "Paul",
        "Rosa",
        "Sam",
        "Tess",
        "Uwe",
        "Vera",
        "Will",
        "Yara",
        "Zoe",
    ],
    [
        "Adler",
        "Berg",
        "Cole",
        "Dahl",
        "Engel",
        "Frost",
        "Grant",
        "Hall",
        "Ivers",
        "Jung",
        "Kern",
        "Lind",
        "Moss",
        "North",
        "Otto",
        "Price",
        "Quist",
        "Reed",
        "Stone",
        "Tarn",
    ],
)
_HEADS = [
    "Amber",
    "Blue",
    "Bright",
    "Calm",
    "Copper",
    "Deep",
    "Early",
    "Far",
    "Golden",
    "Green",
    "Grey",
    "High",
    "Icy",
    "Jade",
    "Keen",
    "Lone",
    "Mild",
    "Noble",
    "Old",
    "Pale",
    "Quiet",
    "Red",
    "Silver",
    "Tall",
    "Upper",
    "Vast",
    "Warm",
    "White",
    "Wild",
    "Young",
]


def _label(*tails: str) -> Field:
    return Field("name", "label", tails)


def _one(name: str, values: str, missing: float = 0.0) -> Field:
    return Field(name, "category", tuple(values.split()), missing=missing)


def _number(name: str, low: int, high: int, missing: float = 0.0) -> Field:
    return Field(name, "number", (), low, high, missing)


def _amount(name: str, low: int, high: int, missing: float = 0.0) -> Field:
    return Field(name, "amount", (), low, high, missing)


def _day(name: str, low: int, high: int, missing: float = 0.0) -> Field:
    return Field(name, "day", (), low, high, missing)


def _ref(table: str, missing: float = 0.0, name: str = "") -> Field:
    return Field(name or f"{table}_id", "ref", (table,), missing=missing)


def _domain(
    name: str,
    owner: tuple[str, str, Sequence[Field]],
    item: tuple[str, str, Sequence[Field]],
    partner: tuple[str, str, Sequence[Field]],
    event: tuple[str, str, Sequence[Field]],
) -> Domain:
    return Domain(
        name,
        Entity(owner[0], owner[1], (6, 8), (_ID, *owner[2])),
        Entity(item[0], item[1], (16, 22), (_ID, *item[2], _ref(owner[0], 0.1))),
        Entity(partner[0], partner[1], (10, 14), (_ID, *partner[2])),
        Entity(event[0], event[1], (40, 55), (_ID, _ref(item[0]), _ref(partner[0]), *event[2])),
    )


_TOWNS = "Arden Brook Corin Delby Elton"

DOMAINS: dict[str, Domain] = {
    d.name: d
    for d in (
        _domain(
            "school",
            (
                "teacher",
                "teachers",
                (_label(), _one("town", _TOWNS), _number("salary", 24, 60), _day("hired", 2004, 2022)),
            ),
            (
                "course",
                "courses",
                (
                    _label("Algebra", "Botany", "Drawing", "History", "Music", "Physics"),
                    _one("level", "basic middle advanced"),
                    _one("room", "A1 B2 C3 D4", 0.25),
                    _number("seats", 8, 40),
                    _number("weekly_hours", 1, 8),
                    _day("opened", 2015, 2023),
                ),
            ),
            (
                "student",
                "students",
                (
                    _label(),
                    _one("country", "Chile Ghana Japan Norway"),
                    _number("age", 16, 29),
                    _one("club", "chess choir rowing", 0.3),
                ),
            ),
            (
                "enrolment",
                "enrolments",
                (_number("points", 1, 100, 0.15), _amount("fee", 40, 400), _day("enrolled", 2020, 2023)),
            ),
        ),
        _domain(
            "music",
            (
                "studio",
                "studios",
                (
                    _label("Records", "Sound", "Audio"),
                    _one("city", _TOWNS),
                    _number("staff", 3, 40),
                    _day("founded", 1960, 2010),
                ),
            ),
            (
                "album",
                "albums",
                (
                    _label("Rivers", "Nights", "Mirrors", "Letters", "Trains"),
                    _one("genre", "folk jazz pop rock"),
                    _one("medium", "tape vinyl", 0.25),
                    _number("tracks", 6, 20),
                    _number("minutes", 28, 75),
                    _day("released", 1990, 2023),
                ),
            ),
            (
                "listener",
                "listeners",
                (
                    _label(),
                    _one("country", "Cuba India Malta Peru"),
                    _number("age", 15, 70),
                    _one("plan", "family single", 0.3),
                ),
            ),
            (
                "rating",
                "ratings",
                (_number("stars", 1, 10, 0.15), _amount("tip", 1, 20), _day("rated", 2018, 2023)),
            ),
        ),
        _domain(
            "library",
            (
                "author",
                "authors",
                (
                    _label(),
                    _one("country", "Egypt France Kenya Poland"),
                    _number("prizes", 0, 12),
                    _day("born", 1930, 1990),
                ),
            ),
            (
                "book",
                "books",
                (
                    _label("Harbour", "Garden", "Orchard", "Voyage", "Winter"),
                    _one("genre", "crime essay novel poetry"),
                    _one("series", "Atlas Comet", 0.3),
                    _number("pages", 80, 700),
                    _number("copies", 1, 12),
                    _day("published", 1970, 2023),
                ),
            ),
            (
                "reader",
                "readers",
                (_label(), _one("town", _TOWNS), _number("age", 9, 80), _one("school", "east west", 0.3)),
            ),
            (
                "loan",
                "loans",
                (_number("days", 2, 60, 0.15), _amount("fine", 1, 30), _day("borrowed", 2019, 2023)),
            ),
        ),
        _domain(
            "hospital",
            (
                "ward",
                "wards",
                (
                    _label("Wing", "House", "Ward"),
                    _one("storey", "ground first second"),
                    _number("beds", 8, 60),
                    _day("built", 1970, 2015),
                ),
            ),
            (
                "doctor",
                "doctors",
                (
                    _label(),
                    _one("field", "bones eyes heart skin"),
                    _one("title", "senior chief", 0.3),
                    _number("experience", 1, 35),
                    _number("salary", 50, 140),
                    _day("hired", 2000, 2023),
                ),
            ),
            (
                "patient",
                "patients",
                (
                    _label(),
                    _one("blood", "A B AB O"),
                    _number("age", 1, 95),
                    _one("insurance", "basic full", 0.3),
                ),
            ),
            (
                "visit",
                "visits",
                (_number("minutes", 5, 90, 0.15), _amount("cost", 20, 500), _day("visited", 2020, 2023)),
            ),
        ),
        _domain(
            "shop",
            (
                "brand",
                "brands",
                (
                    _label("Works", "Goods", "Craft"),
                    _one("country", "Brazil Italy Korea Spain"),
                    _number("factories", 1, 15),
                    _day("founded", 1900, 2010),
                ),
            ),
            (
                "product",
                "products",
                (
                    _label("Lamp", "Kettle", "Chair", "Clock", "Desk"),
                    _one("material", "glass steel wood"),
                    _one("colour", "black blue white", 0.25),
                    _number("price", 10, 300),
                    _number("stock", 0, 80),
                    _day("launched", 2012, 2023),
                ),
            ),
            (
                "customer",
                "customers",
                (_label(), _one("city", _TOWNS), _number("age", 18, 75), _one("card", "gold silver", 0.3)),
            ),
            (
                "purchase",
                "purchases",
                (_number("quantity", 1, 9, 0.15), _amount("paid", 10, 900), _day("bought", 2020, 2023)),
            ),
        ),
        _domain(
            "airline",
            (
                "airline",
                "airlines",
                (
                    _label("Air", "Wings", "Jet"),
                    _one("country", "Canada Greece Oman Qatar"),
                    _number("planes", 3, 90),
                    _day("founded", 1950, 2012),
                ),
            ),
            (
                "flight",
                "flights",
                (
                    _label("Arrow", "Hawk", "Swift", "Heron", "Kite"),
                    _one("destination", "Accra Lima Oslo Quito"),
                    _one("gate", "G1 G2 G3", 0.25),
                    _number("seats", 60, 320),
                    _number("kilometres", 300, 9000),
                    _day("departure", 2022, 2023),
                ),
            ),
            (
                "passenger",
                "passengers",
                (
                    _label(),
                    _one("country", "Cuba Fiji Laos Togo"),
                    _number("age", 2, 85),
                    _one("status", "bronze gold", 0.3),
                ),
            ),
            (
                "booking",
                "bookings",
                (_number("bags", 0, 5, 0.15), _amount("fare", 50, 900), _day("booked", 2021, 2023)),
            ),
        ),
        _domain(
            "football",
            (
                "club",
                "clubs",
                (
                    _label("Rovers", "United", "Athletic"),
                    _one("city", _TOWNS),
                    _number("members", 200, 9000),
                    _day("founded", 1890, 1990),
                ),
            ),
            (
                "player",
                "players",
                (
                    _label(),
                    _one("role", "defender keeper striker"),
                    _one("foot", "left right", 0.25),
                    _number("height", 165, 204),
                    _number("caps", 0, 60),
                    _day("born", 1985, 2004),
                ),
            ),
            (
                "cup",
                "cups",
                (
                    _label("Cup", "Trophy", "Shield"),
                    _one("season", "autumn spring summer"),
                    _number("teams", 4, 32),
                    _one("sponsor", "Alto Brio", 0.3),
                ),
            ),
            (
                "appearance",
                "appearances",
                (_number("goals", 0, 4, 0.15), _amount("bonus", 100, 5000), _day("played", 2019, 2023)),
            ),
        ),
        _domain(
            "restaurant",
            (
                "restaurant",
                "restaurants",
                (
                    _label("Table", "Kitchen", "Oven"),
                    _one("district", "harbour market park"),
                    _number("seats", 12, 120),
                    _day("opened", 1990, 2020),
                ),
            ),
            (
                "dish",
                "dishes",
                (
                    _label("Curry", "Soup", "Pie", "Salad", "Stew"),
                    _one("course", "starter main dessert"),
                    _one("allergen", "egg milk nut", 0.3),
                    _number("price", 4, 40),
                    _number("calories", 120, 1200),
                    _day("added", 2015, 2023),
                ),
            ),
            (
                "guest",
                "guests",
                (
                    _label(),
                    _one("town", _TOWNS),
                    _number("age", 18, 80),
                    _one("diet", "vegan vegetarian", 0.35),
                ),
            ),
            (
                "meal",
                "meals",
                (_number("servings", 1, 6, 0.15), _amount("bill", 8, 200), _day("served", 2021, 2023)),
            ),
        ),
        _domain(
            "cinema",
            (
                "director",
                "directors",
                (
                    _label(),
                    _one("country", "Chile China Iran Sweden"),
                    _number("awards", 0, 20),
                    _day("born", 1940, 1988),
                ),
            ),
            (
                "film",
                "films",
                (
                    _label("Storm", "Bridge", "Mirror", "Shadow", "Summer"),
                    _one("genre", "comedy drama thriller"),
                    _one("award", "jury public", 0.35),
                    _number("minutes", 75, 190),
                    _number("budget", 1, 120),
                    _day("released", 1990, 2023),
                ),
            ),
            (
                "cinema",
                "cinemas",
                (
                    _label("Palace", "Lux", "Star"),
                    _one("city", _TOWNS),
                    _number("screens", 1, 14),
                    _one("chain", "Metro Orion", 0.3),
                ),
            ),
            (
                "screening",
                "screenings",
                (_number("viewers", 3, 300, 0.15), _amount("gain", 50, 4000), _day("shown", 2021, 2023)),
            ),
        ),
        _domain(
            "company",
            (
                "office",
                "offices",
                (
                    _label("Tower", "Court", "Plaza"),
                    _one("city", _TOWNS),
                    _number("floors", 1, 30),
                    _day("opened", 1980, 2018),
                ),
            ),
            (
                "employee",
                "employees",
                (
                    _label(),
                    _one("role", "analyst clerk engineer"),
                    _one("language", "French German", 0.3),
                    _number("salary", 28, 110),
                    _number("age", 20, 64),
                    _day("hired", 2005, 2023),
                    _ref("employee", 0.2, "boss_id"),
                ),
            ),
            (
                "project",
                "projects",
                (
                    _label("Bridge", "Engine", "Portal"),
                    _one("status", "active closed planned"),
                    _number("budget", 10, 400),
                    _one("client", "Acme Zenit", 0.3),
                ),
            ),
            (
                "assignment",
                "assignments",
                (_number("hours", 4, 200, 0.15), _amount("pay", 100, 6000), _day("started", 2020, 2023)),
            ),
        ),
        _domain(
            "farm",
            (
                "farm",
                "farms",
                (
                    _label("Hollow", "Acres", "Ridge"),
                    _one("county", "Dale Fell Moor"),
                    _number("workers", 1, 30),
                    _day("bought", 1960, 2015),
                ),
            ),
            (
                "plot",
                "plots",
                (
                    _label("Corner", "Strip", "Slope", "Meadow", "Bank"),
                    _one("soil", "clay loam sand"),
                    _one("fence", "stone wire", 0.3),
                    _number("hectares", 2, 60),
                    _number("slope", 0, 25),
                    _day("surveyed", 2010, 2023),
                ),
            ),
            (
                "crop",
                "crops",
                (
                    _label("Barley", "Maize", "Oats", "Rye"),
                    _one("season", "autumn spring summer"),
                    _number("weeks", 8, 40),
                    _one("purpose", "feed food", 0.3),
                ),
            ),
            (
                "harvest",
                "harvests",
                (_number("tonnes", 1, 90, 0.15), _amount("income", 200, 9000), _day("reaped", 2018, 2023)),
            ),
        ),
        _domain(
            "museum",
            (
                "museum",
                "museums",
                (
                    _label("Gallery", "Museum", "Hall"),
                    _one("city", _TOWNS),
                    _number("rooms", 4, 60),
                    _day("opened", 1850, 2005),
                ),
            ),
            (
                "painting",
                "paintings",
                (
                    _label("Bay", "Forest", "Portrait", "Market", "Valley"),
                    _one("style", "baroque cubist modern"),
                    _one("frame", "gilt oak", 0.3),
                    _number("width", 20, 300),
                    _number("worth", 5, 900),
                    _day("acquired", 1950, 2023),
                ),
            ),
            (
                "sponsor",
                "sponsors",
                (
                    _label("Fund", "Trust", "Circle"),
                    _one("sector", "bank trade transport"),
                    _number("members", 2, 90),
                    _one("level", "gold silver", 0.3),
                ),
            ),
            (
                "donation",
                "donations",
                (_number("months", 1, 48, 0.15), _amount("gift", 100, 9000), _day("given", 2012, 2023)),
            ),
        ),
        _domain(
            "bank",
            (
                "branch",
                "branches",
                (
                    _label("Street", "Square", "Gate"),
                    _one("town", _TOWNS),
                    _number("clerks", 2, 25),
                    _day("opened", 1950, 2012),
                ),
            ),
            (
                "account",
                "accounts",
                (
                    _label(),
                    _one("kind", "business private student"),
                    _one("card", "credit debit", 0.3),
                    _number("balance", 5, 9000),
                    _number("credit", 0, 3000),
                    _day("started", 2005, 2023),
                ),
            ),
            (
                "merchant",
                "merchants",
                (
                    _label("Market", "Motors", "Pharmacy"),
                    _one("trade", "food health travel"),
                    _number("outlets", 1, 40),
                    _one("partner", "Nova Visto", 0.3),
                ),
            ),
            (
                "payment",
                "payments",
                (_number("points", 1, 200, 0.15), _amount("charged", 3, 900), _day("posted", 2021, 2023)),
            ),
        ),
        _domain(
            "garage",
            (
                "driver",
                "drivers",
                (_label(), _one("town", _TOWNS), _number("age", 18, 80), _day("licensed", 1975, 2020)),
            ),
            (
                "car",
                "cars",
                (
                    _label("Comet", "Falcon", "Lynx", "Otter", "Viper"),
                    _one("fuel", "diesel electric petrol"),
                    _one("colour", "black red white", 0.25),
                    _number("power", 40, 300),
                    _number("doors", 2, 5),
                    _day("built", 1998, 2023),
                ),
            ),
            (
                "mechanic",
                "mechanics",
                (
                    _label(),
                    _one("skill", "body brakes engine"),
                    _number("wage", 14, 45),
                    _one("shift", "day night", 0.3),
                ),
            ),
            (
                "repair",
                "repairs",
                (_number("hours", 1, 30, 0.15), _amount("price", 30, 3000), _day("finished", 2019, 2023)),
            ),
        ),
        _domain(
            "energy",
            (
                "operator",
                "operators",
                (
                    _label("Power", "Energy", "Grid"),
                    _one("country", "Chad Denmark Nepal Uruguay"),
                    _number("staff", 20, 900),
                    _day("founded", 1920, 2010),
                ),
            ),
            (
                "plant",
                "plants",
                (
                    _label("Dam", "Field", "Point", "Rock", "Shore"),
                    _one("source", "coal solar water wind"),
                    _one("grade", "A B", 0.3),
                    _number("megawatts", 5, 900),
                    _number("turbines", 1, 60),
                    _day("started", 1960, 2022),
                ),
            ),
            (
                "region",
                "regions",
                (
                    _label("Coast", "Plain", "Hills"),
                    _one("climate", "cold dry mild"),
                    _number("homes", 20, 900),
                    _one("tariff", "day night", 0.3),
                ),
            ),
            (
                "delivery",
                "deliveries",
                (
                    _number("hours", 1, 700, 0.15),
                    _amount("revenue", 100, 9000),
                    _day("delivered", 2020, 2023),
                ),
            ),
        ),
    )
}
"""The domains by name."""

# Few columns of few values, so that the tiny model can read and write whole queries: every name is one word.
SHORT = Domain(
    "pets",
    Entity(
        "home",
        "homes",
        (4, 4),
        (_ID, _label("House", "Farm"), _one("town", "Arden Brook Corin"), _number("rooms", 2, 9)),
    ),
    Entity(
        "pet",
        "pets",
        (10, 12),
        (
            _ID,
            _label("Max", "Tom", "Bo", "Kit"),
            _one("kind", "bird cat dog fish"),
            _one("colour", "black brown grey white"),
            _one("mood", "calm shy wild"),
            _number("age", 1, 9),
            _number("weight", 1, 9),
            _ref("home", 0.1),
        ),
    ),
    Entity(
        "vet",
        "vets",
        (4, 5),
        (
            _ID,
            _label(),
            _one("town", "Arden Brook Corin"),
            _number("age", 25, 60),
            _one("shift", "day night", 0.3),
        ),
    ),
    Entity(
        "visit",
        "visits",
        (12, 16),
        (
            _ID,
            _ref("pet"),
            _ref("vet"),
            _number("minutes", 5, 60, 0.15),
            _amount("cost", 10, 90),
            _day("seen", 2022, 2023),
        ),
    ),
)
"""The domain of `style="short"`."""


def fill(domain: Domain, rng: Random) -> Rows:
    """Rows for the tables of a domain."""
    rows: Rows = {}
    for entity in domain.entities:
        count = rng.randint(*entity.rows)
        table: list[dict[str, Value]] = [{} for _ in range(count)]
        for field in entity.fields:
            for number, value in enumerate(_column(field, count, rows, rng)):
                gone = field.missing and rng.random() < field.missing
                table[number][field.name] = None if gone else value
        for row in table:
            if "boss_id" in row and row["boss_id"] is not None:
                # A boss has a smaller number, so that nobody is above oneself; the first has none.
                number = int(row["id"] or 0)
                row["boss_id"] = rng.randint(max(1, number - 6), number - 1) if number > 1 else None
        rows[entity.name] = table
    return rows


def _column(field: Field, count: int, rows: Rows, rng: Random) -> list[Any]:
    match field.kind:
        case "id":
            return list(range(1, count + 1))
        case "label":
            return _names(field.values, count, rng)
        case "category":
            return [rng.choice(field.values) for _ in range(count)]
        case "number":
            return [rng.randint(field.low, field.high) for _ in range(count)]
        case "amount":
            return [rng.randint(4 * field.low, 4 * field.high) / 4 for _ in range(count)]
        case "day":
            first = date(field.low, 1, 1)
            span = (date(field.high, 12, 31) - first).days
            return [(first + timedelta(days=rng.randint(0, span))).isoformat() for _ in range(count)]
        case "ref":
            others = rows.get(field.values[0])
            if others is None:
                return [1] * count  # to the table itself, see `fill`
            # Some rows are never referred to, so that outer joins and missing partners are asked for with reason.
            used = rng.sample(range(1, len(others) + 1), max(2, len(others) * 4 // 5))
            return [rng.choice(used) for _ in range(count)]


def _names(tails: tuple[str, ...], count: int, rng: Random) -> list[str]:
    heads, ends = (_HEADS, list(tails)) if tails else _PEOPLE
    pairs = [f"{head} {end}" for head in heads for end in ends]
    return rng.sample(pairs, count)


def tables_sql(domain: Domain) -> list[str]:
    """The CREATE TABLE statements of a domain, which SQLite and PostgreSQL both read."""
    statements = []
    for entity in domain.entities:
        lines = []
        for field in entity.fields:
            key = " PRIMARY KEY" if field.kind == "id" else ""
            refers = f" REFERENCES {field.values[0]}(id)" if field.kind == "ref" else ""
            needed = "" if field.missing or key else " NOT NULL"
            lines.append(f"{field.name} {field.type}{key}{refers}{needed}")
        statements.append(f"CREATE TABLE {entity.name} ({', '.join(lines)})")
    return statements
