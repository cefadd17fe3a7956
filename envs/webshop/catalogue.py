"""A catalogue on disk: products that are read one at a time from files, which all processes share.

A folder holds the `lines` of `records` (a JSON object per product), `cards` (what a results page shows of it) and `goals`
(what instructions are made from); `prices.npy`; `order.npy`, the goals' order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..lines import Lines, lines_writer

Product = dict[str, Any]
"""A product, with the original's keys: `asin`, `Title`, `query`, `category`, `product_category`, `Attributes`,
`BulletPoints`, `Description`, `options` (values by name), `Price` (the text), `Rating` and `Reviews`."""


class Card(NamedTuple):
    """What a results page shows of a product."""

    asin: str
    title: str
    price: str


class Catalogue:
    """A catalogue that lies in a folder.

    Attributes:
        folder: where.
        prices: in dollars, by row.
        goals: what the goals are made from, JSON.
        order: the goals' order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = Lines(folder / "records")
        self._cards = Lines(folder / "cards")
        self.goals = Lines(folder / "goals")
        self.prices = np.load(folder / "prices.npy", mmap_mode="r")
        self.order = np.load(folder / "order.npy", mmap_mode="r")
        self.product = lru_cache(maxsize=256)(self._product)
        self.card = lru_cache(maxsize=1024)(self._card)

    def __len__(self) -> int:
        return len(self._records)

    def __reduce__(self) -> tuple[type[Catalogue], tuple[Path]]:
        return Catalogue, (self.folder,)

    def __deepcopy__(self, memo: dict[int, object]) -> Catalogue:
        return self

    def _product(self, row: int) -> Product:
        product: Product = json.loads(self._records[row])
        return product

    def _card(self, row: int) -> Card:
        return Card(*self._cards[row].split("\x1f"))

    def price(self, row: int) -> float:
        """The price in dollars that the reward compares with the bound."""
        return float(self.prices[row])

    def documents(self) -> Iterable[str]:
        """What the search reads of each product: title, description, first feature, options (as the original's index)."""
        for row in range(len(self)):
            p = self._product(row)
            options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in p["options"].items())
            yield " ".join([p["Title"], p["Description"], *p["BulletPoints"][:1], options]).lower()


def write_products(folder: Path, products: Iterable[tuple[Product, float]]) -> None:
    """Write products and their prices, one by one."""
    prices = []
    with lines_writer(folder / "records") as record, lines_writer(folder / "cards") as card:
        for product, price in products:
            record(json.dumps(product, ensure_ascii=False))
            shown = Card(product["asin"], product["Title"], product["Price"])
            card("\x1f".join(part.replace("\x1f", " ") for part in shown))
            prices.append(price)
    np.save(folder / "prices.npy", np.array(prices, np.float64))
