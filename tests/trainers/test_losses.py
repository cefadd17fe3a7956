"""Each formula against a loop over tokens, a sum done by hand, and finite differences."""

import itertools
import math

import pytest
import torch

from turnwise.trainers.losses import importance_ratio, kl_penalty, policy_loss, weights

LEVELS = ["token", "turn", "sequence"]
AGGREGATIONS = [
    "token-mean",
    "seq-mean-token-mean",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
    "turn-mean",
]
LENGTH = 32

# Two rows: prompt, turn 0 (two tokens), observation, turn 1 (one token), padding; prompt, turn 0 (one token).
MASK = torch.tensor([[0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 0, 0]], dtype=torch.bool)
TURN = torch.tensor([[-1, 0, 0, 1, 1, -1], [-1, 0, -1, -1, -1, -1]])


def ragged(seed, rows=6, length=14):
    """A random mask with holes, its turns, and two policies' log-probs; one row has no action token."""
    g = torch.Generator().manual_seed(seed)
    turn = torch.randint(0, 2, (rows, length), generator=g).cumsum(1)
    turn -= turn[:, :1]
    mask = torch.rand(rows, length, generator=g) < 0.5
    mask[:, 0] = False
    mask[1] = False
    turn = torch.where(mask, turn, torch.where(torch.rand(rows, length, generator=g) < 0.5, turn, -1))
    new = -torch.rand(rows, length, generator=g, dtype=torch.float64)
    old = new + 0.5 * torch.randn(rows, length, generator=g, dtype=torch.float64)
    advantages = torch.randn(rows, length, generator=g, dtype=torch.float64) * mask
    return mask, turn, new, old, advantages


def segment_of(level, row, turn, token):
    return {"token": (row, token), "turn": (row, turn), "sequence": row}[level]


def ratios_by_loop(new, old, mask, turn, level):
    members = {}
    for i, row in enumerate(mask.tolist()):
        for m, acted in enumerate(row):
            if acted:
                key = segment_of(level, i, int(turn[i, m]), m)
                members.setdefault(key, []).append(float(new[i, m] - old[i, m]))
    result = [[1.0] * mask.shape[1] for _ in mask]
    for i, row in enumerate(mask.tolist()):
        for m, acted in enumerate(row):
            if acted:
                logs = members[segment_of(level, i, int(turn[i, m]), m)]
                result[i][m] = math.exp(sum(logs) / len(logs))
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(4))
def test_ratio_matches_a_loop_over_tokens(level, seed):
    mask, turn, new, old, _ = ragged(seed)
    torch.testing.assert_close(
        importance_ratio(new, old, mask, turn, level), ratios_by_loop(new, old, mask, turn, level)
    )


def test_ratio_matches_the_hand_computation():
    # log-ratios 0.3 and 0.1 in turn 0 of row 0, -0.1 in its turn 1; 0.5 in row 1
    new = torch.tensor([[9, -1.0, -2.0, 9, -0.5, 9], [9, -1.0, 9, 9, 9, 9]])
    old = torch.tensor([[7, -1.3, -2.1, 7, -0.4, 7], [7, -1.5, 7, 7, 7, 7]])
    token = [[0, 0.3, 0.1, 0, -0.1, 0], [0, 0.5, 0, 0, 0, 0]]
    turn = [[0, 0.2, 0.2, 0, -0.1, 0], [0, 0.5, 0, 0, 0, 0]]
    sequence = [[0, 0.1, 0.1, 0, 0.1, 0], [0, 0.5, 0, 0, 0, 0]]
    for level, expected in zip(LEVELS, (token, turn, sequence), strict=True):
        found = importance_ratio(new, old, MASK, TURN, level)
        torch.testing.assert_close(found.log(), torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("level", LEVELS)
def test_ratio_stays_finite_for_absurd_log_probs_and_ignores_what_is_masked(level):
    new = torch.tensor([[math.nan, 0.0, 0.0, math.inf, 0.0, math.nan], [0.0, -500.0, 0.0, 0.0, 0.0, 0.0]])
    old = torch.tensor([[0.0, -500.0, -500.0, 0.0, -500.0, 0.0], [0.0, 0.0, math.nan, -math.inf, 0.0, 0.0]])
    new.requires_grad_()
    ratio = importance_ratio(new, old, MASK, TURN, level)
    ratio.sum().backward()
    most = 20.0 if level == "token" else 10.0
    torch.testing.assert_close(ratio[0, 1].log(), torch.tensor(most))
    torch.testing.assert_close(ratio[1, 1].log(), torch.tensor(-most))
    assert (ratio[~MASK] == 1).all()
    assert (new.grad == 0).all()  # outside the clamp, and outside the mask


def weights_by_loop(mask, turn, how, owner):
    actions = [(i, m) for i, row in enumerate(mask.tolist()) for m, acted in enumerate(row) if acted]
    sequences = {}
    turns = {}
    for i, m in actions:
        sequences.setdefault(owner[i], []).append((i, m))
        turns.setdefault((i, int(turn[i, m])), []).append((i, m))
    result = torch.zeros(mask.shape, dtype=torch.float64)
    for i, m in actions:
        here = len(sequences[owner[i]])
        result[i, m] = {
            "token-mean": 1 / len(actions),
            "seq-mean-token-mean": 1 / len(sequences) / here,
            "seq-mean-token-sum": 1 / len(sequences),
            "seq-mean-token-sum-norm": 1 / len(sequences) / LENGTH,
            "turn-mean": 1 / len(turns) / len(turns[i, int(turn[i, m])]),
        }[how]
    return result


@pytest.mark.parametrize("how", AGGREGATIONS)
@pytest.mark.parametrize("owner", [None, [0, 0, 3, 1, 3, 2]])
@pytest.mark.parametrize("seed", range(3))
def test_weights_match_a_loop_over_tokens(how, owner, seed):
    mask, turn, *_ = ragged(seed)
    found = weights(
        mask,
        turn,
        how,
        row_to_trajectory=None if owner is None else torch.tensor(owner),
        length=LENGTH,
        dtype=torch.float64,
    )
    torch.testing.assert_close(found, weights_by_loop(mask, turn, how, owner or list(range(6))))


@pytest.mark.parametrize(
    ("how", "row_0", "row_1"),
    [  # of the three action tokens of row 0, two of turn 0 and one of turn 1, and the one of row 1
        ("token-mean", (1 / 4, 1 / 4, 1 / 4), 1 / 4),
        ("seq-mean-token-mean", (1 / 6, 1 / 6, 1 / 6), 1 / 2),
        ("seq-mean-token-sum", (1 / 2, 1 / 2, 1 / 2), 1 / 2),
        ("seq-mean-token-sum-norm", (1 / 20, 1 / 20, 1 / 20), 1 / 20),
        ("turn-mean", (1 / 6, 1 / 6, 1 / 3), 1 / 3),
    ],
)
def test_weights_match_the_hand_computation(how, row_0, row_1):
    found = weights(MASK, TURN, how, length=10)
    assert found[MASK].tolist() == pytest.approx([*row_0, row_1])
    assert (found[~MASK] == 0).all()


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_padding_changes_no_weight(how):
    mask, turn, *_ = ragged(0)
    wide_mask = torch.nn.functional.pad(mask, (0, 9))
    wide_turn = torch.nn.functional.pad(turn, (0, 9), value=-1)
    narrow, wide = weights(mask, turn, how, length=LENGTH), weights(wide_mask, wide_turn, how, length=LENGTH)
    assert torch.equal(wide[:, : mask.shape[1]], narrow)
    assert (wide[:, mask.shape[1] :] == 0).all()


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_weights_of_nothing_are_zero(how):
    assert (weights(torch.zeros_like(MASK), TURN, how, length=LENGTH) == 0).all()
    assert weights(MASK[:0], TURN[:0], how, length=LENGTH).shape == (0, 6)


@pytest.mark.parametrize("length", [None, 0])
def test_a_sum_over_a_constant_asks_for_the_constant(length):
    with pytest.raises(ValueError, match=f"length is {length}"):
        weights(MASK, TURN, "seq-mean-token-sum-norm", length=length)


def test_clipped_loss_matches_the_hand_computation():
    # clip 0.2 below and 0.5 above, dual clip 3; the last two have nothing to learn
    ratio = torch.tensor([[1.0, 1.4, 1.6, 0.5, 0.9, 0.7, 2.0, 4.0, 0.1, 9.0]])
    advantages = torch.tensor([[2.0, 2.0, 2.0, 2.0, -1.0, -1.0, -1.0, -1.0, 0.0, 0.0]])
    found = policy_loss(ratio, advantages, clip_low=0.2, clip_high=0.5, dual_clip=3.0)
    assert found.loss[0].tolist() == pytest.approx([-2.0, -2.8, -3.0, -1.0, 0.9, 0.8, 2.0, 3.0, 0.0, 0.0])
    assert found.clipped_low[0].nonzero()[:, 0].tolist() == [5]
    assert found.clipped_high[0].nonzero()[:, 0].tolist() == [2]
    assert found.clipped_dual[0].nonzero()[:, 0].tolist() == [7]


def loss_by_loop(ratio, advantage, low, high, dual):
    loss = max(-advantage * ratio, -advantage * min(max(ratio, 1 - low), 1 + high))
    return min(loss, -advantage * dual) if dual is not None and advantage < 0 else loss


@pytest.mark.parametrize("dual", [None, 1.5])
def test_clipped_loss_matches_a_loop_and_has_a_gradient_exactly_where_it_says(dual):
    _, _, new, old, advantages = ragged(3, rows=8, length=40)
    ratio = (2 * (new - old)).exp().requires_grad_()
    found = policy_loss(ratio, advantages, clip_low=0.1, clip_high=0.3, dual_clip=dual)
    expected = [
        [loss_by_loop(r, a, 0.1, 0.3, dual) for r, a in zip(*rows, strict=True)]
        for rows in zip(ratio.tolist(), advantages.tolist(), strict=True)
    ]
    torch.testing.assert_close(found.loss, torch.tensor(expected, dtype=torch.float64))
    found.loss.sum().backward()
    taken = found.clipped_low | found.clipped_high | found.clipped_dual | (advantages == 0)
    torch.testing.assert_close(ratio.grad, torch.where(taken, 0.0, -advantages))
    for clipped in found[1:]:
        assert bool(clipped.any()) or (dual is None and clipped is found.clipped_dual)


def test_dual_clip_bounds_the_loss_of_discouraged_tokens_only():
    ratio = torch.logspace(-3, 6, 50, dtype=torch.float64)[None]
    for advantage in (-2.0, 2.0):
        loss = policy_loss(ratio, torch.full_like(ratio, advantage), dual_clip=3.0).loss
        unbounded = policy_loss(ratio, torch.full_like(ratio, advantage)).loss
        assert (loss <= abs(advantage) * 3.0).all()
        assert torch.equal(loss, unbounded) == (advantage > 0)


def total(new, old, mask, turn, advantages, level, how, ratios=importance_ratio):
    policy = policy_loss(ratios(new, old, mask, turn, level), advantages, dual_clip=1.6)
    return (weights(mask, turn, how, length=LENGTH, dtype=torch.float64) * policy.loss).sum()


# Without ("sequence", "turn-mean"), which gives the tokens of a sequence different weights: each keeps its own then.
@pytest.mark.parametrize(
    ("level", "how"), [x for x in itertools.product(LEVELS, AGGREGATIONS) if x != ("sequence", "turn-mean")]
)
def test_gradient_matches_finite_differences_of_the_segments_own_ratio(level, how):
    mask, turn, new, old, advantages = ragged(5)
    if level != "token":  # one advantage per segment
        spread = torch.where(mask, turn, -1) if level == "turn" else torch.where(mask, 0, -1)
        advantages = torch.where(
            spread >= 0, torch.sin(3.0 * spread + torch.arange(6)[:, None]).double(), 0.0
        )
    new.requires_grad_()
    total(new, old, mask, turn, advantages, level, how).backward()
    step = 1e-6
    for i, m in torch.cartesian_prod(torch.arange(6), torch.arange(14)).tolist():
        values = []
        for sign in (1, -1):
            moved = new.detach().clone()
            moved[i, m] += sign * step
            values.append(total(moved, old, mask, turn, advantages, level, how, ratios=ratios_by_loop).item())
        assert new.grad[i, m].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=2e-9)
    assert (new.grad[~mask] == 0).all()
    assert (new.grad != 0).any()


@pytest.mark.parametrize("level", LEVELS)
def test_every_token_keeps_its_own_advantage(level):
    mask, turn, new, old, advantages = ragged(7)
    new.requires_grad_()
    ratio = importance_ratio(new, old, mask, turn, level)
    (advantages * ratio).sum().backward()
    torch.testing.assert_close(new.grad, torch.where(mask, advantages * ratio.detach(), 0.0))


@pytest.mark.parametrize("how", AGGREGATIONS)
@pytest.mark.parametrize("level", LEVELS)
def test_first_gradient_is_the_plain_policy_gradient(level, how):
    mask, turn, new, _, advantages = ragged(8)
    new.requires_grad_()
    total(new, new.detach(), mask, turn, advantages, level, how).backward()
    torch.testing.assert_close(
        new.grad, -weights(mask, turn, how, length=LENGTH, dtype=torch.float64) * advantages
    )


def test_kl_estimators_match_the_hand_computation():
    # the policy gives a token 0.5, the reference 0.25: d = ln 2
    new, ref = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_penalty(new, ref, "k1").item() == pytest.approx(math.log(2))
    assert kl_penalty(new, ref, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert kl_penalty(new, ref, "k3").item() == pytest.approx(0.5 - 1 + math.log(2))
    assert kl_penalty(new, ref, "k3").min() >= 0
    assert torch.isfinite(kl_penalty(torch.tensor([-900.0]), torch.tensor([0.0]), "k3")).all()


def expectation(kind, logits, ref):
    """The exact mean value and mean gradient of an estimator over tokens of the policy."""
    logits = logits.clone().requires_grad_()
    log_p = logits.log_softmax(-1)
    value = (log_p.detach().exp() * kl_penalty(log_p, ref, kind)).sum()
    return value.item(), torch.autograd.grad(value, logits)[0]


def test_kl_estimators_have_the_values_and_gradients_their_docstring_states():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=g, dtype=torch.float64)
    ref = torch.randn(5, generator=g, dtype=torch.float64).log_softmax(-1)
    theta = logits.clone().requires_grad_()
    log_p = theta.log_softmax(-1)
    reverse = (log_p.exp() * (log_p - ref)).sum()  # KL(policy || reference)
    forward = (ref.exp() * (ref - log_p)).sum()  # KL(reference || policy)
    reverse_gradient = torch.autograd.grad(reverse, theta, retain_graph=True)[0]
    forward_gradient = torch.autograd.grad(forward, theta)[0]
    (k1, k1_gradient), (k2, k2_gradient), (k3, k3_gradient) = (
        expectation(k, logits, ref) for k in ("k1", "k2", "k3")
    )
    assert k1 == pytest.approx(reverse.item())
    assert k3 == pytest.approx(reverse.item())
    assert k2 != pytest.approx(reverse.item(), rel=0.01)
    torch.testing.assert_close(k1_gradient, torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(k2_gradient, reverse_gradient)
    torch.testing.assert_close(k3_gradient, forward_gradient)
    assert not torch.allclose(forward_gradient, reverse_gradient, rtol=0.01)
