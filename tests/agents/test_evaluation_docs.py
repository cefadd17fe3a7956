"""The commands and the code of docs/evaluation.md run as they stand."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from turnwise.__main__ import main
from turnwise.configs.schema import CreditSection, TrainConfig

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def finished_run(path: Path, scheme: str, seed: int, end: float) -> None:
    """The files of a training run, as far as they are compared."""
    path.mkdir(parents=True)
    config = TrainConfig(credit=CreditSection(name=scheme), seed=seed)
    (path / "config.yaml").write_text(config.model_dump_json())
    times = {
        "seconds/step": 1.0,
        "seconds/rollout": 0.5,
        "tokens_per_second": 900.0,
        "env_steps_per_second": 9.0,
    }
    lines = [
        {"step": i, "success": end * i / 20, "reward": 0.1 * seed + end * i / 20, **times}
        for i in range(1, 21)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "summary.json").write_text(json.dumps({"before": {"success": 0.1}, "after": {"success": end}}))


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for scheme, end in (("grpo", 0.4), ("gigpo", 0.7)):
        for seed in range(3):
            finished_run(tmp_path / "runs" / f"{scheme}-s{seed}", scheme, seed, end)
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
