"""Two evaluations on the same tasks: the differences are those of the tasks, and noise is called noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import turnwise as tw
from turnwise.__main__ import main
from turnwise.agents.evaluate import compare_evaluations
from turnwise.agents.evaluate.paired import notes
from turnwise.envs.errors import UsageError


def episode(task: int, score: float, **fields: Any) -> tw.Trajectory:
    given = {
        "env_id": "A-v0",
        "task_id": f"test-{task}",
        "split": "test",
        "seed": task,
        "status": "terminated",
    }
    given |= {"group": task, "success": score == 1.0, "turns": []}
    return tw.Trajectory(**{**given, "score": score, **fields})  # type: ignore[arg-type]


def test_success_is_compared_by_hand_and_by_mcnemar() -> None:
    # Both did 3 tasks, the first alone 1, the second alone 7, neither 9.
    pairs = [(1, 1)] * 3 + [(1, 0)] + [(0, 1)] * 7 + [(0, 0)] * 9
    first = [episode(i, a) for i, (a, _) in enumerate(pairs)]
    second = [episode(i, b) for i, (_, b) in enumerate(pairs)]
    (found,) = compare_evaluations(first, second).comparisons
    assert (found.tasks, found.only_first, found.only_second) == (20, 1, 7)
    assert (found.success.first, found.success.second, found.success.value) == pytest.approx((0.2, 0.5, 0.3))
    assert found.success.p == pytest.approx(18 / 256)  # 2 (1 + 8) / 2^8
    # Agresti and Min: (7.5 - 1.5) / 22 -+ 1.96 sqrt(9 - 36 / 22) / 22.
    assert (found.success.low, found.success.high) == pytest.approx((0.0310, 0.5145), abs=1e-3)
    assert found.success.test == "mcnemar"
    assert found.score.low <= 0.3 <= found.score.high
    assert not found.success.clear
    assert "within noise" in notes(compare_evaluations(first, second))[0]


def test_the_order_of_the_episodes_does_not_matter_and_the_sides_are_mirrored() -> None:
    rng = np.random.default_rng(0)
    first = [episode(i, s) for i, s in enumerate(rng.integers(0, 2, 40).tolist())]
    second = [episode(i, s) for i, s in enumerate(rng.integers(0, 2, 40).tolist())]
    (there,) = compare_evaluations(first, second).comparisons
    (shuffled,) = compare_evaluations(first[::-1], second).comparisons
    (back,) = compare_evaluations(second, first).comparisons
    assert shuffled == there
    assert back.success.value == -there.success.value
    assert back.success.p == there.success.p
    assert (back.success.low, back.success.high) == pytest.approx((-there.success.high, -there.success.low))


def test_the_permutation_test_by_hand() -> None:
    # Differences of 0.5 on four tasks: of the 16 choices of signs two have a sum as large, +2 and -2: p = 1/8.
    first = [episode(i, 0.0) for i in range(4)]
    second = [episode(i, 0.5) for i in range(4)]
    (found,) = compare_evaluations(first, second).comparisons
    assert found.score.p == pytest.approx(1 / 8, abs=0.01)
    assert found.score.test == "permutation"


def test_there_is_no_difference_where_there_is_none_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(1)
    clear = {"success": 0, "score": 0}
    for _ in range(120):
        ease = rng.random(40)  # tasks differ, agents do not; two attempts each
        first, second = (
            [episode(i, float(rng.random() < ease[i]), sample=s) for i in range(40) for s in range(2)]
            for _ in range(2)
        )
        (found,) = compare_evaluations(first, second).comparisons
        clear["success"] += found.success.clear
        clear["score"] += found.score.clear
    assert max(clear.values()) <= 13  # 6 are to be expected


def test_environments_are_compared_apart_and_together_and_what_one_side_lacks_is_counted() -> None:
    first = [episode(i, 1.0, env_id=e) for e in ("A-v0", "B-v0") for i in range(5)]
    broken = {"status": "failed", "error": "ServerGone: x"}
    second = [*first[:4], episode(4, 0.0, **broken), *first[5:]]
    found = compare_evaluations(first, second)
    assert [(c.name, c.tasks) for c in found.comparisons] == [("A-v0", 4), ("B-v0", 5), ("all", 9)]
    assert found.left_out == 1
    assert found.failure_shares == (0.0, 0.1)
    assert "not to be trusted" in notes(found)[-1]


def test_an_agent_that_is_spoken_to_otherwise_plays_the_same_tasks_and_another_size_does_not() -> None:
    first = [episode(0, 1.0, env_kwargs={"format": "bracket", "size": 4})]
    second = [episode(0, 1.0, env_kwargs={"format": "hermes", "system_prompt": True, "size": 4})]
    assert compare_evaluations(first, second).comparisons[0].tasks == 1
    for other, said in (
        ([episode(0, 1.0, env_kwargs={"size": 5})], "has the parameters"),
        ([episode(0, 1.0, env_id="B-v0")], "one is of A-v0, the other of B-v0"),
        ([episode(1, 1.0, env_kwargs={"size": 4})], "'test-0' is in the first alone"),
        ([], "the second has no played episode"),
    ):
        with pytest.raises(UsageError, match=said):
            compare_evaluations(first, other)


def test_the_command_compares_folders_and_files(tmp_path: Path) -> None:
    def call(*arguments: str) -> Any:
        return CliRunner().invoke(main, list(arguments))

    for name, noise in (("good", 0.0), ("bad", 0.9)):
        result = call(
            "eval",
            "env=frozen_lake",
            "agent=expert",
            f"agent.noise={noise}",
            "episodes=60",
            f"out={tmp_path / name}",
        )
        assert result.exit_code == 0, result.output
    result = call(
        "eval-compare",
        str(tmp_path / "bad"),
        str(tmp_path / "good" / "trajectories.jsonl"),
        "--json",
        str(tmp_path / "c.json"),
    )
    assert result.exit_code == 0, result.output
    assert "the second succeeds more often" in result.stdout
    saved = json.loads((tmp_path / "c.json").read_text())
    assert saved["comparisons"][0]["success"]["second"] == 1.0
    assert call("eval-compare", str(tmp_path / "nowhere"), str(tmp_path / "good")).exit_code == 2
