"""How fast `Search-v1` is, what a step adds to the lookup in its index, and what it weighs.

    python benchmarks/search.py [--documents 1000 100000] [--steps 20000] [--repeats 3] [--envs 1000]

A scripted agent plays: the expert's calls, drawn before, so that only the environment is measured; resets are counted.
Times are CPU seconds of this one process, the best of the repeats, so that other work on the machine counts little;
latencies are CPU time too.

| figure     | what it is                                                                                     |
|------------|------------------------------------------------------------------------------------------------|
| steps      | steps per second of one core: searches, opened documents, answers                               |
| titles     | microseconds of a step that searches for a title, of the library's (tantivy's) bare lookup of it, their ratio |
| questions  | the same with a whole question as the query, as agents ask                                      |
| p50 ...    | microseconds of a step                                                                          |
| memory     | kilobytes that Python allocates for each of many environments in the middle of an episode         |
| build      | seconds for the world, its library and its index; `load` for opening them in another process      |

Targets: 5,000 steps per second at 1,000 documents (SkyRL-gym's search over HTTP made 2,350 elsewhere); a ratio of at most 1.5
where the lookup dominates (over 100 microseconds).
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import tantivy

import turnwise as tw

STEPS = 5_000.0
RATIO = 1.5
DOMINATES = 100e-6


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """CPU seconds of the best of the repeats."""
    found = []
    for _ in range(repeats):
        gc.collect()
        began = time.process_time()
        function()
        found.append(time.process_time() - began)
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


def replay(env: tw.TurnEnv, episodes: list[list[str]]) -> None:
    for seed, actions in enumerate(episodes):
        env.reset(seed=seed)
        for action in actions:
            env.step(action)


def latencies(env: tw.TurnEnv, episodes: list[list[str]]) -> np.ndarray:
    """CPU microseconds of each step."""
    found = []
    for seed, actions in enumerate(episodes):
        env.reset(seed=seed)
        for action in actions:
            began = time.process_time_ns()
            env.step(action)
            found.append((time.process_time_ns() - began) / 1000)
    return np.array(found)


def lookups(env: Any, queries: list[str], repeats: int) -> tuple[float, float]:
    """CPU seconds of a step that searches, resets counted, and of the library's bare lookup of the same words."""
    index = env._retriever._index
    parsed = [
        tantivy.Query.boolean_query(
            [
                (tantivy.Occur.Should, tantivy.Query.term_query(index._schema, "text", word, "freq"))
                for word in index.words(query)
            ]
        )
        for query in queries
    ]

    def searching() -> None:
        for at, query in enumerate(queries):
            if at % 10 == 0:
                env.reset(seed=at)
            env.step(f"search[{query}]")

    step = seconds(searching, repeats)
    bare = seconds(lambda: [index._searcher.search(query, 3, count=False).hits for query in parsed], repeats)
    return step / len(queries), bare / len(queries)


def memory(env: tw.TurnEnv, number: int) -> float:
    """Kilobytes per environment, two searches into an episode."""
    gc.collect()
    tracemalloc.start()
    envs = [env.clone() for _ in range(number)]
    for seed, clone in enumerate(envs):
        clone.reset(seed=seed)
        for _ in range(2):
            call = clone.expert()
            assert call is not None
            clone.step(clone.write(call))
    gc.collect()
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return allocated / number / 1024


LOAD = (
    "import time; import turnwise as tw; tw.envs.env_class('Search-v1'); import turnwise.envs.search.bm25_retriever;"
    "began = time.perf_counter(); env = tw.make('Search-v1', documents={documents}, format='bracket');"
    "env.reset(seed=0); env.step('search[a word]'); print(time.perf_counter() - began)"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--steps", type=int, default=20_000, help="steps per repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--envs", type=int, default=1000, help="environments alive at once, for the memory")
    options = parser.parse_args()
    missed = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TURNWISE_CACHE"] = cache
        for documents in options.documents:
            began = time.process_time()
            env: Any = tw.make("Search-v1", documents=documents, format="bracket")
            build = time.process_time() - began
            command = [sys.executable, "-c", LOAD.format(documents=documents)]
            load = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

            episodes = drawn(env, options.steps)
            number = sum(map(len, episodes))
            steps = number / seconds(lambda: replay(env, episodes), options.repeats)  # noqa: B023
            titles = [a[7:-1].strip('"') for actions in episodes for a in actions if a.startswith("search[")]
            questions = [env.tasks.get("train", at).prompt.replace("]", "") for at in range(2000)]
            p50, p95, p99 = np.percentile(latencies(env, episodes), [50, 95, 99])
            size = sum(f.stat().st_size for f in env._library.folder.parents[1].rglob("*") if f.is_file())
            print(f"{documents:,} documents")
            print(f"  steps {steps:,.0f}/s   p50 {p50:.0f}  p95 {p95:.0f}  p99 {p99:.0f} microseconds")
            for kind, queries in (("titles", titles[:5000]), ("questions", questions)):
                step, bare = lookups(env, queries, options.repeats)
                print(f"  {kind:<9} step {step * 1e6:.0f}  lookup {bare * 1e6:.0f}  ratio {step / bare:.2f}")
                if bare > DOMINATES and step / bare > RATIO:
                    missed.append(
                        f"a search for {kind} takes {step / bare:.2f} times its lookup, {RATIO} is allowed"
                    )
            print(
                f"  memory {memory(env, options.envs):.1f} kB each of {options.envs:,}   on disk {size / 1e6:.1f} MB"
            )
            print(f"  build {build:.1f} s   load {load * 1000:.0f} ms")
            if documents == 1000 and steps < STEPS:
                missed.append(f"{steps:,.0f} steps per second, {STEPS:,.0f} are asked for")
    print("all targets are met" if not missed else "missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
