"""`model=tiny`: a small language model made for one environment, without a download.

A Qwen3 of some hundred thousand parameters, a tokenizer trained on the environment's own texts, and supervised
learning on demonstrations of the environment's expert, of which a share of turns is random, so that there is room to
learn by reinforcement. What comes out is a Hugging Face folder like any other, cached by content.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ... import __version__
from ...agents.chat import ChatTokenizer
from ...agents.expert import ExpertAgent
from ...configs.schema import ModelSection
from ...envs import Trajectory, TurnEnv
from ...envs.cache import cache_folder
from ...envs.errors import UsageError
from .policy import token_log_probs

SIZES = {"xs": (64, 2, 1), "s": (64, 3, 2), "m": (192, 4, 3)}
"""Hidden size, layers and heads. Heads are 64 wide and the vocabulary is the tokenizer's, so that vLLM takes the model."""

CHAT_TEMPLATE = (
    "{%- if tools %}{{- '<|system|>' }}{%- for tool in tools %}{{- tool | tojson + '\n' }}{%- endfor %}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] }}"
    "{%- if message['role'] == 'assistant' %}{{- '<|end|>' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
_SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
# A mark such as [SEP] is one token, words in a row may become one, a word keeps its opening bracket, and every other
# character stands alone: a phrase costs one token, and a map has one per cell.
_PIECES = r" ?\[\p{Lu}{2,}\]| ?\p{L}{2,}(?: \p{L}{2,})*\[?| ?\p{N}| ?[^\s\p{N}]|\s"


def tiny(env: TurnEnv, config: ModelSection, *, seed: int, say: Callable[[str], None]) -> Path:
    """Make the tiny model for an environment, or find it in the cache, and return its folder.

    Args:
        env: its expert demonstrates on the train split.
        config: size and warm-up.
        seed: of the weights, the demonstrations and their order.
        say: gets a line for each stage.

    Raises:
        UsageError: the environment has no expert, and the warm-up is on.
    """
    warm_up = config.warm_up
    episodes = max(warm_up.episodes, 200)  # the tokenizer needs texts even when nothing is learned from them
    demonstrations = env.rollout(
        ExpertAgent(noise=warm_up.noise), episodes, seed=seed + 1, split="train"
    ).trajectories
    failed = [t.error for t in demonstrations if t.status == "failed"]
    if failed:
        raise UsageError(f"{len(failed)} of {episodes} demonstrations failed; the first: {failed[0]}")
    key = hashlib.blake2b(digest_size=12)
    key.update(Path(__file__).read_bytes())  # sizes, tokenizer, template and the learning itself
    settings = [__version__, torch.__version__, config.size, config.max_context, warm_up.model_dump(), seed]
    key.update(json.dumps([*settings, env.observation_role]).encode())
    for t in demonstrations:
        key.update(
            json.dumps([t.system, t.final_observation, [(u.observation, u.action) for u in t.turns]]).encode()
        )
    folder = cache_folder() / "tiny" / f"{env.env_id}-{config.size}-{key.hexdigest()}"
    if folder.is_dir():
        say(f"tiny model from the cache: {folder}")
        return folder

    tokenizer = _tokenizer(env, demonstrations)
    model = _model(config, len(tokenizer), seed)
    say(f"tiny model: {sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}")
    if warm_up.episodes:
        _imitate(model, tokenizer, env, demonstrations, config, seed, say)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "model"
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        try:
            os.replace(made, folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder


def _tokenizer(env: TurnEnv, demonstrations: Sequence[Trajectory]) -> PreTrainedTokenizerFast:
    """A byte-level BPE over the texts of the environment, so that it writes any text and its own in few tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = [text for t in demonstrations for u in t.turns for text in (u.observation, u.action)]
    texts += [t.final_observation for t in demonstrations]
    texts += ["\n".join(m["content"] for m in env.messages("")), *map(str, range(100))]
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        min_frequency=2,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        extra_special_tokens=_SPECIAL[2:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _model(config: ModelSection, vocabulary: int, seed: int) -> Qwen3ForCausalLM:
    hidden, layers, heads = SIZES[config.size]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=vocabulary,
                hidden_size=hidden,
                intermediate_size=3 * hidden,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=heads,
                head_dim=64,
                max_position_embeddings=config.max_context,
                rope_theta=10_000.0,
                tie_word_embeddings=True,
                initializer_range=0.05,
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=1,
            )
        )


def _imitate(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    env: TurnEnv,
    demonstrations: Sequence[Trajectory],
    config: ModelSection,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Supervised learning of the demonstrated actions: cross-entropy per action token, AdamW, cosine decay."""
    chat = ChatTokenizer(tokenizer)
    end = min(chat.end_of_turn)
    rows = [_tokens(chat, env, t, end, tokenizer)[: config.max_context] for t in demonstrations]
    warm_up = config.warm_up
    steps = warm_up.epochs * -(-len(rows) // warm_up.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=warm_up.lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, warm_up.lr or 1.0, total_steps=steps + 1, pct_start=0.1
    )
    order = torch.Generator().manual_seed(seed)
    total = torch.tensor(0.0)
    model.train()
    for epoch in range(warm_up.epochs):
        total.zero_()
        # Rows of like length share a batch, so that little is padding; the batches come in random order.
        shuffled = torch.randperm(len(rows), generator=order).tolist()
        batches = [shuffled[i : i + warm_up.batch * 8] for i in range(0, len(rows), warm_up.batch * 8)]
        picked = [
            chunk[i : i + warm_up.batch]
            for chunk in (sorted(c, key=lambda r: len(rows[r])) for c in batches)
            for i in range(0, len(chunk), warm_up.batch)
        ]
        for b in torch.randperm(len(picked), generator=order).tolist():
            width = max(len(rows[r]) for r in picked[b])
            tokens = torch.zeros(len(picked[b]), width, dtype=torch.long)  # (B, L)
            mask = torch.zeros(len(picked[b]), width, dtype=torch.bool)
            for i, r in enumerate(picked[b]):
                tokens[i, : len(rows[r])] = torch.tensor([token for token, _ in rows[r]])
                mask[i, : len(rows[r])] = torch.tensor([acted for _, acted in rows[r]])
            log_probs, _ = token_log_probs(model, tokens, mask)
            loss = -log_probs[mask].mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(picked[b]) / len(rows)
        say(
            f"warm-up on {len(rows)} demonstrations: epoch {epoch + 1} of {warm_up.epochs}, loss {total.item():.4f}"
        )


def _tokens(
    chat: ChatTokenizer, env: TurnEnv, t: Trajectory, end: int, tokenizer: PreTrainedTokenizerFast
) -> list[tuple[int, bool]]:
    """Token ids of a demonstration, each with whether the agent wrote it."""
    messages = [{"role": "system", "content": t.system}] if t.system else []
    messages.append({"role": "user", "content": t.turns[0].observation})
    row = [(token, False) for token in chat.start(messages)]
    for k, turn in enumerate(t.turns):
        action = [*tokenizer.encode(turn.action, add_special_tokens=False), end]
        row += [(token, True) for token in action]
        if k + 1 < len(t.turns):
            answer = {"role": env.observation_role, "content": t.turns[k + 1].observation}
            row += [(token, False) for token in chat.append(messages, [answer], action)]
            messages += [{"role": "assistant", "content": turn.action}, answer]
    return row
