"""The numbers of an evaluation, against plain loops, sums by hand, scipy and simulation."""

from __future__ import annotations

import itertools
import math
import random
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from turnwise.agents.evaluate.figures import mean_of
from turnwise.agents.evaluate.statistics import (
    Estimate,
    best_of_k,
    mcnemar,
    mean_over_tasks,
    paired_difference,
    pass_at_k,
    pass_hat_k,
    proportion,
    tasks_needed,
    visible_difference,
)
from turnwise.envs.rollout import wilson

ATTEMPTS = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=7)


@given(ATTEMPTS, st.data())
def test_what_k_attempts_do_is_the_mean_over_all_ways_to_draw_k(
    scores: list[float], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(scores)))
    subsets = list(itertools.combinations(scores, k))
    wins = sum(s == 1 for s in scores)
    assert best_of_k(scores, k) == pytest.approx(fmean(max(s) for s in subsets))
    assert pass_at_k(wins, len(scores), k) == pytest.approx(fmean(any(v == 1 for v in s) for s in subsets))
    assert pass_hat_k(wins, len(scores), k) == pytest.approx(fmean(all(v == 1 for v in s) for s in subsets))


def test_what_k_attempts_do_by_hand() -> None:
    # 2 successes of 4 attempts: of the 6 pairs 1 has none and 1 has both.
    assert pass_at_k(2, 4, 2) == pytest.approx(5 / 6)
    assert pass_hat_k(2, 4, 2) == pytest.approx(1 / 6)
    # Scores 0, 0.5, 1: the pairs have the maxima 0.5, 1, 1.
    assert best_of_k([1.0, 0.0, 0.5], 2) == pytest.approx(2.5 / 3)


def test_the_estimates_are_unbiased() -> None:
    # Exactly, over every outcome of n = 5 attempts of success p.
    p, n, k = 0.3, 5, 3
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert sum(w * pass_at_k(c, n, k) for c, w in enumerate(chances)) == pytest.approx(1 - (1 - p) ** k)
    assert sum(w * pass_hat_k(c, n, k) for c, w in enumerate(chances)) == pytest.approx(p**k)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_one_attempt_per_task_is_wilsons_interval(wins: list[bool]) -> None:
    found = proportion([int(w) for w in wins], [1] * len(wins))
    assert found == pytest.approx((sum(wins) / len(wins), *wilson(sum(wins), len(wins)), len(wins)))


def test_attempts_that_always_end_alike_make_no_interval_narrower() -> None:
    # 6 of 10 tasks, each done or not done in all of 8 attempts: as good as 10 episodes, by hand 0.313 to 0.832.
    alike = proportion([8] * 6 + [0] * 4, [8] * 10)
    assert alike[:3] == pytest.approx((0.6, 0.3127, 0.8318), abs=1e-3)
    solved = proportion([8] * 10, [8] * 10)
    assert solved[:3] == pytest.approx((1.0, *wilson(10, 10)))


def test_attempts_that_have_nothing_in_common_count_each() -> None:
    rng = np.random.default_rng(0)
    wins = rng.binomial(8, 0.5, size=2000).tolist()
    found = proportion(wins, [8] * 2000)
    low, high = wilson(sum(wins), 16000)
    assert found.high - found.low == pytest.approx(high - low, rel=0.05)


@pytest.mark.parametrize("spread", [0.0, 0.15, 0.5])
def test_the_interval_of_repeated_attempts_covers_the_truth_nineteen_times_of_twenty(spread: float) -> None:
    # Tasks of difficulty 0.5 -+ spread, 4 attempts each, 30 tasks.
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        rates = 0.5 + spread * rng.choice([-1.0, 1.0], size=30)
        e = proportion(rng.binomial(4, rates).tolist(), [4] * 30)
        covered += e.low <= 0.5 <= e.high
    assert 0.93 <= covered / 2000 <= 0.975


def test_the_bootstrap_covers_the_truth_and_is_the_same_every_time() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        e = mean_over_tasks(rng.beta(2, 3, size=50).tolist())
        covered += e.low <= 0.4 <= e.high
    assert 0.91 <= covered / 400 <= 0.98
    values = rng.random(30).tolist()
    assert mean_over_tasks(values) == mean_over_tasks(values)


def test_equal_scores_still_have_an_interval_and_none_is_nan() -> None:
    assert mean_over_tasks([1.0] * 16)[:3] == pytest.approx((1.0, *wilson(16, 16)))
    empty = mean_over_tasks([])
    assert math.isnan(empty.value)
    assert empty[1:] == (0.0, 1.0, 0)
    assert proportion([], [])[1:] == (0.0, 1.0, 0)


def test_the_bootstrap_of_many_tasks_is_cut_into_pieces_and_stays_right() -> None:
    values = np.random.default_rng(3).random(60_000)
    e = mean_over_tasks(values.tolist())
    assert e.high - e.low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(60_000), rel=0.1)


@given(st.integers(0, 25), st.integers(0, 25))
def test_mcnemar_is_the_binomial_test_of_the_disagreements(b: int, c: int) -> None:
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(expected)


def test_mcnemar_by_hand() -> None:
    # 1 against 7: 2 (1 + 8) / 256.
    assert mcnemar(1, 7) == pytest.approx(18 / 256)


@pytest.mark.parametrize(("only_first", "only_second"), [(0.1, 0.1), (0.02, 0.0), (0.05, 0.3)])
def test_the_interval_of_a_paired_difference_covers_it(only_first: float, only_second: float) -> None:
    rng = np.random.default_rng(4)
    b, c, _ = rng.multinomial(60, [only_first, only_second, 1 - only_first - only_second], size=4000).T
    intervals = [paired_difference(int(x), int(y), 60) for x, y in zip(b, c, strict=True)]
    covered = fmean(low <= only_second - only_first <= high for low, high in intervals)
    assert covered >= 0.94


def test_the_number_of_tasks_gives_the_power_it_says() -> None:
    only_first, only_second = 0.1, 0.25
    n = tasks_needed(only_second - only_first, only_first + only_second)
    rng = np.random.default_rng(5)
    b, c, _ = rng.multinomial(n, [only_first, only_second, 1 - only_first - only_second], size=4000).T
    # The formula is that of the test without a continuity correction.
    z = (c - b) / np.sqrt(np.maximum(b + c, 1))
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.8, abs=0.03)


def test_the_number_of_tasks_by_hand() -> None:
    # d = 0.1, psi = 0.3: (1.960 sqrt(0.3) + 0.8416 sqrt(0.29))^2 / 0.01 = (1.0735 + 0.4532)^2 / 0.01 = 233.1.
    assert tasks_needed(0.1, 0.3) == 234


@given(st.integers(20, 5000), st.floats(0.02, 0.5))
def test_what_is_visible_is_what_the_tasks_are_needed_for(tasks: int, disagree: float) -> None:
    seen = visible_difference(tasks, disagree)
    if seen < 1:
        assert tasks_needed(seen, disagree) <= tasks < tasks_needed(seen * 0.98, disagree) + 1


def test_the_mean_of_panels_is_as_sure_as_their_spread_says() -> None:
    random.seed(6)
    panels = [Estimate(0.5, 0.4, 0.6, 96)] * 4
    assert mean_of(panels) == pytest.approx((0.5, 0.45, 0.55, 384))
    lopsided = mean_of([Estimate(1.0, 0.8, 1.0, 16), Estimate(0.0, 0.0, 0.2, 16)])
    assert lopsided == pytest.approx((0.5, 0.4, 0.6, 32))
