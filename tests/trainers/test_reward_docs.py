"""The pages of docs/rewards say what the code does."""

import re
from pathlib import Path

import pytest

from turnwise.trainers.rewards import RewardPipeline, build, registry, reward_sources, spec
from turnwise.trainers.rewards.pipeline import SETTINGS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "rewards"


def _defaults(page):
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", page, re.M)
    return dict(rows)


def test_the_index_lists_every_source():
    listed = re.findall(r"^\| \[?`(\w+)`", (DOCS / "index.md").read_text().split("## Which")[0], re.M)
    assert sorted(listed) == list(reward_sources())


def test_links_between_the_pages_lead_somewhere():
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+\.md)", page.read_text()):
            assert (page.parent / target).resolve().is_file(), f"{page.name} links {target}"


def test_the_order_page_lists_every_setting_with_its_default():
    assert _defaults((DOCS / "order.md").read_text()) == {
        key: repr(parameter.default) for key, parameter in SETTINGS.items()
    }


def test_the_info_gain_page_lists_every_parameter_with_its_default():
    assert _defaults((DOCS / "info_gain.md").read_text()) == {
        key: repr(parameter.default) for key, parameter in spec("info_gain").params.items()
    }


def test_the_examples_of_the_order_page_are_configurations():
    yaml = pytest.importorskip("yaml")
    text = re.search(r"```yaml\n(.+?)```", (DOCS / "order.md").read_text(), re.S)[1]
    examples = re.findall(r"^reward: .+$", text, re.M)
    assert len(examples) == 4
    for example in examples:
        config = yaml.safe_load(example)["reward"]
        for item in config:
            if isinstance(item, dict) and item["name"] == "judge":
                item |= {"url": "http://127.0.0.1:1/v1", "model": "m"}
        RewardPipeline(config)


def test_the_example_of_an_own_source_runs():
    code = re.search(r"```python\n(.+?)```", (DOCS / "index.md").read_text(), re.S)[1]
    try:
        exec(compile(code, "index.md", "exec"), {})
        assert build("brevity", scale=2.0).needs == {"tokens"}
    finally:
        registry._SOURCES.pop("brevity", None)
