"""Success against cost of the agents around an agent, on held-out tasks of a run.

    turnwise train env=frozen_lake 'reward=[env,{name: implicit_prm, weight: 0.1}]' trainer.steps=20 run=runs/lake
    python benchmarks/agents.py runs/lake --tasks 512 --out agents.json

Every row plays the same tasks with the same seeds, with the last checkpoint of the run at temperature 1 (but `greedy`). Tokens
are those read and written for an episode, thrown-away candidates included; those that a cache served are counted as read.
The rows of a reward model need a run with `implicit_prm`; `--prm RUN` takes it from another run of the same model and
environment.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from turnwise.agents import BestOfN, LocalAgent, Majority, Reflect, RewardModel, SelfCertainty, TreeSearch
from turnwise.configs.schema import ScorerSection
from turnwise.envs import Agent
from turnwise.trainers.policy_of_run import open_policy
from turnwise.trainers.scorer import build_scorer


def rows(player: LocalAgent, greedy: LocalAgent, prm: str | None) -> dict[str, Callable[[], Agent]]:
    """The agents, by the name of their row."""
    found: dict[str, Callable[[], Agent]] = {
        "one attempt": lambda: player,
        "one attempt, greedy": lambda: greedy,
        "majority, n=8": lambda: Majority(player, 8),
        "self_certainty, n=8, per turn": lambda: SelfCertainty(player, 8),
        "self_certainty, n=8, per episode": lambda: SelfCertainty(player, 8, level="episode"),
        "best_of_n, n=2 (oracle)": lambda: BestOfN(player, 2),
        "best_of_n, n=4 (oracle)": lambda: BestOfN(player, 4),
        "best_of_n, n=8 (oracle)": lambda: BestOfN(player, 8),
        "reflect, n=3, note=none": lambda: Reflect(player, 3, note="none"),
        "reflect, n=3, note=attempt": lambda: Reflect(player, 3, note="attempt"),
        "reflect, n=3, note=reflection": lambda: Reflect(player, 3),
        "tree, beam, score": lambda: TreeSearch(player, method="beam", max_calls=64),
        "tree, best_first, score": lambda: TreeSearch(player, method="best_first", max_calls=64),
        "tree, mcts, score": lambda: TreeSearch(player, method="mcts", max_calls=64),
        "tree, best_first, reward": lambda: TreeSearch(player, guide="reward", max_calls=64),
    }
    if prm is not None:
        scorer = build_scorer(ScorerSection(source="implicit_prm", run=prm))
        found["reward_model, n=8, per episode"] = lambda: RewardModel(player, scorer, 8)
        found["reward_model, n=8, per turn"] = lambda: RewardModel(player, scorer, 8, level="turn")
        found["tree, best_first, implicit_prm"] = lambda: TreeSearch(player, guide=scorer, max_calls=64)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--prm")
    parser.add_argument("--tasks", type=int, default=512)
    parser.add_argument("--only", help="rows whose name holds this text")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    opened = open_policy(
        options.run, None, None, temperature=1.0, max_new_tokens=16, slots=1, seed=0, say=lambda _: None
    )
    model, tokenizer = opened.around.policy, opened.around.tokenizer
    tokens = opened.agent._engine.max_message
    player = LocalAgent(model, tokenizer, max_new_tokens=tokens, slots=256, certainties=True)
    greedy = LocalAgent(model, tokenizer, max_new_tokens=tokens, slots=64, temperature=0.0)
    trained = opened.trained is not None and any(
        "implicit_prm" in str(item) for item in opened.trained.reward
    )
    found = []
    print("| agent | success | 95 % | tokens per episode | relative |\n|---|---|---|---|---|")
    for name, make in rows(player, greedy, options.prm or (options.run if trained else None)).items():
        if options.only and options.only not in name and name != "one attempt":
            continue
        began = time.process_time()
        result = opened.env.rollout(make(), episodes=options.tasks, split="test", seed=0, concurrency=32)
        assert not result.failures, result.failures
        low, high = result.success_interval
        cost = (
            sum(u.input_tokens + u.output_tokens for t in result.trajectories for u in t.turns)
            / options.tasks
        )
        row = {
            "agent": name,
            "success": result.success_rate,
            "low": low,
            "high": high,
            "tokens": cost,
            "cpu_seconds": time.process_time() - began,
            "successes": [t.success for t in result.trajectories],
        }
        found.append(row)
        relative = cost / found[0]["tokens"]
        print(
            f"| {name} | {row['success']:.3f} | {low:.3f} to {high:.3f} | {cost:,.0f} | {relative:.1f} |",
            flush=True,
        )
        if options.out is not None:
            options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
