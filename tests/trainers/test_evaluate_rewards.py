"""Sources of rewards measured: an oracle scores 1, random numbers chance, and every figure is that of a plain loop."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import turnwise as tw
from turnwise.__main__ import main
from turnwise.configs.schema import EvalRewardsConfig
from turnwise.trainers.evaluate_rewards import (
    _auc,
    _spearman,
    best_threshold,
    evaluate_sources,
    isotonic,
    run,
    tables,
)
from turnwise.trainers.planted_errors import Labelled
from turnwise.trainers.rewards import reward_sources

NUMBERS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=12)


def made(tasks: int, copies: int = 4, turns: int = 5, seed: int = 0) -> list[Labelled]:
    """One success per task, and copies with one wrong turn, behind which nothing counts any more."""
    rng = random.Random(seed)
    found = []
    for task in range(tasks):
        for copy in range(copies + 1):
            k = None if copy == 0 else rng.randrange(turns)
            right: list[bool | None] = [
                True if k is None or i < k else False if i == k else None for i in range(turns)
            ]
            t = tw.Trajectory(
                env_id="A-v0",
                task_id=f"test-{task}",
                split="test",
                seed=task,
                group=task,
                status="terminated",
                score=float(k is None),
                success=k is None,
                turns=[tw.Turn(observation="", action="") for _ in range(turns)],
            )
            found.append(Labelled(t, right, k, None if k is None else "deduction"))
    return found


def test_an_oracle_scores_one_and_random_numbers_chance() -> None:
    found = evaluate_sources(made(250), {})
    oracle, chance = found.rows
    assert (oracle.step_accuracy, oracle.auc, oracle.first_error_f1) == (1.0, 1.0, 1.0)
    assert (oracle.best_of_n, oracle.rank_correlation) == pytest.approx((1.0, 1.0))
    assert (oracle.ece, oracle.brier) == (0.0, 0.0)
    assert oracle.found == {"deduction": 1.0}
    assert chance.step_accuracy == pytest.approx(0.5, abs=0.05)
    assert chance.auc == pytest.approx(0.5, abs=0.05)
    assert chance.best_of_n == pytest.approx(1 / 5, abs=0.07)
    assert chance.rank_correlation == pytest.approx(0.0, abs=0.06)
    # Who knows nothing but the share of right turns is off by its variance.
    share = 1 - found.wrong
    assert chance.brier == pytest.approx(share * (1 - share), abs=0.02)
    assert chance.ece < 0.05
    # With a share q of turns below the threshold a clean episode passes with (1-q)^5, and an error at k is named with
    # (1-q)^k q. The best threshold makes the harmonic mean of the two largest.
    best = max(
        2 * a * b / (a + b)
        for q in (i / 200 for i in range(1, 200))
        for a, b in [((1 - q) ** 5, fmean(q * (1 - q) ** k for k in range(5)))]
    )
    assert chance.first_error_f1 == pytest.approx(best, abs=0.05)


def test_a_source_that_sees_half_of_the_errors_finds_half_of_them() -> None:
    data = made(200)
    seen = itertools.cycle([True, False])
    numbers: list[list[float | None]] = [
        [1.0 if said is not False or not next(seen) else 0.0 for said in d.right] for d in data
    ]
    row = evaluate_sources(data, {"half": numbers}).rows[2]
    assert row.found["deduction"] == pytest.approx(0.5)
    assert row.step_accuracy == pytest.approx(0.75)
    assert row.auc == pytest.approx(0.75)
    assert row.first_error_f1 == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_numbers_that_are_not_there_are_counted_and_judge_nothing() -> None:
    data = made(50)
    numbers: list[list[float | None]] = [[None] * 4 + [d.trajectory.score] for d in data]
    row = evaluate_sources(data, {"outcome": numbers}).rows[2]
    assert row.best_of_n == 1.0
    labelled = sum(said is not None for d in data for said in d.right)
    last = sum(d.right[4] is not None for d in data)
    assert row.missing == pytest.approx(1 - last / labelled)
    nothing = evaluate_sources(data, {"none": [[None] * 5 for _ in data]}).rows[2]
    assert (nothing.missing, nothing.turns) == (1.0, 0)
    assert math.isnan(nothing.auc)
    assert nothing.rank_correlation == 0.0
    assert nothing.best_of_n == pytest.approx(1 / 5)  # all tie
    assert "NaN" not in json.dumps(evaluate_sources(data, {"none": [[None] * 5 for _ in data]}).as_json())
    assert tables(evaluate_sources(data, {"none": [[None] * 5 for _ in data]}))


@pytest.mark.parametrize(("aggregate", "picked"), [("mean", 1.0), ("sum", 0.0), ("min", 1.0), ("last", 0.0)])
def test_the_aggregate_decides_which_episode_is_best(aggregate: Any, picked: float) -> None:
    success, failure = made(1, copies=1)
    row = evaluate_sources(
        [success, failure],
        {"x": [[0.6, None, None, None, 0.6], [0.1, 0.9, 0.5, 0.1, 0.7]]},
        aggregate=aggregate,
    ).rows[2]
    assert row.best_of_n == picked


@given(NUMBERS)
def test_the_area_and_the_threshold_are_those_of_plain_loops(points: list[tuple[int, bool]]) -> None:
    right, wrong = [v for v, r in points if r], [v for v, r in points if not r]
    if right and wrong:
        expected = fmean(float(a > b) + 0.5 * (a == b) for a in right for b in wrong)
        assert _auc(right, wrong) == pytest.approx(expected)

        def share(t: float) -> float:
            return fmean(v >= t for v in right) + fmean(v < t for v in wrong)

        found = best_threshold([v for v, _ in points], [r for _, r in points])
        assert share(found) == pytest.approx(max(share(t - 0.5) for t in range(8)))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=15))
def test_rank_correlation_is_spearmans(points: list[tuple[int, int]]) -> None:
    x, y = [p[0] for p in points], [p[1] for p in points]
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert _spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    else:
        assert _spearman(x, y) == 0.0


@given(NUMBERS)
def test_calibration_is_the_rising_function_with_the_least_squares(points: list[tuple[int, bool]]) -> None:
    x, y = [float(v) for v, _ in points], [float(r) for _, r in points]
    chance = isotonic(x, y)
    values = sorted(set(x))
    assert all(chance(a) <= chance(b) + 1e-12 for a, b in itertools.pairwise(values))
    loss = sum((chance(a) - b) ** 2 for a, b in zip(x, y, strict=True))
    # The least-squares rising fit at a value is max over starts of min over ends of the means between (Barlow, 1972).
    for v in values:
        means = [
            min(
                fmean(b for a, b in zip(x, y, strict=True) if low <= a <= high)
                for high in values
                if high >= v
            )
            for low in values
            if low <= v
        ]
        assert chance(v) == pytest.approx(max(means))
    assert loss >= 0


def test_the_calibration_error_by_hand() -> None:
    from turnwise.trainers.evaluate_rewards import _calibration_error

    # Two in the bin of 0.9, both right: off by 0.1. Two in that of 0.2, one right: off by 0.3.
    assert _calibration_error([(0.9, True), (0.9, True), (0.2, True), (0.2, False)]) == pytest.approx(0.2)


def call(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


def test_the_command_measures_sources_without_a_model_and_episodes_of_a_file(tmp_path: Path) -> None:
    result = call(
        "eval-rewards",
        "env=frozen_lake",
        "reward=[env,grounding,outcome]",
        "tasks=8",
        f"out={tmp_path / 'r'}",
    )
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "r" / "rewards.json").read_text())
    assert [row["source"] for row in saved["rows"]] == ["oracle", "random", "env", "grounding", "outcome"]
    assert saved["rows"][0]["first_error_f1"] == saved["rows"][0]["best_of_n"] == 1.0
    assert saved["rows"][2]["best_of_n"] == 1.0
    assert saved["patterns"]["deduction"] == 8
    played = call(
        "eval",
        "env=higher_lower",
        "agent=expert",
        "agent.noise=0.3",
        "episodes=12",
        "attempts=2",
        f"out={tmp_path / 'e'}",
    )
    assert played.exit_code == 0, played.output
    result = call("eval-rewards", f"trajectories={tmp_path / 'e'}", "reward=[grounding]")
    assert result.exit_code == 0, result.output
    assert "planted errors that are found" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reward=[info_gain]"], "needs"),
        (["reward=[nothing]"], "no reward source is registered as 'nothing'"),
        (["trajectories=nowhere"], "nowhere is neither"),
        (["agregate=min"], "Did you mean 'aggregate'"),
    ],
)
def test_a_mistake_is_told(arguments: list[str], said: str) -> None:
    result = call("eval-rewards", *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


class _JudgeHandler(BaseHTTPRequestHandler):
    """Calls every turn right, as well formed as a judge has to."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = "\n".join(m["content"] for m in body["messages"])
        nonce = re.findall(r"BEGIN (\w+)", text)[-1]
        turns = len(re.findall(r'^\{"turn"', text, re.MULTILINE))
        answer = {"nonce": nonce, "turns": [{"turn": i, "verdict": "right"} for i in range(1, turns + 1)]}
        content = json.dumps(
            {"choices": [{"message": {"role": "assistant", "content": json.dumps(answer)}}]}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def test_every_registered_source_can_be_measured_with_what_it_learned_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from turnwise.configs.schema import TrainConfig
    from turnwise.trainers.local.train import train

    monkeypatch.setenv("TURNWISE_CACHE", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _JudgeHandler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    judge = {"name": "judge", "url": f"http://127.0.0.1:{server.server_port}/v1", "model": "j", "weight": 0.0}
    sources = [judge if n == "judge" else n for n in reward_sources() if n != "progress"]
    sources.append({"name": "progress", "rerolls": 2})
    warm_up = {"episodes": 200, "noise": 0.5, "epochs": 2}
    trainer = {
        "steps": 1,
        "tasks_per_step": 4,
        "group_size": 4,
        "eval_every": 0,
        "eval_episodes": 4,
        "checkpoint_every": 1,
        "loggers": [],
        "save_trajectories_every": 0,
    }
    config = {
        "env": {"id": "HigherLower-v1", "parameters": {"high": 7, "max_turns": 4}},
        "model": {"size": "xs", "max_context": 128, "warm_up": warm_up},
        "trainer": trainer,
        "credit": {"name": "grpo"},
        "reward": sources,
        "run": str(tmp_path / "run"),
    }
    train(TrainConfig.model_validate(config), say=str)
    found = run(EvalRewardsConfig(model=str(tmp_path / "run"), tasks=6), say=str)
    server.shutdown()
    server.server_close()
    rows = {row.source: row for row in found.rows}
    assert set(rows) == {"oracle", "random", *reward_sources()}
    for name in reward_sources():
        assert rows[name].turns > 0, name
        assert 0 <= rows[name].step_accuracy <= 1, name
    assert rows["judge"].missing == 0.0
    assert rows["judge"].step_accuracy == 0.5  # it calls everything right
