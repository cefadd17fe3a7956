"""README and docs: their code runs, their tables are complete, their links lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import turnwise as tw

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def section(title):
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_python_of_a_page_runs_as_it_stands(page, tmp_path):
    code = "\n".join(blocks((ROOT / page).read_text(encoding="utf-8"), "python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "success" in done.stdout


def test_the_environment_of_the_readme_is_short_and_trains_as_it_says(tmp_path):
    code = blocks(README, "python")[0]
    without_docstrings = re.sub(r'"""[^"]*"""\n', "", code)
    assert len([line for line in without_docstrings.splitlines() if line.strip()]) <= 15
    (tmp_path / "corridor.py").write_text(code)
    turnwise = [sys.executable, "-m", "turnwise", "--import", "corridor.py"]
    commands = [
        ["check", "Corridor-v0"],
        ["train", "env=Corridor-v0", "experiment=smoke", "run=r"],
        ["eval", "env=Corridor-v0", "agent=local", "agent.path=r", "episodes=4", "agent.max_new_tokens=8"],
    ]
    for command in commands:
        done = subprocess.run(
            [*turnwise, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_tables_name_everything_that_is_registered():
    from turnwise.trainers.credit import credit_schemes

    def first_column(title):
        return re.findall(r"^\| `([^`]+)` \|", section(title), re.MULTILINE)

    assert first_column("Environments") == tw.env_ids()
    assert first_column("Credit schemes") == list(credit_schemes())


def test_the_tree_names_what_is_there():
    (tree,) = blocks(section("The tree"), "text")
    folder, named = "", set()
    for line in tree.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
            named.add(name)
        else:
            named.add(folder + name)
    assert [name for name in named if not (ROOT / name).exists()] == []
    files = {
        path.relative_to(ROOT).as_posix()
        for layer in ("envs", "agents", "trainers")
        for path in (ROOT / layer).glob("*.py")
    }
    assert {name for name in files if not name.endswith("__init__.py")} <= named


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_a_page_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_every_environment_and_scheme_has_a_page():
    from turnwise.trainers.credit import credit_schemes

    modules = {tw.envs.env_class(env_id).__module__.rsplit(".", 1)[-1] for env_id in tw.env_ids()}
    missing = [
        f"docs/envs/{name}.md" for name in modules if not (ROOT / "docs/envs" / f"{name}.md").is_file()
    ]
    missing += [
        f"docs/credit/{name}.md"
        for name in credit_schemes()
        if not (ROOT / "docs/credit" / f"{name}.md").is_file()
    ]
    assert missing == []


def test_the_site_builds_without_a_warning(tmp_path):
    mkdocs = shutil.which("mkdocs", path=str(Path(sys.executable).parent))
    if mkdocs is None:
        pytest.skip("mkdocs is not installed")
    done = subprocess.run(
        [mkdocs, "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
