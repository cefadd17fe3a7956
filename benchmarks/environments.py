"""How fast the environments are, what the framework adds to a step, and what an environment weighs.

    python benchmarks/environments.py [--steps 20000] [--repeats 5] [--envs 1000]

Times are CPU seconds of this one process, the best of the repeats, so that other work on the machine counts little.

| figure    | what it is                                                                                        |
|-----------|---------------------------------------------------------------------------------------------------|
| drawn     | steps per second with a random agent whose actions were drawn before; resets are counted           |
| sampled   | the same, drawing each action from the tool's schema on the way                                    |
| added     | microseconds of a step that are not the tool, the state key or the potential: parse, dispatch,     |
|           | validate, observe, info. The same actions are played by `step` and by calling the tool itself      |
| of a bare | steps per second as a share of those of the same game written by hand as a `gymnasium.Env`         |
| memory    | kilobytes per environment, many of them in the middle of an episode                                |

Targets: added at most 10 in `bracket` and 25 in `hermes`; Sokoban over 20,000 steps per second in `bracket`.
"""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

import turnwise as tw

ADDED = {"bracket": 10.0, "hermes": 25.0}
SOKOBAN = 20_000.0
MAX_TURNS = 25


class BareHigherLower(gymnasium.Env[int, int]):
    """The least that Gymnasium asks for: integers in and out, no text, no tools, no tasks."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        """Hide a number."""
        super().reset(seed=seed)
        self.hidden = int(self.np_random.integers(1, 101))
        self.turn = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Compare a number."""
        self.turn += 1
        right = action == self.hidden
        return int(action < self.hidden), float(right), right, not right and self.turn == MAX_TURNS, {}


def play(env: gymnasium.Env[Any, Any], steps: int, action: Callable[[int], Any]) -> list[Any]:
    """Random episodes until so many steps are done; the actions taken, by episode."""
    done, episodes = 0, []
    while done < steps:
        env.reset(seed=len(episodes))
        taken = []
        over = False
        while not over:
            taken.append(action(done))
            _, _, terminated, truncated, _ = env.step(taken[-1])
            over = terminated or truncated
            done += 1
        episodes.append(taken)
    return episodes


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """CPU seconds of the best of the repeats."""
    found = []
    for _ in range(repeats):
        gc.collect()
        began = time.process_time()
        function()
        found.append(time.process_time() - began)
    return min(found)


def speed(env_id: str, form: str, steps: int, repeats: int, **parameters: Any) -> tuple[float, float, float]:
    """Steps per second with drawn and with sampled actions, and the microseconds that the framework adds."""
    env = tw.make(env_id, format=form, max_turns=MAX_TURNS, **parameters)
    rng = np.random.default_rng(0)
    actions = [env.sample_action(rng) for _ in range(4096)]
    episodes = play(env, steps, lambda n: actions[n % len(actions)])
    number = sum(map(len, episodes))
    drawn = number / seconds(lambda: play(env, steps, lambda n: actions[n % len(actions)]), repeats)
    sampled = steps / seconds(lambda: play(env, steps, lambda _: env.sample_action(rng)), repeats)

    calls = [
        [env.step(action)[4]["call"] for action in _started(env, seed, taken)]
        for seed, taken in enumerate(episodes)
    ]
    stepping = seconds(lambda: _replay(env, episodes), repeats)
    bare = seconds(lambda: _replay_bare(env, calls), repeats)
    return drawn, sampled, (stepping - bare) / number * 1e6


def _started(env: tw.TurnEnv, seed: int, taken: list[str]) -> list[str]:
    env.reset(seed=seed)
    return taken


def _replay(env: tw.TurnEnv, episodes: list[list[str]]) -> None:
    for seed, taken in enumerate(episodes):
        env.reset(seed=seed)
        for action in taken:
            env.step(action)


def _replay_bare(env: tw.TurnEnv, episodes: list[list[tw.Call]]) -> None:
    """What a step cannot do without: the tool, the potential of the new state and its key."""
    tools = {name: spec.function for name, spec in env.tools.items()}
    for seed, calls in enumerate(episodes):
        env.reset(seed=seed)
        for tool, arguments in calls:
            outcome = tools[tool](env, **arguments)
            if outcome.success is None:
                env.potential()
            env.state_key()


def memory(env_id: str, number: int, **parameters: Any) -> float:
    """Kilobytes that Python allocates for each of so many environments, five turns into an episode."""
    template = tw.make(env_id, max_turns=MAX_TURNS, **parameters)
    rng = np.random.default_rng(0)
    gc.collect()
    tracemalloc.start()
    envs = [template.clone() for _ in range(number)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
        for _ in range(5):
            if env.step(env.sample_action(rng))[2]:
                env.reset(seed=seed)
    gc.collect()
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return allocated / number / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20_000, help="steps per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--envs", type=int, default=1000, help="environments alive at once, for the memory")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    guesses = [int(n) for n in rng.integers(1, 101, size=4096)]
    env = BareHigherLower()
    number = sum(map(len, play(env, options.steps, lambda n: guesses[n % len(guesses)])))
    bare = number / seconds(
        lambda: play(env, options.steps, lambda n: guesses[n % len(guesses)]), options.repeats
    )
    print(f"a bare gymnasium.Env of the number game: {bare:,.0f} steps per second of one core\n")

    print(f"{'environment':<28} {'format':<8} {'drawn':>9} {'sampled':>9} {'added':>7}  {'of a bare':>9}")
    missed = []
    cases: list[tuple[str, dict[str, Any]]] = [
        ("HigherLower-v1", {}),
        ("FrozenLake-v1", {}),
        ("Sokoban-v1", {}),
        ("Sokoban-v1", {"boxes": 3}),
    ]
    for env_id, parameters in cases:
        name = " ".join([env_id, *(f"{k}={v}" for k, v in parameters.items())])
        for form, target in ADDED.items():
            drawn, sampled, added = speed(env_id, form, options.steps, options.repeats, **parameters)
            share = f"{drawn / bare:9.2f}" if env_id == "HigherLower-v1" else f"{'':>9}"
            print(f"{name:<28} {form:<8} {drawn:>9,.0f} {sampled:>9,.0f} {added:>7.1f}  {share}")
            if added > target:
                missed.append(
                    f"{name} in {form} adds {added:.1f} microseconds, at most {target:g} are allowed"
                )
            if env_id == "Sokoban-v1" and form == "bracket" and drawn < SOKOBAN:
                missed.append(f"{name} makes {drawn:,.0f} steps per second, {SOKOBAN:,.0f} are asked for")

    print(f"\nmemory of {options.envs:,} environments in the middle of an episode")
    for env_id, parameters in cases:
        name = " ".join([env_id, *(f"{k}={v}" for k, v in parameters.items())])
        print(f"{name:<28} {memory(env_id, options.envs, **parameters):6.1f} kB each")
    print("\nall targets are met" if not missed else "\nmissed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
