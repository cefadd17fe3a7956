"""The implicit process reward model: its mathematics by hand, its gradient against autograd, and that it learns."""

import asyncio
import copy
import dataclasses
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from turnwise.envs import Trajectory, Turn, make
from turnwise.trainers import credit
from turnwise.trainers.batch import TurnBatch
from turnwise.trainers.collate import collate
from turnwise.trainers.local.policy import token_log_probs
from turnwise.trainers.rewards import Models, RewardError, RewardPipeline, build
from turnwise.trainers.rewards.implicit_prm import (
    _ce_shares,
    _chunks,
    _dpo_shares,
    accumulate_gradient,
    ce_coefficients,
    dpo_coefficients,
    success_pairs,
    token_rewards,
    turn_rewards,
)
from turnwise.trainers.rewards.low_rank import LowRankAdapters

VOCABULARY = 23


def model(seed=0, dtype=torch.float32, **changes):
    torch.manual_seed(seed)
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
    }
    return Qwen3ForCausalLM(Qwen3Config(**config | changes)).to(dtype).eval()


def exact_model(seed):
    """In float64 throughout: Qwen's norms and rotations compute in float32."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=64,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).double().eval()


def play(policy, count, group_size=4, seed=0, rule=None, turns=(1, 4)):
    """Trajectories of random tokens with the policy's own log-probs; `rule` of the action ids decides success."""
    draw = random.Random(seed)
    rule = rule or (lambda actions: draw.random() < 0.5)
    found = []
    for i in range(count):
        rows = []
        for _ in range(draw.randint(*turns)):
            prompt = [draw.randrange(1, VOCABULARY) for _ in range(draw.randint(1, 3))]
            action = [draw.randrange(1, VOCABULARY) for _ in range(draw.randint(1, 4))]
            rows.append(
                Turn(
                    "seen", "done", prompt_ids=prompt, action_ids=action, action_log_probs=[0.0] * len(action)
                )
            )
        won = rule([a for row in rows for a in row.action_ids])
        found.append(
            Trajectory(
                "Test-v0",
                f"{i // group_size}",
                "train",
                0,
                "terminated",
                float(won),
                won,
                rows,
                group=i // group_size,
            )
        )
    return with_log_probs(policy, found)


def with_log_probs(policy, trajectories):
    batch = collate(trajectories)
    with torch.no_grad():
        log_probs, _ = token_log_probs(policy, batch.tokens, batch.action_mask)
    for row, mask, t in zip(log_probs, batch.action_mask, trajectories, strict=True):
        values = iter(row[mask].tolist())
        for turn in t.turns:
            turn.action_log_probs = [next(values) for _ in turn.action_ids]
    return trajectories


def good(turn):
    return turn.action_ids[0] < 6


def majority(policy, count, seed):
    """Actions of one token out of six, three of which are good; most of three or five turns must be."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        rows = [
            Turn("seen", "done", prompt_ids=[1], action_ids=[draw.randrange(3, 9)], action_log_probs=[0.0])
            for _ in range(draw.choice((3, 5)))
        ]
        won = 2 * sum(map(good, rows)) > len(rows)
        found.append(
            Trajectory("Test-v0", f"{i // 8}", "train", 0, "terminated", float(won), won, rows, group=i // 8)
        )
    return with_log_probs(policy, found)


def models(policy, **changes):
    return Models(env=make("HigherLower-v1", format="bracket"), policy=policy, seed=3, **changes)


def score(source, trajectories, given):
    return asyncio.run(source.score(trajectories, given))


# The mathematics, by hand.


def test_worked_example_of_istar():
    # Two rollouts of a task: sums of log pi_phi - log pi_old per turn (0.6, 0) and (-0.2, -0.5), one token each.
    batch = TurnBatch.from_lists(
        rewards=[[0, 1], [0, 0]],
        group=[0, 0],
        outcome=[1, 0],
        tokens=[[5, 6, 7], [5, 6, 7]],
        action_mask=[[False, True, True]] * 2,
        turn_of_token=[[-1, 0, 1]] * 2,
        dtype=torch.float64,
    )
    ratios = torch.tensor([[0.0, 0.6, 0.0], [0.0, -0.2, -0.5]], dtype=torch.float64)
    tokens = token_rewards(ratios, torch.zeros_like(ratios), batch.action_mask, beta=0.05)
    r = turn_rewards(tokens, batch)
    assert r.tolist() == [pytest.approx([0.03, 0.0]), pytest.approx([-0.01, -0.025])]
    pairs = success_pairs(torch.tensor([True, False]), batch.group, batch.valid)
    loss, coefficients = dpo_coefficients(ratios.sum(1), pairs, beta=0.05)
    assert f"{loss:.4f}" == "0.6612"  # d = 0.065
    assert [f"{c:+.4f}" for c in coefficients.tolist()] == ["-0.0242", "+0.0242"]
    batch = dataclasses.replace(batch, extra={"implicit_prm": r})
    advantage = credit.compute("istar", batch, eps=1e-12)
    assert [[f"{a:.4f}" for a in row] for row in advantage.tolist()] == [
        ["2.0524", "0.7609"],
        ["-1.0838", "-1.7295"],
    ]


def test_worked_example_of_prime():
    # Token rewards beta * log-ratio of (.005, .02) and (-.01, -.005), one success and one failure.
    sums = torch.tensor([[0.005, 0.02], [-0.01, -0.005]], dtype=torch.float64).sum(1) / 0.05
    valid = torch.ones(2, dtype=torch.bool)
    loss, coefficients = ce_coefficients(sums, torch.tensor([True, False]), valid, beta=0.05)
    assert (0.05 * sums).tolist() == pytest.approx([0.025, -0.015])
    assert f"{loss:.4f}" == "0.6832"
    assert [f"{c:+.4f}" for c in coefficients.tolist()] == ["-0.0123", "+0.0124"]


def test_coefficients_are_those_of_a_plain_loop_over_pairs():
    sums = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0, 7.0], dtype=torch.float64)
    success = torch.tensor([True, True, False, False, True, True])
    group = torch.tensor([4, 4, 4, 4, 9, 9])
    valid = torch.tensor([True, True, True, True, True, True])
    pairs = success_pairs(success, group, valid)
    assert list(zip(*map(torch.Tensor.tolist, pairs), strict=True)) == [(0, 2), (0, 3), (1, 2), (1, 3)]
    loss, coefficients = dpo_coefficients(sums, pairs, beta=0.3)
    expected, total = [0.0] * 6, 0.0
    for w, l in ((0, 2), (0, 3), (1, 2), (1, 3)):  # noqa: E741
        d = 0.3 * (float(sums[w]) - float(sums[l]))
        total -= math.log(1 / (1 + math.exp(-d))) / 4
        expected[w] -= 0.3 / (1 + math.exp(d)) / 4
        expected[l] += 0.3 / (1 + math.exp(d)) / 4
    assert loss.item() == pytest.approx(total, abs=1e-12)
    assert coefficients.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["all", "one"])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_pairs_stay_in_their_group_and_leave_out_what_is_not_valid(kind, data):
    n = data.draw(st.integers(0, 12))
    flags = st.lists(st.booleans(), min_size=n, max_size=n)
    success, valid = (torch.tensor(data.draw(flags), dtype=torch.bool) for _ in range(2))
    group = torch.tensor(data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n)), dtype=torch.int64)
    found = list(
        zip(*map(torch.Tensor.tolist, success_pairs(success, group, valid, pairs=kind)), strict=True)
    )
    expected = []
    for g in sorted(set(group.tolist())):
        here = [i for i in range(n) if group[i] == g and valid[i]]
        won, lost = [i for i in here if success[i]], [i for i in here if not success[i]]
        expected += (
            [(w, x) for w in won for x in lost] if kind == "all" else list(zip(won, lost, strict=False))
        )
    assert found == expected


def test_swapped_labels_mirror_the_gradient():
    sums = torch.tensor([0.4, -1.0, 2.0], dtype=torch.float64)
    group, valid = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.bool)
    success = torch.tensor([True, False, False])
    loss, c = dpo_coefficients(sums, success_pairs(success, group, valid), beta=0.5)
    swapped, mirrored = dpo_coefficients(-sums, success_pairs(~success, group, valid), beta=0.5)
    assert (loss, c.tolist()) == (swapped, [-x for x in mirrored.tolist()])
    # And for one pair: softplus(-d) against softplus(d), which differ by d.
    one, other = (
        success_pairs(torch.tensor(s), group[:2], valid[:2]) for s in ([True, False], [False, True])
    )
    d = 0.5 * 1.4
    assert dpo_coefficients(sums[:2], other, beta=0.5)[0] - dpo_coefficients(sums[:2], one, beta=0.5)[0] == (
        pytest.approx(d)
    )


def test_nothing_to_compare_is_no_loss():
    none = success_pairs(torch.tensor([True, True]), torch.zeros(2, dtype=torch.int64), torch.ones(2).bool())
    loss, c = dpo_coefficients(torch.tensor([1.0, 2.0]), none, beta=0.05)
    assert (loss.item(), c.tolist()) == (0.0, [0.0, 0.0])
    loss, c = ce_coefficients(torch.tensor([1.0]), torch.tensor([True]), torch.tensor([False]), beta=0.05)
    assert (loss.item(), c.tolist()) == (0.0, [0.0])


def test_turn_rewards_telescope_to_the_log_ratio_of_the_trajectory_in_any_layout_of_rows():
    for seed in range(4):  # odd seeds have one row per turn, in random order
        batch = credit.house_rules.random_batch(seed)
        ratios = torch.randn(batch.turn_of_token.shape, dtype=torch.float64)
        rewards = turn_rewards(
            token_rewards(ratios, torch.zeros_like(ratios), batch.action_mask, beta=2.0), batch
        )
        means = turn_rewards(ratios * batch.action_mask, batch, mean_per_token=True)
        total, by_turn = [0.0] * len(batch.ids), {}
        for row, i in enumerate(batch.row_to_trajectory.tolist()):
            for m, acted in enumerate(batch.action_mask[row].tolist()):
                if acted:
                    total[i] += 2 * float(ratios[row, m])
                    by_turn.setdefault((i, int(batch.turn_of_token[row, m])), []).append(
                        float(ratios[row, m])
                    )
        assert rewards.sum(1).tolist() == pytest.approx(total)
        for (i, k), values in by_turn.items():
            assert float(means[i, k]) == pytest.approx(sum(values) / len(values))


# The gradient.


def direct_loss(prm, batch, reference, objective, success, beta):
    """The loss in one piece, by autograd, from the definition."""
    log_probs, _ = token_log_probs(prm, batch.tokens, batch.action_mask)
    sums = ((log_probs - reference) * batch.action_mask).sum(1)
    if objective == "ce":
        terms = [
            -torch.nn.functional.logsigmoid(beta * s if won else -beta * s)
            for s, won in zip(sums, success.tolist(), strict=True)
        ]
    else:
        terms = [
            -torch.nn.functional.logsigmoid(beta * (sums[w] - sums[x]))
            for w in range(len(sums))
            for x in range(len(sums))
            if batch.group[w] == batch.group[x] and success[w] and not success[x]
        ]
    return torch.stack(terms).mean()


def gradient(prm, batch, reference, objective, success, beta, budget):
    pairs = success_pairs(success, batch.group, batch.valid)
    used, unit = torch.zeros_like(batch.valid), batch.group
    used[pairs.winner] = used[pairs.loser] = True
    shares = _dpo_shares(pairs, beta)
    if objective == "ce":
        used, unit = batch.valid, torch.arange(len(batch.ids))
        shares = _ce_shares(success, batch.valid, beta)
    weights = list(prm.parameters())
    for w in weights:
        w.grad = None
    loss, _ = accumulate_gradient(
        prm, weights, batch, reference, shares, used=used, unit=unit, temperature=1.0, token_budget=budget
    )
    return loss, {name: w.grad.clone() for name, w in prm.named_parameters()}


@pytest.mark.parametrize("objective", ["dpo", "ce"])
def test_gradient_reaches_every_parameter_and_is_that_of_the_direct_loss_whatever_the_micro_batches(
    objective,
):
    policy, prm = exact_model(0), exact_model(1)
    trajectories = play(policy, 12)
    batch = collate(trajectories)
    success = torch.tensor([t.success for t in trajectories])
    reference = batch.log_probs.double()
    direct = direct_loss(prm, batch, reference, objective, success, 0.7)
    expected = dict(
        zip(dict(prm.named_parameters()), torch.autograd.grad(direct, list(prm.parameters())), strict=True)
    )
    whole, widest = batch.tokens.numel(), batch.tokens.shape[1]
    # All at once; group by group; every group in pieces, by two passes; row by row.
    for budget in (whole, 5 * widest, 2 * widest, 1):
        loss, found = gradient(prm, batch, reference, objective, success, 0.7, budget)
        assert loss == pytest.approx(direct.item(), rel=1e-12)
        for name, grad in found.items():
            assert grad.abs().max() > 1e-8, name
            torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("objective", ["dpo", "ce"])
def test_gradient_equals_finite_differences(objective):
    policy, prm = exact_model(0), exact_model(1)
    trajectories = play(policy, 8, seed=1)
    batch = collate(trajectories)
    success = torch.tensor([t.success for t in trajectories])
    reference = batch.log_probs.double()
    _, found = gradient(prm, batch, reference, objective, success, 0.7, 1)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in prm.named_parameters():
            direction = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
            losses = []
            for step in (1e-5, -2e-5):
                weight += step * direction
                losses.append(direct_loss(prm, batch, reference, objective, success, 0.7).item())
            weight += 1e-5 * direction
            slope = (losses[0] - losses[1]) / 2e-5
            assert (found[name] * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-9), name


def test_update_moves_every_parameter_of_the_model_and_none_of_the_policy():
    policy = model(0)
    trajectories = play(policy, 8)
    before = copy.deepcopy(policy.state_dict())
    source = build("implicit_prm", lr=1e-3)
    assert score(source, trajectories, models(policy)) == [
        pytest.approx([0.0] * len(t.turns), abs=1e-6) for t in trajectories
    ]
    metrics = source.update(trajectories, collate(trajectories), models(policy))
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-5)
    learned = source.state_dict()["model"]["model"]
    assert all(not torch.equal(learned[name], value) for name, value in before.items())
    assert all(torch.equal(policy.state_dict()[name], value) for name, value in before.items())
    assert all(p.grad is None for p in policy.parameters())


@pytest.mark.parametrize("mean_per_token", [False, True])
def test_scores_are_those_of_the_definition(mean_per_token):
    policy = model(0)
    trajectories = play(policy, 4)
    source = build("implicit_prm", beta=0.3, mean_per_token=mean_per_token, lr=1e-2)
    given = models(policy, temperature=0.6)
    source.update(trajectories, collate(trajectories), given)
    found = score(source, trajectories, given)
    learned = source._learner._model
    for t, row in zip(trajectories, found, strict=True):
        ids: list[int] = []
        for turn, reward in zip(t.turns, row, strict=True):
            ids += turn.prompt_ids
            total = 0.0
            for token, sampled in zip(turn.action_ids, turn.action_log_probs, strict=True):
                with torch.no_grad():
                    log_p = (learned(torch.tensor([ids])).logits[0, -1] / 0.6).log_softmax(-1)
                total += 0.3 * (float(log_p[token]) - sampled)
                ids.append(token)
            expected = total / len(turn.action_ids) if mean_per_token else total
            assert reward == pytest.approx(expected, abs=1e-5)


def test_the_objective_is_taken_at_the_temperature_of_sampling():
    policy = model(0)
    trajectories = play(policy, 8)
    given = models(policy, temperature=0.6)
    source = build("implicit_prm", beta=0.3)
    loss = source.update(trajectories, collate(trajectories), given)["loss"]
    source = build("implicit_prm", beta=0.3, lr=1e-9)
    sums = torch.tensor([sum(row) for row in score(source, trajectories, given)], dtype=torch.float64)
    batch = collate(trajectories)
    pairs = success_pairs(torch.tensor([t.success for t in trajectories]), batch.group, batch.valid)
    assert loss == pytest.approx(dpo_coefficients(sums / 0.3, pairs, beta=0.3)[0].item(), abs=1e-6)
    assert abs(loss - math.log(2)) > 1e-3  # at temperature 1 the model is still the policy that played


@pytest.mark.parametrize(
    ("options", "largest"),
    [({}, 2e-3), ({"lr": 5e-4}, 5e-4), ({"max_grad_norm": 1e-14}, 1e-8), ({"epochs": 3}, 6e-3)],
)
def test_a_step_is_as_long_as_rate_clip_and_epochs_say(options, largest):
    # AdamW's first step moves a weight by the learning rate, less where the gradient is not far above its eps.
    policy = model(0)
    trajectories = play(policy, 8)
    source = build("implicit_prm", **options)
    metrics = source.update(trajectories, collate(trajectories), models(policy, lr=1e-3))
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)  # of before the first of its steps
    learned = source.state_dict()["model"]["model"]
    moved = max((learned[k] - v).abs().max().item() for k, v in policy.state_dict().items())
    assert 0.6 * largest < moved < 1.1 * largest if largest > 1e-6 else moved < largest


# Learning.


@pytest.mark.parametrize("options", [{}, {"objective": "ce"}, {"pairs": "one"}, {"lora_rank": 4}])
def test_loss_falls_held_out_pairs_come_in_order_and_good_turns_are_paid_more(options):
    policy = model(0, initializer_range=0.1)
    seen, unseen = majority(policy, 160, seed=1), majority(policy, 160, seed=2)
    source = build("implicit_prm", beta=0.2, lr=1e-2, **options)
    metrics = [source.update(seen, collate(seen), models(policy)) for _ in range(15)]
    assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert metrics[-1]["accuracy"] > 0.85
    assert metrics[-1]["margin"] > metrics[0]["margin"] + 0.3
    scores, batch = score(source, unseen, models(policy)), collate(unseen)
    sums = torch.tensor(list(map(sum, scores)))
    pairs = success_pairs(torch.tensor([t.success for t in unseen]), batch.group, batch.valid)
    assert (sums[pairs.winner] > sums[pairs.loser]).double().mean() > 0.8
    paid = {True: [], False: []}
    for t, row in zip(unseen, scores, strict=True):
        for turn, reward in zip(t.turns, row, strict=True):
            paid[good(turn)].append(reward)
    mean = {key: sum(values) / len(values) for key, values in paid.items()}
    assert mean[True] > mean[False] + 0.1


def test_a_group_without_winner_or_loser_makes_no_pair_and_no_update_and_is_counted(caplog):
    policy = model(0)
    trajectories = play(policy, 8, 4, rule=lambda _: True)
    source = build("implicit_prm")
    weights = copy.deepcopy(policy.state_dict())
    metrics = source.update(trajectories, collate(trajectories), models(policy))
    assert metrics == {"pairs": 0.0}
    assert source.counters["groups_without_pair"] == 2
    assert all(torch.equal(weights[k], v) for k, v in source.state_dict()["model"]["model"].items())
    assert len(score(source, trajectories, models(policy))) == 8  # the rewards are defined all the same
    trajectories[0].success = False
    source.counters.clear()
    assert source.update(trajectories, collate(trajectories), models(policy))["pairs"] == 3.0
    assert source.counters["groups_without_pair"] == 1
    assert caplog.text.count("no success or no failure") == 1


def test_a_group_that_teaches_nothing_is_not_run():
    policy = model(0)
    trajectories = play(policy, 8, 4, rule=lambda _: True)
    trajectories[0].success = False
    source = build("implicit_prm")
    score(source, trajectories, models(policy))
    ran = []
    source._learner.active().__enter__().register_forward_pre_hook(
        lambda _, __, given: ran.append(len(given["input_ids"])), with_kwargs=True
    )
    source.update(trajectories, collate(trajectories), models(policy))
    assert sum(ran) == 4


def test_graded_outcomes_win_above_the_threshold():
    policy = model(0)
    trajectories = play(policy, 4, 4, rule=lambda _: True)
    for t, value in zip(trajectories, (0.2, 0.5, 0.7, 0.9), strict=True):
        t.score = value
    for above, count in ((None, 0), (0.0, 0), (0.5, 4), (0.7, 3)):
        source = build("implicit_prm", winner_above=above)
        assert source.update(trajectories, collate(trajectories), models(policy))["pairs"] == count


def test_the_order_of_learning_and_scoring():
    policy = model(0)
    paid = {}
    for order in ("before", "after"):
        trajectories = play(policy, 8)
        pipeline = RewardPipeline([{"name": "implicit_prm", "update": order, "lr": 1e-2}])
        rewarded = asyncio.run(
            pipeline.score(trajectories, collate(trajectories), models(policy, chat=object()))
        )
        paid[order] = rewarded.batch.extra["implicit_prm"]
        assert rewarded.metrics["reward/implicit_prm/pairs"] > 0
    assert paid["after"].abs().max() < 1e-6  # the model is still the policy that played
    assert paid["before"].abs().max() > 1e-4


@pytest.mark.parametrize("options", [{}, {"lora_rank": 2}])
def test_under_autocast_the_scores_are_of_the_updated_weights(options):
    # Autocast keeps the weights that it has cast until it ends, whatever an optimizer does to them.
    policy = model(0)
    trajectories = play(policy, 8)
    source = build("implicit_prm", lr=3e-2, **options)
    with torch.autocast("cpu", torch.bfloat16):
        source.update(trajectories, collate(trajectories), models(policy))
        source.update(trajectories, collate(trajectories), models(policy))
        inside = score(source, trajectories, models(policy))
    with torch.autocast("cpu", torch.bfloat16):
        assert score(source, trajectories, models(policy)) == inside
    plain = score(source, trajectories, models(policy))
    assert [x for row in inside for x in row] == pytest.approx([x for row in plain for x in row], abs=0.05)


def test_the_initial_model_as_reference_stays_what_it_was():
    policy = model(0)
    trajectories = play(policy, 8)
    source = build("implicit_prm", reference="initial", lr=1e-2)
    assert score(source, trajectories, models(policy)) == [[0.0] * len(t.turns) for t in trajectories]
    source.update(trajectories, collate(trajectories), models(policy))
    after = score(source, trajectories, models(policy))
    other = play(model(5), 8)  # other log-probs of the same tokens
    assert (
        score(source, other, models(policy)) == after != score(build("implicit_prm"), other, models(policy))
    )


def test_the_initial_model_reads_a_step_once():
    policy = model(0)
    source = build("implicit_prm", reference="initial", lr=1e-2, epochs=2)
    first, second = play(policy, 8), play(policy, 8, seed=1)
    score(source, first, models(policy))
    calls = []
    source._learner._initial.register_forward_hook(lambda *_: calls.append(1))
    source.update(first, collate(first), models(policy))
    again = score(source, first, models(policy))
    assert calls == []  # the tokens are those that were scored before
    fresh = build("implicit_prm", reference="initial", lr=1e-2, epochs=2)
    fresh.update(first, collate(first), models(policy))
    assert score(fresh, first, models(policy)) == again
    score(source, second, models(policy))
    score(source, second, models(policy, temperature=0.5))
    assert len(calls) == 2
    # Other tokens in the same places are other tokens, and another initial model is another model.
    others = [
        dataclasses.replace(
            t, turns=[dataclasses.replace(u, action_ids=[a % 5 + 1 for a in u.action_ids]) for u in t.turns]
        )
        for t in second
    ]
    score(source, others, models(policy, temperature=0.5))
    assert len(calls) == 3
    elsewhere = build("implicit_prm", reference="initial")
    score(elsewhere, first, models(model(1)))
    source.load_state_dict(elsewhere.state_dict())
    assert score(source, others, models(policy, temperature=0.5)) == score(
        elsewhere, others, models(policy, temperature=0.5)
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_chunk_holds_whole_units_within_the_budget_or_one_unit_beyond_it(data):
    n, budget = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 80))
    lengths = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    unit = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    mask = torch.arange(10) < torch.tensor(lengths)[:, None]
    seen: list[int] = []
    for parts, fits in _chunks(mask, unit, budget):
        rows = [r for part, _ in parts for r in part.tolist()]
        assert all(width >= lengths[r] for part, width in parts for r in part.tolist())
        units = {int(unit[r]) for r in rows}
        size = sum(len(part) * width for part, width in parts)
        if len(rows) > 1 or not fits:
            assert fits == (size <= budget)
            assert fits or len(units) == 1
        if len({int(unit[r]) for r in range(n) if lengths[r]}) < sum(map(bool, lengths)):
            assert sorted(rows) == [r for r in range(n) if int(unit[r]) in units and lengths[r]]
        seen += rows
    assert sorted(seen) == [r for r in range(n) if lengths[r]]


@pytest.mark.parametrize("options", [{}, {"reference": "initial"}, {"lora_rank": 2}])
def test_a_checkpoint_goes_on_bit_for_bit(options, tmp_path):
    policy = model(0)
    steps = [play(policy, 8, seed=s) for s in range(4)]

    def learn(source, parts):
        return [source.update(part, collate(part), models(policy)) for part in parts]

    whole, first, second = (build("implicit_prm", lr=1e-3, **options) for _ in range(3))
    expected = learn(whole, steps)
    learn(first, steps[:2])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (
        second.state_dict()["model"].keys() == first.state_dict()["model"].keys()
    )  # saved before its first use
    assert learn(second, steps[2:]) == expected[2:]
    assert score(second, steps[0], models(policy)) == score(whole, steps[0], models(policy))


# Adapters on the policy's own backbone.


def adapted(policy, seed=4):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    policy = get_peft_model(policy, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return policy.eval()


@pytest.mark.parametrize("kind", ["bare", "conv1d", "peft", "peft, frozen"])
def test_adapters_leave_no_trace_on_the_policy(kind):
    policy = exact_model(0) if kind == "conv1d" else model(0)
    if kind.startswith("peft"):
        policy = adapted(policy).requires_grad_("frozen" not in kind)
    trajectories = play(policy, 8)
    batch = collate(trajectories)

    def look():
        with torch.no_grad():
            outputs, _ = token_log_probs(policy, batch.tokens, batch.action_mask)
        return (
            outputs.tolist(),
            {k: v.tolist() for k, v in policy.state_dict().items()},
            [(k, p.requires_grad, p.grad) for k, p in policy.named_parameters()],
            [k for k, _ in policy.named_modules()],
            getattr(policy, "active_adapter", None),
            sum(len(m._forward_hooks) for m in policy.modules()),
        )

    before = look()
    source = build("implicit_prm", lora_rank=3, lr=1e-2)
    for _ in range(2):
        source.update(trajectories, batch, models(policy))
        score(source, trajectories, models(policy))
    assert look() == before
    assert max(abs(r) for row in score(source, trajectories, models(policy)) for r in row) > 1e-3


def test_adapters_are_those_of_peft_in_value_and_gradient():
    from peft import LoraConfig, get_peft_model

    ours, theirs = model(0, torch.float64), model(0, torch.float64)
    adapters = LowRankAdapters(ours, rank=3, alpha=6.0, seed=0)
    theirs = get_peft_model(
        theirs, LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
    ).double()
    tokens = torch.arange(1, 13).view(2, 6)
    pairs = dict(theirs.named_parameters())
    down = [v for k, v in pairs.items() if "lora_A" in k]
    up = [v for k, v in pairs.items() if "lora_B" in k]
    assert len(down) == len(adapters.down) == 14
    with torch.no_grad():
        for a, b in zip([*adapters.down, *(b.T for b in adapters.up)], [*down, *up], strict=True):
            assert a.shape == b.shape
            a.copy_(b.copy_(torch.randn_like(b)))
    with adapters.active() as adapted_model:
        mine = adapted_model(tokens).logits
        mine.logsumexp(-1).sum().backward(inputs=list(adapters.parameters()))
    other = theirs(tokens).logits
    other.logsumexp(-1).sum().backward()
    torch.testing.assert_close(mine, other)
    gradients = [*(a.grad for a in adapters.down), *(b.grad.T for b in adapters.up)]
    for a, b in zip(gradients, [*down, *up], strict=True):
        torch.testing.assert_close(a, b.grad)
    assert all(p.grad is None for p in ours.parameters())


def test_an_adapted_policy_is_copied_with_its_adapters():
    policy = adapted(model(0))
    trajectories = play(policy, 4)
    assert score(build("implicit_prm"), trajectories, models(policy)) == [
        pytest.approx([0.0] * len(t.turns), abs=1e-5) for t in trajectories
    ]


# With credit.


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_istar_with_alpha_zero_is_episode_only_credit_bit_for_bit(seed):
    batch = credit.house_rules.random_batch(seed, sources=("implicit_prm",))
    assert torch.equal(credit.compute("istar", batch, alpha=0.0), credit.compute("grpo", batch))


def test_tokens_are_paid_what_their_turns_are_paid_and_prime_credits_them():
    policy = model(0)
    trajectories = play(policy, 8)
    trajectories[3].status = "failed"
    pipeline = RewardPipeline(["env", {"name": "implicit_prm", "objective": "ce", "lr": 1e-2}])
    assert "token_rewards" in pipeline.provides
    given = models(policy, chat=object())
    batch = asyncio.run(pipeline.score(trajectories, collate(trajectories), given)).batch
    assert batch.token_rewards.shape == batch.tokens.shape
    assert batch.token_rewards.abs().max() > 1e-4
    assert bool((batch.token_rewards[~batch.action_mask] == 0).all())
    torch.testing.assert_close(
        turn_rewards(batch.token_rewards, batch), batch.extra["implicit_prm"].double(), rtol=1e-5, atol=1e-7
    )
    advantage = credit.compute("prime", batch)
    assert advantage.shape == batch.tokens.shape
    assert bool((advantage[3] == 0).all())


# Bad input.


def test_a_model_that_diverged_pays_nothing_and_is_counted(caplog):
    policy = model(0)
    trajectories = play(policy, 4)
    source = build("implicit_prm")
    score(source, trajectories, models(policy))
    with torch.no_grad():
        source._learner._model.lm_head.weight.fill_(math.nan)
    for _ in range(2):
        assert score(source, trajectories, models(policy)) == [[None] * len(t.turns) for t in trajectories]
    assert source.counters["not_finite"] == 2 * sum(len(t.turns) for t in trajectories)
    source.update(trajectories, collate(trajectories), models(policy))
    assert source.counters["skipped_steps"] == 1
    assert caplog.text.count("diverged") == 1


def test_what_cannot_work_is_refused_before_the_first_rollout(tmp_path):
    policy = model(0)
    with pytest.raises(RewardError, match="leave out one of them"):
        build("implicit_prm", model="somewhere", lora_rank=2)
    with pytest.raises(RewardError, match="trains all its weights"):
        build("implicit_prm", lora_rank=2, reference="initial").check(models(policy))
    build("implicit_prm", lora_rank=2, reference="initial").check(models(adapted(policy)))
    with pytest.raises(RewardError, match="could not be loaded"):
        build("implicit_prm", model=str(tmp_path / "none")).check(models(policy))
    with pytest.raises(RewardError, match="allowed: a finite number in \\(0, inf\\)"):
        build("implicit_prm", beta=0.0)
