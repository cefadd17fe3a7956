"""The house rules over the registry, and proof that each rule catches the mistake it is there for."""

import pytest
import torch

from turnwise.trainers.credit import check_house_rules, compute, credit_schemes, register_credit, spec
from turnwise.trainers.credit.house_rules import RULES, random_batch
from turnwise.trainers.credit.registry import _SCHEMES
from turnwise.trainers.credit.statistics import grouping, onto_turns


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", credit_schemes())
def test_scheme_keeps_the_house_rule(name, rule):
    hold_to(rule, name)


def hold_to(rule, name):
    for seed in range(6):
        RULES[rule](name, seed)


@pytest.fixture
def scheme():
    """Registers schemes for one test."""
    before = dict(_SCHEMES)

    def register(function, **options):
        register_credit("mine", **options)(function)
        return "mine"

    yield register
    _SCHEMES.clear()
    _SCHEMES.update(before)


def reads_padding(batch):
    return batch.rewards + batch.rewards.shape[1] * batch.turn_mask


def ranks_rows(batch):
    return onto_turns(torch.arange(len(batch.ids)).double(), batch)


def reads_the_number_of_the_state(batch):
    return batch.state.double()


def mixes_states_of_groups(batch):
    same = (batch.state[:, :1] == batch.state[:, 0]).double()
    return onto_turns(batch.outcome - same @ batch.outcome / same.sum(1), batch)


def centres_over_the_batch(batch):
    return onto_turns(batch.outcome - batch.outcome.mean(), batch)


def keeps_the_raw_score(batch):
    groups = grouping(batch.group)
    lone = groups.count()[groups.index] == 1
    return onto_turns(torch.where(lone, batch.outcome, 0.0), batch)


def leaves_rounding_errors(batch):
    groups = grouping(batch.group)
    return onto_turns((batch.outcome - groups.mean(batch.outcome * 3)[groups.index] / 3) * 1e9, batch)


def moves_with_a_constant(batch):
    return onto_turns(batch.outcome, batch)


def divides_by_a_deviation_of_zero(batch):
    return onto_turns(batch.outcome / batch.outcome.std(correction=0), batch)


def writes_into_the_batch(batch):
    batch.state.add_(1)
    return batch.rewards


def flips_a_coin(batch):
    return torch.rand_like(batch.rewards)


def counts_invalid_trajectories(batch):
    return onto_turns(batch.outcome - batch.outcome.mean(), batch)


BROKEN = [
    ("padding_changes_nothing", reads_padding, {"baseline": "batch"}),
    ("order_of_trajectories_changes_nothing", ranks_rows, {"baseline": "batch"}),
    ("names_change_nothing", reads_the_number_of_the_state, {"baseline": "batch"}),
    ("names_change_nothing", mixes_states_of_groups, {"baseline": "batch", "scope": "batch"}),
    ("groups_do_not_mix", centres_over_the_batch, {"baseline": "batch"}),
    ("group_of_one_gets_zero", keeps_the_raw_score, {}),
    ("group_without_variance_gets_zero", leaves_rounding_errors, {}),
    ("constant_reward_changes_nothing", moves_with_a_constant, {"shift_invariant": True}),
    ("every_finite_number_gives_finite_advantages", divides_by_a_deviation_of_zero, {"baseline": "batch"}),
    ("the_batch_is_only_read", writes_into_the_batch, {"baseline": "batch"}),
    ("the_batch_is_only_read", flips_a_coin, {"baseline": "batch"}),
]


@pytest.mark.parametrize(
    ("rule", "broken", "options"), BROKEN, ids=lambda value: getattr(value, "__name__", None)
)
def test_rule_catches_the_mistake_it_is_there_for(scheme, rule, broken, options):
    name = scheme(broken, **options)
    with pytest.raises(AssertionError, match=r"mine|not finite"):
        hold_to(rule, name)


def test_invalid_trajectories_never_reach_a_scheme(scheme):
    # `compute` removes them, so that even a scheme that knows nothing of validity keeps that rule.
    name = scheme(counts_invalid_trajectories, baseline="batch", scope="batch")
    RULES["invalid_trajectories_change_nothing"](name, 0)


def test_check_house_rules_runs_every_rule_on_a_users_own_scheme(scheme):
    name = scheme(lambda batch: batch.rewards * 0.0)
    check_house_rules(name)
    assert spec(name).baseline == "group"


@pytest.mark.parametrize("seed", range(6))
def test_random_batches_have_what_the_rules_need(seed):
    batch = random_batch(seed, sources=("spa",))
    assert len(batch.group.unique()) == 3
    assert int(torch.bincount(batch.group).min()) >= 2
    assert batch.turn_tokens[batch.turn_mask].min() >= 1
    assert bool(compute("turn_returns", batch, norm="none").equal(batch.rewards.flip(1).masked_fill(
        ~batch.turn_mask.flip(1), 0).cumsum(1).flip(1).masked_fill(~batch.turn_mask, 0)))  # fmt: skip
