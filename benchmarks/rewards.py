"""What reward sources cost, as ratios measured in one run.

    python benchmarks/rewards.py [PART ...] [--threads 1]

| part      | measures                                                          | target                             |
|-----------|-------------------------------------------------------------------|------------------------------------|
| info_gain | one pass over all checkpoints against one forward pass per turn   | 3 times at 8 turns, 5 times at 16  |
| implicit_prm | update and scoring against the policy's own update               | at most 1.3 times                  |
| judge     | trajectories judged per second against calls of the bare server, 64 at a time |                        |

`info_gain`: 32 episodes of a small random model (Qwen3, 2 layers, half a million weights), about 60 tokens per turn and a
forced answer of 8, of which 3 are scored. `plain` batches its rows as the others do, by the same budget of tokens and sorted
by length, so the ratio is what the packing saves and not what a loop wastes. `alone` is that loop, one row at a time, as the
released code runs it. Ratios are of processor seconds, the best of three; memory is the peak of a process of its own,
less what it needs with the model loaded.

`implicit_prm`: 8 groups of 8 trajectories of 4 to 8 turns, 30 tokens read and 10 written in each, the same model. The policy
is updated on all of them; groups whose trajectories all succeed or all fail teach the reward model nothing by DPO. Processor
seconds of rounds in which each way has one turn: medians, and the median over the rounds of the ratio within the round. Peak memory as
above, optimizers included.

`judge`: 512 trajectories of 8 turns, a server in a process of its own that answers at once or after 50 ms. `bare` sends the same
requests over 64 open sockets and looks at nothing that comes back. Wall seconds, so leave the machine alone meanwhile; the
processor time of the client is there too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import random
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from turnwise.configs.schema import LossSection
from turnwise.envs import Trajectory, Turn, make
from turnwise.trainers.collate import collate
from turnwise.trainers.local.update import TokenBatch, update
from turnwise.trainers.rewards import Models, build
from turnwise.trainers.rewards.judge import question
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


def peak_memory() -> float:
    """MiB that this process held at most. Not `ru_maxrss`, which a child begins with its parent's, also after exec."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def run(way: str, turns: int, threads: int, answers: Any) -> None:
    """In a process of its own: processor seconds, peak memory in MiB, and a checksum."""
    torch.set_num_threads(threads)
    policy = model()
    contexts, probes = episodes(turns)
    forced_log_probs(policy, contexts[:1], probes[:1], **WAYS[way])
    before = peak_memory()
    best = math.inf
    for _ in range(1 if way == "alone" else 3):
        began = time.process_time()
        found = forced_log_probs(policy, contexts, probes, **WAYS[way])
        best = min(best, time.process_time() - began)
    answers.put((best, peak_memory() - before, sum(v for e in found for p in e for v in p)))


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


ROUNDS = 5
LEARNERS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "dpo, a third silent": {"silent": 3},
    "ce": {"objective": "ce"},
    "ce, initial": {"objective": "ce", "reference": "initial"},
    "dpo, adapters": {"lora_rank": 8},
}


def rollouts(silent: int = 0) -> list[Trajectory]:
    """Trajectories of random tokens; every `silent`-th group has successes alone."""
    draw = random.Random(0)
    found = []
    for i in range(64):
        turns = [
            Turn(
                "seen",
                "done",
                prompt_ids=[draw.randrange(1024) for _ in range(30)],
                action_ids=[draw.randrange(1024) for _ in range(10)],
                action_log_probs=[-7.0] * 10,
            )
            for _ in range(draw.randint(4, 8))
        ]
        group = i // 8
        won = i % 2 == 0 or bool(silent and group % silent == 0)
        found.append(
            Trajectory("Test-v0", f"{group}", "train", 0, "terminated", float(won), won, turns, group=group)
        )
    return found


def stages(way: str) -> list[Callable[[], Any]]:
    """What one step of training does by a way: the policy's update, or update and scoring of a reward model."""
    policy = model()
    options = dict(LEARNERS.get(way, {}))
    trajectories = rollouts(options.pop("silent", 0))
    batch = collate(trajectories)
    assert batch.tokens is not None and batch.action_mask is not None and batch.turn_of_token is not None
    assert batch.log_probs is not None
    if way == "policy":
        advantages = torch.randn(batch.tokens.shape)
        rows = TokenBatch(batch.tokens, batch.action_mask, batch.turn_of_token, batch.log_probs, advantages)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6)
        return [lambda: update(policy, optimizer, rows, LossSection(kl_coefficient=0.0))]
    models = Models(env=make("HigherLower-v1"), policy=policy)
    source = build("implicit_prm", **options)
    return [
        lambda: source.update(trajectories, batch, models),
        lambda: asyncio.run(source.score(trajectories, models)),
    ]


def memory(way: str, threads: int, answers: Any) -> None:
    """In a process of its own: peak memory in MiB."""
    torch.set_num_threads(threads)
    todo = stages(way)
    before = peak_memory()
    for stage in todo:
        stage()
    answers.put(peak_memory() - before)


def implicit_prm(threads: int) -> None:
    """Update and scoring of the reward model against the policy's own update."""
    spawn = multiprocessing.get_context("spawn")
    print("implicit_prm, 64 trajectories of 4 to 8 turns")
    torch.set_num_threads(threads)
    ways = {way: stages(way) for way in ("policy", *LEARNERS)}
    took: dict[str, list[list[float]]] = {way: [] for way in ways}
    for repeat in range(ROUNDS + 1):
        for way, todo in ways.items():
            seconds = []
            for stage in todo:
                began = time.process_time()
                stage()
                seconds.append(time.process_time() - began)
            if repeat:
                took[way].append(seconds)
    for way, rounds in took.items():
        answers = spawn.Queue()
        process = spawn.Process(target=memory, args=(way, threads, answers))
        process.start()
        peak = answers.get()
        process.join()
        ratio = statistics.median(
            sum(own) / sum(policy) for own, policy in zip(rounds, took["policy"], strict=True)
        )
        text = " + ".join(f"{statistics.median(stage):.2f}" for stage in zip(*rounds, strict=True))
        print(f"  {way:20}{text:>12} s {peak:6.0f} MiB   {ratio:.2f} times (target at most 1.3)")


JUDGED, AT_ONCE = 512, 64


async def _serve(delay: float, port: Any) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                assert length is not None
                body = await reader.readexactly(int(length[1]))
                nonce = re.search(rb"BEGIN (\w+)", body)
                assert nonce is not None
                turns = [{"turn": k, "verdict": "right"} for k in range(1, 9)]
                text = json.dumps({"nonce": nonce[1].decode(), "turns": turns})
                reply = json.dumps(
                    {"choices": [{"message": {"content": text}}], "usage": {"total_tokens": 9}}
                ).encode()
                await asyncio.sleep(delay)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(reply), reply))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=256)
    port.put(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def serve(delay: float, port: Any) -> None:
    """The judge of the benchmark, in a process of its own."""
    asyncio.run(_serve(delay, port))


async def bare(port: int, bodies: list[bytes]) -> None:
    """Send the requests over open sockets, without reading more of an answer than its length."""
    left = iter(bodies)

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in left:
            writer.write(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rsplit(b":", 1)[1]))
        writer.close()

    await asyncio.gather(*(connection() for _ in range(AT_ONCE)))


def judge(_: int) -> None:
    """Trajectories per second through the reward source against requests per second of the server alone."""
    spawn = multiprocessing.get_context("spawn")
    models = Models(env=make("HigherLower-v1"))
    trajectories = [
        Trajectory(
            "HigherLower-v1",
            f"{i}",
            "train",
            i,
            "terminated",
            1.0,
            True,
            [Turn("Higher. " * 5, f"guess[{i}]")] * 8,
        )
        for i in range(JUDGED)
    ]
    asked = [question(t, rules=models.env.rules, rubric=None)[0] for t in trajectories]
    bodies = [json.dumps({"model": "m", "messages": messages}).encode() for messages in asked]
    print(f"judge, {JUDGED} trajectories, {AT_ONCE} calls at a time")
    for delay in (0.0, 0.05):
        port = spawn.Queue()
        server = spawn.Process(target=serve, args=(delay, port), daemon=True)
        server.start()
        number = port.get()
        took = {"bare": [math.inf, math.inf], "judge": [math.inf, math.inf]}
        for _ in range(3):
            source = build("judge", url=f"http://127.0.0.1:{number}/v1", model="m", concurrency=AT_ONCE)
            for way, what in (("bare", bare(number, bodies)), ("judge", source.score(trajectories, models))):
                began = time.perf_counter(), time.process_time()
                scores = asyncio.run(what)
                ended = time.perf_counter(), time.process_time()
                took[way] = [min(b, e - s) for b, s, e in zip(took[way], began, ended, strict=True)]
            assert scores == [[0.0] * 8] * JUDGED
        server.terminate()
        (bare_wall, bare_cpu), (wall, cpu) = took["bare"], took["judge"]
        print(
            f"  a server that takes {1000 * delay:.0f} ms: bare {JUDGED / bare_wall:.0f}, judge {JUDGED / wall:.0f} calls per"
            f" second ({bare_wall / wall:.0%}); the client's own {1e6 * bare_cpu / JUDGED:.0f} and"
            f" {1e6 * cpu / JUDGED:.0f} microseconds of a processor per call"
        )


PARTS: dict[str, Callable[[int], None]] = {
    "info_gain": info_gain,
    "implicit_prm": implicit_prm,
    "judge": judge,
}


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
