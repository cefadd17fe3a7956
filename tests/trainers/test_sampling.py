"""Group filters, refilling and the overlong penalty."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.trainers.sampling import Refill, informative, overlong_penalty, top_p

outcomes = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.3, 1.0]), st.booleans()), max_size=12
)


def test_groups_that_agree_are_dropped_right_or_wrong():
    keep = informative([1, 1, 0, 0, 1, 0], ["right", "right", "wrong", "wrong", "split", "split"])
    assert keep == [False, False, False, False, True, True]


def test_a_graded_group_can_differ_without_being_split():
    assert informative([0.2, 0.3], ["g", "g"]) == [True, True]
    assert informative([0.2, 0.3], ["g", "g"], correct=0.5) == [False, False]
    assert informative([0.2, 0.5], ["g", "g"], correct=0.5) == [True, True]


def test_invalid_rollouts_do_not_make_a_group_informative():
    assert informative([0.0, 1.0], ["g", "g"], [True, False]) == [False, False]
    assert informative([0.0, 1.0, 9.0], ["g"] * 3, [True, True, False]) == [True, True, True]
    assert informative([1.0], ["g"]) == [False]


@given(rows=outcomes)
def test_dynamic_sampling_matches_a_plain_count(rows):
    names, scores, valid = [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]
    for row, kept in zip(rows, informative(scores, names, valid, correct=1.0), strict=True):
        mates = [s for n, s, v in rows if n == row[0] and v]
        assert kept == (0 < mates.count(1.0) < len(mates))


def test_top_p_keeps_the_largest_spreads_until_the_share_is_reached():
    # Two outcomes d apart have the deviation d / sqrt(2): the shares are .5, .3, .2.
    scores, names = [0, 5, 0, 3, 0, 2], ["a", "a", "b", "b", "c", "c"]
    assert top_p(scores, names, p=0.5) == [True, True, False, False, False, False]
    assert top_p(scores, names, p=0.51) == [True, True, True, True, False, False]
    assert top_p(scores, names, p=0.8) == [True, True, True, True, False, False]
    assert top_p(scores, names, p=1.0) == [True] * 6


def test_top_p_keeps_equal_spreads_together_and_no_group_without_any():
    assert top_p([0, 1, 0, 1, 5, 5], ["a", "a", "b", "b", "c", "c"], p=0.1) == [True] * 4 + [False] * 2
    assert top_p([5, 5], ["c", "c"], p=1.0) == [False, False]
    assert top_p([], []) == []


@given(rows=outcomes, p=st.floats(0.05, 1))
def test_top_p_reaches_the_share_and_does_not_depend_on_the_order(rows, p):
    def spread(name):
        scores = [s for n, s, v in rows if n == name and v]
        if len(scores) < 2:
            return 0.0
        mean = sum(scores) / len(scores)
        return math.sqrt(sum((s - mean) ** 2 for s in scores) / (len(scores) - 1))

    def kept(order):
        names, scores, valid = [r[0] for r in order], [r[1] for r in order], [r[2] for r in order]
        return {name for name, keep in zip(names, top_p(scores, names, valid, p=p), strict=True) if keep}

    chosen = kept(rows)
    total = sum(spread(name) for name in {r[0] for r in rows})
    assert sum(spread(name) for name in chosen) >= p * total - 1e-9
    left_out = {r[0] for r in rows} - chosen
    assert all(spread(a) > spread(b) - 1e-12 for a in chosen for b in left_out)
    assert kept(random.Random(0).sample(rows, len(rows))) == chosen


@pytest.mark.parametrize("p", [0, -1, 1.1])
def test_top_p_refuses_a_share_that_is_none(p):
    with pytest.raises(ValueError, match=f"p is {p}"):
        top_p([0.0, 1.0], ["a", "a"], p=p)


@pytest.mark.parametrize(
    ("tokens", "penalty"), [(0, 0), (16_384, 0), (18_432, -0.5), (20_480, -1), (20_481, -1), (10**6, -1)]
)
def test_overlong_penalty_falls_linearly_over_the_buffer(tokens, penalty):
    assert overlong_penalty(tokens) == pytest.approx(penalty)


def test_overlong_penalty_refuses_a_buffer_beyond_the_limit():
    with pytest.raises(ValueError, match="buffer is 11"):
        overlong_penalty(5, limit=10, buffer=11)


def test_refill_stops_when_full_and_counts_what_it_dropped():
    refill = Refill(groups=2)
    refill.add(["a1", "a2", "b1", "b2"], ["a", "a", "b", "b"], [True, True, False, False])
    assert (refill.missing, refill.done, refill.dropped) == (1, False, 2)
    refill.add(["a3", "a4", "c1", "c2"], ["a", "a", "c", "c"], [True] * 4)
    assert refill.items == ["a1", "a2", "a3", "a4"]
    assert (refill.missing, refill.done, refill.dropped, refill.rounds) == (0, True, 4, 2)


def test_refill_gives_up_after_its_rounds():
    refill = Refill(groups=1, max_rounds=3)
    while not refill.done:
        refill.add(["x"], ["g"], [False])
    assert (refill.items, refill.rounds, refill.missing) == ([], 3, 1)


def test_refill_refuses_to_collect_nothing():
    with pytest.raises(ValueError, match="groups is 0"):
        Refill(groups=0)
