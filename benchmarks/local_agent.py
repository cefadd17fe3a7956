"""How much faster `LocalAgent` is than plain `generate`, as a ratio measured in one run.

    python benchmarks/local_agent.py [--episodes 64] [--turns 8] [--threads 2]

Every way plays the same conversations with the same small model (Qwen3, 2 layers, half a million weights,
random): an opening of about 30 tokens, then observations of about 30 random tokens, and replies of at most 16
sampled tokens.

| way      | what it does                                                                                |
|----------|---------------------------------------------------------------------------------------------|
| agent    | `LocalAgent`, all episodes at once                                                          |
| generate | `model.generate` once per turn and episode, on the whole history                            |
| padded   | `model.generate` once per turn on the whole histories of all episodes, padded to the longest |

The target is 4 times the episodes per second of `generate`. `padded` is what a careful user would write
without an engine, and can only be written where all episodes take their turns in step.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from turnwise.agents.local import LocalAgent
from turnwise.envs.agent import Conversation

NEW_TOKENS = 16
TARGET = 4.0
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = [
    "north",
    "south",
    "east",
    "west",
    "key",
    "door",
    "wall",
    "goal",
    "hole",
    "left",
    "right",
    "up",
    "down",
]


def build() -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """A small model with random weights and a byte-level tokenizer."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([" ".join(WORDS)] * 50, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config).eval(), tokenizer


def observation(episode: int, turn: int) -> dict[str, str]:
    """About 30 tokens."""
    return {"role": "user", "content": " ".join(random.Random(f"{episode} {turn}").choices(WORDS, k=30))}


def play_agent(agent: LocalAgent, episodes: int, turns: int) -> None:
    """All episodes at once, each at its own pace."""
    no_env: Any = None  # LocalAgent never looks at it

    async def play(episode: int) -> None:
        opening = [observation(episode, 0)]
        conversation = Conversation(opening, id=str(episode), seed=episode, env=no_env)
        for turn in range(turns):
            reply = await agent.act(conversation)
            conversation += [{"role": "assistant", "content": reply.text}, observation(episode, turn + 1)]
        agent.close(conversation)

    async def main() -> None:
        await asyncio.gather(*map(play, range(episodes)))

    asyncio.run(main())


def play_generate(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, episodes: int, turns: int, together: int
) -> None:
    """`together` episodes in step, one call of `generate` per turn for them."""
    for first in range(0, episodes, together):
        ids = range(first, min(first + together, episodes))
        histories = [[observation(episode, 0)] for episode in ids]
        for turn in range(turns):
            inputs = tokenizer.apply_chat_template(
                histories, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            )
            output = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                max_new_tokens=NEW_TOKENS,
            )
            texts = tokenizer.batch_decode(
                output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            for episode, history, text in zip(ids, histories, texts, strict=True):
                history += [{"role": "assistant", "content": text}, observation(episode, turn + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = build()
    agent = LocalAgent(model, tokenizer, max_new_tokens=NEW_TOKENS, slots=options.episodes)
    ways: dict[str, Callable[[int], None]] = {
        "agent": lambda n: play_agent(agent, n, options.turns),
        "generate": lambda n: play_generate(model, tokenizer, n, options.turns, together=1),
        "padded": lambda n: play_generate(model, tokenizer, n, options.turns, together=n),
    }
    weights = sum(p.numel() for p in model.parameters())
    print(
        f"{options.episodes} episodes of {options.turns} turns, {weights} weights, {options.threads} threads"
    )
    rates = {}
    for name, way in ways.items():
        way(2)  # warm-up
        start = time.perf_counter()
        way(options.episodes)
        rates[name] = options.episodes / (time.perf_counter() - start)
        print(f"{name:9}{rates[name]:8.2f} episodes/s")
    print(f"agent / generate = {rates['agent'] / rates['generate']:.1f} (target {TARGET:.0f})")
    print(f"agent / padded   = {rates['agent'] / rates['padded']:.1f}")


if __name__ == "__main__":
    main()
