"""Information gain: the numbers of the paper's example, one forward pass against many, forced answers, and the guard."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import shutil

import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional as F

import turnwise as tw
from turnwise.agents.chat import ChatTokenizer
from turnwise.agents.local import LocalAgent
from turnwise.envs import ListedTasks, Outcome, Task, Trajectory, Turn, TurnEnv, tool
from turnwise.trainers.local.policy import token_log_probs
from turnwise.trainers.rewards import MissingNeed, Models, RewardPipeline, build
from turnwise.trainers.rewards.beliefs import belief, beliefs, gains
from turnwise.trainers.rewards.forced_answer import AnswerWriter, UnwritableAnswer
from turnwise.trainers.rewards.leaks import context, guarded_context
from turnwise.trainers.rewards.scoring import (
    Probe,
    UnsupportedModel,
    forced_log_probs,
    packed_mask,
    refuse_windows,
)

# Beliefs: hand sums.


def test_belief_is_the_mean_log_prob_or_its_exponential():
    assert belief([-1.0, -2.0, -3.0]) == pytest.approx(-2.0)
    assert belief([math.log(0.5), math.log(0.125)], "prob") == pytest.approx(0.25)


def test_gains_telescope_and_leave_the_last_turn_to_the_outcome():
    assert gains([]) == []
    assert gains([0.3]) == [None]
    out = gains([0.1, 0.4, 0.3, 0.9])
    assert out[-1] is None
    assert sum(out[:-1]) == pytest.approx(0.9 - 0.1)


def test_a_turn_beside_a_missing_checkpoint_has_no_gain():
    assert gains([0.0, 1.0, None, 2.0, 5.0]) == [1.0, None, None, 3.0, None]


@pytest.mark.parametrize(
    ("aliases", "expected"),
    [
        # means: first checkpoint -2, -1; second -0.5, -3
        ("max0", [-1.0, -3.0]),
        ("max", [-1.0, -0.5]),
        ("mean", [-1.5, -1.75]),
        # sums: -4, -1; -1, -3
        ("logsumexp", [math.log(math.exp(-4) + math.exp(-1)), math.log(math.exp(-1) + math.exp(-3))]),
    ],
)
def test_several_answers_become_one_belief(aliases, expected):
    log_probs = [[[-1.0, -3.0], [-1.0]], [[-0.5, -0.5], [-3.0]]]
    assert beliefs(log_probs, aliases=aliases) == pytest.approx(expected)


def test_max0_keeps_its_answer_and_skips_checkpoints_that_are_missing():
    log_probs = [None, [[-3.0], [-2.0]], [[-0.1], [-4.0]]]
    assert beliefs(log_probs) == [None, -2.0, -4.0]


def test_the_probability_of_a_set_is_a_sum_of_products():
    log_probs = [[[math.log(0.5), math.log(0.5)], [math.log(0.1)]]]
    assert beliefs(log_probs, "prob", "logsumexp") == [pytest.approx(0.35)]


# One forward pass against one forward per checkpoint.


def _model(kind, **changes):
    common = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    rotary = {**common, "intermediate_size": 48, "max_position_embeddings": 512, "num_key_value_heads": 1}
    configs = {
        "qwen3": ("Qwen3", {**rotary, "head_dim": 16}),
        "llama": ("Llama", rotary),
        "mistral": ("Mistral", {**rotary, "sliding_window": None}),
        "gemma2": ("Gemma2", {**rotary, "head_dim": 16, "sliding_window": 256}),
        "gpt2": ("GPT2", {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512}),
        "neox": ("GPTNeoX", {**common, "intermediate_size": 48, "max_position_embeddings": 512}),
    }
    family, settings = configs[kind]
    config = getattr(transformers, f"{family}Config")(
        **{
            **settings,
            "initializer_range": 0.2,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 0,
            **changes,
        }
    )
    torch.manual_seed(0)
    name = {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM")
    return getattr(transformers, name)(config).eval()


def _episodes(seed=0):
    """Contexts of unlike length; probes at unlike points, of unlike length, wanted from unlike tokens."""
    rng = torch.Generator().manual_seed(seed)

    def ids(n):
        return torch.randint(0, 97, (n,), generator=rng).tolist()

    contexts = [ids(40), ids(23), ids(31), ids(5)]
    probes = [
        [Probe(3, tuple(ids(4)), 2), Probe(17, tuple(ids(6)), 0), Probe(40, tuple(ids(1)), 0)],
        [Probe(1, tuple(ids(5)), 4), Probe(23, tuple(ids(5)), 1)],
        [],
        [Probe(5, tuple(ids(3)), 1), Probe(5, tuple(ids(2)), 0), Probe(4, tuple(ids(7)), 3)],
    ]
    return contexts, probes


@torch.no_grad()
def _one_by_one(model, contexts, probes, temperature=1.0):
    """The definition: every probe in a forward of its own, every logit computed."""
    found = []
    for context_ids, own in zip(contexts, probes, strict=True):
        found.append([])
        for probe in own:
            row = torch.tensor([[*context_ids[: probe.end], *probe.tokens]])
            log_p = F.log_softmax(model(row).logits[0].float() / temperature, -1)
            at = range(probe.end + probe.first, row.shape[1])
            found[-1].append([float(log_p[m - 1, row[0, m]]) for m in at])
    return found


def _flat(values):
    return torch.tensor([v for episode in values for probe in episode for v in probe])


WAYS = [
    {"method": "packed"},
    {"method": "packed", "padding": "left"},
    {"method": "packed", "token_budget": 60},
    {"method": "cached"},
    {"method": "cached", "token_budget": 60},
    {"method": "plain"},
    {"method": "plain", "token_budget": 1},
]


@pytest.mark.parametrize("kind", ["qwen3", "llama", "mistral", "gemma2", "gpt2", "neox"])
@pytest.mark.parametrize("way", WAYS, ids=lambda w: "-".join(str(v) for v in w.values()))
def test_every_method_equals_one_forward_per_checkpoint(kind, way):
    model = _model(kind)
    contexts, probes = _episodes()
    expected = _flat(_one_by_one(model, contexts, probes))
    found = forced_log_probs(model, contexts, probes, **way)
    assert [[len(p) for p in own] for own in found] == [
        [len(p.tokens) - p.first for p in own] for own in probes
    ]
    torch.testing.assert_close(_flat(found), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_packed_equals_one_forward_per_checkpoint_with_eager_attention(padding):
    model = _model("llama", attn_implementation="eager")
    contexts, probes = _episodes(1)
    found = forced_log_probs(model, contexts, probes, padding=padding, temperature=0.7)
    torch.testing.assert_close(
        _flat(found), _flat(_one_by_one(model, contexts, probes, 0.7)), rtol=0, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile, in torch itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="FlexAttention on a CPU is compiled by g++")
def test_flex_attention_equals_one_forward_per_checkpoint():
    model = _model("llama")
    contexts, probes = _episodes()
    for padding in ("right", "left"):
        found = forced_log_probs(model, contexts, probes, kernel="flex", padding=padding)
        torch.testing.assert_close(
            _flat(found), _flat(_one_by_one(model, contexts, probes)), rtol=0, atol=1e-5
        )
    assert model.config._attn_implementation == "sdpa"


def test_the_context_is_computed_as_if_there_were_no_probes():
    model = _model("qwen3")
    contexts, probes = _episodes()
    contexts, probes = contexts[:1], [[*probes[0], Probe(40, (1, 2, 3), 0)]]
    seen = []
    hook = model.model.norm.register_forward_hook(lambda _, __, out: seen.append(out.clone()))
    with torch.no_grad():
        model(torch.tensor(contexts))
    forced_log_probs(model, contexts, probes)
    forced_log_probs(model, contexts, probes, padding="left")
    hook.remove()
    alone, packed, left = seen
    torch.testing.assert_close(packed[:, :40], alone, rtol=0, atol=5e-6)
    torch.testing.assert_close(left[:, :40], alone, rtol=0, atol=5e-6)


def test_scoring_leaves_the_policy_as_it_was():
    model = _model("llama")
    model.train()
    contexts, probes = _episodes()
    tokens = torch.tensor(contexts[:1])
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 0] = False
    before = token_log_probs(model, tokens, mask)[0]
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    for way in WAYS:
        forced_log_probs(model, contexts, probes, **way)
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert not model.get_output_embeddings()._forward_pre_hooks
    assert torch.equal(token_log_probs(model, tokens, mask)[0], before)


@pytest.mark.parametrize("method", ["packed", "cached"])
def test_adapters_are_part_of_the_policy(method):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        _model("llama"),
        peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False),
    )
    contexts, probes = _episodes()
    found = _flat(forced_log_probs(model.eval(), contexts, probes, method=method))
    torch.testing.assert_close(found, _flat(_one_by_one(model, contexts, probes)), rtol=0, atol=1e-5)
    with model.disable_adapter():
        assert (found - _flat(forced_log_probs(model, contexts, probes, method=method))).abs().max() > 0.01


@pytest.mark.parametrize("method", ["packed", "cached"])
def test_a_probe_sees_nothing_behind_its_checkpoint_and_no_other_probe(method):
    model = _model("qwen3")
    contexts, probes = _episodes()
    before = forced_log_probs(model, contexts, probes, method=method)[0]
    # Another future, and the other probes gone.
    changed = [*contexts[0][:17], *[5] * 23]
    after = forced_log_probs(model, [changed], [probes[0][1:2]], method=method)[0]
    assert after[0] == pytest.approx(before[1], abs=1e-5)
    swapped = forced_log_probs(model, contexts[:1], [probes[0][::-1]], method=method)[0]
    for a, b in zip(swapped, before[::-1], strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_the_mask_is_the_one_of_the_definition():
    # Context of 3 columns, probe 0 behind 2 of them (2 columns), probe 1 behind 3 (1 column), padding.
    copy = torch.tensor([[-1, -1, -1, 0, 0, 1, -2]])
    visible = torch.tensor([[0, 0, 0, 2, 2, 3, 0]])
    seen = [{k for k in range(7) if row[k]} for row in packed_mask(copy, visible)[0, 0]]
    assert seen == [{0}, {0, 1}, {0, 1, 2}, {0, 1, 3}, {0, 1, 3, 4}, {0, 1, 2, 5}, {6}]


def test_forced_tokens_that_were_sampled_have_the_log_probs_of_the_rollout():
    model = _model("llama")
    contexts, _ = _episodes()
    ids = contexts[0]
    mask = torch.zeros(1, 40, dtype=torch.bool)
    mask[0, 30:36] = True
    own = token_log_probs(model, torch.tensor([ids]), mask, temperature=0.8)[0][0, 30:36]
    found = forced_log_probs(model, [ids], [[Probe(28, tuple(ids[28:36]), 2)]], temperature=0.8)
    assert found[0][0] == pytest.approx(own.tolist(), abs=1e-5)


@pytest.mark.parametrize("method", ["packed", "cached"])
def test_a_sliding_window_is_refused_and_the_message_says_what_to_do(method):
    model = _model("mistral", sliding_window=16)
    contexts, probes = _episodes()
    with pytest.raises(UnsupportedModel, match=r"sliding window of 16 tokens.* has 41.*method=plain"):
        forced_log_probs(model, contexts, probes, method=method)
    expected = _flat(_one_by_one(model, contexts, probes))
    found = forced_log_probs(model, contexts, probes, method="plain")
    torch.testing.assert_close(_flat(found), expected, rtol=0, atol=1e-5)
    # What never leaves the window is the same as full attention.
    short = [c[:5] for c in contexts[3:]], probes[3:]
    torch.testing.assert_close(
        _flat(forced_log_probs(model, *short, method=method)),
        _flat(_one_by_one(model, *short)),
        rtol=0,
        atol=1e-5,
    )


def test_a_row_as_long_as_the_window_is_the_longest_that_is_taken():
    model = _model("mistral", sliding_window=16)
    refuse_windows(model, 16)
    with pytest.raises(UnsupportedModel, match="has 17"):
        refuse_windows(model, 17)


def test_layers_with_a_state_are_refused():
    model = _model("qwen3")
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(UnsupportedModel, match="linear_attention"):
        refuse_windows(model, 10)


def test_a_kernel_without_masks_is_refused_for_packed():
    model = _model("llama")
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(UnsupportedModel, match="method=cached"):
        forced_log_probs(model, *_episodes(), method="packed", kernel="sdpa")


def test_a_model_without_a_head_of_its_own_is_read_at_the_wanted_cells():
    # One row, as wide as there are numbers wanted, and these in another order: not what a narrowed head would give.
    model = Copier(_one_token_answers())
    paris = model.word.tolist().index(1)
    contexts, probes = [[paris, 3]], [[Probe(2, (paris,)), Probe(1, (3,))]]
    found = forced_log_probs(model, contexts, probes, method="packed")
    assert _flat(found).tolist() == pytest.approx(_flat(_one_by_one(model, contexts, probes)).tolist())
    assert found[0][0][0] != pytest.approx(found[0][1][0])


@pytest.mark.parametrize("probe", [Probe(0, (1,)), Probe(41, (1,)), Probe(3, ()), Probe(3, (1,), 1)])
def test_a_probe_outside_its_context_is_an_error(probe):
    with pytest.raises(ValueError, match="cannot stand behind token"):
        forced_log_probs(_model("llama"), [_episodes()[0][0]], [[probe]])


# Forced answers.

_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "<|bos|>{% for m in messages %}<|head|>{{ m['role'] }}<|/head|>\n\n{{ m['content'] | trim }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
    ),
    "inst": (
        "<|bos|>{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% elif m['role'] == 'assistant' %}{{ m['content'] }}<|im_end|>"
        "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
    ),
}


def _tokenizer(template="chatml", merges=(), words=()):
    """Byte-level BPE with the given merges, each of two tokens; `words` are merged from their characters."""
    merges = list(merges)
    for word in words:
        letters = [pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(c)[0][0] for c in word]
        done = letters[0]
        for piece in letters[1:]:
            merges.append((done, piece))
            done += piece
    vocabulary = dict.fromkeys([*_ALPHABET, *(a + b for a, b in merges)])
    backend = Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(vocabulary)}, merges=list(dict.fromkeys(merges)))
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|[\[ ]?\p{N}+\]?|\s+|."), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        extra_special_tokens=["<|im_start|>", "<|bos|>", "<|head|>", "<|/head|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer


class Quiz(TurnEnv):
    """Ask, search, answer: `search` echoes the query and says what the task's page says."""

    questions: str = "Which city?"
    rules = "Answer the question."

    def load_tasks(self):
        return ListedTasks(
            [
                Task("paris", "train", prompt=self.questions, reference=("Paris",)),
                Task("two", "train", prompt=self.questions, reference=("Zürich", "Zurich am See")),
                Task("empty", "train", prompt=self.questions, reference=("", "  ")),
            ]
        )

    def start(self, task, rng):
        return task.prompt

    @tool
    def search(self, query: str) -> Outcome:
        """Search.

        Args:
            query: what for.
        """
        return Outcome(f"You searched for {query}. Nothing found.")

    @tool
    def answer(self, text: str) -> Outcome:
        """Answer.

        Args:
            text: the answer.
        """
        right = text in (self.task.reference or ())
        return Outcome("Right." if right else "Wrong.", float(right), success=right)


class Numbers(TurnEnv):
    """Two tools without a name for answers."""

    def start(self, task, rng):
        return "Go."

    def reference(self):
        return ["7"]

    @tool
    def left(self, steps: int) -> Outcome:
        """Go left.

        Args:
            steps: how far.
        """
        return Outcome("ok")

    @tool
    def right(self, steps: float) -> Outcome:
        """Go right.

        Args:
            steps: how far.
        """
        return Outcome("ok")


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("bracket", "answer[Paris]"),
        ("react", "Action: answer[Paris]"),
        ("hermes", '<tool_call>\n{"name": "answer", "arguments": {"text": "Paris"}}\n</tool_call>'),
        ("python", "```python\nanswer(text='Paris')\n```"),
    ],
)
def test_the_answer_is_written_in_the_environments_own_format(format, text):
    forced = AnswerWriter(Quiz(format=format), _tokenizer()).text(" Paris ")
    assert forced.text == text
    assert text[forced.start : forced.end] == "Paris"


def test_a_number_is_written_as_the_tool_takes_it():
    writer = AnswerWriter(tw.make("HigherLower-v1", format="bracket"), _tokenizer())
    forced = writer.text("57")
    assert forced == ("guess[57]", 6, 8)
    assert writer.text("fifty-seven") is None
    hermes = AnswerWriter(tw.make("HigherLower-v1"), _tokenizer()).text("57")
    assert hermes.text == '<tool_call>\n{"name": "guess", "arguments": {"number": 57}}\n</tool_call>'
    assert hermes.text[hermes.start : hermes.end] == "57"


@pytest.mark.parametrize(
    ("format", "written"), [("hermes", r"a \"b\" c"), ("python", "'a \"b\" c'"), ("bracket", 'a "b" c')]
)
def test_an_answer_with_quotes_is_found_as_it_is_written(format, written):
    forced = AnswerWriter(Quiz(format=format), _tokenizer()).text('a "b" c')
    assert forced.text[forced.start : forced.end] in (written, written.strip("'"))


def test_an_answer_that_changes_its_quotes_keeps_them():
    forced = AnswerWriter(Quiz(format="python"), _tokenizer()).text("l'Aquila")
    assert forced.text[forced.start : forced.end] == '"l\'Aquila"'


def test_without_a_tool_for_answers_the_answer_is_plain_text_and_a_preface_stands_before_it():
    env = Numbers(format="bracket")
    assert AnswerWriter(env, _tokenizer()).text("7") == ("7", 0, 1)
    assert AnswerWriter(env, _tokenizer(), preface="Done. ").text("7") == ("Done. 7", 6, 7)
    chosen = AnswerWriter(env, _tokenizer(), tool="right").text("7")
    assert chosen == ("right[7.0]", 6, 9)
    with pytest.raises(UnwritableAnswer, match=r"tool='up'.*left, right"):
        AnswerWriter(env, _tokenizer(), tool="up")


def test_the_answers_tokens_are_those_that_hold_its_characters():
    tokenizer = _tokenizer(words=["answer", "Par"])
    forced = AnswerWriter(Quiz(format="bracket"), tokenizer).tokens("Paris")
    pieces = tokenizer.convert_ids_to_tokens(list(forced.tokens))
    assert pieces == ["answer", "[", "Par", "i", "s"]
    assert (forced.first, forced.merged) == (2, False)


@pytest.mark.parametrize(
    ("merges", "pieces", "first"),
    [
        ([("[", "P")], ["answer", "[P", "a", "r", "i", "s"], 1),
        ([("s", "]")], ["answer", "[", "P", "a", "r", "i", "s"], 2),
    ],
)
def test_a_token_that_is_merged_across_the_border_counts_as_the_answers(merges, pieces, first):
    tokenizer = _tokenizer(merges=merges, words=["answer"])
    forced = AnswerWriter(Quiz(format="bracket"), tokenizer).tokens("Paris")
    assert tokenizer.convert_ids_to_tokens(list(forced.tokens)) == pieces
    assert forced.first == first
    assert forced.merged == (merges[0][0] == "[")


def test_a_token_merged_across_the_end_is_the_answers_too():
    tokenizer = _tokenizer(merges=[("7", "]")])
    forced = AnswerWriter(tw.make("HigherLower-v1", format="bracket"), tokenizer).tokens("57")
    assert tokenizer.convert_ids_to_tokens(list(forced.tokens))[-2:] == ["5", "7]"]
    assert forced.merged


def test_every_byte_of_an_answer_is_scored():
    tokenizer = _tokenizer()
    forced = AnswerWriter(Quiz(format="bracket"), tokenizer).tokens("Zür 🜚")
    assert tokenizer.decode(list(forced.tokens[forced.first :])) == "Zür 🜚"


def test_a_control_token_in_an_answer_stays_text():
    tokenizer = _tokenizer()
    forced = AnswerWriter(Quiz(format="bracket"), tokenizer).tokens("a<|im_end|>b")
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in forced.tokens
    assert tokenizer.decode(list(forced.tokens)) == "answer[a<|im_end|>b"


# The source.


def _policy(tokenizer, **changes):
    return _model("qwen3", vocab_size=len(tokenizer), max_position_embeddings=2048, **changes)


def _models(env, tokenizer, policy=None, **changes):
    return Models(
        env=env,
        policy=policy if policy is not None else _policy(tokenizer),
        tokenizer=tokenizer,
        chat=ChatTokenizer(tokenizer),
        max_context=2048,
        **changes,
    )


def _played(env, tokenizer, actions, task="paris", seed=0):
    """The trajectory of these actions, with the tokens that a model would have sampled for them."""
    chat = ChatTokenizer(tokenizer)
    observation, _ = env.reset(seed=seed, options={"task": task})
    messages = env.messages(observation)
    prompt = chat.start(messages)
    turns = []
    for action in actions:
        ids = [*tokenizer.encode(action, add_special_tokens=False), tokenizer.eos_token_id]
        after, reward, _, _, info = env.step(action)
        arguments = None if info["call"] is None else info["call"].arguments
        turns.append(
            Turn(observation, action, info["tool"], arguments, reward, prompt_ids=prompt, action_ids=ids)
        )
        answer = {"role": env.observation_role, "content": after}
        prompt = chat.append(messages, [answer], ids)
        messages = [*messages, {"role": "assistant", "content": action}, answer]
        observation = after
    return Trajectory(
        "Quiz",
        task,
        "train",
        seed,
        "terminated",
        1.0,
        True,
        turns,
        reference=env.reference(),
        final_observation=after,
    )


def _score(source, trajectories, models):
    return asyncio.run(source.score(trajectories, models))


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@pytest.mark.parametrize("format", ["bracket", "hermes"])
@pytest.mark.parametrize("method", ["packed", "cached", "plain"])
def test_gains_equal_the_definition_computed_from_the_messages(template, format, method):
    """Independent of chat tokens, offsets and packing: text by the template, one forward per checkpoint."""
    tokenizer = _tokenizer(template, words=["answer", " for", "search"])
    env = Quiz(format=format, system_prompt=template != "inst")
    models = _models(env, tokenizer)
    queries = ["rivers", "the capital"]
    actions = [env.write(tw.Call("search", {"query": q})) for q in queries]
    actions.append(env.write(tw.Call("answer", {"text": "Paris"})))
    trajectory = _played(env, tokenizer, actions)
    (found,) = _score(build("info_gain", method=method), [trajectory], models)

    role = "user" if template in ("inst",) or format == "bracket" else "tool"
    messages = env.messages(trajectory.turns[0].observation)
    expected = []
    for k in range(3):
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        start = tokenizer.encode(text, add_special_tokens=False)
        written = env.write(tw.Call("answer", {"text": "Paris"}))
        lead = tokenizer.encode(written[: written.index("Paris")], add_special_tokens=False)
        ids = [*start, *lead, *tokenizer.encode("Paris", add_special_tokens=False)]
        with torch.no_grad():
            log_p = F.log_softmax(models.policy(torch.tensor([ids])).logits[0], -1)
        at = range(len(start) + len(lead), len(ids))
        expected.append(sum(float(log_p[m - 1, ids[m]]) for m in at) / len(at))
        if k < 2:
            messages = [
                *messages,
                {"role": "assistant", "content": actions[k]},
                {"role": role, "content": trajectory.turns[k + 1].observation},
            ]
    assert found[-1] is None
    assert found[:2] == pytest.approx([expected[1] - expected[0], expected[2] - expected[1]], abs=1e-5)


def test_an_episode_of_the_agent_is_scored_from_its_own_tokens():
    env = tw.make("HigherLower-v1", format="bracket", max_turns=4)
    tokenizer = _tokenizer(words=["guess"])
    policy = _policy(tokenizer)
    agent = LocalAgent(policy, tokenizer, max_new_tokens=6, max_context=2048)
    trajectories = env.rollout(agent, 6, seed=3).trajectories
    models = _models(env, tokenizer, policy, agent=agent)
    source = build("info_gain")
    source.check(models)
    packed = _score(source, trajectories, models)
    plain = _score(build("info_gain", method="plain"), trajectories, models)
    assert [len(row) for row in packed] == [len(t.turns) for t in trajectories]
    for a, b in zip(packed, plain, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
        assert a[-1] is None
        assert None not in a[:-1]


def test_temperature_and_definition_are_those_of_the_rollout_and_the_configuration():
    env, tokenizer = Quiz(format="bracket"), _tokenizer()
    trajectory = _played(env, tokenizer, ["search[a]", "answer[b]"])
    models = _models(env, tokenizer, temperature=0.5)
    base = context(trajectory)
    forced = AnswerWriter(env, tokenizer).tokens("Paris")
    probes = [[Probe(end, forced.tokens, forced.first) for end in base.ends]]
    values = _one_by_one(models.policy, [base.tokens], probes, 0.5)[0]
    for definition in ("logprob", "prob"):
        s = [belief(v, definition) for v in values]
        (found,) = _score(build("info_gain", definition=definition), [trajectory], models)
        assert found[0] == pytest.approx(s[1] - s[0], abs=1e-5)


def test_several_answers_are_all_scored():
    env, tokenizer = Quiz(format="bracket"), _tokenizer()
    trajectory = _played(env, tokenizer, ["search[a]", "search[b]", "answer[c]"], task="two")
    models = _models(env, tokenizer)
    each = []
    for answer in trajectory.reference:
        alone = dataclasses.replace(trajectory, reference=[answer])
        each.append(_score(build("info_gain"), [alone], models)[0][:2])
    (mean,) = _score(build("info_gain", aliases="mean"), [trajectory], models)
    assert mean[:2] == pytest.approx([(a + b) / 2 for a, b in zip(*each, strict=True)], abs=1e-5)
    (first,) = _score(build("info_gain"), [trajectory], models)
    assert any(first[:2] == pytest.approx(one, abs=1e-5) for one in each)


def test_no_gradient_reaches_the_policy():
    env, tokenizer = Quiz(format="bracket"), _tokenizer()
    models = _models(env, tokenizer)
    tracked = []
    models.policy.register_forward_pre_hook(lambda *_: tracked.append(torch.is_grad_enabled()))
    with torch.enable_grad():
        for method in ("packed", "cached", "plain"):
            source = build("info_gain", method=method)
            _score(source, [_played(env, tokenizer, ["search[a]", "answer[b]"])], models)
    assert tracked and not any(tracked)
    assert all(p.requires_grad and p.grad is None for p in models.policy.parameters())


def test_gains_do_not_depend_on_the_company():
    env, tokenizer = Quiz(format="bracket"), _tokenizer()
    models = _models(env, tokenizer)
    trajectories = [_played(env, tokenizer, [*["search[x]"] * n, "answer[b]"]) for n in (1, 4, 2)]
    together = _score(build("info_gain"), trajectories, models)
    backwards = _score(build("info_gain"), trajectories[::-1], dataclasses.replace(models, token_budget=1))
    for t, row, again in zip(trajectories, together, backwards[::-1], strict=True):
        assert row == pytest.approx(again, abs=1e-5)
        assert row == pytest.approx(_score(build("info_gain"), [t], models)[0], abs=1e-5)


# The guard.


class Copier(torch.nn.Module):
    """A policy that believes in the words it has read, in whatever case: logit 5 for those, 0 for everything else."""

    def __init__(self, tokenizer):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.embedding = torch.nn.Embedding(len(tokenizer), 1)
        self.config = transformers.Qwen3Config(vocab_size=len(tokenizer), max_position_embeddings=4096)
        self.config._attn_implementation = "eager"
        self.device, self.dtype = torch.device("cpu"), torch.float32
        words = [tokenizer.decode([i]).strip().lower() for i in range(len(tokenizer))]
        known = {w: n for n, w in enumerate(["paris", "lyon"], 1)}
        self.word = torch.tensor([known.get(w, 0) for w in words])

    def get_output_embeddings(self):
        return None

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, **_):
        read = F.one_hot(self.word[input_ids], 3).cumsum(1).clamp(max=1)  # (r, l, word)
        logits = 5.0 * read[:, :, self.word] * (self.word > 0)
        return transformers.modeling_outputs.CausalLMOutput(logits=logits)


class Counter(Copier):
    """Counts every token before it, whatever the mask says."""

    def forward(self, input_ids, **_):
        counts = F.one_hot(input_ids, self.embedding.num_embeddings).cumsum(1).float()
        return transformers.modeling_outputs.CausalLMOutput(logits=counts)


def _one_token_answers():
    return _tokenizer(words=[" Paris", " Lyon", " paris", "Paris", "Lyon", "paris"])


def _gain(action, *, guard, env=None):
    env = env or Quiz(format="bracket")
    tokenizer = _one_token_answers()
    source = build("info_gain", method="plain", guard=guard)
    models = _models(env, tokenizer, Copier(tokenizer))
    trajectory = _played(env, tokenizer, [action, "answer[Lyon]"])
    return _score(source, [trajectory], models)[0][0], source


@pytest.mark.parametrize(
    "action",
    [
        "search[Paris]",
        "search[ paris ]",
        "search[is it Paris or Paris]",
        "It may be Paris. search[Paris]",
        "Paris Paris Paris",
        "find[Paris]",
        "search[ParisParis]",
        "search[_Paris_]",
    ],
)
def test_an_agent_that_asks_for_the_reference_gains_nothing(action):
    unguarded, _ = _gain(action, guard=False)
    guarded, source = _gain(action, guard=True)
    assert unguarded > 3.0  # the hack would pay: the copier has now read the answer
    assert guarded == 0.0
    assert source.counters["leaks"] == 1


def test_the_context_of_an_asker_is_that_of_one_who_asked_nothing():
    env, tokenizer = Quiz(format="bracket"), _one_token_answers()
    chat = ChatTokenizer(tokenizer)
    asker = _played(env, tokenizer, ["search[Paris]", "search[x]", "answer[Lyon]"])
    nobody = _played(env, tokenizer, ["search[]", "search[x]", "answer[Lyon]"])
    guarded = guarded_context(asker, ["Paris"], chat.text)
    # "for Paris." loses its space with the token, "for ." keeps it.
    expected = chat.text(context(nobody).tokens).replace("for .", "for.")
    assert chat.text(guarded.tokens) == expected
    assert guarded.leaks == 1


def test_a_later_echo_of_the_query_is_removed_too():
    class History(Quiz):
        """Repeats all queries."""

        def start(self, task, rng):
            self.said = []
            return super().start(task, rng)

        @tool
        def search(self, query: str) -> Outcome:
            """Search.

            Args:
                query: what for.
            """
            self.said.append(query)
            return Outcome(f"So far: {'; '.join(self.said)}.")

    env, tokenizer = History(format="bracket"), _one_token_answers()
    chat = ChatTokenizer(tokenizer)
    asker = _played(
        env, tokenizer, ["search[Paris now]", "search[not Paris]", "search[x]", "search[y]", "answer[Lyon]"]
    )
    assert "Paris" not in chat.text(guarded_context(asker, ["Paris"], chat.text).tokens)


def test_an_echo_of_a_part_of_the_query_is_removed_where_it_answers():
    class Part(Quiz):
        """Repeats the last word of the query."""

        @tool
        def search(self, query: str) -> Outcome:
            """Search.

            Args:
                query: what for.
            """
            return Outcome(f"Nothing is known of {query.split()[-1]}.")

    env, tokenizer = Part(format="bracket"), _one_token_answers()
    chat = ChatTokenizer(tokenizer)
    asker = _played(env, tokenizer, ["search[is it Paris]", "search[x]", "answer[Lyon]"])
    assert "of Paris" in chat.text(context(asker).tokens)
    assert "Paris" not in chat.text(guarded_context(asker, ["Paris"], chat.text).tokens)


def test_the_guard_takes_nothing_from_the_template():
    env, tokenizer = Quiz(format="bracket"), _one_token_answers()
    chat = ChatTokenizer(tokenizer)
    asker = _played(env, tokenizer, ["search[assistant]", "search[x]", "answer[Lyon]"])
    plain, guarded = context(asker), guarded_context(asker, ["assistant"], chat.text)
    for before, after in zip(plain.ends, guarded.ends, strict=True):
        lead = chat.text(plain.tokens[:before])[-14:]  # where an assistant's message begins
        assert "assistant" in lead
        assert chat.text(guarded.tokens[:after]).endswith(lead)
    assert guarded.leaks == 1


def test_what_the_environment_says_by_itself_stays():
    class Page(Quiz):
        """Knows the answer."""

        @tool
        def search(self, query: str) -> Outcome:
            """Search.

            Args:
                query: what for.
            """
            return Outcome("The capital is Paris.")

    env, tokenizer = Page(format="bracket"), _one_token_answers()
    chat = ChatTokenizer(tokenizer)
    finder = _played(env, tokenizer, ["search[capital]", "search[Paris]", "answer[Paris]"])
    plain, guarded = context(finder), guarded_context(finder, ["Paris"], chat.text)
    assert guarded.ends[1] == plain.ends[1]  # nothing is taken from what was found before it was asked for
    assert chat.text(guarded.tokens).count("Paris") == 1
    gain, _ = _gain("search[capital]", guard=True, env=env)
    assert gain > 0.5


def test_an_answer_inside_another_word_is_no_leak():
    env, tokenizer = Quiz(format="bracket"), _one_token_answers()
    chat = ChatTokenizer(tokenizer)
    asker = _played(env, tokenizer, ["search[Parisian bread]", "answer[Lyon]"])
    assert guarded_context(asker, ["Paris"], chat.text) == context(asker)


@pytest.mark.parametrize(
    ("answer", "query"),
    [('the "City"', 'the "City"'), ("東京", "日本の東京です"), ("new  york", "in New York.")],
)
def test_a_leak_is_found_whatever_its_quotes_script_and_space(answer, query):
    env, tokenizer = Quiz(format="hermes"), _tokenizer()
    chat = ChatTokenizer(tokenizer)
    asker = _played(env, tokenizer, [env.write(tw.Call("search", {"query": query})), "x"])
    guarded = guarded_context(asker, [answer], chat.text)
    assert guarded.leaks == 1
    said = chat.text(guarded.tokens).lower()
    assert not any(word in said for word in answer.lower().split() if word not in ("the",))


def test_characters_of_several_tokens_are_removed_whole():
    env, tokenizer = Quiz(format="bracket"), _tokenizer()
    chat = ChatTokenizer(tokenizer)
    asker = _played(env, tokenizer, ["search[Zürich]", "answer[Lyon]"], task="two")
    text = chat.text(guarded_context(asker, ["Zürich"], chat.text).tokens)
    assert "rich" not in text
    assert "\ufffd" not in text
    assert "search[]" in text


# What cannot be scored.


def test_an_environment_without_answers_is_refused_before_the_first_rollout():
    tokenizer = _tokenizer()
    env = tw.make("FrozenLake-v1")
    with pytest.raises(MissingNeed, match=r"info_gain.*FrozenLake-v1 has none: its reference\(\) is None"):
        RewardPipeline(["env", "info_gain"]).check(_models(env, tokenizer))


def test_an_empty_reference_gives_no_number_one_message_and_a_count(caplog):
    env, tokenizer = Quiz(format="bracket"), _tokenizer()
    models = _models(env, tokenizer)
    source = build("info_gain")
    trajectories = [
        _played(env, tokenizer, ["search[x]", "answer[y]"], task=task) for task in ("empty", "paris", "empty")
    ]
    trajectories[2].reference = None
    with caplog.at_level(logging.WARNING):
        found = _score(source, trajectories, models)
    assert found[0] == found[2] == [None, None]
    assert found[1][0] is not None
    assert source.counters["no_reference"] == 2
    assert len(caplog.records) == 1
    assert "'empty'" in caplog.text


def test_a_tokenizer_that_merges_the_border_is_scored_told_once_and_counted(caplog):
    env, tokenizer = Quiz(format="bracket"), _tokenizer(merges=[("[", "P")])
    source = build("info_gain")
    played = [_played(env, tokenizer, ["search[x]", "answer[y]"]) for _ in range(2)]
    with caplog.at_level(logging.WARNING):
        found = _score(source, played, _models(env, tokenizer))
    assert found[0][0] is not None
    assert source.counters["merged"] == 2
    assert len(caplog.records) == 1
    assert "merges an accepted answer" in caplog.text


def test_a_full_context_gives_no_number_and_a_count(caplog):
    env, tokenizer = Quiz(format="bracket"), _tokenizer()
    trajectory = _played(env, tokenizer, ["search[x]", "search[y]", "search[z]", "answer[y]"])
    ends = context(trajectory).ends
    size = len(AnswerWriter(env, tokenizer).tokens("Paris").tokens)
    full = _score(build("info_gain"), [trajectory], _models(env, tokenizer))[0]
    source = build("info_gain")
    models = dataclasses.replace(_models(env, tokenizer), max_context=ends[2] + size)
    with caplog.at_level(logging.WARNING):
        (found,) = _score(source, [trajectory], models)
    assert found[:2] == pytest.approx(full[:2], abs=1e-5)
    assert found[2:] == [None, None]
    assert source.counters["unreachable"] == 1
    assert len(caplog.records) == 1
    # One token less, and the checkpoint before is out of reach as well.
    (found,) = _score(source, [trajectory], dataclasses.replace(models, max_context=ends[2] + size - 1))
    assert found == [pytest.approx(full[0], abs=1e-5), None, None, None]


def test_another_scorer_may_find_a_checkpoint_too_long():
    env, tokenizer = Quiz(format="bracket"), _tokenizer()
    trajectory = _played(env, tokenizer, ["search[x]", "search[y]", "answer[y]"])
    models = dataclasses.replace(_models(env, tokenizer), policy=None)

    class Server:
        """Gives -1, -2, ... per checkpoint, and nothing for the last."""

        async def log_probs(self, contexts, probes):
            return [[[-1.0 - n] for n in range(len(own) - 1)] + [None] for own in probes]

    source = build("info_gain")
    assert asyncio.run(source.score_with(Server(), [trajectory], models)) == [[-1.0, None, None]]
    assert source.counters["unreachable"] == 1


def test_the_models_own_positions_bound_the_context_too():
    env, tokenizer = Quiz(format="bracket"), _tokenizer()
    trajectory = _played(env, tokenizer, ["search[x]", "answer[y]"])
    policy = _model("gpt2", vocab_size=len(tokenizer), n_positions=context(trajectory).ends[1] + 3)
    models = dataclasses.replace(_models(env, tokenizer, policy), max_context=None)
    assert _score(build("info_gain"), [trajectory], models) == [[None, None]]


def test_check_refuses_a_sliding_window_shorter_than_the_context():
    env, tokenizer = Quiz(format="bracket"), _tokenizer()
    policy = _model("mistral", vocab_size=len(tokenizer), sliding_window=64)
    models = _models(env, tokenizer, policy)
    with pytest.raises(UnsupportedModel, match="sliding window of 64"):
        RewardPipeline(["info_gain"]).check(models)
    RewardPipeline([{"name": "info_gain", "method": "plain"}]).check(models)
    RewardPipeline(["info_gain"]).check(dataclasses.replace(models, max_context=64))


def test_check_refuses_a_model_that_does_not_follow_masks():
    env, tokenizer = Quiz(format="bracket"), _tokenizer()
    with pytest.raises(UnsupportedModel, match=r"Counter.*method=plain"):
        build("info_gain").check(_models(env, tokenizer, Counter(tokenizer)))


def test_check_refuses_answers_that_the_tool_cannot_take():
    class Words(Numbers):
        """Its answer is no number."""

        def reference(self):
            return ["seven"]

    env, tokenizer = Words(format="bracket"), _tokenizer()
    with pytest.raises(tw.envs.errors.UsageError, match=r"\['seven'\].*'left'"):
        build("info_gain", tool="left").check(_models(env, tokenizer))


def test_the_papers_example_by_hand():
    """Beliefs .1 .4 .3 (succeeds) and .1 .1 (fails); algorithms in the docs of `info_gain`."""
    first, second = gains([0.1, 0.4, 0.3]), gains([0.1, 0.1])
    assert first[:2] == pytest.approx([0.3, -0.1])
    assert second == [0.0, None]
    logs = [gains([math.log(b) for b in row]) for row in ([0.1, 0.4, 0.3], [0.1, 0.1])]
    assert logs[0][:2] == pytest.approx([1.3863, -0.2877], abs=1e-4)
