"""The import graph: one way only, relative inside the package, and light where it must be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "sandbox": set(),
    "configs": set(),
    "envs": {"sandbox"},
    "agents": {"envs"},
    "trainers": {"agents", "envs", "configs"},
}
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "tokenizers",
    "safetensors",
    "jinja2",
    "tensorboard",
    "matplotlib",
    "pandas",
}
HEAVY_ALLOWED = ("agents/chat.py", "agents/engine.py", "agents/local.py", "trainers/")
SOURCES = [
    *sorted(
        path.relative_to(ROOT).as_posix() for layer in MAY_IMPORT for path in (ROOT / layer).rglob("*.py")
    ),
    "__init__.py",
    "__main__.py",
]


def imports(tree: ast.AST, at_load: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement, with whether it runs when the module is loaded."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, at_load
        else:
            lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            yield from imports(node, at_load and not lazy and not typing)


def violations(path: str, source: str) -> list[str]:
    """What the imports of a module break."""
    folder = Path(path).parent.parts
    layer = folder[0] if folder else None
    found = []

    def reaches(package: tuple[str, ...], name: str) -> None:
        if layer is None:
            return
        if not package:
            other = name
            if name != "__version__" and name not in MAY_IMPORT:
                found.append(f"takes {name} from the root package")
                return
        else:
            other = package[0]
        if other in MAY_IMPORT and other != layer and other not in MAY_IMPORT[layer]:
            found.append(f"{layer} imports {other}")

    for node, at_load in imports(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = (*folder[: len(folder) - node.level + 1], *(node.module or "").split("."))
            for alias in node.names:
                reaches(tuple(p for p in package if p), alias.name)
            continue
        names = (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        )
        for top in (name.partition(".")[0] for name in names):
            if top == "turnwise" or top in MAY_IMPORT:
                found.append(f"imports {top} absolutely")
            if top in HEAVY and at_load and not path.startswith(HEAVY_ALLOWED):
                found.append(f"loads {top}")
    return found


@pytest.mark.parametrize("path", SOURCES)
def test_imports_keep_the_layers(path):
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "line", "problem"),
    [
        ("envs/x.py", "from ..agents.random import RandomAgent", "envs imports agents"),
        ("envs/x.py", "from .. import agents", "envs imports agents"),
        ("envs/deep/x.py", "from ...trainers import credit", "envs imports trainers"),
        ("configs/x.py", "from ..envs import make", "configs imports envs"),
        ("agents/x.py", "from .. import trainers", "agents imports trainers"),
        ("agents/x.py", "def f():\n    from ..trainers.credit import compute", "agents imports trainers"),
        ("agents/x.py", "from .. import make", "takes make from the root package"),
        ("trainers/x.py", "from turnwise.envs import make", "imports turnwise absolutely"),
        ("trainers/x.py", "import envs.core", "imports envs absolutely"),
        ("envs/x.py", "import torch.nn", "loads torch"),
        ("envs/x.py", "class A:\n    import transformers", "loads transformers"),
        ("__main__.py", "try:\n    import torch\nexcept ImportError:\n    pass", "loads torch"),
    ],
)
def test_the_checker_sees_a_violation(path, line, problem):
    assert violations(path, line) == [problem]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("envs/x.py", "def f():\n    import torch"),
        ("envs/x.py", "if TYPE_CHECKING:\n    import pandas"),
        ("trainers/local/x.py", "from ...agents.local import LocalAgent\nimport torch"),
        ("envs/__init__.py", "from .. import __version__ as __version__"),
        ("__main__.py", "from .trainers import credit"),
    ],
)
def test_the_checker_lets_pass_what_is_allowed(path, line):
    assert violations(path, line) == []


def test_no_file_is_a_grab_bag():
    assert [
        path for path in SOURCES if Path(path).stem in ("utils", "util", "helpers", "common", "misc")
    ] == []


def test_only_the_package_and_its_tools_stand_at_the_top():
    allowed = {
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "mkdocs.yml",
    }
    allowed |= {
        "constraints.txt",
        "__init__.py",
        "__main__.py",
        "py.typed",
        "tests",
        "benchmarks",
        "docs",
        *MAY_IMPORT,
    }
    made = {"build", "dist", "runs", "site", "outputs", "turnwise.egg-info", "__pycache__"}  # ignored by git
    assert {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - allowed - made == set()
