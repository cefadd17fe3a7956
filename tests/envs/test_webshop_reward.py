"""WebShop's reward: the recorded cases of the original, sums by hand, and its oddities."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

import turnwise as tw
from turnwise.envs.errors import InvalidParameter
from turnwise.envs.webshop.cases import check_rewards
from turnwise.envs.webshop.nouns import NOT_NOUNS, light_nouns, tagger
from turnwise.envs.webshop.reward import UndefinedReward, normalize_color, reward, token_set_ratio

SHOE: dict[str, Any] = {
    "query": "sandals",
    "product_category": "Clothing › Women › Shoes",
    "Title": "Red Leather Sandals",
    "BulletPoints": ["Arch support for long days"],
    "Description": "",
    "Attributes": ["rubber sole"],
}
GOAL: dict[str, Any] = {
    "query": "sandals",
    "product_category": "Clothing › Women › Shoes",
    "attributes": ["rubber soles", "arch support", "open toe"],
    "goal_options": ["navy blue", "8"],
    "price_upper": 40.0,
}


def test_the_reward_agrees_with_every_recorded_case(real_data: Path) -> None:
    found = check_rewards(real_data / "webshop" / "reward_cases.json")
    assert found.compared > 600
    assert found.differences == []


def test_a_reward_by_hand() -> None:
    # Attributes: 'rubber soles' is like 'rubber sole', 'arch support' stands in a feature, 'open toe' is nowhere: 2 of 3.
    # Options: 'sky blue' and 'navy blue' are both blue, '8' was not chosen: 1 of 2. The price fits: 1 of 1. Sum 4 of 6.
    nouns = light_nouns("Red Leather Sandals")
    found = reward(SHOE, GOAL, 39.0, {"color": "sky blue"}, nouns, nouns)
    assert found.value == 4 / 6
    assert found.details == {
        "r_type": 1.0,
        "query_match": True,
        "category_match": True,
        "title_score": 1.0,
        "r_att": 2 / 3,
        "w_att": 3 / 6,
        "r_option": 1 / 2,
        "w_option": 2 / 6,
        "r_price": True,
        "w_price": 1 / 6,
    }


@pytest.mark.parametrize(
    ("bought", "wanted", "same_kind", "r_type"),
    [
        (["a"], ["a", "b"], False, 1.0),  # half of the nouns
        (["a"], list("abcde"), False, 0.5),  # a fifth is not above 0.2
        (["a"], list("abcdefghij"), False, 0.5),  # a tenth is not below 0.1
        (["a"], list("abcdefghijk"), False, 0.1),
        ([], ["a"], False, 0.0),
        ([], [], False, 0.5),  # no noun in the goal counts as 0.2
        (["a"], list("abcdefghijk"), True, 0.1),  # the title overrides a matching query
        ([], ["a"], True, 0.0),
    ],
)
def test_the_type_follows_the_title_score_even_against_the_query(
    bought: list[str], wanted: list[str], same_kind: bool, r_type: float
) -> None:
    other = {**SHOE, "query": "hats", "product_category": "Clothing › Men › Hats"}
    found = reward(SHOE if same_kind else other, GOAL, 1.0, {}, bought, wanted)
    assert found.details["r_type"] == r_type


def test_two_common_categories_make_the_same_type_and_one_does_not() -> None:
    two = {**SHOE, "query": "boots", "product_category": "Shoes › Clothing"}
    one = {**SHOE, "query": "boots", "product_category": "Clothing › Toys"}
    details = [reward(p, GOAL, 1.0, {}, ["a"], list("abcde")).details for p in (two, one)]
    assert [d["category_match"] for d in details] == [True, False]
    assert [d["r_type"] for d in details] == [1.0, 0.5]


def test_red_is_found_in_bored_and_a_pair_has_a_colour_only_where_it_is_one() -> None:
    assert normalize_color("bored panda") == "red"
    assert normalize_color("light pink") == "light"
    assert normalize_color(("color", "red")) == "red"
    assert normalize_color(("color", "dark red")) == ("color", "dark red")


def test_similarity_drops_latin_1_and_reads_a_pair_as_its_text() -> None:
    assert token_set_ratio("naïve", "nave") == 100
    assert token_set_ratio("red!", "RED") == 100
    assert token_set_ratio("small", ("size", "small")) == 100
    assert token_set_ratio("é", "é") == 0


@pytest.mark.parametrize(
    ("change", "kind"), [({"price_upper": 0}, TypeError), ({"attributes": []}, ZeroDivisionError)]
)
def test_a_goal_that_the_original_fails_on_is_refused_in_the_same_way(
    change: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(UndefinedReward) as caught:
        reward(SHOE, {**GOAL, **change}, 1.0, {}, ["a"], ["a"])
    assert isinstance(caught.value, kind)
    assert isinstance(caught.value, ValueError)


def test_the_light_tagger_gives_the_nouns_saved_in_the_cases(real_data: Path) -> None:
    cases = json.loads((real_data / "webshop" / "reward_cases.json").read_text())["cases"]
    titles = {case[side]["name"]: case[f"nouns_{side}"] for case in cases for side in ("purchased", "goal")}
    same = sum(list(light_nouns(title)) == nouns for title, nouns in titles.items())
    assert same >= len(titles) - 1
    assert not {noun for nouns in titles.values() for noun in nouns} & NOT_NOUNS


def test_a_tagger_that_is_not_there_is_named_with_what_to_install() -> None:
    assert tagger("light")[0] == "light"
    for name, said in (
        ("spacy:no_such_model", "no_such_model"),
        ("nltk", "'auto', 'light'"),
        ("spacy:", "unknown"),
    ):
        with pytest.raises(InvalidParameter, match=said):
            tagger(name)


@pytest.fixture
def spacy() -> Any:
    """spaCy, where it is installed; CI has it."""
    if importlib.util.find_spec("spacy") is None:
        why = "spacy is not installed; pip install 'turnwise[tagger]'"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return importlib.import_module("spacy")


def test_a_spacy_pipeline_tags_the_titles_of_a_shop(
    spacy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    ruler.add([[{"IS_ALPHA": True}]], {"POS": "NOUN"})
    ruler.add([[{"IS_TITLE": True}]], {"POS": "PROPN"})
    ruler.add([[{"LOWER": {"IN": ["red", "with"]}}]], {"POS": "ADJ"})
    nlp.to_disk(tmp_path / "model")
    name, nouns = tagger(f"spacy:{tmp_path / 'model'}")
    assert name == f"spacy:{tmp_path / 'model'}"
    assert nouns("Red Sofa with 2 Anna's cup-holders") == ("sofa", "anna", "cup", "holders")

    monkeypatch.setenv("TURNWISE_CACHE", str(tmp_path / "cache"))
    env = tw.make("WebShop-v1", products=20, tagger=name)
    result = env.rollout(tw.agents.ExpertAgent(), 3)
    assert [t.score for t in result.trajectories] == [1.0] * 3
    assert {t.env_kwargs["tagger"] for t in result.trajectories} == {name}


def test_the_light_tagger_cuts_words_where_spacy_does(spacy: Any, real_data: Path) -> None:
    cut = spacy.blank("en").tokenizer
    products = json.loads((real_data / "webshop" / "items_shuffle_1000.json").read_text())
    for title in {product["name"] for product in products}:
        words = (token.text.lower() for token in cut(title) if token.text.isalpha())
        assert list(light_nouns(title)) == [word for word in words if word not in NOT_NOUNS], title
