"""TurnBatch: what it takes, what it refuses, and with which words."""

from dataclasses import replace

import pytest
import torch

from turnwise.trainers.batch import (
    BadTurns,
    BatchError,
    EmptyTrajectory,
    MixedGroup,
    NotFinite,
    ShapeMismatch,
    TurnBatch,
)
from turnwise.trainers.credit.house_rules import random_batch


def toy(**fields):
    return TurnBatch.from_lists(**({"rewards": [[0.0, 1.0], [0.5]], "group": ["g", "g"]} | fields))


TOKENS = {
    "turn_of_token": [[-1, 0, -1, 1, 1], [-1, 0]],
    "action_mask": [[False, True, False, True, True], [False, True]],
}


def test_defaults_are_summed_rewards_terminated_and_valid():
    batch = toy()
    assert batch.outcome.tolist() == [1.0, 0.5]
    assert batch.terminated.tolist() == [True, True]
    assert batch.valid.tolist() == [True, True]
    assert batch.turn_mask.tolist() == [[True, True], [True, False]]
    assert batch.ids == ("0", "1")
    assert batch.turns.tolist() == [2, 1]


def test_states_of_two_groups_never_get_one_number():
    batch = toy(group=["g", "h"], state=[["s", "s"], ["s"]], action=[[("left", 1), "x"], ["x"]])
    assert batch.state[0, 0] == batch.state[0, 1] != batch.state[1, 0]
    assert len({int(batch.action[0, 0]), int(batch.action[0, 1]), int(batch.action[1, 0])}) == 3


def test_any_hashable_names_a_group():
    batch = toy(group=[("task", 1), ("task", 2)])
    assert batch.group.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", [["a"], ["b"]]),
        ("values", [[0.0, 0.0], [0.0, 0.0]]),
        ("extra", {"spa": [[0.0], [0.0]]}),
        ("observation", [["a", "b"], []]),
    ],
)
def test_ragged_lists_that_disagree_are_named_with_both_shapes(field, value):
    with pytest.raises(ShapeMismatch) as error:
        toy(**{field: value})
    assert field in str(error.value)
    assert "rewards has shape [2, (2, 1)]" in str(error.value) or "rewards" in str(error.value)


def test_lists_of_the_wrong_length_are_named_with_both_shapes():
    with pytest.raises(ShapeMismatch, match=r"outcome has shape \[1\] but rewards has shape \[2, \(2, 1\)\]"):
        toy(outcome=[1.0])
    with pytest.raises(ShapeMismatch, match="turn_of_token"):
        toy(turn_of_token=[[0]], action_mask=[[True]])
    with pytest.raises(
        ShapeMismatch, match=r"turn_of_token has shape \[2, \(5, 2\)\].*action_mask has shape \[2, \(1, 2\)\]"
    ):
        toy(**TOKENS | {"action_mask": [[True], [True, False]]})


def test_tensors_that_disagree_are_named_with_both_shapes():
    with pytest.raises(ShapeMismatch, match=r"values has shape \[2, 3\] but rewards has shape \[2, 2\]"):
        replace(toy(), values=torch.zeros(2, 3))
    with pytest.raises(ShapeMismatch, match=r"extra\['spa'\] has shape \[1, 2\]"):
        replace(toy(), extra={"spa": torch.zeros(1, 2)})
    with pytest.raises(
        ShapeMismatch, match=r"tokens has shape \[2, 4\] but turn_of_token has shape \[2, 5\]"
    ):
        replace(toy(**TOKENS), tokens=torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ShapeMismatch, match="ids"):
        replace(toy(), ids=("a",))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e31])
def test_a_reward_that_cannot_be_added_names_its_trajectory_and_turn(value):
    with pytest.raises(NotFinite, match=r"rewards of trajectory 'run-7', turn 1 is .*finite"):
        toy(rewards=[[0.0, value], [0.5]], outcome=[0.0, 0.0], ids=["run-7", "run-8"])
    with pytest.raises(NotFinite, match="outcome of trajectory 'run-8' is"):
        toy(outcome=[0.0, value], ids=["run-7", "run-8"])


@pytest.mark.parametrize("field", ["values", "entropy"])
def test_other_numbers_must_be_finite_too(field):
    with pytest.raises(NotFinite, match=field):
        toy(**{field: [[0.0, float("nan")], [0.0]]})
    with pytest.raises(NotFinite, match="extra"):
        toy(extra={"spa": [[0.0, 0.0], [float("inf")]]})
    with pytest.raises(NotFinite, match="token_values"):
        toy(**TOKENS, token_values=[[0.0, float("nan"), 0.0, 0.0, 0.0], [0.0, 0.0]])


def test_a_value_after_the_end_matters_for_truncated_trajectories_only():
    nan = float("nan")
    toy(last_value=[nan, 0.0], terminated=[True, False])
    with pytest.raises(NotFinite, match="last_value of trajectory '1'"):
        toy(last_value=[0.0, nan], terminated=[True, False])


def test_invalid_trajectories_may_hold_anything():
    nan = float("nan")
    batch = toy(rewards=[[0.0, 1.0], []], outcome=[1.0, nan], values=[[0.0, 0.0], []], valid=[True, False])
    assert batch.live.tolist() == [[True, True], [False, False]]


def test_a_group_of_two_tasks_is_refused_with_their_names():
    with pytest.raises(MixedGroup, match=r"group 'g' holds the tasks 'maze-1'.*'maze-2'"):
        toy(task=["maze-1", "maze-2"])
    with pytest.raises(MixedGroup, match="group 0"):
        replace(toy(), task=torch.tensor([4, 5]))
    toy(task=["maze-1", "maze-2"], valid=[True, False])
    toy(task=["maze-1", "maze-2"], group=["g", "h"])


def test_a_valid_trajectory_without_turns_is_refused():
    with pytest.raises(EmptyTrajectory, match="trajectory 'b' has no turn"):
        toy(rewards=[[1.0], []], ids=["a", "b"])


def test_turns_must_be_left_aligned():
    with pytest.raises(BadTurns, match=r"trajectory '1'.*left-aligned"):
        replace(toy(), turn_mask=torch.tensor([[True, True], [False, True]]))


def test_types_are_checked():
    with pytest.raises(BadTurns, match="rewards must be a float tensor"):
        replace(toy(), rewards=torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(BadTurns, match="turn_mask must be a bool tensor"):
        replace(toy(), turn_mask=torch.ones(2, 2))


def test_the_token_side_is_indexed_by_turn():
    batch = toy(**TOKENS)
    assert batch.turn_tokens.tolist() == [[1, 2], [1, 0]]
    assert batch.turn_end.tolist() == [[1, 4], [6, -1]]
    assert batch.row_to_trajectory.tolist() == [0, 1]


def test_an_incomplete_token_side_is_refused():
    with pytest.raises(BadTurns, match="incomplete: turn_of_token is given, action_mask is not"):
        toy(turn_of_token=TOKENS["turn_of_token"])
    with pytest.raises(BadTurns, match="incomplete"):
        toy(tokens=[[1], [2]])


@pytest.mark.parametrize(
    ("turns", "mask", "words"),
    [
        (
            [[0, 2], [0]],
            [[True, True], [True]],
            "token 1 of row 0 names turn 2 of trajectory '0', which has 2 turns",
        ),
        (
            [[0, 1], [1]],
            [[True, True], [True]],
            "token 0 of row 1 names turn 1 of trajectory '1', which has 1",
        ),
        ([[0, -1], [0]], [[True, True], [True]], "token 1 of row 0 names turn -1"),
        ([[0, -2], [0]], [[True, False], [True]], "names turn -2"),
        (
            [[0, 1, 0], [0]],
            [[True, True, True], [True]],
            "turn 0 of trajectory '0' lie in two rows or are interrupted",
        ),
    ],
)
def test_tokens_that_name_impossible_turns_are_refused(turns, mask, words):
    with pytest.raises(BadTurns, match=words):
        toy(turn_of_token=turns, action_mask=mask)


def test_one_turn_in_two_rows_is_refused():
    with pytest.raises(BadTurns, match="turn 0 of trajectory '0' lie in two rows"):
        toy(turn_of_token=[[0], [0]], action_mask=[[True], [True]], row_to_trajectory=[0, 0])


def test_rows_must_belong_to_a_trajectory():
    with pytest.raises(BadTurns, match=r"\[0, 2\).*2"):
        toy(**TOKENS, row_to_trajectory=[0, 2])


def test_an_observation_token_inside_a_turn_does_not_interrupt_it():
    batch = toy(turn_of_token=[[0, 0, 0, 1], [0]], action_mask=[[True, False, True, True], [True]])
    assert batch.turn_tokens[0].tolist() == [2, 1]
    assert batch.turn_end[0].tolist() == [2, 3]


def test_every_error_is_a_value_error():
    for error in (ShapeMismatch, NotFinite, MixedGroup, EmptyTrajectory, BadTurns):
        assert issubclass(error, BatchError)
    assert issubclass(BatchError, ValueError)


@pytest.mark.parametrize("seed", range(6))
def test_taking_trajectories_keeps_their_turns_and_tokens_together(seed):
    batch = random_batch(seed, sources=("spa",))
    order = torch.randperm(len(batch.ids), generator=torch.Generator().manual_seed(seed))[:4]
    taken = batch.take(order)
    assert taken.ids == tuple(batch.ids[i] for i in order.tolist())
    assert torch.equal(taken.rewards, batch.rewards[order])
    assert torch.equal(taken.extra["spa"], batch.extra["spa"][order])
    values, flat = batch.token_values.flatten(), taken.token_values.flatten()
    assert torch.equal(flat[taken.turn_end[taken.turn_mask]], values[batch.turn_end[order][taken.turn_mask]])
    rebuilt = replace(taken)  # indexes the tokens anew
    assert torch.equal(rebuilt.turn_end, taken.turn_end)
    assert torch.equal(rebuilt.turn_tokens, taken.turn_tokens)


def test_needs_are_looked_up_by_name():
    batch = toy(extra={"spa": [[0.0, 0.0], [0.0]]}, state=[["a", "b"], ["c"]])
    assert batch.has("extra.spa")
    assert batch.has("state")
    assert not batch.has("extra.other")
    assert not batch.has("values")


def test_an_empty_batch_is_a_batch():
    assert TurnBatch.from_lists(rewards=[], group=[]).rewards.shape == (0, 0)


def test_rewards_keep_the_precision_asked_for():
    assert toy(dtype=torch.float64).rewards.dtype == torch.float64
    assert toy(dtype=torch.float64, values=[[0, 0], [0]]).values.dtype == torch.float64
