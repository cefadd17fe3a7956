"""How fast `Code-v1` and `CodeRepair-v1` are, and what isolation costs a step.

    python benchmarks/code.py [--episodes 40] [--repeats 3] [--threads 1 4]

A scripted agent plays: the expert's calls, drawn before, so that only the environment is measured; resets are counted. Times
are of the wall clock, since programs run in other processes; on a busy machine read the ratios, which are of one run.

| figure    | what it is                                                                                              |
|-----------|---------------------------------------------------------------------------------------------------------|
| steps     | steps per second, by number of threads                                                                    |
| p50 ...   | milliseconds of a step, one thread                                                                        |
| bare      | the same programs as `python -c` in a bare subprocess for each step, as others have it (GEM, SkyRL-gym)     |
| together  | 10 tests graded in one process start against 10 starts                                                    |
| reset     | milliseconds to generate a task with its tests, not seen before                                            |
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import turnwise as tw


def drawn(env: Any, episodes: int) -> list[list[str]]:
    """The expert's actions by seed."""
    found: list[list[str]] = []
    for seed in range(episodes):
        env.reset(seed=seed)
        found.append([])
        over = False
        while not over:
            found[-1].append(env.write(env.expert()))
            _, _, terminated, truncated, _ = env.step(found[-1][-1])
            over = terminated or truncated
    return found


def replay(env: Any, numbered: list[tuple[int, list[str]]]) -> list[float]:
    """Milliseconds of each step."""
    times = []
    for seed, actions in numbered:
        env.reset(seed=seed)
        for action in actions:
            began = time.perf_counter()
            env.step(action)
            times.append(1000 * (time.perf_counter() - began))
    return times


def steps_per_second(env: Any, episodes: list[list[str]], threads: int) -> float:
    envs = [env.clone() for _ in range(threads)]
    shares = [list(enumerate(episodes))[i::threads] for i in range(threads)]
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(replay, envs, shares))
    return sum(map(len, episodes)) / (time.perf_counter() - began)


def bare(programs: list[str]) -> float:
    """Steps per second with a bare subprocess for each program."""
    began = time.perf_counter()
    for program in programs:
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    return len(programs) / (time.perf_counter() - began)


def together(env: Any) -> float:
    """Seconds of ten starts over seconds of one, for the same ten tests."""
    from turnwise.envs.code.grading import grade

    env.reset(seed=0)
    problem = env.problem
    tests = problem.hidden[:10]
    seconds = []
    for groups in ([tests], [[t] for t in tests]):
        began = time.perf_counter()
        for _ in range(5):
            for group in groups:
                report = grade(
                    env._sessions, problem, problem.reference, group, language="python", seconds=2.0
                )
                assert report.solved
        seconds.append(time.perf_counter() - began)
    return seconds[1] / seconds[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("Code-v1, functions", "Code-v1", {}),
        ("Code-v1, standard input and output", "Code-v1", {"form": "io"}),
        ("Code-v1, short", "Code-v1", {"style": "short", "max_turns": 4}),
        ("CodeRepair-v1", "CodeRepair-v1", {}),
    ]
    for title, env_id, parameters in kinds:
        env: Any = tw.make(env_id, format="bracket", **parameters)
        episodes = drawn(env, options.episodes)
        best = {
            n: max(steps_per_second(env, episodes, n) for _ in range(options.repeats))
            for n in options.threads
        }
        runs = [replay(env, list(enumerate(episodes))) for _ in range(options.repeats)]
        p50, p95, p99 = np.percentile(min(runs, key=sum), [50, 95, 99])
        said = ", ".join(f"{n} thread{'s' * (n > 1)} {rate:,.0f}/s" for n, rate in best.items())
        print(f"{title}\n  steps: {said}   p50 {p50:.1f}  p95 {p95:.1f}  p99 {p99:.1f} ms")
        if title == "Code-v1, functions":
            began = time.perf_counter()
            for seed in range(10_000, 10_000 + options.episodes):
                env.reset(seed=seed)
            each = (time.perf_counter() - began) / options.episodes
            programs = [env.tasks and env.problem.reference for _ in range(options.episodes)]
            rate = max(bare(programs) for _ in range(options.repeats))
            print(
                f"  bare subprocess: {rate:,.0f}/s, {best[options.threads[0]] / rate:.2f} times as fast isolated"
            )
            print(
                f"  ten starts take {together(env):.1f} times one with ten tests   reset {1000 * each:.1f} ms"
            )
        env.close()


if __name__ == "__main__":
    main()
