"""Catalogues made from a seed: any number of products, without a download.

A product follows from the seed and its row alone. Only `Random.random` and `price_bound` are drawn from, which give the
same in every version of Python that we support.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Literal, TypeVar

import numpy as np

from ..cache import content_key, made_once
from ..lines import lines_writer
from . import words
from .catalogue import Catalogue, Product, write_products
from .goals import NO_BOUND, price_bound

Detail = Literal["full", "short"]
GOALS_PER_PRODUCT = 4
MOST_PRODUCTS_WITH_GOALS = 12_500
_VERSION = 2
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
T = TypeVar("T")


def generate(products: int, *, detail: Detail, seed: int) -> Catalogue:
    """A catalogue from a seed, made once and kept in the cache.

    Four goals are made of each product, of 12,500 products at most; a product's goals lie in one split.

    Args:
        products: how many, at least 3.
        detail: `full` for pages as long as a real shop's, `short` for pages of a few words.
        seed: everything follows from it.
    """
    key = content_key("generated", _VERSION, Path(words.__file__), Path(__file__), products, detail, seed)
    return Catalogue(made_once("webshop", key, lambda folder: _write(folder, products, detail, seed)))


def _write(folder: Path, count: int, detail: Detail, seed: int) -> None:
    write_products(folder, (_product(row, detail, seed) for row in range(count)))
    rows = list(range(count))
    Random(f"order {seed}").shuffle(rows)
    with lines_writer(folder / "goals") as write:
        for row in rows[:MOST_PRODUCTS_WITH_GOALS]:
            product, price = _product(row, detail, seed)
            for goal in _goals(product, price, detail, Random(f"goals {seed} {row}")):
                write(json.dumps({"row": row, **goal}))
    goals = GOALS_PER_PRODUCT * min(count, MOST_PRODUCTS_WITH_GOALS)
    np.save(folder / "order.npy", np.arange(goals, dtype=np.int64))


def _pick(rng: Random, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]


def _some(rng: Random, choices: Sequence[T], least: int, most: int) -> list[T]:
    """Between `least` and `most` different ones, in random order."""
    left = list(choices)
    number = least + int(rng.random() * (most - least + 1))
    return [left.pop(int(rng.random() * len(left))) for _ in range(min(number, len(left)))]


def _product(row: int, detail: Detail, seed: int) -> tuple[Product, float]:
    rng = Random(f"product {seed} {row}")
    return _short(row, rng) if detail == "short" else _full(row, rng)


def _full(row: int, rng: Random) -> tuple[Product, float]:
    category = _pick(rng, words.CATEGORIES)
    query, kind = _pick(rng, category.kinds)
    brand = _pick(rng, words.BRANDS)
    series = f"{_pick(rng, words.SERIES)} {_pick(rng, _DIGITS[10:])}{int(rng.random() * 900) + 100}"
    attributes = _some(rng, category.attributes, 3, 5)
    options = {
        words.LABELS.get(name, name): sorted(
            _some(rng, words.OPTIONS[name], 2, 8), key=words.OPTIONS[name].index
        )
        for name in category.options
        if rng.random() < 0.85
    }
    low, high = category.price
    price = low * (high / low) ** rng.random()
    pricing = [round(price, 2)]
    if rng.random() < 0.3:
        pricing.append(round(price * (1.1 + 0.6 * rng.random()), 2))
    drawn = pricing[0] + (pricing[-1] - pricing[0]) * rng.random()

    def filled(text: str) -> str:
        attribute = _pick(rng, attributes)
        choice = _pick(rng, _pick(rng, list(options.values()))) if options else "box"
        return text.format(
            brand=brand,
            kind=kind,
            attribute=attribute,
            Attribute=attribute.capitalize(),
            occasion=_pick(rng, words.OCCASIONS),
            option=choice,
        )

    title = f"{brand} {series} {kind}, {attributes[0].title()}"
    if rng.random() < 0.5:
        title += f", {attributes[1].title()}"
    if rng.random() < 0.4:
        title += f" for {_pick(rng, words.OCCASIONS).title()}"
    features = [
        text.format(
            attribute=attribute, Attribute=attribute.capitalize(), occasion=_pick(rng, words.OCCASIONS)
        )
        for attribute in attributes
        for text in [_pick(rng, words.FEATURES)]
    ]
    reviews = [
        {"title": head, "score": score, "body": filled(body)}
        for score, head, body in _some(rng, words.REVIEWS, 0, 4)
    ]
    rating = f"{sum(int(str(r['score'])) for r in reviews) / len(reviews):.1f}" if reviews else "N.A."
    product: Product = {
        "asin": _asin(row),
        "Title": title,
        "query": query,
        "category": category.name,
        "product_category": f"{category.path} › {query.title()}",
        "Attributes": attributes,
        "BulletPoints": features,
        "Description": " ".join(filled(text) for text in _some(rng, words.SENTENCES, 2, 4)),
        "options": options,
        "Price": " to ".join(f"${amount}" for amount in pricing),
        "Rating": rating,
        "Reviews": reviews,
    }
    return product, drawn


def _short(row: int, rng: Random) -> tuple[Product, float]:
    # Rows go through all pairs of kind and attribute before one comes again. A comma keeps the two words of a title apart, so
    # that a tokenizer which joins words in a row into one token writes titles that it has never seen; behind its mark a
    # product's number is the same tokens on the page and in a click.
    kinds, attributes = words.SHORT_KINDS, words.SHORT_ATTRIBUTES
    kind = kinds[row % len(kinds)]
    attribute = attributes[row // len(kinds) % len(attributes)]
    price = float(1 + int(rng.random() * 9))
    colors = sorted(_some(rng, words.SHORT_COLORS, 2, 3), key=words.SHORT_COLORS.index)
    product: Product = {
        "asin": f"#{words.SHORT_CODES[row % len(words.SHORT_CODES)]}{row // len(words.SHORT_CODES)}",
        "Title": f"{kind}, {attribute}",
        "query": kind,
        "category": "shop",
        "product_category": f"shop › {kind}",
        "Attributes": [attribute],
        "BulletPoints": [attribute],
        "Description": f"a {kind}",
        "options": {"color": colors},
        "Price": f"${price:.0f}",
        "Rating": "N.A.",
        "Reviews": [],
    }
    return product, price


def _asin(row: int) -> str:
    """Ten characters as on a real shop, different for every row below 36 ** 8."""
    number = (row * 2_654_435_761 + 1_234_567_891) % 36**8  # the factor has no divisor in common with 36
    digits = ""
    for _ in range(8):
        number, digit = divmod(number, 36)
        digits += _DIGITS[digit]
    return f"B0{digits}"


def _goals(product: Product, price: float, detail: Detail, rng: Random) -> Iterator[dict[str, object]]:
    for _ in range(GOALS_PER_PRODUCT):
        if detail == "short":
            attributes, bound = product["Attributes"], NO_BOUND
            options = {name: _pick(rng, values) for name, values in product["options"].items()}
            instruction = f"{product['Title']}, {options['color']}"
        else:
            bound, bound_text = price_bound(price, rng)
            attributes = _some(rng, product["Attributes"], 1, 3)
            options = {
                name: _pick(rng, values) for name, values in product["options"].items() if rng.random() < 0.75
            }
            instruction = _instruction(product["query"], attributes, options, rng) + bound_text
        yield {
            "instruction": instruction,
            "attributes": attributes,
            "options": list(options.values()),
            "price_upper": bound,
        }


def _instruction(query: str, attributes: list[str], options: dict[str, str], rng: Random) -> str:
    phrases = [
        _pick(rng, words.OPTION_PHRASES.get(name, words.OTHER_OPTION_PHRASES)).format(value)
        for name, value in options.items()
    ]
    *first, last = attributes
    return _pick(rng, words.INSTRUCTIONS).format(
        query=query,
        attributes=f"{', '.join(first)} and {last}" if first else last,
        options=f" {' '.join(phrases)}" if phrases else "",
        occasion=_pick(rng, words.OCCASIONS),
    )
