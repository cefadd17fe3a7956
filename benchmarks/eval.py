"""How fast episodes are played and saved, and how near a slow server comes to being the only thing that is waited for.

    python benchmarks/eval.py [PART ...] [--episodes 1000] [--concurrency 64] [--scale 1.0]

| part    | measures                                                                        | target                     |
|---------|---------------------------------------------------------------------------------|----------------------------|
| turns   | turns per second, saving included: with an agent that answers at once, and with | at least 2,000             |
|         | `openai` against a server on this machine, beside a bare client                 |                            |
| latency | episodes against a server with log-normal latency from 50 ms to 5 s             | within 10 % of the bound   |
| peers   | the same through inspect_ai and verifiers, where they are installed             | faster than both           |
| first   | the first reply of ten thousand episodes, beside the resets of all of them      | no wait for the others     |

The server is a process of its own that reads a request, waits, and answers with a constant action, so that an episode of
`HigherLower-v1` takes 8 turns, or 4 in `latency`. It tells how long it waited in its usage figures, which trajectories
record. `bare` sends the same requests over as many sockets and looks at nothing that comes back: what the server and the
sockets of this machine allow.

The bound of `latency` is what list scheduling of these very waits takes: every seat begins the next episode when it is free,
and nothing takes any time but the server. `work / seats` is the sum of all waits by the number of seats, which no order
of episodes can beat, and leaves out that the last episodes end one after another. `lock-step` plays batches of
episodes and waits in every turn for the slowest reply of the batch.

`peers` needs `pip install inspect-ai verifiers uv 'openai>=3.4'` in a virtual environment of its own: the last two releases want
different versions of `openai`, and verifiers runs with the newer one too. It plays a fifth of the episodes with inspect_ai and a
hundredth with verifiers.

Ratios within one run are what counts: other work on the machine takes its share of all of them. CPU seconds are those of
this process, without the server's. `--scale 0.2` makes the waits of
`latency` five times shorter, for a quick look.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import math
import multiprocessing
import random
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import turnwise as tw
from turnwise.agents.evaluate import Panel, evaluate
from turnwise.envs.agent import Conversation

SHORTEST, MEDIAN, LONGEST = 0.05, 0.5, 5.0
SIGMA = math.log(LONGEST / MEDIAN) / 2.33
"""98 % of the draws lie between the shortest and the longest; the others are cut."""
ACTION = "guess[1]"
MICROSECONDS = 1_000_000


def serve(pipe: Connection, scale: float) -> None:
    """Answer chat completions on a free port, each after a wait; `scale` 0 answers at once."""
    draw = random.Random(0)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                at = head.index(b"content-length:") + 15
                asked = await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
                wait = 0.0
                if scale:
                    wait = scale * min(max(draw.lognormvariate(math.log(MEDIAN), SIGMA), SHORTEST), LONGEST)
                    await asyncio.sleep(wait)
                kind, body = b"application/json", _reply(round(wait * MICROSECONDS))
                if b'"stream":true' in asked or b'"stream": true' in asked:  # verifiers
                    kind, body = b"text/event-stream", _events(json.loads(body))
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"
                    % (kind, len(body), body)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def _reply(wait: int) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ACTION}}
    usage = {"prompt_tokens": wait, "completion_tokens": 1, "total_tokens": wait + 1}
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "mock",
            "choices": [choice],
            "usage": usage,
        }
    ).encode()


def _events(reply: dict[str, Any]) -> bytes:
    """A reply as a stream of one piece."""
    (choice,) = reply["choices"]
    piece = {
        **reply,
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": choice["message"], "finish_reason": "stop"}],
    }
    return b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(piece).encode()


class Server:
    """The server in a process of its own."""

    def __init__(self, scale: float) -> None:
        spawn = multiprocessing.get_context("spawn")
        here, there = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(there, scale), daemon=True)
        self.process.start()
        self.port: int = here.recv()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.join()

    def agent(self, concurrency: int) -> tw.agents.OpenAIAgent:
        """The agent that asks it."""
        return tw.agents.OpenAIAgent(
            f"http://127.0.0.1:{self.port}/v1", "mock", concurrency=concurrency, retries=0
        )


class AtOnce:
    """Answers at once, and lets the others on."""

    name = "at once"

    async def act(self, conversation: Conversation) -> tw.Reply:
        """A constant action."""
        await asyncio.sleep(0)
        return tw.Reply(ACTION)


def env(turns: int) -> tw.TurnEnv:
    """Numbers up to a million: one that is guessed by chance would end an episode early."""
    return tw.make("HigherLower-v1", format="bracket", split="test", high=1_000_000, max_turns=turns)


def play(agent: Any, turns: int, episodes: int, concurrency: int) -> tuple[float, float, list[tw.Trajectory]]:
    """Seconds of an evaluation that saves, CPU seconds of this process for it, and its episodes."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        found = evaluate(
            [Panel("numbers", env(turns), number=episodes)],
            agent,
            concurrency=concurrency,
            out=Path(folder) / "o",
        )
    assert not found.untrusted, found.figures["numbers"].failures
    return found.seconds, time.process_time() - began, found.trajectories


async def bare(port: int, requests: int, concurrency: int) -> float:
    """Seconds for so many requests over open sockets, without looking at the replies."""
    messages = [{"role": "user", "content": "x" * 400}]
    body = json.dumps({"model": "mock", "messages": messages}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    left = iter(range(requests))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            at = head.index(b"content-length:") + 15
            await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return time.perf_counter() - began


def turns(episodes: int, concurrency: int) -> bool:
    """Turns per second with saving."""
    play(AtOnce(), 8, 50, concurrency)
    seconds, cpu, found = play(AtOnce(), 8, episodes, concurrency)
    number = sum(len(t.turns) for t in found)
    print(f"turns: {episodes} episodes, {number} turns, {concurrency} at a time, saving included")
    print(f"{'':33}  per second  per CPU second")
    print(f"  an agent that answers at once  {number / seconds:>12,.0f} {number / cpu:>15,.0f}")
    with Server(0) as server:
        agent = server.agent(concurrency)
        play(agent, 8, 50, concurrency)
        asked, asked_cpu, found = play(agent, 8, episodes, concurrency)
        number = sum(len(t.turns) for t in found)
        cpu = time.process_time()
        plain = asyncio.run(bare(server.port, number, concurrency))
        cpu = time.process_time() - cpu
    print(f"  openai, a server on loopback   {number / asked:>12,.0f} {number / asked_cpu:>15,.0f}")
    print(f"  bare requests to that server   {number / plain:>12,.0f} {number / cpu:>15,.0f}")
    print(f"  openai makes {plain / asked:.2f} of the bare requests per second")
    return number / asked >= 2000


def peers(episodes: int, concurrency: int) -> bool:
    """Turns per second of other harnesses on the same task and server, each with its own saving."""
    print(
        f"peers: episodes of 8 turns, {concurrency} at a time, saving included, CPU of child processes not shown"
    )
    ours, others = 0.0, []
    with Server(0) as server:
        url = f"http://127.0.0.1:{server.port}/v1"

        def row(name: str, seconds: float, number: int) -> float:
            ratio = f"   turnwise makes {ours / number * seconds:,.1f} times as many" if ours else ""
            print(
                f"  {name:12} {number / seconds:>10,.1f} turns per second ({number} turns){ratio}", flush=True
            )
            return number / seconds

        agent = server.agent(concurrency)
        play(agent, 8, 50, concurrency)
        seconds, _, found = play(agent, 8, episodes, concurrency)
        ours = row("turnwise", seconds, sum(len(t.turns) for t in found))
        try:
            import peer_inspect
        except ModuleNotFoundError as missing:
            print(f"  inspect_ai is left out, because the package {missing.name} is not installed.")
        else:
            peer_inspect.play(env(8), url, 20, concurrency)
            others.append(
                row("inspect_ai", *peer_inspect.play(env(8), url, max(1, episodes // 5), concurrency))
            )
        try:
            import peer_verifiers
        except ModuleNotFoundError as missing:
            print(f"  verifiers is left out, because the package {missing.name} is not installed.")
        else:  # a process for each turn
            number = max(1, episodes // 100)
            others.append(row("verifiers", *asyncio.run(peer_verifiers.play(url, number, concurrency))))
    return all(ours > other for other in others)


def list_schedule(waits: Sequence[float], seats: int) -> float:
    """When the last episode ends if every seat begins the next one as soon as it is free."""
    free = [0.0] * seats
    for wait in waits:
        heapq.heapreplace(free, free[0] + wait)
    return max(free)


async def lock_step(agent: tw.Agent, turns: int, episodes: int, batch: int) -> tuple[float, float]:
    """Seconds for batches of episodes in which every turn waits for the slowest reply; and the sum of all waits."""
    template, waited = env(turns), 0.0
    began = time.perf_counter()
    for first in range(0, episodes, batch):
        talks = []
        for seed in range(first, min(first + batch, episodes)):
            clone = template.clone()
            observation, _ = clone.reset(seed=seed)
            talks.append(Conversation(clone.messages(observation), id=f"lock-{seed}", seed=seed, env=clone))
        for _ in range(turns):
            replies = await asyncio.gather(*(agent.act(talk) for talk in talks))
            for talk, reply in zip(talks, replies, strict=True):
                observation, _, _, _, _ = talk.env.step(reply.text)
                talk.append({"role": "assistant", "content": reply.text})
                talk.append({"role": talk.env.observation_role, "content": observation})
                waited += reply.input_tokens / MICROSECONDS
    return time.perf_counter() - began, waited


def latency(episodes: int, concurrency: int, scale: float) -> bool:
    """A slow server: how near to the bound, and how far from a loop that waits for the slowest."""
    with Server(scale) as server:
        seconds, _, found = play(server.agent(concurrency), 4, episodes, concurrency)
        waits = [sum(turn.input_tokens for turn in t.turns) / MICROSECONDS for t in found]
        bound, work = list_schedule(waits, concurrency), sum(waits) / concurrency
        print(
            f"latency: {episodes} episodes of 4 turns, {concurrency} at a time, waits of {SHORTEST * scale:g} to"
            f" {LONGEST * scale:g} s, {sum(waits) / sum(len(t.turns) for t in found):.2f} s in the mean"
        )
        print(f"  bound (list scheduling)  {bound:8.2f} s   work / seats {work:.2f} s")
        print(
            f"  turnwise, saving         {seconds:8.2f} s   {seconds / bound:.3f} of the bound, {seconds / work:.3f} of work / seats"
        )
        locked, waited = asyncio.run(lock_step(server.agent(concurrency), 4, episodes, concurrency))
    print(
        f"  lock-step                {locked:8.2f} s   {locked / seconds:.2f} times turnwise;"
        f" {locked / (waited / concurrency):.2f} of its own work / seats"
    )
    return seconds <= 1.1 * bound


def first(episodes: int) -> bool:
    """The first reply where all episodes begin at once."""
    template = tw.make("Sokoban-v1", format="bracket", split="test", max_turns=2)
    replied: list[float] = []

    async def agent(_: Conversation) -> str:
        await asyncio.sleep(0)
        replied.append(time.perf_counter())
        return "move[up]"

    began = time.perf_counter()
    template.rollout(agent, episodes, concurrency=episodes)
    waited = replied[0] - began
    began = time.perf_counter()
    for seed in range(episodes):
        template.clone().reset(seed=seed)
    resets = time.perf_counter() - began
    print(f"first: {episodes} episodes of Sokoban-v1 at once")
    print(f"  the first reply came after {1e3 * waited:.0f} ms; the resets of all take {resets:.1f} s")
    return waited < 0.1 * resets


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="turns, peers, latency, first; all unless named"
    )
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--scale", type=float, default=1.0, help="of the waits of latency")
    options = parser.parse_args()
    parts = {
        "turns": lambda: turns(options.episodes, options.concurrency),
        "peers": lambda: peers(options.episodes, options.concurrency),
        "latency": lambda: latency(options.episodes, options.concurrency, options.scale),
        "first": lambda: first(10 * options.episodes),
    }
    unknown = set(options.parts) - set(parts)
    if unknown:
        parser.error(f"no part {sorted(unknown)[0]!r}; there are {', '.join(parts)}")
    missed = [name for name in options.parts or parts if not parts[name]()]
    print("all targets are met" if not missed else f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
