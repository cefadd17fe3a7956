"""README and docs: their code runs, their tables are complete, their links lead somewhere."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import turnwise as tw

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def section(title):
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    "page", ["README.md", "docs/index.md", "docs/start.md", "docs/concepts.md", "docs/faq.md"]
)
def test_the_python_of_a_page_runs_as_it_stands(page, tmp_path):
    code = "\n".join(blocks((ROOT / page).read_text(encoding="utf-8"), "python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_python_of_the_tutorial_runs_as_it_stands(tmp_path):
    if find_spec("mcp") is None:
        why = "mcp: not installed; `pip install 'turnwise[mcp]'`"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    test_the_python_of_a_page_runs_as_it_stands("docs/tutorial.md", tmp_path)


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


def test_the_commands_of_the_start_page_run(tmp_path):
    page = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    commands = [line[2:] for block in blocks(page, "console") for line in block.splitlines()]
    assert len(commands) == 6
    for command in commands:
        _, *arguments = shlex.split(command)
        if arguments == ["train", "run=runs/lake"]:  # as it stands it trains for minutes
            arguments += ["experiment=smoke", "trainer.steps=1", "trainer.eval_episodes=4"]
        done = subprocess.run(
            [sys.executable, "-m", "turnwise", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "page.html").is_file()


def test_the_command_line_page_names_every_command():
    from turnwise.__main__ import main

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"^\| `turnwise ([\w-]+)", page, re.MULTILINE))) == sorted(main.commands)


def test_the_installation_page_names_every_extra():
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \|", page.partition("| extra |")[2], re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert sorted(name for row in rows for name in re.findall(r"`([^`]+)`", row)) == sorted(extras)
    taken = {re.fullmatch(r"turnwise\[(.+)\]", extra)[1] for extra in extras["all-cpu"]}
    assert taken == extras.keys() - {"all-cpu", "gpu", "mlflow", "wandb"}


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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does."""
    if missing := [m for m in ("mkdocs", "mkdocs_awesome_nav", "mkdocstrings") if find_spec(m) is None]:
        why = f"{', '.join(missing)}: not installed; `pip install .[docs]`"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_builds_without_a_warning_and_leads_to_every_page(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    linked = set(re.findall(r'<a href="([^"#]*)" class="md-nav__link', home))
    pages = {
        page.relative_to(ROOT / "docs").with_suffix("").as_posix().removesuffix("index")
        for page in (ROOT / "docs").rglob("*.md")
    }
    urls = {f"{page.rstrip('/')}/" if page else "." for page in pages}
    assert sorted(urls - linked) == []


@pytest.mark.parametrize(
    "package",
    ["envs", "agents", "agents.evaluate", "trainers.credit", "trainers.rewards", "sandbox"],
)
def test_the_reference_describes_every_public_name(site, package):
    name = f"turnwise.{package}"
    (page,) = [
        text
        for path in (site / "api").glob("*/index.html")
        if f'id="{name}"' in (text := path.read_text(encoding="utf-8"))
    ]
    described = set(re.findall(rf'id="{name}\.([\w.]+)"', page))
    # A function called as its module stands there as the module's: `envs.check.check`.
    public = set(importlib.import_module(name).__all__) - {"errors"}
    assert sorted(n for n in public if not {n, f"{n}.{n}"} & described) == []
