"""The agent that runs a Hugging Face model in this process, on models of some thousand random weights."""

from __future__ import annotations

import asyncio
import copy
import random
from itertools import pairwise
from math import exp, inf, log, nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto import AutoModelForCausalLM

from turnwise.agents import engine
from turnwise.agents.engine import NonFiniteLogitsError, Sampling, UnsupportedModelError, draw, uniforms
from turnwise.agents.local import LocalAgent
from turnwise.envs.agent import Conversation
from turnwise.envs.errors import ContextFull
from turnwise.envs.trajectory import Turn

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ["wall", "key", "door", "goal", "hole", "left", "right", "up", "down"]


@pytest.fixture(scope="module")
def tokenizer():
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = CHATML
    return made


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
    "bos_token_id": None,
    "pad_token_id": 0,
}


def build(tokenizer, kind=Qwen3Config, spread=4.0, attention="sdpa", **options):
    torch.manual_seed(0)
    config = kind(
        **{**SIZES, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, **options}
    )
    made = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for weight in made.parameters():  # the usual initialisation is so small that attention hardly matters
        if weight.ndim > 1:
            weight.data *= spread
    return made.eval()


@pytest.fixture(scope="module")
def model(tokenizer):
    return build(tokenizer, num_key_value_heads=2, head_dim=8)


def talk(name, seed=0, system=None):
    opening = [{"role": "user", "content": f"start {name}"}]
    if system:
        opening.insert(0, {"role": "system", "content": system})
    return Conversation(opening, id=name, seed=seed, env=None)


async def play(agent, name, turns=3, seed=0, delay=0, close=True):
    """Play one episode and return its replies; observations have 1 to 40 words."""
    rng = random.Random(name)
    conversation, replies = talk(name, seed), []
    for _ in range(delay):
        await asyncio.sleep(0)
    for _ in range(turns):
        reply = await agent.act(conversation)
        replies.append(reply)
        conversation.append({"role": "assistant", "content": reply.text})
        conversation.append({"role": "user", "content": " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))})
    if close:
        agent.close(conversation)
    return replies


def together(agent, names, **options):
    async def main():
        return await asyncio.gather(
            *(play(agent, name, seed=i, **options) for i, name in enumerate(names)), return_exceptions=True
        )

    return asyncio.run(main())


def ids_of(replies):
    return [token for reply in replies for token in (*reply.prompt_ids, *reply.action_ids)]


def worst_difference(model, episodes):
    """The largest difference to the log-probabilities of plain forwards over whole histories."""
    worst = 0.0
    for replies in episodes:
        ids = ids_of(replies)
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        at = 0
        for reply in replies:
            at += len(reply.prompt_ids)
            assert len(reply.action_ids) == len(reply.action_log_probs) > 0
            for token, value in zip(reply.action_ids, reply.action_log_probs, strict=True):
                worst = max(worst, abs(log_probs[at - 1, token].item() - value))
                at += 1
    return worst


KINDS = [
    (Qwen3Config, {"num_key_value_heads": 2, "head_dim": 8}),
    (Qwen2Config, {"num_key_value_heads": 4}),
    (LlamaConfig, {"num_key_value_heads": 1}),
    (MistralConfig, {"num_key_value_heads": 2, "sliding_window": 900}),
    (Gemma3TextConfig, {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 900}),
    (GPTNeoXConfig, {}),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=lambda p: getattr(p, "__name__", ""))
def test_log_probs_are_those_of_a_forward_over_the_whole_history(tokenizer, kind, options, attention):
    model = build(tokenizer, kind, attention=attention, **options)
    agent = LocalAgent(model, tokenizer, slots=4, max_new_tokens=9)  # slots are taken over by later episodes
    episodes = together(agent, "abcdefghi", turns=4)
    assert max(len(ids_of(e)) for e in episodes) > 128  # past the first capacity of the cache
    assert worst_difference(model, episodes) < 1e-4


@pytest.mark.parametrize("tokens", [16, 64])
def test_log_probs_hold_when_prompts_come_in_chunks(tokenizer, model, monkeypatch, tokens):
    monkeypatch.setattr(engine, "_PREFILL_TOKENS", tokens)
    monkeypatch.setattr(engine, "_PREFILL_PADDING", 8)
    episodes = together(LocalAgent(model, tokenizer, max_new_tokens=5), "abcdefgh")
    assert worst_difference(model, episodes) < 1e-4


@pytest.mark.parametrize("dense", [0.0, 1.1])
def test_log_probs_hold_for_late_comers_and_for_idle_rows_in_between(tokenizer, model, monkeypatch, dense):
    monkeypatch.setattr(engine, "_DENSE", dense)
    agent = LocalAgent(model, tokenizer, max_new_tokens=12)

    async def main():
        return await asyncio.gather(
            *(play(agent, f"{i}", turns=1 + i % 4, seed=i, delay=7 * i) for i in range(8))
        )

    assert worst_difference(model, asyncio.run(main())) < 1e-4


def test_log_probs_are_those_at_the_temperature(tokenizer, model):
    (replies,) = together(LocalAgent(model, tokenizer, temperature=0.5, top_p=0.8, max_new_tokens=9), "a")
    warmer = copy.deepcopy(model)
    warmer.lm_head = torch.nn.Linear(32, len(tokenizer), bias=False)
    warmer.lm_head.weight = torch.nn.Parameter(model.get_output_embeddings().weight / 0.5)
    assert worst_difference(warmer, [replies]) < 1e-4


def test_bfloat16_is_sampled_and_its_log_probs_are_float32_numbers(tokenizer):
    model = build(tokenizer, num_key_value_heads=2, head_dim=8)
    agent = LocalAgent(model, tokenizer, dtype=torch.bfloat16, device="cpu", max_new_tokens=5)
    assert next(model.parameters()).dtype == torch.bfloat16
    episodes = together(agent, "abc")
    assert worst_difference(model, episodes) < 0.3
    assert all(v == np.float32(v) for e in episodes for r in e for v in r.action_log_probs)


def test_the_model_sees_every_token_of_an_episode_once_and_in_order(tokenizer, model, monkeypatch):
    agent, seen = LocalAgent(model, tokenizer, max_new_tokens=6), {}
    forward = model.forward

    def spy(input_ids, position_ids, attention_mask, past_key_values, **options):
        slots, places = past_key_values._rows, past_key_values._columns
        for row, slot in enumerate(slots.tolist()):
            for token, place in zip(input_ids[row].tolist(), places[row].tolist(), strict=True):
                if place < past_key_values.capacity - 1:
                    seen.setdefault((slot, place), []).append(token)
        return forward(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **options,
        )

    monkeypatch.setattr(model, "forward", spy)
    (replies,) = together(agent, "a", turns=4)
    ids = ids_of(replies)
    assert seen == {(0, place): [token] for place, token in enumerate(ids[:-1])}


def test_what_an_episode_says_does_not_depend_on_its_company(tokenizer, model):
    names = [str(i) for i in range(9)]
    crowd = together(LocalAgent(model, tokenizer, max_new_tokens=9, slots=5), names)
    for i, name in enumerate(names):
        alone = asyncio.run(play(LocalAgent(model, tokenizer, max_new_tokens=9), name, seed=i))
        assert ids_of(alone) == ids_of(crowd[i])


def test_the_seed_decides_the_draw(tokenizer, model):
    async def first(seed):
        return (await LocalAgent(model, tokenizer).act(talk("same", seed))).action_ids

    drawn = [asyncio.run(first(seed)) for seed in (0, 0, 1, 2**100)]
    assert drawn[0] == drawn[1]
    assert len({tuple(d) for d in drawn}) == 3


def test_sampling_leaves_the_global_random_state_alone(tokenizer, model):
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    agent = LocalAgent(model, tokenizer, max_new_tokens=4)

    async def main():
        await agent.act(talk("a"))

    asyncio.run(main())
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_greedy_replies_are_those_of_generate(tokenizer, model):
    (replies,) = together(LocalAgent(model, tokenizer, temperature=0, max_new_tokens=12), ["a"], turns=1)
    prompt = torch.tensor([replies[0].prompt_ids])
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12, pad_token_id=0
    )
    assert out[0].tolist() == ids_of(replies)


# --- drawing


def reference_uniform(key, position):
    mask = 2**64 - 1
    z = (key + (position + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 24) / 2**40


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_uniforms_are_splitmix64(key, position):
    (value,) = uniforms(np.array([key], np.uint64), np.array([position]))
    assert value == reference_uniform(key, position)
    assert 0 <= value < 1


def test_uniforms_of_one_episode_and_of_neighbouring_seeds_are_uniform():
    keys = np.array([engine.stream_key(seed) for seed in range(200)], np.uint64)
    values = uniforms(np.repeat(keys, 200), np.tile(np.arange(200), 200)).reshape(200, 200)
    assert abs(values.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.02
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 50  # chi-square with 19 degrees of freedom


def kept(probabilities, top_p, top_k):
    """The tokens that truncation keeps, by a plain loop."""
    keep, total = [], 0.0
    for token in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        if keep and (total >= top_p or (top_k and len(keep) >= top_k)):
            break
        keep.append(token)
        total += probabilities[token]
    return keep


@given(
    logits=st.lists(st.integers(-40, 40), min_size=1, max_size=8, unique=True),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 20]),
)
@settings(max_examples=50, deadline=None)
def test_draws_follow_the_truncated_softmax_and_report_the_full_one(logits, temperature, top_p, top_k):
    logits = [x / 10 for x in logits]
    weights = [exp(x / temperature) for x in logits]
    probabilities = [w / sum(weights) for w in weights]
    keep = kept(probabilities, top_p, top_k)
    grid = 2000  # stratified numbers, so that counts are right to one
    uniform = (np.arange(grid) + 0.5) / grid
    ids, log_probs = draw(torch.tensor([logits] * grid), uniform, Sampling(temperature, top_p, top_k))
    counts = np.bincount(ids.numpy(), minlength=len(logits))
    mass = sum(probabilities[i] for i in keep)
    for token, probability in enumerate(probabilities):
        expected = grid * probability / mass if token in keep else 0
        assert abs(counts[token] - expected) <= (1.01 if token in keep else 0)
    for token, value in zip(ids.tolist(), log_probs.tolist(), strict=True):
        assert value == pytest.approx(log(probabilities[token]), abs=1e-4)


def test_top_p_takes_no_token_more_than_it_needs():
    ids, _ = draw(torch.zeros(9, 4), np.linspace(0, 0.99, 9), Sampling(top_p=0.5))
    assert len(set(ids.tolist())) == 2


def test_a_draw_never_takes_a_token_of_probability_zero():
    logits = torch.tensor([[-inf, 0.0, -inf, 0.0, -inf]] * 3)
    ids, _ = draw(logits, np.array([0.0, 0.5, 1 - 2.0**-40]), Sampling())
    assert ids.tolist() == [1, 3, 3]


# --- how a message ends


def test_a_message_has_at_most_max_new_tokens_and_the_next_prompt_closes_it(tokenizer, model):
    (replies,) = together(LocalAgent(model, tokenizer, max_new_tokens=3), "a", turns=4)
    end = tokenizer.eos_token_id
    assert max(len(r.action_ids) for r in replies) == 3
    for reply, following in pairwise(replies):
        assert [*reply.action_ids, *following.prompt_ids].count(
            end
        ) == 2  # of the reply and of the observation


def test_the_end_token_belongs_to_the_action_and_not_to_the_text(tokenizer):
    model = build(tokenizer, num_key_value_heads=2, head_dim=8, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # uniform over 300 tokens
    agent = LocalAgent(model, tokenizer, max_new_tokens=900)
    (replies,) = together(agent, "a", turns=1)
    assert replies[0].action_ids[-1] == tokenizer.eos_token_id
    assert replies[0].text == tokenizer.decode(replies[0].action_ids[:-1], clean_up_tokenization_spaces=False)
    assert replies[0].action_log_probs == pytest.approx([-log(len(tokenizer))] * len(replies[0].action_ids))


def test_a_stop_string_ends_the_message_and_is_cut_from_the_text_only(tokenizer, model):
    (free,) = together(LocalAgent(model, tokenizer, max_new_tokens=30), ["a"], turns=1)
    text = free[0].text
    stop = text[10:13]
    agent = LocalAgent(model, tokenizer, max_new_tokens=30, stop=["never written", stop])
    (stopped,) = together(agent, ["a"], turns=2)
    assert stopped[0].text == text[: text.index(stop)]
    ids = list(stopped[0].action_ids)
    assert ids == list(free[0].action_ids)[: len(ids)]
    assert stop in tokenizer.decode(ids)
    assert stop not in tokenizer.decode(ids[:-1])
    assert tokenizer.decode(stopped[1].prompt_ids).startswith("<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize("stop", ["é", "日", "l\u0301", "😀!"])
def test_a_stop_string_of_several_bytes_is_seen_when_its_last_byte_comes(tokenizer, stop):
    agent = LocalAgent(build(tokenizer, num_key_value_heads=2, head_dim=8), tokenizer, stop=[stop])
    ids = tokenizer.encode(f"a{stop}", add_special_tokens=False)
    asked = [
        agent._engine._stop_text_ids[token] and agent._ends_in_stop(ids[: i + 1])
        for i, token in enumerate(ids)
    ]
    assert asked == [False] * (len(ids) - 1) + [True]


def test_the_context_limit_ends_a_message_and_then_the_conversation(tokenizer, model):
    agent, conversation = LocalAgent(model, tokenizer, max_context=32, max_new_tokens=64), talk("a")

    async def main():
        reply = await agent.act(conversation)
        conversation.append({"role": "assistant", "content": reply.text})
        conversation.append({"role": "user", "content": "on"})
        with pytest.raises(ContextFull, match="context holds 32"):
            await agent.act(conversation)
        return reply

    reply = asyncio.run(main())
    assert len(reply.prompt_ids) + len(reply.action_ids) == 32


def test_a_full_context_does_not_disturb_the_others(tokenizer, model):
    agent = LocalAgent(model, tokenizer, max_context=120, max_new_tokens=8)
    results = together(agent, "abcdefgh", turns=5)
    assert {type(r) for r in results} == {ContextFull, list} or {type(r) for r in results} == {ContextFull}
    assert worst_difference(model, [r for r in results if isinstance(r, list)]) < 1e-4


# --- concurrency


def test_a_cancelled_answer_harms_no_one_and_can_be_asked_for_again(tokenizer, model):
    names = [str(i) for i in range(6)]
    undisturbed = together(LocalAgent(model, tokenizer, max_new_tokens=20), names, turns=2)

    async def with_time_out(agent, name, seed, steps):
        conversation, replies, rng = talk(name, seed), [], random.Random(name)
        for _ in range(2):
            task = asyncio.ensure_future(agent.act(conversation))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            replies.append(await agent.act(conversation))
            conversation.append({"role": "assistant", "content": replies[-1].text})
            conversation.append(
                {"role": "user", "content": " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))}
            )
        return replies

    async def main(agent, steps):
        return await asyncio.gather(
            *(with_time_out(agent, n, i, steps) for i, n in enumerate(names[:3])),
            *(play(agent, n, turns=2, seed=i) for i, n in enumerate(names) if i >= 3),
        )

    for steps in (1, 6, 9):  # before, while waiting for the prefill, while writing
        disturbed = asyncio.run(main(LocalAgent(model, tokenizer, max_new_tokens=20, slots=4), steps))
        assert [ids_of(e) for e in disturbed] == [ids_of(e) for e in undisturbed]


def test_an_error_in_the_forward_reaches_every_waiting_conversation_and_the_agent_recovers(
    tokenizer, model, monkeypatch
):
    agent = LocalAgent(model, tokenizer, max_new_tokens=6, slots=3)
    expected = together(agent, "abcde")
    forward, calls = model.forward, []

    def broken(**inputs):
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError("no room")
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", broken)

    async def main():
        return await asyncio.gather(
            *(play(agent, name, close=False) for name in "ABCDE"), return_exceptions=True
        )

    assert [type(r) for r in asyncio.run(main())] == [MemoryError] * 5
    monkeypatch.setattr(model, "forward", forward)
    for name in "ABCDE":
        agent.close(talk(name))
    assert [ids_of(e) for e in together(agent, "abcde")] == [ids_of(e) for e in expected]


def test_weights_that_are_not_finite_are_named_as_the_cause(tokenizer):
    model = build(tokenizer, num_key_value_heads=2, head_dim=8)
    agent = LocalAgent(model, tokenizer)
    with torch.no_grad():
        model.model.norm.weight.fill_(nan)
    assert [type(r) for r in together(agent, "ab")] == [NonFiniteLogitsError] * 2


def test_an_agent_serves_one_event_loop_after_another_within_an_episode(tokenizer, model):
    agent, conversation, replies = LocalAgent(model, tokenizer, max_new_tokens=7), talk("a"), []
    for _ in range(3):
        replies.append(asyncio.run(agent.act(conversation)))
        conversation += [
            {"role": "assistant", "content": replies[-1].text},
            {"role": "user", "content": "go on"},
        ]
    assert worst_difference(model, [replies]) < 1e-4


def test_an_interrupted_loop_leaves_the_agent_usable(tokenizer, model, monkeypatch):
    agent = LocalAgent(model, tokenizer, max_new_tokens=7)
    expected = together(agent, "abc")
    forward = model.forward

    def interrupted(**inputs):
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(play(agent, "x"))
    monkeypatch.setattr(model, "forward", forward)
    assert [ids_of(e) for e in together(agent, "abc")] == [ids_of(e) for e in expected]


def test_new_weights_count_after_refresh_also_in_the_middle_of_an_episode(tokenizer):
    model = build(tokenizer, num_key_value_heads=2, head_dim=8)
    agent, conversation = LocalAgent(model, tokenizer, max_new_tokens=7), talk("a")
    first = asyncio.run(agent.act(conversation))
    conversation += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "go on"}]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    agent.refresh()
    assert not agent._engine.cache.is_initialized
    second = asyncio.run(agent.act(conversation))
    ids = ids_of([first, second])
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(ids) - len(second.action_ids)
    expected = [log_probs[start + i - 1, t].item() for i, t in enumerate(second.action_ids)]
    assert second.action_log_probs == pytest.approx(expected, abs=1e-4)


def test_refresh_is_refused_while_an_answer_is_written(tokenizer, model):
    agent = LocalAgent(model, tokenizer)

    async def main():
        task = asyncio.ensure_future(agent.act(talk("a")))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="cannot change while it answers"):
            agent.refresh()
        await task

    asyncio.run(main())


def test_more_episodes_than_slots_all_get_their_turn(tokenizer, model):
    few = together(LocalAgent(model, tokenizer, max_new_tokens=6, slots=1), "abcdef")
    many = together(LocalAgent(model, tokenizer, max_new_tokens=6), "abcdef")
    assert [ids_of(e) for e in few] == [ids_of(e) for e in many]


def test_a_conversation_that_is_never_closed_loses_its_slot_but_not_its_context(
    tokenizer, model, monkeypatch
):
    monkeypatch.setattr(engine, "_EVICT_AFTER", 0.02)
    agent = LocalAgent(model, tokenizer, max_new_tokens=6, slots=2)

    async def main():
        return await asyncio.gather(*(play(agent, name, close=False) for name in "abcdefg"))

    assert worst_difference(model, asyncio.run(main())) < 1e-4


def test_a_closed_conversation_leaves_nothing_behind(tokenizer, model):
    agent = LocalAgent(model, tokenizer, max_new_tokens=6, slots=4)
    together(agent, [str(i) for i in range(9)])
    assert not agent._episodes
    assert sorted(agent._engine._free) == [0, 1, 2, 3]
    agent.close(talk("unknown"))


def turn_of(reply):
    """A recorded turn, as far as an agent reads it."""
    return Turn("", reply.text, prompt_ids=list(reply.prompt_ids), action_ids=list(reply.action_ids))


def test_a_branch_goes_on_from_the_recorded_tokens(tokenizer, model):
    agent = LocalAgent(model, tokenizer, max_new_tokens=8)
    trunk, replies = talk("trunk"), []

    async def main():
        for word in ("wall", "key", "door"):
            replies.append(await agent.act(trunk))
            trunk.extend(
                [{"role": "assistant", "content": replies[-1].text}, {"role": "user", "content": word}]
            )
        branch = Conversation(
            trunk[:5], id="branch", seed=9, env=None, history=[turn_of(r) for r in replies[:2]]
        )
        return await agent.act(branch)

    reply = asyncio.run(main())
    assert reply.prompt_ids == replies[2].prompt_ids
    assert reply.action_ids != replies[2].action_ids
    assert worst_difference(model, [[*replies[:2], reply]]) < 1e-4


def test_a_branch_of_an_episode_without_tokens_encodes_its_messages(tokenizer, model):
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    branch = Conversation(messages, id="branch", seed=0, env=None, history=[Turn("a", "b")])
    reply = asyncio.run(LocalAgent(model, tokenizer, max_new_tokens=3).act(branch))
    assert tokenizer.decode(reply.prompt_ids) == tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )


def test_a_conversation_is_answered_once_per_turn(tokenizer, model):
    agent, conversation = LocalAgent(model, tokenizer), talk("a")

    async def main():
        task = asyncio.ensure_future(agent.act(conversation))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="still answering"):
            await agent.act(conversation)
        with pytest.raises(ValueError, match="cancel that before closing"):
            agent.close(conversation)
        await task
        with pytest.raises(ValueError, match=r"grew by \[\]"):
            await agent.act(conversation)
        conversation.append({"role": "user", "content": "no answer before this"})
        with pytest.raises(ValueError, match=r"grew by \['user'\]"):
            await agent.act(conversation)

    asyncio.run(main())


# --- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"temperature": nan}, "temperature must be at least 0"),
        ({"top_p": 0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"slots": 0}, "slots must be at least 1"),
        ({"max_context": 1}, "from 2 to 1024"),
        ({"max_context": 1025}, "from 2 to 1024"),
        ({"stop": "word"}, "list of non-empty strings"),
        ({"stop": [""]}, "list of non-empty strings"),
    ],
)
def test_a_parameter_out_of_range_is_named(tokenizer, model, options, message):
    with pytest.raises(ValueError, match=message):
        LocalAgent(model, tokenizer, **options)


def test_a_sliding_window_bounds_the_context(tokenizer):
    model = build(tokenizer, MistralConfig, num_key_value_heads=2, sliding_window=50)
    agent = LocalAgent(model, tokenizer)
    assert {type(r) for r in together(agent, "abc")} == {ContextFull}
    with pytest.raises(ValueError, match=r"from 2 to 50 \(the model's window\)"):
        LocalAgent(model, tokenizer, max_context=60)


def test_a_model_that_carries_a_state_is_refused(tokenizer):
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1)
    with pytest.raises(UnsupportedModelError, match="mamba"):
        LocalAgent(AutoModelForCausalLM.from_config(config), tokenizer, max_context=100)


def test_a_model_that_disregards_the_mask_is_refused(tokenizer, monkeypatch):
    model = build(tokenizer, num_key_value_heads=2, head_dim=8)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, attention_mask=None, **inputs: forward(*a, **inputs))
    with pytest.raises(UnsupportedModelError):
        LocalAgent(model, tokenizer)


def test_a_model_that_disregards_positions_is_refused(tokenizer, monkeypatch):
    model = build(tokenizer, num_key_value_heads=2, head_dim=8)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, position_ids=None, **inputs: forward(*a, **inputs))
    with pytest.raises(UnsupportedModelError, match="does not follow"):
        LocalAgent(model, tokenizer)


def test_an_attention_kernel_without_masks_is_refused(tokenizer):
    model = build(tokenizer, num_key_value_heads=2, head_dim=8)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match="attn_implementation"):
        LocalAgent(model, tokenizer)


def test_a_tokenizer_of_another_model_is_refused(tokenizer):
    with pytest.raises(ValueError, match="resize_token_embeddings"):
        LocalAgent(build(tokenizer, vocab_size=100, eos_token_id=0), tokenizer)


def test_a_folder_gives_the_same_agent(tokenizer, model, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = LocalAgent.from_pretrained(str(tmp_path), max_new_tokens=6)
    here = LocalAgent(model, tokenizer, max_new_tokens=6)
    assert [ids_of(e) for e in together(loaded, "abc")] == [ids_of(e) for e in together(here, "abc")]


def test_a_model_with_lora_adapters_samples_from_the_adapted_distribution(tokenizer):
    peft = pytest.importorskip("peft")
    model = build(tokenizer, num_key_value_heads=2, head_dim=8)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    episodes = together(LocalAgent(adapted, tokenizer, max_new_tokens=6), "abc")
    assert worst_difference(adapted, episodes) < 1e-4
    with adapted.disable_adapter():
        assert worst_difference(adapted, episodes) > 1e-4


def test_the_agent_samples_in_eval_mode(tokenizer):
    model = build(tokenizer, num_key_value_heads=2, head_dim=8, attention_dropout=0.5)
    model.train()
    episodes = together(LocalAgent(model, tokenizer, max_new_tokens=6), "ab")
    assert worst_difference(model.eval(), episodes) < 1e-4
