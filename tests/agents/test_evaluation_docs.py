"""The commands and the code of docs/evaluation.md run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from turnwise.__main__ import main

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("console") for line in block.splitlines()]
    assert len(commands) >= 7
    for command in commands:
        _, name, *arguments = shlex.split(command)
        assert name == "turnwise"
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{command}\n{result.output}"


def test_the_suite_of_the_page_is_one(tmp_path: Path) -> None:
    (yaml,) = blocks("yaml")
    (tmp_path / "suite.yaml").write_text(yaml)
    result = CliRunner().invoke(main, ["eval", f"suite={tmp_path / 'suite.yaml'}", "agent=expert"])
    assert result.exit_code == 0, result.output
    assert "large lake" in result.stdout


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_python_of_the_page_runs(number: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks("python")[number]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
