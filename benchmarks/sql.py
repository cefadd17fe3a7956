"""How fast `SQL-v1` is on SQLite, what a step adds to the bare query, and what making its data takes.

    python benchmarks/sql.py [--steps 20000] [--repeats 3] [--spider FOLDER] [--server ADDRESS]

A scripted agent plays: the expert's calls, drawn before, so that only the environment is measured; resets and the judging of
submitted queries on all variants are counted. Times are CPU seconds of this one process, the best of the repeats, so that
other work on the machine counts little; latencies are CPU time too. With `--server` (PostgreSQL) they are wall time,
since the server works in processes of its own.

| figure     | what it is                                                                                |
|------------|-------------------------------------------------------------------------------------------|
| steps      | steps per second: tables, described tables, queries, submitted queries                    |
| queries    | steps per second of queries alone                                                         |
| bare       | the same queries per second on one open connection of `sqlite3`, without any guard          |
| wrong      | submitted wrong queries per second, with partial credit, each a text that is new            |
| p50 ...    | microseconds of a step                                                                    |
| memory     | kilobytes that Python allocates for each of many environments in the middle of an episode   |
| build      | seconds to make databases and questions; `load` to open them in another process             |

Target: 5,000 steps per second (SkyRL-gym's text-to-SQL made 1,400 elsewhere, a thread and a connection per query).
"""

from __future__ import annotations

import argparse
import gc
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

import turnwise as tw

STEPS = 5_000.0

Clock = Callable[[], float]


def seconds(function: Callable[[], Any], repeats: int, clock: Clock = time.process_time) -> float:
    """Seconds of the best of the repeats."""
    found = []
    for _ in range(repeats):
        gc.collect()
        began = clock()
        function()
        found.append(clock() - began)
    return min(found)


def drawn(env: tw.TurnEnv, steps: int) -> list[list[str]]:
    """The expert's actions of as many episodes as have so many steps, by seed."""
    episodes: list[list[str]] = []
    while sum(map(len, episodes)) < steps:
        env.reset(seed=len(episodes))
        episodes.append([])
        over = False
        while not over:
            call = env.expert()
            assert call is not None
            episodes[-1].append(env.write(call))
            _, _, terminated, truncated, _ = env.step(episodes[-1][-1])
            over = terminated or truncated
    return episodes


def replay(env: tw.TurnEnv, episodes: list[list[str]], only: str = "") -> None:
    for seed, actions in enumerate(episodes):
        env.reset(seed=seed)
        for action in actions:
            if action.startswith(only):
                env.step(action)


def latencies(env: tw.TurnEnv, episodes: list[list[str]], clock: Clock) -> np.ndarray:
    """Microseconds of each step."""
    found = []
    for seed, actions in enumerate(episodes):
        env.reset(seed=seed)
        for action in actions:
            began = clock()
            env.step(action)
            found.append(1e6 * (clock() - began))
    return np.array(found)


def bare(env: Any, episodes: list[list[str]]) -> Callable[[], None]:
    """The queries of the episodes on plain connections, one per file, opened before."""
    connections: dict[str, sqlite3.Connection] = {}
    asked = []
    for seed, actions in enumerate(episodes):
        env.reset(seed=seed)
        path = str(env.library.files(env.task.data["database"])[0])
        if path not in connections:
            connections[path] = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        asked += [(connections[path], a[6:-1]) for a in actions if a.startswith("query[")]

    def run() -> None:
        for connection, sql in asked:
            connection.execute(sql).fetchall()

    return run


def wrong(env: Any, number: int) -> Callable[[], None]:
    """Wrong queries, none written twice: a parser's cache helps none of them."""
    rounds = iter(range(10**9))

    def run() -> None:
        for seed in range(number):
            env.reset(seed=seed)
            env.step(f"submit[{env.task.data['wrong'][0]} LIMIT {1000 + next(rounds)}]")

    return run


def memory(env: tw.TurnEnv, number: int) -> float:
    """Kilobytes per environment, two steps into an episode."""
    gc.collect()
    tracemalloc.start()
    envs = [env.clone() for _ in range(number)]
    for seed, clone in enumerate(envs):
        clone.reset(seed=seed % 50)
        for _ in range(2):
            call = clone.expert()
            assert call is not None
            clone.step(clone.write(call))
    gc.collect()
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return allocated / number / 1024


LOAD = (
    "import time; import turnwise as tw; tw.envs.env_class('SQL-v1'); began = time.perf_counter();"
    "env = tw.make('SQL-v1'); env.reset(seed=0); print(time.perf_counter() - began)"
)


def report(name: str, env: Any, options: argparse.Namespace, clock: Clock = time.process_time) -> float:
    """Measure an environment, print the figures, give the steps per second."""
    episodes = drawn(env, options.steps)
    steps = sum(map(len, episodes)) / seconds(lambda: replay(env, episodes), options.repeats, clock)
    resets = seconds(lambda: replay(env, [[] for _ in episodes]), options.repeats, clock)
    number = sum(a.startswith("query[") for actions in episodes for a in actions)
    queries = number / (seconds(lambda: replay(env, episodes, "query["), options.repeats, clock) - resets)
    p50, p95, p99 = np.percentile(latencies(env, episodes, clock), [50, 95, 99])
    print(name)
    said = f"  steps {steps:,.0f}/s   queries {queries:,.0f}/s"
    if env.backend == "sqlite":
        said += f"   bare {number / seconds(bare(env, episodes), options.repeats):,.0f}/s"
    print(said + f"   p50 {p50:.0f}  p95 {p95:.0f}  p99 {p99:.0f} microseconds")
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20_000, help="steps per repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--envs", type=int, default=1000, help="environments alive at once, for the memory")
    parser.add_argument("--spider", default="", help="a folder of Spider with dev.json, to measure as well")
    parser.add_argument("--server", default="", help="a PostgreSQL database of its own, to measure as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TURNWISE_CACHE"] = cache
        began = time.process_time()
        env: Any = tw.make("SQL-v1", format="bracket")
        build = time.process_time() - began
        load = float(
            subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True).stdout
        )
        steps = report("generated, SQLite", env, options)
        paid = seconds(wrong(env, 1000), 1)
        print(
            f"  wrong {1000 / paid:,.0f}/s   memory {memory(env, options.envs):.1f} kB each of {options.envs:,}"
        )
        print(f"  build {build:.1f} s   load {1000 * load:.0f} ms")
        if options.spider:
            report(
                "Spider dev, SQLite",
                tw.make("SQL-v1", format="bracket", dataset="spider", data=options.spider, split="val"),
                options,
            )
        if options.server:
            few = argparse.Namespace(**{**vars(options), "steps": options.steps // 10})
            made = tw.make("SQL-v1", format="bracket", backend="postgres", server=options.server)
            report("generated, PostgreSQL", made, few, time.perf_counter)
    print(
        "all targets are met"
        if steps >= STEPS
        else f"missed: {steps:,.0f} steps per second, {STEPS:,.0f} are asked for"
    )


if __name__ == "__main__":
    main()
