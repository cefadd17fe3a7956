"""The mathematics of the rewards, each against a plain loop or a sum by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.trainers.rewards import normalisation, schedules, shaping
from turnwise.trainers.rewards.prof import consistency, kept_counts, prof

NUMBER = st.floats(-50, 50, width=32).map(lambda v: 0.0 if abs(v) < 1e-3 else v)
RAGGED = st.lists(st.lists(st.none() | NUMBER, min_size=1, max_size=5), min_size=1, max_size=6)


def _tensors(rows):
    width = max(map(len, rows))
    x = torch.full((len(rows), width), 1e6, dtype=torch.float64)  # what is not known must not be read
    known = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        for k, v in enumerate(row):
            if v is not None:
                x[i, k], known[i, k] = v, True
    return x, known


def _ragged(x, rows):
    return [[None if v is None else float(x[i, k]) for k, v in enumerate(row)] for i, row in enumerate(rows)]


def _close(found, expected, tolerance=1e-7):
    for a, b in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert (a is None) == (b is None)
        assert a is None or a == pytest.approx(b, abs=tolerance)


# Bounds and gates.


def test_clip_pays_nothing_for_good_turns():
    x, known = _tensors([[0.5, -0.2, None], [0.1, None, -1.0]])
    assert shaping.clip(x, known, 0.1).tolist() == [
        pytest.approx([0.0, -0.3, 0.0]),
        pytest.approx([0.0, 0.0, -1.1]),
    ]


@settings(max_examples=50, deadline=None)
@given(RAGGED)
def test_delta_makes_what_follows_a_turn_worth_that_turn(rows):
    x, known = _tensors(rows)
    out = _ragged(shaping.delta(x, known), rows)
    for row, changed in zip(rows, out, strict=True):
        for t, value in enumerate(row):
            if value is not None:
                assert sum(v for v in changed[t:] if v is not None) == pytest.approx(value, abs=1e-6)


def test_a_repeated_turn_earns_nothing_under_delta():
    x, known = _tensors([[0.7, 0.7, 0.7, 0.2]])
    assert shaping.delta(x, known)[0].tolist() == pytest.approx([0.0, 0.0, 0.5, 0.2])


@settings(max_examples=30, deadline=None)
@given(RAGGED, st.data())
def test_par_is_the_mean_preference_over_the_other_trajectories_of_the_group(rows, data):
    groups = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    x, known = _tensors(rows)
    found = _ragged(shaping.par(x, known, torch.tensor(groups)), rows)
    expected = []
    for i, row in enumerate(rows):
        others = [
            w
            for j, other in enumerate(rows)
            if groups[j] == groups[i] and j != i
            for w in other
            if w is not None
        ]
        expected.append(
            [
                None
                if v is None
                else 0.5
                if not others
                else sum(1 / (1 + math.exp(w - v)) for w in others) / len(others)
                for v in row
            ]
        )
    _close(found, expected)


def test_a_failure_gets_no_process_reward_under_posterior():
    x = torch.tensor([[0.3, 0.4], [0.9, 0.9]])
    assert shaping.posterior(x, torch.tensor([1.0, 0.0])).tolist() == [
        pytest.approx([0.3, 0.4]),
        [0.0, 0.0],
    ]


# Normalisation.


def _standardised(values, ddof):
    mean = sum(values) / len(values)
    if len(set(values)) == 1:
        return dict.fromkeys(values, 0.0)
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / max(len(values) - ddof, 1))
    return {v: (v - mean) / (std + 1e-6) for v in values}


@settings(max_examples=50, deadline=None)
@given(RAGGED, st.data(), st.sampled_from([0, 1]))
def test_group_standardise_equals_a_loop(rows, data, ddof):
    groups = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    x, known = _tensors(rows)
    found = _ragged(normalisation.group_standardise(x, known, torch.tensor(groups), ddof=ddof), rows)
    expected = []
    for i, row in enumerate(rows):
        members = [j for j in range(len(rows)) if groups[j] == groups[i]]
        pool = [v for j in members for v in rows[j] if v is not None]
        table = _standardised(pool, ddof) if pool else {}
        expected.append([None if v is None else 0.0 if len(members) == 1 else table[v] for v in row])
    _close(found, expected, 1e-5)


@settings(max_examples=30, deadline=None)
@given(RAGGED)
def test_batch_standardise_equals_a_loop(rows):
    x, known = _tensors(rows)
    pool = [v for row in rows for v in row if v is not None]
    table = _standardised(pool, 0) if pool else {}
    found = _ragged(normalisation.batch_standardise(x, known), rows)
    _close(found, [[None if v is None else table[v] for v in row] for row in rows], 1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(NUMBER, max_size=6), min_size=1, max_size=5))
def test_running_moments_do_not_depend_on_how_the_numbers_came(parts):
    together, apart = normalisation.RunningMoments(), normalisation.RunningMoments()
    together.update(torch.tensor([v for p in parts for v in p], dtype=torch.float64))
    for part in parts:
        apart.update(torch.tensor(part, dtype=torch.float64))
    assert apart.count == together.count
    assert apart.mean == pytest.approx(together.mean, abs=1e-9)
    assert apart.squares == pytest.approx(together.squares, abs=1e-6)
    again = normalisation.RunningMoments()
    again.load_state_dict(apart.state_dict())
    x, known = torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([[True, False]])
    assert torch.equal(again.standardise(x, known), apart.standardise(x, known))


def test_equal_numbers_are_worth_exactly_nothing_also_where_their_mean_is_rounded():
    x, known = _tensors([[0.1, 0.1], [0.1]])  # the mean of three tenths is not a tenth in float64
    group = torch.zeros(2, dtype=torch.int64)
    assert normalisation.group_standardise(x, known, group).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert normalisation.batch_standardise(x, known).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_running_moments_divide_as_ddof_says():
    moments = normalisation.RunningMoments()
    moments.update(torch.tensor([0.0, 2.0], dtype=torch.float64))
    x, known = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[True]])
    assert moments.standardise(x, known, eps=0.0).tolist() == [[1.0]]
    assert moments.standardise(x, known, ddof=1, eps=0.0).item() == pytest.approx(2**-0.5)


def test_renorm_of_a_trajectory_alone_in_its_group_is_nothing():
    x, known = _tensors([[1.0, 3.0]])
    outcome, group = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    assert normalisation.renorm(x, known, outcome, known, group).tolist() == [[0.0, 0.0]]


def test_renorm_by_hand():
    # Group 0: turns 1, 2 | 3; mean 2. Outcomes 1, 0; mean .5. Group 1 is alone.
    x, known = _tensors([[1.0, 2.0], [3.0], [7.0, None]])
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    out = normalisation.renorm(
        x, known, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64), mask, torch.tensor([0, 0, 1])
    )
    assert out.tolist() == [[-0.5, 0.5], [0.5, 0.0], [0.0, 0.0]]


def test_renorm_keeps_the_order_inside_and_sums_to_nothing_where_lengths_agree():
    x, known = _tensors([[1.0, 5.0], [2.0, 0.0], [4.0, 3.0]])
    outcome = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    out = normalisation.renorm(x, known, outcome, known, torch.zeros(3, dtype=torch.int64))
    assert float(out.sum()) == pytest.approx(0.0, abs=1e-12)
    assert bool(((out[:, 0] < out[:, 1]) == (x[:, 0] < x[:, 1])).all())


# Schedules.


def _weight(schedule, step, **changes):
    options = {"weight": 0.8, "final_weight": 0.2, "steps": 10} | changes
    return schedules.scheduled_weight(schedule, step=step, **options)


@pytest.mark.parametrize(
    ("schedule", "first", "middle", "end"),
    [
        ("constant", 0.8, 0.8, 0.8),
        ("linear", 0.8, 0.5, 0.2),
        ("cosine", 0.8, 0.5, 0.2),
        ("atr", 0.8, 0.4, 0.0),
    ],
)
def test_schedules_by_hand(schedule, first, middle, end):
    assert _weight(schedule, 1) == pytest.approx(first)
    assert _weight(schedule, 6) == pytest.approx(middle)
    assert _weight(schedule, 11) == pytest.approx(end)
    assert _weight(schedule, 1000) == pytest.approx(end)


def test_cosine_is_slow_at_its_ends():
    steps = [_weight("cosine", s) for s in range(1, 12)]
    falls = [a - b for a, b in itertools.pairwise(steps)]
    assert falls[0] < falls[4]
    assert falls[-1] < falls[5]
    assert falls == pytest.approx(falls[::-1])


def test_atr_leaves_the_rest_to_the_outcome():
    for step in (1, 4, 11, 50):
        process = _weight("atr", step, weight=0.5)
        assert process + schedules.outcome_share([process]) == pytest.approx(1.0)
    assert schedules.outcome_share([_weight("atr", 11)]) == 1.0
    assert schedules.outcome_share([0.3, 0.5]) == pytest.approx(0.2)  # of two process rewards


def test_the_adaptive_weight_is_what_the_group_cannot_do():
    success = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    group = torch.tensor([7, 7, 3, 3, 5])
    assert schedules.adaptive_weight(success, group).tolist() == [0.5, 0.5, 0.0, 0.0, 1.0]


# PROF.


def test_consistency_by_hand():
    assert consistency([0.2, None, 0.4], True, turns=3) == pytest.approx(0.3)
    assert consistency([0.2, 0.4], False, turns=2) == pytest.approx(-0.3)
    assert consistency([0.2], True, turns=1, penalty=1.0) == pytest.approx(-0.8)
    assert consistency([0.2] * 5, True, turns=5, penalty=1.0, limit=5) == pytest.approx(-0.8)
    assert consistency([None], False, turns=2) == 0.0


@pytest.mark.parametrize("correct", range(7))
@pytest.mark.parametrize("incorrect", range(7))
def test_the_counts_have_the_largest_product(correct, incorrect):
    for keep in range(1, 14):
        plus, minus = kept_counts(correct, incorrect, keep)
        total = min(keep, correct + incorrect)
        possible = [(a, total - a) for a in range(total + 1) if a <= correct and total - a <= incorrect]
        assert (plus, minus) in possible
        assert plus * minus == max(a * b for a, b in possible)


def test_prof_keeps_the_consistent_successes_and_a_random_choice_of_failures():
    agreement = [0.9, 0.1, 0.5, -0.2, -0.9, -0.4]
    success = [True, True, True, False, False, False]
    seen = set()
    for seed in range(40):
        kept = prof(agreement, success, keep=4, rng=np.random.default_rng(seed))
        assert kept[:3] == [True, False, True]
        assert sum(kept) == 4
        seen.add(tuple(kept[3:]))
    assert len(seen) == 3


def test_prof_both_keeps_the_failures_with_the_worst_steps():
    rewards = [[0.9], [0.8], [0.1], [0.7]]
    success = [True, True, False, False]
    agreement = [consistency(r, s, turns=2) for r, s in zip(rewards, success, strict=True)]
    kept = prof(agreement, success, keep=2, both=True, rng=np.random.default_rng(0))
    assert kept == [True, False, True, False]


def test_prof_that_keeps_all_keeps_all():
    kept = prof([0.1, -0.5, 0.3], [True, False, True], keep=3, rng=np.random.default_rng(0))
    assert kept == [True] * 3


def test_how_many_prof_keeps_does_not_depend_on_the_process_rewards():
    rng = np.random.default_rng(0)
    success = [True, False, False, True, False]
    counts = set()
    for _ in range(20):
        kept = prof(rng.normal(size=5).tolist(), success, keep=3, rng=np.random.default_rng(1))
        counts.add((sum(kept), sum(k and s for k, s in zip(kept, success, strict=True))))
    assert len(counts) == 1
