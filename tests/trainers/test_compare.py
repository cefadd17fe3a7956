"""Runs beside each other: who is grouped with whom, what is over seeds, and what is called noise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from turnwise.__main__ import main
from turnwise.configs.schema import TrainConfig
from turnwise.envs.errors import UsageError
from turnwise.trainers.compare import compare, mean_over_seeds, notes, smooth, t_quantile, tables


def write(
    folder: Path, scheme: str, seed: int, end: float, *, steps: int = 30, summary: bool = True, **lines: Any
) -> Path:
    """A run whose success rises to `end` along a straight line; a step takes 2 seconds."""
    path = folder / f"{scheme}-s{seed}"
    path.mkdir(parents=True)
    config = TrainConfig(credit={"name": scheme}, seed=seed, run=str(path))  # type: ignore[arg-type]
    (path / "config.yaml").write_text(config.model_dump_json())
    metrics = [
        {
            "step": i + 1,
            "success": end * (i + 1) / steps,
            "seconds/step": 2.0,
            "seconds/rollout": 1.0,
            "tokens_per_second": 50.0,
            "env_steps_per_second": 30.0,
            **lines,
        }
        for i in range(steps)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    if summary:
        (path / "summary.json").write_text(
            json.dumps({"before": {"success": 0.1}, "after": {"success": end}, "run": str(path)})
        )
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for scheme, base in (("grpo", 0.5), ("gigpo", 0.8), ("rloo", 0.79)):
        for seed in range(3):
            # The seeds move all schemes alike, and rloo a little by itself.
            write(
                tmp_path / "runs",
                scheme,
                seed,
                base + 0.05 * seed + (0.02 * (seed == 1) if scheme == "rloo" else 0),
            )
    return tmp_path / "runs"


def test_runs_that_differ_in_the_seed_alone_are_one_group_and_the_best_comes_first(runs: Path) -> None:
    found = compare([runs])
    assert [(g.label, g.seeds) for g in found.groups] == [
        ("credit=gigpo", [0, 1, 2]),
        ("credit=rloo", [0, 1, 2]),
        ("credit=grpo", [0, 1, 2]),
    ]
    best = found.groups[0].measures
    assert best["after"].value == pytest.approx(0.85)
    # Three values 0.05 apart: 4.303 x 0.05 / sqrt(3) = 0.1242.
    assert (best["after"].low, best["after"].high) == pytest.approx((0.85 - 0.1242, 0.85 + 0.1242), abs=1e-3)
    assert best["gain"].value == pytest.approx(0.75)
    assert best["end"].value == pytest.approx(0.85 * np.mean([i / 30 for i in range(21, 31)]))
    assert (best["seconds"].value, best["tokens"].value) == (60.0, 3000.0)


def test_differences_are_taken_seed_by_seed_and_noise_is_called_noise(runs: Path) -> None:
    found = compare([runs])
    by_label = {d.label: d for d in found.differences}
    # 0.3 in every seed, though the intervals of the two groups overlap nearly.
    grpo = by_label["credit=grpo"]
    assert grpo.paired
    assert grpo.mean[:3] == pytest.approx((-0.3, -0.3, -0.3))
    assert not grpo.noise
    # -0.01, 0.01, -0.01: mean -0.0033 -+ 4.303 x 0.01155 / sqrt(3).
    rloo = by_label["credit=rloo"]
    assert rloo.mean[:3] == pytest.approx((-0.0033, -0.0320, 0.0254), abs=1e-3)
    assert rloo.noise
    shown = {row[0]: row[2] for row in tables(found)[1].rows}
    assert shown == {"credit=rloo": "within noise", "credit=grpo": "clear"}


def test_groups_with_other_seeds_are_compared_as_they_are(tmp_path: Path) -> None:
    a, b = [0.5, 0.55, 0.6], [0.2, 0.3]
    for i, value in enumerate(a):
        write(tmp_path, "grpo", i, value)
    for i, value in enumerate(b):
        write(tmp_path, "rloo", 10 + i, value)
    (difference,) = compare([tmp_path]).differences
    expected = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert not difference.paired
    assert difference.mean[:3] == pytest.approx((-0.3, expected.low, expected.high), abs=0.01)


def test_one_seed_is_never_clear(tmp_path: Path) -> None:
    write(tmp_path, "grpo", 0, 0.1)
    write(tmp_path, "rloo", 0, 0.9)
    found = compare([tmp_path])
    assert found.differences[0].noise
    assert math.isnan(found.groups[0].measures["after"].low)
    assert "One seed says nothing" in notes(found)[0]
    assert "NaN" not in json.dumps(found.as_json())


def test_a_run_without_a_summary_is_compared_by_its_end_and_one_without_metrics_is_left_out(
    tmp_path: Path,
) -> None:
    write(tmp_path, "grpo", 0, 0.5)
    write(tmp_path, "grpo", 1, 0.6, summary=False)
    empty = write(tmp_path, "grpo", 2, 0.6)
    (empty / "metrics.jsonl").write_text("")
    found = compare([tmp_path])
    assert found.measure == "end"
    assert found.groups[0].seeds == [0, 1]
    assert list(found.left_out) == [str(empty)]
    with pytest.raises(UsageError, match=r"metrics\.jsonl has no colour"):
        compare([tmp_path], metric="colour")
    with pytest.raises(UsageError, match="does not exist"):
        compare([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("axis", "last"), [("step", 30.0), ("seconds", 60.0), ("tokens", 3000.0), ("env_steps", 900.0)]
)
def test_the_axis_is_what_the_steps_have_cost(axis: Any, last: float, tmp_path: Path) -> None:
    write(tmp_path, "grpo", 0, 0.5)
    (group,) = compare([tmp_path], axis=axis).groups
    assert group.curve.x[-1] == pytest.approx(last)
    assert group.curve.mean[-1] == pytest.approx(0.5 * np.mean([i / 30 for i in range(21, 31)]))


def test_runs_of_different_speed_are_averaged_where_both_have_been(tmp_path: Path) -> None:
    write(tmp_path, "grpo", 0, 0.6)
    write(tmp_path, "grpo", 1, 0.6, **{"seconds/step": 4.0})
    curve = compare([tmp_path], axis="seconds").groups[0].curve
    assert (curve.x[0], curve.x[-1]) == (4.0, 60.0)
    assert len(curve.x) == len(curve.mean) == len(curve.low)
    # At 60 seconds the fast run is at its end and the slow one in the middle of its way.
    fast, slow = (0.6 * np.mean([i / 30 for i in range(n - 9, n + 1)]) for n in (30, 15))
    assert curve.mean[-1] == pytest.approx((fast + slow) / 2)


@pytest.mark.parametrize("degrees", [1, 1.3, 1.7, 2, 2.5, 3, 4, 5.5, 9, 30, 500])
def test_the_quantile_is_students(degrees: float) -> None:
    exact = stats.t.ppf(0.975, degrees)
    assert t_quantile(degrees) == pytest.approx(exact, rel=0.01 if degrees >= 3 else 0.03)


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.2, 0.5, 0.4, 0.45, 0.3]
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert mean_over_seeds(values)[1:3] == pytest.approx(expected, rel=1e-2)


def test_smoothing_is_the_mean_of_the_last_ten() -> None:
    values = np.arange(25.0)
    assert smooth(values)[24] == pytest.approx(np.mean(values[15:]))
    assert smooth(values)[0] == 0.0
    assert len(smooth(values)) == 25


def test_the_command_writes_pictures_and_tables(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["compare", str(runs), "--axis", "tokens", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "within noise" in result.stdout
    assert "credit=gigpo" in result.stdout
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    svg = (out / "compare.svg").read_text()
    ElementTree.fromstring(svg)
    assert all(word in svg for word in ("credit=gigpo", "tokens read and sampled", "success"))
    assert json.loads((out / "compare.json").read_text())["groups"][0]["label"] == "credit=gigpo"
    assert "| credit=grpo | 3 |" in (out / "compare.md").read_text()
    again = CliRunner().invoke(
        main, ["compare", str(runs), "--axis", "tokens", "--out", str(tmp_path / "again")]
    )
    assert again.exit_code == 0
    assert (tmp_path / "again" / "compare.svg").read_text() == svg
