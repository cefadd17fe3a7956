"""WebShop against a second writing of the original's rules: its server as plain Python, and its reward as plain loops.

The rules are those of princeton-nlp/WebShop at 64fa2a5. The catalogues are odd on purpose: options that share values with
each other or with buttons, empty descriptions, prices in ranges, markup, text of many scripts. Both sides see the same random
actions; the order of results is not compared, since the original leaves that to Lucene.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

import turnwise as tw
from turnwise.envs.webshop.reward import COLORS, UndefinedReward, normalize_color, reward, token_set_ratio
from turnwise.envs.webshop.webshop import WebShop

WORDS = [
    *("Red", "navy blue", "leather", "Sofa", "Women's", "café", "naïve", "Größe", "沙发", "Ёлка", "x-large", "12 oz."),
    *("boards", "board", "light", "dark", "12-pack", "5/8", "a & b", "<b>bold</b>", '14"', "it's", "no\u00a0break", "🙂", "_x_"),
]  # fmt: skip
BUTTONS = ["description", "features", "Buy Now", "< Prev", "Next >", "Back to Search", "search", "attributes"]


# The reward, in plain loops.


def ratio(a: str, b: str) -> float:
    """Twice the longest common subsequence over the lengths, in [0, 100]."""
    row = [0] * (len(b) + 1)
    for x in a:
        above = row[:]
        for j, y in enumerate(b):
            row[j + 1] = above[j] + 1 if x == y else max(above[j + 1], row[j])
    return 200 * row[-1] / (len(a) + len(b)) if a or b else 100.0


def plain_token_set_ratio(a: object, b: object) -> int:
    sides = []
    for text in (str(a), str(b)):
        kept = "".join(c for c in text if not 128 <= ord(c) < 256)
        sides.append(set(re.sub(r"[\W_]", " ", kept).lower().split()))
    one, other = sides
    if not one or not other:
        return 0
    shared = " ".join(sorted(one & other))
    longer = [" ".join([*([shared] if shared else []), *sorted(s - (one & other))]) for s in (one, other)]
    pairs = [(shared, longer[0]), (shared, longer[1])] if shared else []
    return round(max(ratio(x, y) for x, y in [*pairs, (longer[0], longer[1])]))


def plain_reward(
    bought: Mapping[str, Any],
    goal: Mapping[str, Any],
    price: float,
    options: Mapping[str, str],
    nouns: Sequence[Sequence[str]],
) -> float:
    title = len({*nouns[0]} & {*nouns[1]}) / len(nouns[1]) if nouns[1] else 0.2
    common = {c.strip() for c in bought["product_category"].split("›")} & {
        c.strip() for c in goal["product_category"].split("›")
    }
    kind = 1.0 if bought["query"] == goal["query"] or len(common) >= 2 or title > 0.2 else 0.5
    kind = 0.0 if title == 0 else 0.1 if title < 0.1 else kind
    points = 0
    for wanted in goal["attributes"]:
        like = any(plain_token_set_ratio(own, wanted) > 85 for own in bought["Attributes"])
        texts = bought["Title"], " ".join(bought["BulletPoints"]), bought["Description"]
        points += like or any(wanted in text.lower() for text in texts)
    wishes = goal["goal_options"]
    wishes = list(wishes.items()) if isinstance(wishes, dict) else wishes
    for wish in wishes:
        for chosen in options.values():
            first = [next((c for c in COLORS if c in said), said) for said in (chosen, wish)]
            if plain_token_set_ratio(*first) > 85:
                points += 1
                break
    points += price <= goal["price_upper"]
    return points / (len(goal["attributes"]) + len(wishes) + 1) * kind


# The server and its pages, as the original keeps them: a session in a dictionary, pages told apart by the address.


class PlainShop:
    """One session of the original's text environment over the products of `env`."""

    def __init__(self, env: WebShop) -> None:
        self.env = env
        self.goal = env.goal.as_original(env.shop.catalogue)
        rows = range(len(env.shop.catalogue))
        self.products = {env.shop.card(row).asin: env.shop.product(row) for row in rows}
        self.prices = {env.shop.card(row).asin: env.shop.catalogue.price(row) for row in rows}
        self.home()

    def home(self) -> None:
        self.address, self.keywords, self.page, self.asin = "index", "", 0, ""
        self.options: dict[str, str] = {}
        self.texts = ["WebShop", "Instruction:", self.goal["instruction_text"], "Search"]
        self.buttons, self.links, self.radios = ["Search"], [], []

    def results(self, keywords: str, page: int) -> None:
        self.address, self.keywords, self.page, self.asin, self.options = "results", keywords, page, "", {}
        found = [self.env.shop.card(row).asin for row in self.env.shop.search(keywords)]
        shown = found[(page - 1) * 10 : page * 10]
        self.buttons = ["Back to Search", *(["< Prev"] if page > 1 else []), "Next >"]
        self.links, self.radios = shown, []
        head = ["Back to Search", f"Page {page} (Total results: {len(found)})", *self.buttons[1:]]
        cards = [part for a in shown for part in (a, self.products[a]["Title"], self.products[a]["Price"])]
        self.texts = ["Instruction:", self.goal["instruction_text"], *head, *cards]

    def item(self) -> None:
        self.address, p = "item", self.products[self.asin]
        pages = ["Description", "Features", "Reviews", *(["Attributes"] if self.env.show_attrs else [])]
        self.buttons, self.links = ["Back to Search", "< Prev", *pages, "Buy Now"], []
        self.radios = [(name, value) for name, values in p["options"].items() for value in values]
        choices = [part for name, values in p["options"].items() for part in (name, *values)]
        facts = [p["Title"], f"Price: {p['Price']}", "Rating: N.A."]
        head = ["Instruction:", self.goal["instruction_text"], "Back to Search", "< Prev"]
        self.texts = [*head, *choices, *facts, *pages, "Buy Now"]

    def sub_page(self, name: str) -> None:
        self.address, p = "sub", self.products[self.asin]
        own = {
            "description": [p["Description"]],
            "features": p["BulletPoints"],
            "reviews": [],
            "attributes": [*p["Attributes"], p["category"], p["query"], p["product_category"]],
        }[name]
        self.buttons, self.links, self.radios = ["Back to Search", "< Prev"], [], []
        head = ["Instruction:", self.goal["instruction_text"], "Back to Search", "< Prev"]
        self.texts = [*head, *own]

    def buy(self) -> float:
        p = self.products[self.asin]
        nouns = [self.env.shop.nouns(p["Title"]), self.env.shop.nouns(self.goal["name"])]
        value = plain_reward(p, self.goal, self.prices[self.asin], self.options, nouns)
        said = json.dumps(self.options, sort_keys=True)
        for character, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("'", "\\u0027")):
            said = said.replace(character, code)
        self.address, self.buttons, self.links, self.radios = "done", [], [], []
        unknown = [part for n in ("attrs", "category", "query", "product category") for part in (n, "None")]
        aims = (
            "asin",
            "options",
            "attrs",
            "price upper",
            "instuction text",
            "category",
            "product category",
            "query",
        )
        self.texts = [
            *("Thank you for shopping with us!", "Your code:", "None", "(Paste it in your MTurk interface.)"),
            *("Purchased", "asin", self.asin, "options", said, *unknown, "Target", *aims, "Goal", "None"),
            *("Reward", "Your score (min 0.0, max 1.0)", str(value), "Reward Details", "None"),
        ]  # fmt: skip
        return value

    @property
    def clickables(self) -> list[str]:
        names = [text.lower() for text in [*self.buttons, *self.links]] + [value for _, value in self.radios]
        return list(dict.fromkeys(names))

    @property
    def text(self) -> str:
        return " [SEP] ".join(t.strip() for t in self.texts if t.strip())

    def step(self, action: str) -> float | None:
        """The reward of a purchase, None for everything else."""
        match = re.match(r"(.+)\[(.+)\]", action)
        if match is None:
            return None
        name, argument = match[1], match[2].lower()
        if name == "search":
            self.results(argument, 1)
        elif name == "click" and argument in self.clickables and argument != "search":
            return self.click(argument)
        return None

    def click(self, name: str) -> float | None:
        if name == "buy now":
            return self.buy()
        if name == "back to search":
            self.home()
        elif name in ("next >", "< prev") and self.address == "results":
            self.results(self.keywords, self.page + (1 if name == "next >" else -1))
        elif name == "< prev" and self.address == "sub":
            self.item()
        elif name == "< prev" and self.address == "item":
            self.results(self.keywords, self.page)
        elif name in ("description", "features", "reviews", "attributes"):
            self.sub_page(name)
        else:
            chosen = [option for option, value in self.radios if value == name]
            if chosen:
                self.options[chosen[-1]] = name
            else:
                self.asin = next(a for a in self.links if a.lower() == name)
            self.item()
        return None


# The fuzzing.


def _text(rng: Random, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def _write_files(folder: Path, rng: Random) -> None:
    """Twenty-five odd products in the original's three files."""
    products, attributes, human = [], {}, {}
    for number in range(25):
        asin = f"B{number:03d}"
        values = rng.sample([*WORDS, *BUTTONS, " /edge/ ", "A/B"], k=rng.randint(1, 6))
        options = {
            name: rng.choice([None, [{"value": v} for v in [*values, *rng.choices(values, k=2)]]])
            for name in rng.sample(
                ["Color", "color", "Size", "fit <type>", "flavor name"], k=rng.randint(0, 4)
            )
        }
        products.append(
            {
                "asin": asin,
                "name": _text(rng, 8),
                "full_description": rng.choice(["", _text(rng, 20), f"\n {_text(rng, 3)} \n {_text(rng, 3)} "]),
                "pricing": rng.choice(["", "$5", "$1,299.50", "$10 - $20.5", "$999.99", "$ 3 to $ 4 to $ 5", "$979"]),
                "small_description": rng.choice([[_text(rng, 9), f" {_text(rng, 2)} "], _text(rng, 4)]),
                "customization_options": rng.choice([options, options, None]),
                "product_category": " › ".join(rng.choices(["Home", "Sofas", " Beauty ", "Toys"], k=rng.randint(1, 4))),
                "category": "garden",
                "query": rng.choice([" Sofas ", "sofas", "toys"]),
            }
        )  # fmt: skip
        if rng.random() < 0.8:
            attributes[asin] = {
                "attributes": [_text(rng, 2).lower() for _ in range(rng.randint(0, 3))],
                "instruction": f"find {_text(rng, 3)}",
                "instruction_attributes": [_text(rng, 2).lower()],
            }
        human[asin] = [
            {
                "instruction": rng.choice([f"i want {_text(rng, 5)}.", "."]),
                "instruction_attributes": [_text(rng, 1).lower() for _ in range(rng.randint(0, 3))],
                "instruction_options": rng.choices(values, k=rng.randint(0, 2)),
            }
            for _ in range(rng.randint(0, 3))
        ]
    for name, content in (
        ("items_shuffle", products),
        ("items_ins_v2", attributes),
        ("items_human_ins", human),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))


def _actions(env: WebShop, rng: Random) -> Iterator[str]:
    """Mostly what can be done, in odd spellings, and some of what cannot."""
    while True:
        clickables = env.session.clickables(env.shop)
        named = rng.choice(clickables) if clickables else ""
        yield rng.choice(
            [
                *[f"click[{rng.choice([named, named.upper(), named.title()])}]"] * 6,
                f"search[{_text(rng, 3)}]",
                f"search[{rng.choice(WORDS)} ]",
                f"search[{env.shop.card(env.goal.row).title}]",
                *["click[Buy Now]"] * 3,
                f"click[ {named}]",
                f"think[click[{named}]]",
                f"click[{rng.choice(BUTTONS)}]",
                f"click[{rng.choice(WORDS)}]",
                *(
                    "search[]",
                    "search",
                    f"click[{named}",
                    "search[a]\nclick[b]",
                    "click[search]",
                    " search[red]",
                ),
            ]
        )


@pytest.mark.parametrize("seed", range(6))
def test_odd_catalogues_give_the_pages_actions_and_rewards_of_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv("TURNWISE_CACHE", str(tmp_path / "cache"))
    rng = Random(seed)
    _write_files(tmp_path, rng)
    env = tw.make(
        "WebShop-v1",
        data=str(tmp_path),
        goals="human" if seed % 2 else "synthetic",
        show_attrs=seed % 3 == 0,
        strict="original",
        format="bracket",
        tagger="light",
        max_turns=10**6,
    )
    assert isinstance(env, WebShop)
    scores = []
    for episode in range(12):
        observation, _ = env.reset(seed=episode)
        plain, over = PlainShop(env), False
        assert observation == plain.text
        for _, action in zip(range(60), _actions(env, rng), strict=False):
            expected = plain.step(action)
            observation, _, over, _, info = env.step(action)
            assert (observation, info["available_actions"]["clickables"]) == (plain.text, plain.clickables), (
                action
            )
            assert info["available_actions"]["has_search_bar"] == (plain.address == "index")
            assert info.get("score") == expected, (action, info)
            if over:
                scores.append(expected)
                break
    assert len(scores) >= 5


def test_the_reward_is_that_of_plain_loops() -> None:
    rng = Random(0)
    kinds, values = set(), set()
    for _ in range(400):
        texts = [_text(rng, rng.choice([1, 2, 6])) for _ in range(12)]
        bought = {
            "query": rng.choice(["sofas", "toys"]),
            "product_category": " › ".join(rng.choices(["Home", " Sofas", "Toys ", "Art"], k=3)),
            "Title": texts[0],
            "BulletPoints": texts[1:3],
            "Description": rng.choice(["", texts[3]]),
            "Attributes": texts[4:6],
        }
        wishes: Any = rng.sample(texts[6:8] + WORDS, k=rng.randint(0, 3))
        goal = {
            "query": rng.choice(["sofas", "toys"]),
            "product_category": " › ".join(rng.choices(["Home", "Sofas", "Toys", "Art"], k=2)),
            "attributes": rng.sample([*texts[4:6], texts[8].lower(), *(w.lower() for w in WORDS)], k=rng.randint(1, 3)),
            "goal_options": {f"o{i}": w for i, w in enumerate(wishes)} if rng.random() < 0.3 else wishes,
            "price_upper": rng.choice([10.0, 20.0, 1_000_000]),
        }  # fmt: skip
        options = {f"o{i}": rng.choice([texts[6], w.lower(), *wishes]) for i, w in enumerate(WORDS[:3])}
        nouns = [rng.choices("abcdefghijklmnop", k=rng.randint(0, n)) for n in (16, 14)]
        found = reward(bought, goal, rng.choice([9.99, 10.0, 15.0]), options, *nouns)
        price = 1.0 if found.details["r_price"] else 10**7
        assert found.value == plain_reward(bought, goal, price, options, nouns)
        kinds.add(found.details["r_type"])
        values.add(found.value)
    assert kinds == {0.0, 0.1, 0.5, 1.0}
    assert len(values) > 20


def test_similarity_is_that_of_plain_sets_and_common_subsequences() -> None:
    rng = Random(1)
    for _ in range(1500):
        a = _text(rng, 4)
        b = rng.choice([_text(rng, 4), a.upper(), f"{a}s", a[1:], " ".join(reversed(a.split()))])
        assert token_set_ratio(a, b) == plain_token_set_ratio(a, b), (a, b)
        assert normalize_color(a) == next((c for c in COLORS if c in a), a)
    assert token_set_ratio("", "") == plain_token_set_ratio("", "") == 0


def test_a_goal_that_has_no_reward_is_refused() -> None:
    for goal in ({"attributes": [], "price_upper": 1.0}, {"attributes": ["a"], "price_upper": -1.0}):
        with pytest.raises(UndefinedReward):
            reward({}, {"goal_options": [], **goal}, 1.0, {}, [], [])
