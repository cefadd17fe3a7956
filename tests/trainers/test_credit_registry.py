"""The one door: names, parameters, needs, precision, and what comes out of it."""

import inspect
from typing import Annotated, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turnwise.trainers import credit
from turnwise.trainers.batch import TurnBatch
from turnwise.trainers.credit import (
    BadParameter,
    CreditExists,
    Interval,
    MissingInput,
    UnknownCredit,
    UnknownParameter,
    check,
    compute,
    credit_schemes,
    critic_targets,
    memory,
    register_credit,
    spec,
    spread,
)
from turnwise.trainers.credit.registry import _SCHEMES


@pytest.fixture
def registry():
    before = dict(_SCHEMES)
    yield
    _SCHEMES.clear()
    _SCHEMES.update(before)


def toy(**fields):
    return TurnBatch.from_lists(**({"rewards": [[0.0, 1.0], [0.5]], "group": [0, 0]} | fields))


def test_all_is_sorted_and_true():
    assert credit.__all__ == sorted(credit.__all__)
    assert all(hasattr(credit, name) for name in credit.__all__)


def test_unknown_name_lists_the_nearest_first():
    with pytest.raises(UnknownCredit, match=r"'gigp'\. Did you mean 'gigpo'\? Known: gigpo, hgpo") as error:
        compute("gigp", toy())
    assert isinstance(error.value, LookupError)
    assert isinstance(error.value, ValueError)
    for name in credit_schemes():
        assert name in str(error.value)


def test_unknown_parameter_names_the_nearest():
    with pytest.raises(UnknownParameter, match=r"'gama'. Did you mean 'gamma'"):
        compute("turn_returns", toy(), gama=1.0)


@pytest.mark.parametrize(
    ("name", "params", "allowed"),
    [
        ("turn_returns", {"gamma": 1.5}, r"a finite number in \[0, 1\]"),
        ("turn_returns", {"gamma": "0.9"}, "a finite number"),
        ("turn_returns", {"gamma": True}, "a finite number"),
        ("turn_returns", {"gamma": float("nan")}, "a finite number"),
        ("turn_returns", {"norm": "firts"}, "'turn_index', 'pooled', 'first', 'none'"),
        ("turn_returns", {"ddof": 2}, "0, 1"),
        ("turn_returns", {"ddof": True}, "0, 1"),
        ("turn_returns", {"eps": 0}, r"a finite number in \(0, inf\)"),
        ("salt", {"history": 1.0}, r"a whole number in \[0, inf\)"),
        ("grpo", {"std": 1}, "true or false"),
        ("pure", {"source": 3}, "a name"),
        ("grpo", {"std": None}, "true or false"),
    ],
)
def test_bad_parameter_says_what_is_allowed(name, params, allowed):
    with pytest.raises(BadParameter, match=allowed):
        check(name, params)


def test_whole_numbers_count_as_numbers():
    assert check("turn_returns", {"gamma": 1}).name == "turn_returns"


def test_a_need_that_the_batch_lacks_is_named_with_its_remedy():
    with pytest.raises(MissingInput, match=r"'gigpo' needs state.*`state_key`"):
        compute("gigpo", toy())
    with pytest.raises(MissingInput, match=r"'turn_gae' needs values.*critic"):
        compute("turn_gae", toy())
    with pytest.raises(MissingInput, match="reward source 'implicit_prm'"):
        compute("istar", toy())


def test_needs_can_be_checked_before_the_first_rollout():
    check("gigpo", {}, available={"state", "action"})
    with pytest.raises(MissingInput, match="entropy"):
        check("empg", {}, available={"state", "action"})


def test_needs_follow_the_parameters():
    with pytest.raises(MissingInput, match="observation"):
        check("gigpo", {"anchors": "similarity"}, available={"state"})
    check("spa", {"beta": 0.0}, available={"extra.spa"})
    with pytest.raises(MissingInput, match="grounding"):
        check("spa", {}, available={"extra.spa"})
    check("pure", {"source": "judge"}, available={"extra.judge"})


def test_a_truncated_trajectory_without_a_last_value_is_named():
    batch = toy(values=[[0.0, 0.0], [0.0]], terminated=[True, False], ids=["a", "b"])
    with pytest.raises(MissingInput, match="trajectory 'b' was truncated"):
        compute("turn_gae", batch)


def test_token_schemes_need_the_token_side():
    with pytest.raises(MissingInput, match="token_values"):
        compute("bilevel_gae", toy())
    with pytest.raises(MissingInput, match="turn_of_token"):
        spread(compute("grpo", toy()), toy())


@pytest.mark.parametrize("name", credit_schemes())
def test_spec_describes_every_scheme(name):
    scheme = spec(name)
    assert scheme.name == name
    assert "Source:" in scheme.doc
    assert "Returns:" in scheme.doc
    for key, parameter in scheme.params.items():
        assert parameter.allows(parameter.default), key
        assert f"{key}" in scheme.doc
    named = [*inspect.signature(scheme.function).parameters]
    if scheme.memory is not None:
        named += inspect.signature(scheme.memory).parameters
    assert named == ["batch", *scheme.params]


def test_all_trajectories_invalid_gives_zeros():
    batch = toy(valid=[False, False], outcome=[float("nan"), 0.0])
    assert compute("grpo", batch).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_an_empty_batch_gives_an_empty_advantage():
    assert compute("grpo", TurnBatch.from_lists(rewards=[], group=[])).shape == (0, 0)


def test_half_precision_rewards_give_float32():
    batch = toy(dtype=torch.bfloat16)
    assert compute("grpo", batch).dtype == torch.float32


def test_a_sum_of_many_small_float32_rewards_keeps_its_digits():
    # 10,000 times 0.1 in float32 arithmetic is 999.903; the schemes add in float64.
    batch = TurnBatch.from_lists(rewards=[[0.1] * 10_000, [0.0]], group=[0, 0])
    advantage = compute("turn_returns", batch, norm="none")
    assert float(advantage[0, 0]) == pytest.approx(1000.0, rel=1e-6)


def test_a_name_can_be_registered_once(registry):
    register_credit("mine")(lambda batch: batch.rewards)
    with pytest.raises(CreditExists, match="'mine'"):
        register_credit("mine")(lambda batch: batch.rewards)


def test_parameters_are_read_from_the_signature(registry):
    @register_credit("mine", needs=("values",))
    def mine(
        batch: TurnBatch,
        *,
        gamma: Annotated[float, Interval(0, 1)] = 1.0,
        mode: Literal["a", "b"] = "a",
        limit: int | None = None,
    ) -> torch.Tensor:
        """Mine."""
        return gamma * batch.values

    params = spec("mine").params
    assert (params["gamma"].kind, params["gamma"].default) == (float, 1.0)
    assert params["mode"].choices == ("a", "b")
    assert params["limit"].optional
    assert params["limit"].allowed == "a whole number, or None"
    batch = toy(values=[[1.0, 2.0], [3.0]])
    assert compute("mine", batch, gamma=0.5, limit=None).tolist() == [[0.5, 1.0], [1.5, 0.0]]


@pytest.mark.parametrize(
    "broken",
    [
        lambda batch, gamma=1.0: batch.rewards,
        lambda batch, *, gamma: batch.rewards,
        lambda batch, **params: batch.rewards,
    ],
)
def test_parameters_must_be_keyword_only_with_a_default(registry, broken):
    with pytest.raises(TypeError, match="keyword-only and have a default"):
        register_credit("mine")(broken)


def test_a_parameter_without_a_readable_type_is_refused(registry):
    def mine(batch, *, weights: list[float] = ()):
        return batch.rewards

    with pytest.raises(TypeError, match=r"list\[float\].*allowed"):
        register_credit("mine")(mine)


def test_a_scheme_that_returns_the_wrong_shape_or_nan_is_stopped(registry):
    register_credit("flat")(lambda batch: batch.outcome)
    register_credit("nan")(lambda batch: batch.rewards * float("nan"))
    with pytest.raises(AssertionError, match=r"'flat' returned the shape \[2\]; it must return \[2, 2\]"):
        compute("flat", toy())
    with pytest.raises(AssertionError, match="'nan' returned a number that is not finite"):
        compute("nan", toy())


def test_memory_takes_the_parameters_that_concern_it():
    assert memory("grpo") is None
    assert memory("rae", decay=0.5, gamma=0.9).decay == 0.5
    with pytest.raises(UnknownParameter, match=r"'dacay'. Did you mean 'decay'"):
        memory("rae", dacay=0.5)
    with pytest.raises(BadParameter, match="decay"):
        memory("rae", decay=2.0)
    batch = memory("rae").attach(toy(role=[0, 1]))
    assert compute("rae", batch, decay=0.5).tolist() == compute("rae", batch).tolist()


def test_critic_targets_take_the_parameters_of_compute_and_skip_invalid_trajectories():
    batch = toy(values=[[0.5, 0.5], [0.5]], valid=[True, False])
    targets = critic_targets("turn_gae", batch, gamma=1.0, lam=1.0, whitened=False)
    assert targets.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert critic_targets("turn_gae", toy(values=[[0.5, 0.5], [0.5]], valid=[False, False])).abs().max() == 0
    with pytest.raises(MissingInput, match="does not train a critic"):
        critic_targets("grpo", batch)


def test_spread_puts_a_turns_number_on_its_action_tokens_only():
    batch = TurnBatch.from_lists(
        rewards=[[1.0, 2.0], [3.0]],
        group=[0, 0],
        turn_of_token=[[-1, 0, 0, 0, 1], [-1, 0]],
        action_mask=[[False, True, True, False, True], [False, True]],
    )
    advantage = torch.tensor([[1.0, 2.0], [3.0, 9.0]])
    assert spread(advantage, batch).tolist() == [[0, 1, 1, 0, 2], [0, 3, 0, 0, 0]]


@given(seed=st.integers(0, 1000))
def test_spread_by_turn_of_token_matches_a_loop(seed):
    random = torch.Generator().manual_seed(seed)
    advantage = torch.randn(3, 4, generator=random)
    turns = torch.randint(-1, 4, (5, 6), generator=random)
    owner = torch.randint(0, 3, (5,), generator=random)
    expected = [
        [0.0 if t < 0 else float(advantage[int(owner[r]), t]) for t in row]
        for r, row in enumerate(turns.tolist())
    ]
    assert spread(advantage, turns, owner).tolist() == expected
    assert spread(advantage, turns[:3]).tolist() == spread(advantage, turns[:3], torch.arange(3)).tolist()
