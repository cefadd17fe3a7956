"""The original files: `items_shuffle.json`, `items_ins_v2.json`, `items_human_ins.json`, in their own form.

Read as `load_products` and `get_goals` of princeton-nlp/WebShop do, one product at a time, with two differences: prices
and price bounds are drawn from a generator of their own, so that they are the same in every process (with seed s they
are what the original draws after `random.seed(s)`), and a file that is missing or malformed is named with its record
and its field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from ..cache import content_key, made_once
from ..errors import UsageError
from ..lines import lines_writer
from .catalogue import Catalogue, Product, write_products
from .goals import combinations, price_bound

PRODUCTS = "items_shuffle.json"
ATTRIBUTES = "items_ins_v2.json"
HUMAN = "items_human_ins.json"
SHUFFLE_SEED = 233
_VERSION = 1
_CHUNK = 1 << 22
_BETWEEN = re.compile(r"[\ufeff\s,]*")


class DataError(UsageError):
    """Raised where a data file is missing or malformed; names the file, the record and the field."""


def load_original(data: Path, *, human_goals: bool, num_products: int | None, seed: int) -> Catalogue:
    """The catalogue and the goals of the original's files.

    Args:
        data: a folder that holds the three files, also with `_1000` and the like before `.json`; or the path of the
            products' file, beside which the others lie.
        human_goals: goals from what people wrote, else synthetic ones: every combination of a product's options.
        num_products: take so many products from the beginning; None for all.
        seed: prices of products with a range, and price bounds.

    Raises:
        DataError: a file is missing or malformed.
    """
    files = _files(data)
    key = content_key(_VERSION, *files, human_goals, num_products or 0, seed)
    return Catalogue(
        made_once("webshop", key, lambda folder: _write(folder, files, human_goals, num_products, seed))
    )


def _files(data: Path) -> tuple[Path, Path, Path]:
    folder = data if data.is_dir() else data.parent
    found = []
    for name in (PRODUCTS, ATTRIBUTES, HUMAN):
        stem = name.removesuffix(".json")
        if name == PRODUCTS and data.is_file():
            found.append(data)
            continue
        near = [folder / name, *sorted(folder.glob(f"{stem}_[0-9]*.json"))]
        file = next((path for path in near if path.is_file()), None)
        if file is None:
            raise DataError(
                f"{folder / name}: there is no such file; WebShop's data are {PRODUCTS}, {ATTRIBUTES} and {HUMAN}"
            )
        found.append(file)
    return found[0], found[1], found[2]


def _write(
    folder: Path, files: tuple[Path, Path, Path], human: bool, num_products: int | None, seed: int
) -> None:
    attributes, instructions = _mapping(files[1]), _mapping(files[2])
    rng = Random(seed)
    prices: dict[str, float] = {}
    products: list[tuple[str, int]] = []

    def read() -> Iterator[tuple[Product, float]]:
        for number, record in enumerate(_array(files[0])):
            if num_products is not None and number >= num_products:
                break
            where = f"{files[0]}: record {number}"
            asin = _field(record, "asin", str, where)
            if asin == "nan" or len(asin) > 10 or asin in prices:
                continue
            product, pricing = _product(record, attributes, files[1], where)
            price = rng.uniform(*pricing) if len(pricing) == 2 else pricing[0]
            prices[asin] = price
            products.append((asin, combinations(product["options"])))
            yield product, price

    write_products(folder, read())
    goals, firsts = 0, []
    with lines_writer(folder / "goals") as write:
        for row, (asin, count) in enumerate(products):
            if human:
                for wanted, instruction, options in _human(instructions.get(asin, []), asin, files[2]):
                    bound, text = price_bound(prices[asin], rng)
                    write(json.dumps(_base(row, instruction.strip(".") + text, wanted, options, bound)))
                    goals += 1
            else:
                base = _synthetic(attributes.get(asin), asin, files[1])
                if base is None:
                    continue
                bound, text = price_bound(prices[asin], rng)
                write(json.dumps({**_base(row, base[0], base[1], None, bound), "price_text": text}))
                firsts.append(goals)
                goals += count
    if goals < 3:
        raise DataError(
            f"{files[2] if human else files[1]}: only {goals} goals for the {len(products)} products; 3 are needed"
        )
    order = list(range(goals))
    Random(SHUFFLE_SEED).shuffle(order)
    np.save(folder / "order.npy", np.array(order, np.int64))
    if not human:
        np.save(folder / "firsts.npy", np.array(firsts, np.int64))


def _base(
    row: int, instruction: str, attributes: list[str], options: list[str] | None, bound: float
) -> dict[str, Any]:
    return {
        "row": row,
        "instruction": instruction,
        "attributes": attributes,
        "options": options,
        "price_upper": bound,
    }


def _product(record: Any, attributes: dict[str, Any], file: Path, where: str) -> tuple[Product, list[float]]:
    asin = record["asin"]
    features = record.get("small_description")
    features = features if isinstance(features, list) else [features]
    if not all(isinstance(feature, str) for feature in features):
        raise DataError(
            f"{where}: field 'small_description' must be a text or a list of texts, got {features!r:.80}"
        )
    pricing, tag = _pricing(record.get("pricing"), where)
    own = attributes.get(asin, {})
    known = own.get("attributes", ["DUMMY_ATTR"]) if isinstance(own, dict) else None
    if not isinstance(known, list) or not all(isinstance(a, str) for a in known):
        raise DataError(
            f"{file}: record {asin!r}: field 'attributes' must be a list of texts, got {known!r:.80}"
        )
    product = {
        "asin": asin,
        "Title": _field(record, "name", str, where),
        "query": _field(record, "query", str, where).lower().strip(),
        "category": _field(record, "category", str, where),
        "product_category": _field(record, "product_category", str, where),
        "Attributes": known,
        "BulletPoints": features,
        "Description": _field(record, "full_description", str, where),
        "options": _options(record.get("customization_options"), where),
        "Price": tag,
        "Rating": "N.A.",
        "Reviews": [],
    }
    return product, pricing


def _pricing(text: Any, where: str) -> tuple[list[float], str]:
    """One or two numbers, and the text that the pages show."""
    if not text:
        return [100.0], "$100.0"
    try:
        found = [float(Decimal(re.sub(r"[^\d.]", "", part))) for part in text.split("$")[1:]]
    except (AttributeError, InvalidOperation):
        found = []
    if not found:
        raise DataError(f"{where}: field 'pricing' must hold an amount after a $, got {text!r:.80}")
    if len(found) == 1:
        return found, f"${found[0]}"
    return found[:2], f"${found[0]} to ${found[1]}"


def _options(found: Any, where: str) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    if not found:
        return options
    try:
        for name, contents in found.items():
            if contents is not None:
                options[name.lower()] = [c["value"].strip().replace("/", " | ").lower() for c in contents]
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"{where}: field 'customization_options' must map names to lists of objects with a text 'value', got "
            f"{found!r:.80}"
        ) from error
    return options


def _human(found: Any, asin: str, file: Path) -> Iterator[tuple[list[str], str, list[str]]]:
    if not isinstance(found, list):
        raise DataError(f"{file}: record {asin!r} must be a list of instructions, got {found!r:.80}")
    for number, entry in enumerate(found):
        where = f"{file}: record {asin!r}, instruction {number}"
        wanted = _field(entry, "instruction_attributes", list, where)
        if wanted:
            yield (
                wanted,
                _field(entry, "instruction", str, where),
                _field(entry, "instruction_options", list, where),
            )


def _synthetic(found: Any, asin: str, file: Path) -> tuple[str, list[str]] | None:
    if not isinstance(found, dict) or found.get("instruction") is None:
        return None
    where = f"{file}: record {asin!r}"
    wanted = _field(found, "instruction_attributes", list, where)
    if not wanted:
        raise DataError(f"{where}: field 'instruction_attributes' is empty, and a goal needs an attribute")
    return _field(found, "instruction", str, where), wanted


def _field(record: Any, name: str, kind: type, where: str) -> Any:
    if not isinstance(record, dict):
        raise DataError(f"{where} must be an object, got {record!r:.80}")
    if name not in record:
        raise DataError(f"{where}: field {name!r} is missing")
    if not isinstance(record[name], kind):
        raise DataError(f"{where}: field {name!r} must be a {kind.__name__}, got {record[name]!r:.80}")
    return record[name]


def _mapping(file: Path) -> dict[str, Any]:
    try:
        with file.open(encoding="utf-8") as stream:
            found = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} must hold an object by ASIN, got a {type(found).__name__}")
    return found


def _array(file: Path) -> Iterator[Any]:
    """The values of a JSON array, one by one: the original file is larger than many machines' memory."""
    decode = json.JSONDecoder().raw_decode
    number = 0
    with file.open(encoding="utf-8") as stream:
        text = stream.read(_CHUNK)
        at = _BETWEEN.match(text).end()  # type: ignore[union-attr]
        if text[at : at + 1] != "[":
            raise DataError(f"{file} must hold a JSON array of products, it begins with {text[:20]!r}")
        at += 1
        while True:
            at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
            if text[at : at + 1] == "]":
                return
            try:
                value, at = decode(text, at)
            except (ValueError, RecursionError) as error:
                text = text[at:]
                more = stream.read(max(_CHUNK, len(text)))
                if not more:
                    raise DataError(f"{file}: record {number} is not JSON: {error}") from error
                text, at = text + more, 0
                continue
            yield value
            number += 1
