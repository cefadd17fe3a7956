"""The package as others get it: its names, its weight, and its wheel in a clean environment elsewhere."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import turnwise

ROOT = Path(__file__).parents[1]
LAYERS = ["agents", "configs", "envs", "sandbox", "trainers"]
HEAVY = ["torch", "transformers", "peft", "tensorboard", "matplotlib", "pandas", "scipy"]
QUIET = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "COLUMNS": "200"}
QUIET.pop("PYTHONPATH", None)


def run(*command, cwd, check=True, timeout=300):
    done = subprocess.run(
        command, cwd=cwd, env=QUIET, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def python(code, cwd, interpreter=sys.executable):
    return run(interpreter, "-W", "error", "-c", code, cwd=cwd).stdout


def test_the_public_names_are_sorted_and_all_there(tmp_path):
    names = json.loads(
        python(
            "import json, turnwise as tw\n"
            "home = lambda v: getattr(v, '__module__', None) or getattr(v, '__name__', '')\n"
            "there = [n for n, v in vars(tw).items() if not n.startswith('_') and home(v).startswith('turnwise')]\n"
            "print(json.dumps(there))",
            tmp_path,
        )
    )
    lazy = {"agents", "trainers"}
    assert turnwise.__all__ == sorted(turnwise.__all__)
    assert set(turnwise.__all__) == set(names) | lazy | {"__version__"}
    assert [name for name in turnwise.__all__ if not hasattr(turnwise, name)] == []


@pytest.mark.parametrize("module", ["envs", "agents", "trainers.credit"])
def test_the_names_of_a_layer_are_all_there(module):
    layer = importlib.import_module(f"turnwise.{module}")
    assert len(set(layer.__all__)) == len(layer.__all__)
    assert [name for name in layer.__all__ if not hasattr(layer, name)] == []


def test_an_unknown_name_lists_the_known():
    with pytest.raises(AttributeError, match="has no attribute 'Turns'; it has Call, CheckReport"):
        turnwise.Turns  # noqa: B018


@pytest.mark.parametrize(
    "use",
    [
        "import turnwise",
        "import turnwise as tw; tw.make('HigherLower-v1').rollout(tw.agents.RandomAgent(), episodes=4)",
        "from turnwise.__main__ import main; main(['envs'], standalone_mode=False)",
        "from turnwise.__main__ import main; main(['eval', 'episodes=4'], standalone_mode=False)",
    ],
    ids=["import", "rollout", "turnwise envs", "turnwise eval"],
)
def test_what_needs_no_model_loads_no_torch(use, tmp_path):
    loaded = (
        python(f"import sys\n{use}\nprint('LOADED', *sys.modules)", tmp_path).rpartition("LOADED")[2].split()
    )
    assert set(loaded).isdisjoint(HEAVY)


def test_importing_takes_less_than_two_seconds(tmp_path):
    code = "import time; began = time.perf_counter(); import turnwise; print(time.perf_counter() - began)"
    assert min(float(python(code, tmp_path)) for _ in range(3)) < 2.0


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_cannot_be_imported_by_itself_from_the_root(layer):
    # It would make a second registry beside turnwise's.
    done = run(sys.executable, "-c", f"import {layer}", cwd=ROOT, check=False)
    assert "attempted relative import beyond top-level package" in done.stderr


def test_pytest_loads_the_package_once_and_under_its_own_name():
    # The root is a package, which pytest would import as such on its way to tests/; see addopts in pyproject.toml.
    loaded = [
        name for name, module in sys.modules.items() if getattr(module, "__file__", None) == turnwise.__file__
    ]
    assert loaded == ["turnwise"]
    assert Path(turnwise.__file__).parent == ROOT


def test_the_listed_packages_are_the_folders_with_code():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for layer in LAYERS for path in (ROOT / layer).rglob("*.py")}
    names = {".".join(("turnwise", *folder.relative_to(ROOT).parts)) for folder in folders}
    assert listed == sorted(listed)
    assert set(listed) == names | {"turnwise"}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_version_stands_in_the_changelog():
    assert f"## {turnwise.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def python312():
    """An interpreter of Python 3.12 that works, or None."""
    found = [shutil.which("python3.12"), *Path.home().glob(".pyenv/versions/3.12.*/bin/python")]
    for candidate in filter(None, found):
        probe = subprocess.run([candidate, "-c", "import ensurepip, venv"], capture_output=True, check=False)
        if probe.returncode == 0:
            return str(candidate)
    return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the sdist, built from a copy: what lies in the checkout's `build/` is not packed."""
    copy = tmp_path_factory.mktemp("source") / "checkout"
    made = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "runs", "site", "tests", "outputs"
    )
    shutil.copytree(ROOT, copy, ignore=made)
    run(sys.executable, "-m", "build", "--no-isolation", ".", cwd=copy)
    (path,) = (copy / "dist").glob("*.whl")
    return path


EPISODES = """
import turnwise as tw

for env_id in tw.env_ids():
    env = tw.make(env_id)
    (episode,) = env.rollout(tw.agents.RandomAgent(), episodes=1, seed=0).trajectories
    assert episode.status != "failed", (env_id, episode.error)
    env.close()
"""


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_the_wheel_works_in_a_clean_environment_elsewhere(version, wheel, tmp_path):
    base = sys.executable if sys.version_info[:2] == tuple(map(int, version.split("."))) else python312()
    if base is None:
        pytest.skip(f"Python {version} is not installed")
    run(base, "-m", "venv", "env", cwd=tmp_path)
    binaries = tmp_path / "env" / "bin"
    run(binaries / "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)

    where = python(
        "import turnwise, sys; print(turnwise.__file__, sys.version)", tmp_path, binaries / "python"
    )
    assert "site-packages" in where
    assert f" {version}." in where
    assert run(binaries / "turnwise", "envs", cwd=tmp_path).stdout.count("-v1") == len(turnwise.env_ids())
    # The conformance suite checks every environment; here its data and imports are at stake, which an episode needs.
    python(EPISODES, tmp_path, binaries / "python")
    run(binaries / "turnwise", "check", "FrozenLake-v1", cwd=tmp_path)
    # eval reads the YAML files that the wheel holds
    out = run(
        binaries / "turnwise", "eval", "env=frozen_lake", "agent=expert", "episodes=8", "out=o", cwd=tmp_path
    ).stdout
    assert "1.000" in out
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["success"] == 1.0
    played = run(binaries / "python", "-m", "turnwise", "play", "FrozenLake-v1", cwd=tmp_path, check=False)
    assert "turn 1 of 12" in played.stdout
    viewing = run(binaries / "turnwise", "view", "o", cwd=tmp_path, check=False)
    assert viewing.returncode == 2
    assert "pip install 'turnwise[viewer]'" in viewing.stderr
    page = "from importlib.resources import files; print((files('turnwise.agents.viewer') / 'static/index.html').read_text())"
    assert "app.js" in python(page, tmp_path, binaries / "python")
    training = run(binaries / "turnwise", "train", cwd=tmp_path, check=False)
    assert training.returncode == 2
    assert "pip install 'turnwise[train]'" in training.stderr
    assert "Traceback" not in training.stderr
