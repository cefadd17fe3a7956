"""The self-imitation buffer and its schedules."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.trainers.replay import ReplayBuffer, Replayed, imitation_weight, tool_reward_weight


def filled(**options):
    buffer = ReplayBuffer(**options)
    buffer.add(0, "abcd", [0.0, 0.5, 1.0, 0.8], [-1.0, 0.2, 1.0, 0.0])
    return buffer


def test_only_trajectories_above_zero_are_stored_but_all_move_the_baseline():
    buffer = filled()
    assert len(buffer) == 2
    assert buffer.baseline == pytest.approx(0.65)


def test_a_trajectory_is_replayed_with_its_lead_over_the_median():
    assert filled().replayable(3) == [Replayed("c", pytest.approx(0.35), 3)]


def test_a_trajectory_that_the_policy_has_caught_up_with_is_not_replayed():
    buffer = filled()
    buffer.add(1, "wxyz", [1.0] * 4, [0.0] * 4)
    assert buffer.baseline == 1.0
    assert buffer.replayable(1) == []


def test_a_trajectory_expires_after_its_age():
    buffer = filled(max_age=10)
    assert [found.age for found in buffer.replayable(10)] == [10]
    assert buffer.replayable(11) == []


def test_the_oldest_leave_a_full_buffer():
    buffer = ReplayBuffer(capacity=2, outcomes=3)
    buffer.add(0, range(5), [1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)
    assert len(buffer) == 2
    assert buffer.baseline == 4.0
    assert [found.item for found in buffer.replayable(0)] == [4]


def test_an_empty_buffer_replays_nothing():
    assert ReplayBuffer().sample(0, 8, random.Random(0)) == []
    assert ReplayBuffer().baseline is None


def test_sampling_is_without_repeats_and_reproducible():
    buffer = ReplayBuffer(percentile=0)
    buffer.add(0, range(20), [float(i) for i in range(20)], [1.0] * 20)
    first = buffer.sample(0, 8, random.Random(3))
    assert first == buffer.sample(0, 8, random.Random(3))
    assert len({found.item for found in first}) == 8
    assert len(buffer.sample(0, 99, random.Random(3))) == 19  # the worst is at the baseline


@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_the_baseline_is_the_median(values):
    buffer = ReplayBuffer()
    buffer.add(0, values, values, values)
    assert buffer.baseline == pytest.approx(statistics.median(values))


def test_a_checkpoint_restores_the_buffer():
    buffer, copy = filled(), ReplayBuffer()
    copy.load_state_dict(buffer.state_dict())
    assert copy.replayable(2) == buffer.replayable(2)
    assert copy.baseline == buffer.baseline


@pytest.mark.parametrize(
    ("option", "value"), [("capacity", 0), ("outcomes", 0), ("max_age", -1), ("percentile", 101.0)]
)
def test_sizes_that_mean_nothing_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} is {value}"):
        ReplayBuffer(**{option: value})


def test_imitation_starts_at_zero_and_ends_at_its_coefficient():
    assert [imitation_weight(step, warmup=100) for step in (0, 50, 100, 500)] == pytest.approx([0, 0.5, 1, 1])
    assert imitation_weight(25, warmup=100, coefficient=2.0) == pytest.approx(2 * 0.1464466)


def test_the_tool_reward_ends_at_zero():
    assert [tool_reward_weight(step, decay=100) for step in (0, 50, 100, 500)] == pytest.approx(
        [1, 0.5, 0, 0]
    )


def test_schedules_need_at_least_one_step():
    with pytest.raises(ValueError, match="warmup is 0"):
        imitation_weight(3, warmup=0)
    with pytest.raises(ValueError, match="decay is 0"):
        tool_reward_weight(3, decay=0)
