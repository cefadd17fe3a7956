"""The pages under docs/envs: their code runs, and there is one for every environment."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import turnwise as tw

PAGES = Path(__file__).resolve().parents[2] / "docs" / "envs"


@pytest.mark.parametrize("page", sorted(p.name for p in PAGES.glob("*.md")))
def test_the_python_of_a_page_runs_as_it_stands(page: str, tmp_path: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text(), re.DOTALL | re.MULTILINE):
        command = [sys.executable, "-W", "error", "-c", block]
        found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        assert "failed" not in found.stdout


@pytest.mark.parametrize("env_id", tw.env_ids())
def test_every_environment_has_a_page_that_names_its_parameters_tools_and_sources(env_id: str) -> None:
    cls = tw.envs.env_class(env_id)
    page = (PAGES / f"{cls.__module__.rpartition('.')[2]}.md").read_text()
    assert page.startswith(f"# {env_id}\n")
    assert f"({cls.__module__.rpartition('.')[2]}.md)" in (PAGES / "index.md").read_text()
    for name in [*cls.tools, *vars(cls).get("__annotations__", ())]:
        assert f"`{name}" in page
    for part in ("Observation", "Tools", "Reward", "End", "State key", "Expert", "Source"):
        assert f"**{part}**" in page


def test_the_index_lists_every_environment_once_in_one_table() -> None:
    listed = re.findall(
        r"^\| \[`([^`]+)`\]", (PAGES / "index.md").read_text().partition("\n## ")[0], re.MULTILINE
    )
    assert listed == tw.env_ids()


def test_the_contract_explains_every_check_and_every_hook() -> None:
    from turnwise.envs.check import CHECKS

    page = (PAGES / "contract.md").read_text()
    for name in CHECKS:
        assert f"`{name}`" in page
    for hook in ("start", "load_tasks", "state_key", "potential", "score", "reference", "expert"):
        assert f"`{hook}(" in page
