"""Log-probs against the model's full logits; the update against a loop over tokens, however the batch is cut."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from turnwise.configs.schema import LossSection
from turnwise.trainers.local import policy
from turnwise.trainers.local.policy import token_log_probs
from turnwise.trainers.local.update import TokenBatch, log_probs_of, micro_batches, update
from turnwise.trainers.losses import weights


def loss_section(**terms):
    """A loss without a KL term, which needs a reference, unless it is asked for."""
    return LossSection(**{"kl_coefficient": 0.0, **terms})


LEVELS = ["token", "turn", "sequence"]
AGGREGATIONS = [
    "token-mean",
    "seq-mean-token-mean",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
    "turn-mean",
]
VOCABULARY = 23
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


def qwen(**changes):
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SMALL | changes)).eval()


class Toy(nn.Module):
    """A causal model in float64 throughout, of no known structure: logits from the mean of the tokens so far."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.embedding = nn.Parameter(torch.randn(VOCABULARY, 6, generator=g, dtype=torch.float64))
        self.output = nn.Parameter(torch.randn(6, VOCABULARY, generator=g, dtype=torch.float64))
        self.rows_run = []

    def get_output_embeddings(self):
        return None

    def forward(self, input_ids, use_cache):
        self.rows_run += input_ids.tolist()
        x = self.embedding[input_ids]
        mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
        return type("Output", (), {"logits": (x + 2 * mean) @ self.output})


def rows_of(seed, rows=9, length=24, unequal=True):
    """Tokens, mask and turns of right-padded rows: observations and actions alternate in stretches of 1 to 3."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2, VOCABULARY, (rows, length), generator=g)
    mask = torch.zeros(rows, length, dtype=torch.bool)
    turn = torch.full((rows, length), -1)
    for i in range(rows):
        end = int(torch.randint(4, length + 1, (1,), generator=g)) if unequal else length
        at = int(torch.randint(1, 4, (1,), generator=g))
        for k in itertools.count():
            stretch = int(torch.randint(1, 4, (1,), generator=g))
            if at >= end:
                break
            mask[i, at : min(end, at + stretch)] = True
            turn[i, at : min(end, at + stretch)] = k
            at += stretch + int(torch.randint(1, 4, (1,), generator=g))
        tokens[i, end:] = 0
    return tokens, mask, turn


def batch_of(model, seed, dtype=torch.float64, temperature=1.0, shift=0.3, reference=False):
    """A batch whose old log-probs differ from the model's, so that ratios do too; some rows teach nothing."""
    tokens, mask, turn = rows_of(seed)
    g = torch.Generator().manual_seed(seed)
    current = log_probs_of(model, tokens, mask, temperature=temperature).to(dtype)
    noise = torch.randn(3, *tokens.shape, generator=g, dtype=dtype)
    advantages = torch.randn(len(tokens), 30, generator=g, dtype=dtype).gather(1, turn.clamp(min=0))
    advantages[2] = 0.0
    return TokenBatch(
        tokens=tokens,
        action_mask=mask,
        turn_of_token=turn,
        old_log_probs=torch.where(mask, current + shift * noise[0], math.nan),
        advantages=torch.where(mask, advantages, math.nan),
        ref_log_probs=torch.where(mask, current + shift * noise[1], math.nan) if reference else None,
        row_mask=torch.arange(len(tokens)) != 4,
        row_to_trajectory=torch.tensor([0, 1, 1, 2, 3, 4, 4, 5, 7]),
    )


def full_log_probs(model, tokens, temperature):
    """[R, L, V] log-probs of every token at every position, the first excepted, from the plain forward pass."""
    logits = model(input_ids=tokens, use_cache=False).logits / temperature
    return nn.functional.pad(logits.log_softmax(-1)[:, :-1], (0, 0, 1, 0))


def loss_by_loop(model, batch, loss, temperature, length):
    """The loss of a whole batch as one would write it down, token by token."""
    log_p = full_log_probs(model, batch.tokens, temperature)
    actions = [
        (i, m)
        for i, row in enumerate(batch.action_mask.tolist())
        for m, acted in enumerate(row)
        if acted and batch.row_mask[i]
    ]
    owner = batch.row_to_trajectory.tolist()
    turn = batch.turn_of_token.tolist()
    lp = {(i, m): log_p[i, m, batch.tokens[i, m]] for i, m in actions}
    gap = {x: lp[x].item() - batch.old_log_probs[x].item() for x in actions}
    segments = {"token": lambda x: x, "turn": lambda x: (x[0], turn[x[0]][x[1]]), "sequence": lambda x: x[0]}
    parts = {}
    for x in actions:
        parts.setdefault(segments[loss.ratio](x), []).append(gap[x])
    sequences, turns = {}, {}
    for x in actions:
        sequences.setdefault(owner[x[0]], []).append(x)
        turns.setdefault(segments["turn"](x), []).append(x)
    total = 0.0
    for x in actions:
        mean = parts[segments[loss.ratio](x)]
        ratio = math.exp(sum(mean) / len(mean)) * (lp[x] - lp[x].detach()).exp()
        a = batch.advantages[x].item()
        term = torch.maximum(-a * ratio, -a * ratio.clamp(1 - loss.clip_low, 1 + loss.clip_high))
        if loss.dual_clip is not None and a < 0:
            term = term.clamp(max=-a * loss.dual_clip)
        if loss.kl_coefficient:
            d = lp[x] - batch.ref_log_probs[x]
            term = term + loss.kl_coefficient * {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() - 1 + d}[loss.kl]
        if loss.entropy_coefficient:
            term = term + loss.entropy_coefficient * (log_p[x].exp() * log_p[x]).sum()
        total = (
            total
            + term
            * {
                "token-mean": 1 / len(actions),
                "seq-mean-token-mean": 1 / len(sequences) / len(sequences[owner[x[0]]]),
                "seq-mean-token-sum": 1 / len(sequences),
                "seq-mean-token-sum-norm": 1 / len(sequences) / length,
                "turn-mean": 1 / len(turns) / len(turns[segments["turn"](x)]),
            }[loss.aggregation]
        )
    return total


def gradient_of_update(model, batch, loss, **arguments):
    """The gradient that the optimizer is given in the one step of an update, as one vector, and the metrics."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    seen = []
    optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([p.grad.flatten().clone() for p in model.parameters()]))
    )
    metrics = update(model, optimizer, batch, loss, max_grad_norm=1e9, **arguments)
    (gradient,) = seen
    return gradient, metrics


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


# ------------------------------------------------------------------------------------------------------------- policy


def lora():
    wrapped = get_peft_model(
        qwen(), LoraConfig(r=2, target_modules=["q_proj", "v_proj", "lm_head"], task_type="CAUSAL_LM")
    )
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide it
            nn.init.normal_(parameter)
    return wrapped.eval()


def other(config_class, model_class, **changes):
    torch.manual_seed(0)
    return model_class(config_class(**SMALL | changes)).eval()


MODELS = {
    "qwen": qwen,
    "qwen with a tied head": lambda: qwen(tie_word_embeddings=True),
    "soft-capped logits, sliding window": lambda: other(
        Gemma2Config,
        Gemma2ForCausalLM,
        final_logit_softcapping=2.0,
        sliding_window=4,
        query_pre_attn_scalar=8,
    ),
    "scaled logits": lambda: other(GraniteConfig, GraniteForCausalLM, logits_scaling=3.0),
    "learned positions": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5
        )
    ).eval(),
    "lora": lora,
    "unknown structure": Toy,
}


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("name", MODELS)
def test_log_probs_and_entropies_are_those_of_the_full_logits(name, temperature):
    model = MODELS[name]()
    tokens, mask, _ = rows_of(0)
    log_p = full_log_probs(model, tokens, temperature)
    log_probs, entropy = token_log_probs(model, tokens, mask, temperature=temperature, entropy=True)
    expected = log_p.gather(2, tokens[..., None])[..., 0]
    torch.testing.assert_close(log_probs, torch.where(mask, expected, 0.0), atol=2e-5, rtol=1e-5)
    for i, m in mask.nonzero().tolist():
        probabilities = log_p[i, m].exp().tolist()
        by_hand = -sum(p * math.log(p) for p in probabilities if p > 0)
        assert entropy[i, m].item() == pytest.approx(by_hand, abs=2e-5)
    assert (entropy[~mask] == 0).all()
    g = torch.Generator().manual_seed(0)
    cotangent = torch.randn(mask.shape, generator=g, dtype=log_probs.dtype) * mask
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad((log_probs * cotangent).sum(), trained, allow_unused=True)
    whole = torch.autograd.grad((expected * cotangent).sum(), trained, allow_unused=True)
    assert any(g is not None and g.norm() > 0 for g in whole)
    for one, two in zip(found, whole, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_the_head_sees_only_the_positions_that_predict_an_action():
    model = qwen()
    seen = []
    model.lm_head.register_forward_hook(lambda _, inputs, output: seen.append(output.shape))
    tokens, mask, _ = rows_of(1)
    token_log_probs(model, tokens, mask)
    assert seen == [(1, int(mask.sum()), VOCABULARY)]
    full = model(input_ids=tokens).logits  # the narrowing ended with the call
    assert full.shape == (*tokens.shape, VOCABULARY)


def test_a_forward_pass_that_fails_leaves_the_model_as_it_was():
    model = qwen()
    tokens, mask, _ = rows_of(1)
    with pytest.raises(IndexError):
        token_log_probs(model, tokens + VOCABULARY, mask)
    assert not model.lm_head._forward_pre_hooks


def test_attention_runs_the_causal_kernel_without_a_mask(monkeypatch):
    calls = []
    plain = nn.functional.scaled_dot_product_attention

    def spy(*arguments, **options):
        calls.append((options["attn_mask"], options["is_causal"]))
        return plain(*arguments, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    tokens, mask, _ = rows_of(1)
    token_log_probs(qwen(), tokens, mask)
    assert calls == [(None, True)] * 2


def test_the_tokens_behind_an_action_cannot_change_it():
    model = qwen()
    tokens, mask, _ = rows_of(2)
    scrambled = tokens.clone()
    last = (mask * torch.arange(mask.shape[1])).amax(1)
    behind = torch.arange(mask.shape[1]) > last[:, None]
    scrambled[behind] = torch.randint(2, VOCABULARY, (int(behind.sum()),))
    found, expected = (token_log_probs(model, t, mask)[0] for t in (scrambled, tokens))
    assert torch.equal(found, expected)


def test_an_entropy_is_right_where_tokens_are_impossible():
    class Certain(nn.Module):
        get_output_embeddings = staticmethod(lambda: None)

        def forward(self, input_ids, use_cache):
            logits = torch.tensor([0.0, 0.0, -math.inf, -math.inf]).expand(*input_ids.shape, 4)
            return type("Output", (), {"logits": logits})

    tokens = torch.tensor([[3, 1]])
    log_probs, entropy = token_log_probs(Certain(), tokens, torch.tensor([[False, True]]), entropy=True)
    assert log_probs[0].tolist() == pytest.approx([0, -math.log(2)])
    assert entropy[0].tolist() == pytest.approx([0, math.log(2)])


def test_an_entropy_in_pieces_is_the_same_and_has_a_gradient_only_on_request(monkeypatch):
    model = Toy()
    tokens, mask, _ = rows_of(3)
    _, whole = token_log_probs(model, tokens, mask, entropy=True, entropy_gradient=True)
    monkeypatch.setattr(policy, "_PIECE", 3 * VOCABULARY)
    _, pieces = token_log_probs(model, tokens, mask, entropy=True)
    torch.testing.assert_close(pieces, whole)
    assert whole.requires_grad
    assert not pieces.requires_grad


def test_nothing_to_predict_gives_zeros():
    tokens, mask, _ = rows_of(3)
    log_probs, entropy = token_log_probs(qwen(), tokens, torch.zeros_like(mask), entropy=True)
    assert not log_probs.any()
    assert not entropy.any()


def test_an_action_in_the_first_column_is_refused():
    tokens, mask, _ = rows_of(3)
    mask[1, 0] = True
    with pytest.raises(ValueError, match="first token of a row"):
        token_log_probs(qwen(), tokens, mask)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_without_log_probs_is_refused(temperature):
    tokens, mask, _ = rows_of(3)
    with pytest.raises(ValueError, match=f"temperature is {temperature}"):
        token_log_probs(qwen(), tokens, mask, temperature=temperature)


@pytest.mark.parametrize("budget", [1, 60, 10**6])
def test_log_probs_of_a_batch_do_not_depend_on_the_budget(budget):
    model = Toy()
    tokens, mask, _ = rows_of(4)
    mask[3] = False  # a row that needs nothing is not run
    expected = full_log_probs(model, tokens, 0.7).gather(2, tokens[..., None])[..., 0]
    model.rows_run.clear()
    found = log_probs_of(model, tokens, mask, temperature=0.7, token_budget=budget)
    torch.testing.assert_close(found, torch.where(mask, expected, 0.0))
    assert not found.requires_grad
    assert len(model.rows_run) == len(tokens) - 1


# ------------------------------------------------------------------------------------------------------ micro-batches


@settings(max_examples=50, deadline=None)
@given(
    ends=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    budget=st.integers(1, 400),
    seed=st.integers(0, 9),
)
def test_micro_batches_hold_every_row_once_within_the_budget(ends, budget, seed):
    g = torch.Generator().manual_seed(seed)
    position = torch.arange(1, 41)
    end = torch.tensor(ends)[:, None]
    mask = (position == end) | ((position < end) & (torch.rand(len(ends), 40, generator=g) < 0.3))
    wanted = (end[:, 0] > 0) & (torch.rand(len(ends), generator=g) < 0.8)
    parts = micro_batches(mask, wanted, budget)
    run = [row for rows, _ in parts for row in rows.tolist()]
    assert sorted(run) == wanted.nonzero()[:, 0].tolist()
    for rows, width in parts:
        assert width == max(ends[row] for row in rows.tolist())
        assert len(rows) == 1 or len(rows) * width <= budget


def test_unlike_rows_are_not_padded_to_the_longest():
    mask = torch.zeros(100, 500, dtype=torch.bool)
    mask[:5, 499] = True
    mask[5:, 49] = True
    parts = micro_batches(mask, mask.any(1), 100_000)
    assert [(len(rows), width) for rows, width in parts] == [(5, 500), (95, 50)]


# ------------------------------------------------------------------------------------------------------------- update

TERMS = {
    "plain": {},
    "everything": {"dual_clip": 1.4, "kl_coefficient": 0.3, "entropy_coefficient": 0.05, "clip_low": 0.1},
}


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("how", AGGREGATIONS)
@pytest.mark.parametrize("level", LEVELS)
def test_gradient_is_that_of_a_loop_over_tokens_for_every_budget(level, how, terms):
    model = Toy()
    loss = loss_section(ratio=level, aggregation=how, **TERMS[terms])
    batch = batch_of(model, 0, temperature=0.8, reference=True)
    total = loss_by_loop(model, batch, loss, 0.8, 64)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(total, list(model.parameters()))])
    for budget in (1, 50, 100, 10**6):
        found, metrics = gradient_of_update(
            model, batch, loss, temperature=0.8, token_budget=budget, length=64
        )
        assert relative(found, expected) < 1e-12
        assert metrics["loss"] == pytest.approx(total.item(), rel=1e-5)
        assert metrics["gradient_norm"] == pytest.approx(expected.norm().item())


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_gradient_has_the_chosen_kl_term(kind):
    model = Toy()
    loss = loss_section(kl=kind, kl_coefficient=0.7)
    batch = batch_of(model, 1, reference=True)
    total = loss_by_loop(model, batch, loss, 1.0, 64)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(total, list(model.parameters()))])
    assert relative(gradient_of_update(model, batch, loss)[0], expected) < 1e-12


@pytest.mark.parametrize("how", AGGREGATIONS)
@pytest.mark.parametrize("level", LEVELS)
def test_budget_changes_no_gradient_of_a_transformer_in_float32(level, how):
    model = qwen(initializer_range=0.2)
    loss = loss_section(ratio=level, aggregation=how)
    batch = batch_of(model, 2, dtype=torch.float32)
    whole, narrow, single = (
        gradient_of_update(model, batch, loss, token_budget=budget, length=64)[0] for budget in (10**6, 60, 1)
    )
    assert relative(narrow, whole) < 3e-6
    assert relative(single, whole) < 3e-6


def weights_after(model, batch, **arguments):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    start = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    metrics = update(
        model,
        optimizer,
        batch,
        loss_section(ratio="turn", aggregation="turn-mean"),
        generator=torch.Generator().manual_seed(5),
        **arguments,
    )
    end = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    nn.utils.vector_to_parameters(start, model.parameters())
    return end, metrics


def test_budget_changes_nothing_over_minibatches_and_epochs():
    model = Toy()
    batch = batch_of(model, 3)
    whole, metrics = weights_after(model, batch, minibatches=3, epochs=2, token_budget=10**6)
    assert metrics["optimizer_steps"] == 6
    for budget in (1, 50):
        found, others = weights_after(model, batch, minibatches=3, epochs=2, token_budget=budget)
        assert relative(found, whole) < 1e-12
        assert others == pytest.approx(metrics, rel=1e-4)


def test_each_pass_takes_every_row_once_in_a_new_order():
    model = Toy()
    batch = batch_of(model, 3)
    model.rows_run.clear()
    weights_after(model, batch, minibatches=2, epochs=3, token_budget=1)
    first = [row[0] * 1000 + row[1] for row in model.rows_run]
    per_pass = len(first) // 3
    passes = [first[i * per_pass : (i + 1) * per_pass] for i in range(3)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    assert passes[0] != passes[1]
    again, _ = weights_after(model, batch, minibatches=2, epochs=3, token_budget=1)
    assert torch.equal(again, weights_after(model, batch, minibatches=2, epochs=3, token_budget=1)[0])


@pytest.mark.parametrize("level", LEVELS)
def test_padding_columns_change_nothing(level):
    model = Toy()
    loss = loss_section(ratio=level, aggregation="seq-mean-token-sum-norm")
    batch = batch_of(model, 4)
    wide = TokenBatch(
        **{
            name: value
            if value is None or value.ndim == 1
            else nn.functional.pad(value, (0, 7), value=1 if name == "tokens" else 0)
            for name, value in vars(batch).items()
        }
    )
    found, expected = (gradient_of_update(model, b, loss, length=64)[0] for b in (wide, batch))
    assert torch.equal(found, expected)


def test_only_the_logits_that_predict_a_credited_action_get_a_gradient():
    class Watched(Toy):
        def forward(self, input_ids, use_cache):
            output = super().forward(input_ids, use_cache)
            if output.logits.requires_grad:
                output.logits.retain_grad()
                self.logits = output.logits
            return output

    model = Watched()
    tokens, mask, turn = rows_of(5, unequal=False)
    advantages = torch.where(turn == 1, 0.0, 1.0).double()
    batch = TokenBatch(tokens, mask, turn, log_probs_of(model, tokens, mask), advantages)
    order = torch.cat([rows for rows, _ in micro_batches(mask, mask.any(1), 10**6)])
    update(model, torch.optim.SGD(model.parameters(), lr=0.0), batch, loss_section())
    touched = (model.logits.grad != 0).any(2)
    width = touched.shape[1]
    assert torch.equal(touched, (mask & (turn != 1))[order, 1 : width + 1])


def test_first_step_is_the_plain_policy_gradient():
    model = Toy()
    tokens, mask, turn = rows_of(6)
    old = log_probs_of(model, tokens, mask)
    g = torch.Generator().manual_seed(0)
    advantages = torch.randn(mask.shape, generator=g, dtype=torch.float64)
    log_p = full_log_probs(model, tokens, 1.0).gather(2, tokens[..., None])[..., 0]
    plain = -(weights(mask, turn, dtype=torch.float64) * advantages * log_p).sum()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(plain, list(model.parameters()))])
    for level in LEVELS:
        batch = TokenBatch(tokens, mask, turn, old, advantages)
        found, metrics = gradient_of_update(model, batch, loss_section(ratio=level))
        assert relative(found, expected) < 1e-12
        assert metrics["ratio_mean"] == pytest.approx(1.0)
        assert metrics["gap_max"] == pytest.approx(0.0, abs=1e-6)
        assert metrics["clip_low"] == metrics["clip_high"] == 0


def test_rows_without_signal_are_run_only_when_a_term_needs_them():
    model = Toy()
    batch = batch_of(model, 7, reference=True)
    for terms, run in (({}, 7), ({"kl_coefficient": 0.1}, 8), ({"entropy_coefficient": 0.1}, 8)):
        model.rows_run.clear()
        gradient_of_update(model, batch, loss_section(**terms))
        assert len(model.rows_run) == run  # of 9 rows one is masked out, and another has advantage 0


def test_a_batch_without_signal_moves_nothing_and_says_so():
    model = Toy()
    batch = batch_of(model, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    update(model, optimizer, batch, loss_section())  # gives the optimizer momentum
    before = [p.clone() for p in model.parameters()]
    flat = TokenBatch(**vars(batch) | {"advantages": torch.zeros_like(batch.advantages)})
    for nothing in (flat, TokenBatch(**vars(batch) | {"action_mask": torch.zeros_like(batch.action_mask)})):
        metrics = update(model, optimizer, nothing, loss_section())
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        assert metrics["optimizer_steps"] == metrics["skipped_steps"] == metrics["trained_tokens"] == 0
        assert math.isnan(metrics["loss"])
        assert math.isnan(metrics["gradient_norm"])
    assert update(model, optimizer, flat, loss_section())["zero_advantage"] == 1.0


def test_a_gradient_that_is_not_finite_is_skipped_and_counted():
    model = Toy()
    batch = batch_of(model, 9)
    broken = batch.advantages.clone()
    row, token = batch.action_mask.nonzero()[0].tolist()
    broken[row, token] = math.inf
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    metrics = update(model, optimizer, TokenBatch(**vars(batch) | {"advantages": broken}), loss_section())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert metrics["skipped_steps"] == 1
    assert metrics["optimizer_steps"] == 0
    assert not optimizer.state
    assert update(model, optimizer, batch, loss_section())["optimizer_steps"] == 1


def test_a_long_gradient_is_shortened_to_the_limit():
    model = Toy()
    batch = batch_of(model, 10)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    metrics = update(
        model, torch.optim.SGD(model.parameters(), lr=1.0), batch, loss_section(), max_grad_norm=1e-3
    )
    moved = before - nn.utils.parameters_to_vector(model.parameters()).detach()
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert metrics["gradient_norm"] > 0.01


def test_metrics_are_those_of_a_loop_over_tokens():
    model = Toy()
    batch = batch_of(model, 11, temperature=0.9, reference=True)
    loss = loss_section(kl_coefficient=0.1, dual_clip=1.2, clip_low=0.1, clip_high=0.15)
    log_p = full_log_probs(model, batch.tokens, 0.9).detach()
    _, metrics = gradient_of_update(model, batch, loss, temperature=0.9, token_budget=60)
    seen = []
    for i, m in batch.action_mask.nonzero().tolist():
        if batch.row_mask[i]:
            new, old = log_p[i, m, batch.tokens[i, m]].item(), batch.old_log_probs[i, m].item()
            d = new - batch.ref_log_probs[i, m].item()
            ratio, a = math.exp(new - old), batch.advantages[i, m].item()
            seen.append(
                {
                    "ratio_mean": ratio,
                    "entropy": -sum(p * math.log(p) for p in log_p[i, m].exp().tolist()),
                    "clip_low": a < 0 and ratio < 0.9,
                    "clip_high": a > 0 and ratio > 1.15,
                    "clip_dual": a < 0 and ratio > 1.2,
                    "kl": math.exp(-d) - 1 + d,
                    "kl_old_new": ratio - 1 - (new - old),
                    "gap_mean": abs(new - old),
                    "zero_advantage": a == 0,
                }
            )
    for name in seen[0]:
        assert metrics[name] == pytest.approx(sum(s[name] for s in seen) / len(seen), rel=1e-5), name
        assert metrics[name] > 0, name
    assert metrics["ratio_max"] == pytest.approx(max(s["ratio_mean"] for s in seen))
    assert metrics["gap_max"] == pytest.approx(max(s["gap_mean"] for s in seen))
    assert metrics["trained_tokens"] == len(seen)
    assert metrics["loss"] == pytest.approx(loss_by_loop(model, batch, loss, 0.9, 64).item())
    without = loss_section(**loss.model_dump() | {"kl_coefficient": 0.0})
    assert metrics["policy_loss"] == pytest.approx(loss_by_loop(model, batch, without, 0.9, 64).item())


def test_the_gap_is_taken_before_the_weights_change():
    model = qwen()
    batch = batch_of(model, 12, dtype=torch.float32, shift=0.0)
    metrics = weights_after(model, batch, minibatches=2, epochs=2)[1]
    assert metrics["gap_max"] < 1e-5
    assert metrics["kl_old_new"] > 1e-4


def test_bfloat16_arithmetic_keeps_the_direction_and_returns_float32():
    model = qwen(initializer_range=0.2)
    batch = batch_of(model, 13, dtype=torch.float32)
    half, exact = (
        gradient_of_update(model, batch, loss_section(), autocast=d)[0] for d in (torch.bfloat16, None)
    )
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    assert torch.cosine_similarity(half, exact, dim=0) > 0.99
    log_probs = log_probs_of(model, batch.tokens, batch.action_mask, autocast=torch.bfloat16)
    assert log_probs.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")
def test_adapters_are_trained_and_the_weights_below_are_not():
    model = lora()
    batch = batch_of(model, 14, dtype=torch.float32)
    before = {name: p.clone() for name, p in model.named_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    update(model, torch.optim.SGD(trained, lr=1.0), batch, loss_section())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != ("lora" in name), name


def test_a_kl_term_without_a_reference_is_refused():
    model = Toy()
    batch = batch_of(model, 0)
    with pytest.raises(ValueError, match=r"kl_coefficient is 0\.1"):
        update(model, torch.optim.SGD(model.parameters()), batch, loss_section(kl_coefficient=0.1))


def test_minibatches_without_a_generator_are_refused():
    model = Toy()
    batch = batch_of(model, 0)
    with pytest.raises(ValueError, match="2 minibatches need a generator"):
        update(model, torch.optim.SGD(model.parameters()), batch, loss_section(), minibatches=2)
