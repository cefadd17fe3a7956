"""What reward sources cost, as ratios measured in one run.

    python benchmarks/rewards.py [PART ...] [--threads 1]

| part      | measures                                                          | target                             |
|-----------|-------------------------------------------------------------------|------------------------------------|
| info_gain | one pass over all checkpoints against one forward pass per turn   | 3 times at 8 turns, 5 times at 16  |

`info_gain`: 32 episodes of a small random model (Qwen3, 2 layers, half a million weights), about 60 tokens per turn and a
forced answer of 8, of which 3 are scored. `plain` batches its rows as the others do, by the same budget of tokens and sorted
by length, so the ratio is what the packing saves and not what a loop wastes. `alone` is that loop, one row at a time, as the
released code runs it. Ratios are of processor seconds, the best of three; memory is the peak of a process of its own,
less what it needs with the model loaded.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from turnwise.trainers.rewards.scoring import Probe, forced_log_probs

EPISODES, TOKENS_PER_TURN, ANSWER, SCORED = 32, 60, 8, 3
TARGETS = {8: 3.0, 16: 5.0}
WAYS: dict[str, dict[str, Any]] = {
    "packed": {"method": "packed"},
    "cached": {"method": "cached"},
    "plain": {"method": "plain"},
    "alone": {"method": "plain", "token_budget": 1},
}


def model() -> Qwen3ForCausalLM:
    """A small model with random weights."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=1024,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=4096,
        )
    ).eval()


def episodes(turns: int) -> tuple[list[list[int]], list[list[Probe]]]:
    """Contexts of random tokens, turns of 45 to 75 of them, with the same forced answer at every checkpoint."""
    rng = torch.Generator().manual_seed(turns)

    def ids(n: int) -> list[int]:
        found: list[int] = torch.randint(0, 1024, (n,), generator=rng).tolist()
        return found

    contexts, probes = [], []
    for _ in range(EPISODES):
        lengths = torch.randint(TOKENS_PER_TURN - 15, TOKENS_PER_TURN + 16, (turns,), generator=rng)
        ends = lengths.cumsum(0).tolist()
        answer = tuple(ids(ANSWER))
        contexts.append(ids(ends[-1]))
        probes.append([Probe(end, answer, ANSWER - SCORED) for end in ends])
    return contexts, probes


def run(way: str, turns: int, threads: int, answers: Any) -> None:
    """In a process of its own: processor seconds, peak memory in MiB, and a checksum."""
    torch.set_num_threads(threads)
    policy = model()
    contexts, probes = episodes(turns)
    forced_log_probs(policy, contexts[:1], probes[:1], **WAYS[way])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = float("inf")
    for _ in range(1 if way == "alone" else 3):
        began = time.process_time()
        found = forced_log_probs(policy, contexts, probes, **WAYS[way])
        best = min(best, time.process_time() - began)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    answers.put((best, peak, sum(v for e in found for p in e for v in p)))


def info_gain(threads: int) -> None:
    """One pass against one forward per turn, at 8 and at 16 turns."""
    spawn = multiprocessing.get_context("spawn")
    for turns, target in TARGETS.items():
        seconds, sums = {}, {}
        print(f"info_gain, {EPISODES} episodes of {turns} turns")
        for way in WAYS:
            answers = spawn.Queue()
            process = spawn.Process(target=run, args=(way, turns, threads, answers))
            process.start()
            seconds[way], peak, sums[way] = answers.get()
            process.join()
            print(f"  {way:7}{seconds[way]:8.2f} s {peak:8.0f} MiB")
        assert max(sums.values()) - min(sums.values()) < 1e-2, sums
        print(f"  plain / packed = {seconds['plain'] / seconds['packed']:.1f} (target {target:.0f})")
        print(f"  plain / cached = {seconds['plain'] / seconds['cached']:.1f}")
        print(f"  alone / packed = {seconds['alone'] / seconds['packed']:.1f}")


PARTS: dict[str, Callable[[int], None]] = {"info_gain": info_gain}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    for part in options.parts or PARTS:
        PARTS[part](options.threads)


if __name__ == "__main__":
    main()
