"""A visit to the shop: its pages, what can be clicked on them, and where a click leads.

The text of a page is what the original's `text` mode shows: the strings that stand in the page, joined by ` [SEP] `.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..pictures import Page
from .reward import Reward

if TYPE_CHECKING:
    from .shop import Shop

SEARCH = "search"
BACK = "back to search"
NEXT = "next >"
PREVIOUS = "< prev"
BUY = "buy now"
SUB_PAGES = ("Description", "Features", "Reviews", "Attributes")
_SUB_BY_NAME = {name.lower(): name for name in SUB_PAGES}
_SEPARATOR = " [SEP] "
_BUTTONS = {SEARCH, BACK, NEXT, PREVIOUS, BUY, *_SUB_BY_NAME}
_ASIN = re.compile(r"B0[A-Z0-9]{8}")
_ELEMENT = re.compile(r"\[\d+\] (?:link|button|field) (.*)")


@dataclass(slots=True)
class Session:
    """Where an agent stands in the shop; plain values, so that it can be copied.

    Attributes:
        instruction: what the agent was told.
        page: index, results, item, one of `SUB_PAGES`, or done.
        query: of the last search, None on the index page.
        found: the rows that it found, best first.
        number: of the results page, from 1.
        row: the product that is looked at.
        options: what was chosen of it, by option name.
        bought: the reward of the purchase.
    """

    instruction: str
    page: str = "index"
    query: str | None = None
    found: tuple[int, ...] = ()
    number: int = 1
    row: int | None = None
    options: dict[str, str] = field(default_factory=dict)
    bought: Reward | None = None

    def key(self) -> Hashable:
        """What makes the state: two sessions of a task with the same key have the same future."""
        drawn = self.found if self.query is not None and self.query.startswith("<r>") else ()
        return (self.page, self.query, drawn, self.number, self.row, tuple(sorted(self.options.items())))

    def search(self, query: str, found: Sequence[int]) -> None:
        """Show the first page of what a search found."""
        self.query, self.found = query, tuple(found)
        self._results(1)

    def _results(self, number: int) -> None:
        self.page, self.number, self.row, self.options = "results", number, None, {}

    def click(self, name: str, shop: Shop) -> bool:
        """Follow a click; False where there is nothing of this name to click, and nothing changes.

        Names of pages come before options, and of two options with the same value the last one is chosen, as in the
        original.
        """
        if name == SEARCH or name not in self.clickables(shop):
            return False
        if name == BUY:
            assert self.row is not None
            self.page = "done"
        elif name == BACK:
            self.page, self.query, self.found, self.number, self.row, self.options = (
                "index",
                None,
                (),
                1,
                None,
                {},
            )
        elif name == NEXT and self.page == "results":
            self._results(self.number + 1)
        elif name == PREVIOUS and self.page == "results":
            self._results(self.number - 1)
        elif name == PREVIOUS and self.page == "item":
            self._results(self.number)
        elif name == PREVIOUS:
            self.page = "item"
        elif name in _SUB_BY_NAME:
            self.page = _SUB_BY_NAME[name]
        elif self.page == "results":
            self.row = next(row for row in reversed(self.shown(shop)) if shop.card(row).asin.lower() == name)
            self.page = "item"
        else:
            assert self.row is not None
            options = shop.product(self.row)["options"]
            option = next(o for o in reversed(options) if name in options[o])
            self.options = {**self.options, option: name}
        return True

    def shown(self, shop: Shop) -> tuple[int, ...]:
        """The rows on the results page."""
        size = shop.page_size
        return self.found[(self.number - 1) * size : self.number * size]

    def clickables(self, shop: Shop) -> list[str]:
        """What can be clicked, as the original names it."""
        match self.page:
            case "index":
                return [SEARCH]
            case "done":
                return []
            case "results":
                before = [BACK, PREVIOUS, NEXT] if self.number > 1 else [BACK, NEXT]
                return list(dict.fromkeys([*before, *(shop.card(r).asin.lower() for r in self.shown(shop))]))
            case "item":
                assert self.row is not None
                return shop.item_clickables(self.row)
        return [BACK, PREVIOUS]

    def text(self, shop: Shop) -> str:
        """The page as text."""
        match self.page:
            case "index":
                return joined(["WebShop", "Instruction:", self.instruction, "Search"])
            case "done":
                assert self.row is not None and self.bought is not None
                return _done(shop.card(self.row).asin, self.options, self.bought.value)
        head = joined(["Instruction:", self.instruction, "Back to Search"])
        match self.page:
            case "results":
                previous = " [SEP] < Prev" if self.number > 1 else ""
                total = f"Page {self.number} (Total results: {len(self.found)})"
                head = f"{head} [SEP] {total}{previous} [SEP] Next >"
                return _SEPARATOR.join([head, *(shop.card_text(row) for row in self.shown(shop))])
            case "item":
                assert self.row is not None
                return f"{head} [SEP] < Prev [SEP] {shop.item_text(self.row)}"
        assert self.row is not None
        return joined([head, "< Prev", *sub_page(shop.product(self.row), self.page)])


def joined(strings: Sequence[str]) -> str:
    """The strings of a page as one text; what is empty is no string of the page."""
    return _SEPARATOR.join(filter(None, (string.strip() for string in strings)))


def sub_page(product: dict[str, Any], page: str) -> list[str]:
    """What stands on a sub page."""
    match page:
        case "Description":
            return [product["Description"]]
        case "Features":
            return list(product["BulletPoints"])
        case "Reviews":
            return [part for r in product["Reviews"] for part in (r["title"], str(r["score"]), r["body"])]
    return [*product["Attributes"], product["category"], product["query"], product["product_category"]]


def item_strings(product: dict[str, Any], attributes: bool) -> list[str]:
    """What stands on the page of a product."""
    options = [part for name, values in product["options"].items() for part in (name, *values)]
    pages = [page for page in SUB_PAGES if attributes or page != "Attributes"]
    facts = [product["Title"], f"Price: {product['Price']}", f"Rating: {product['Rating']}"]
    return [*options, *facts, *pages, "Buy Now"]


def item_clickables(product: dict[str, Any], attributes: bool) -> list[str]:
    """What can be clicked on the page of a product."""
    pages = [page.lower() for page in SUB_PAGES if attributes or page != "Attributes"]
    values = [value for values in product["options"].values() for value in values]
    return list(dict.fromkeys([BACK, PREVIOUS, *pages, BUY, *values]))


def options_json(options: dict[str, str]) -> str:
    """Options as the original's last page writes them: sorted, ASCII, with < > & ' escaped."""
    text = json.dumps(options, sort_keys=True)
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _done(asin: str, options: dict[str, str], value: float) -> str:
    unset = ("attrs", "category", "query", "product category")
    target = (
        "asin",
        "options",
        "attrs",
        "price upper",
        "instuction text",
        "category",
        "product category",
        "query",
    )
    return joined(
        [
            *("Thank you for shopping with us!", "Your code:", "None", "(Paste it in your MTurk interface.)"),
            *("Purchased", "asin", asin, "options", options_json(options)),
            *(part for name in unset for part in (name, "None")),
            *("Target", *target, "Goal", "None"),
            *("Reward", "Your score (min 0.0, max 1.0)", str(value), "Reward Details", "None"),
        ]
    )


def drawn(text: str) -> Page | None:
    """A page for the viewer, from what an observation says of it in either interface."""
    if text.startswith("Address: "):
        address, *lines = text.split("\n")
        found = ((_ELEMENT.match(line), line) for line in lines)
        return Page((("text", address), *(("button", e[1]) if e else ("text", line) for e, line in found)))
    strings = text.split(_SEPARATOR)
    if len(strings) < 3:
        return None
    price = next((n for n, string in enumerate(strings) if string.startswith("Price: ")), 0)
    back = next((n for n, string in enumerate(strings) if string.lower() == PREVIOUS), price)
    parts: list[tuple[Literal["heading", "text", "button"], str]] = []
    for n, string in enumerate(strings):
        if string.lower() in _BUTTONS or _ASIN.fullmatch(string) or back < n < price - 1:
            parts.append(("button", string))
        else:
            parts.append(("heading" if n == price - 1 or n == 2 else "text", string))
    return Page(tuple(parts))
