"""`HigherLower-v1` as an environment of verifiers, which finds it by the name of this module; see `benchmarks/eval.py`."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import verifiers.v1 as vf
from verifiers.v1.cli.eval.runner import run_eval
from verifiers.v1.configs.cli.eval import EvalConfig

import turnwise as tw

__all__ = ["NumbersEnv", "NumbersTaskset"]

TURNS = 8


def _env() -> tw.TurnEnv:
    return tw.make("HigherLower-v1", format="bracket", split="test", high=1_000_000, max_turns=TURNS)


class NumbersTask(vf.Task[vf.TaskData, vf.State, vf.TaskConfig]):  # type: ignore[misc]
    """One episode; its index is the seed."""


class NumbersTaskset(vf.Taskset[NumbersTask, vf.TasksetConfig]):  # type: ignore[misc]
    """The episodes with seeds from 0 on."""

    INFINITE = True

    def load(self) -> Any:
        """Tasks without end."""
        env, seed = _env(), 0
        while True:
            observation, _ = env.reset(seed=seed)
            system, opening = (message["content"] for message in env.messages(observation))
            yield NumbersTask(vf.TaskData(prompt=opening, system_prompt=system), self.config.task)
            seed += 1


class NumbersEnvConfig(vf.EnvConfig):  # type: ignore[misc]
    """The lightest harness that there is, on this machine."""

    player: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime={"type": "subprocess"})


class NumbersEnv(vf.Env[NumbersEnvConfig]):  # type: ignore[misc]
    """Steps the environment here, as the user of the conversation."""

    async def run(self, task: Any, agents: Any) -> None:
        """One episode."""
        env, score = _env(), 0.0
        env.reset(seed=task.data.idx)
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated:
                observation, _, terminated, truncated, info = env.step(segment.last_reply)
                if terminated or truncated:
                    score = info["score"]
                    break
                segment = await interaction.turn(observation)
        interaction.trace.record_reward("score", score, 1.0)


async def play(url: str, episodes: int, concurrency: int) -> tuple[float, int]:
    """Seconds of an evaluation that saves, and its turns."""
    with tempfile.TemporaryDirectory() as folder:
        config = EvalConfig.model_validate(
            {
                "env": {"taskset": {"id": "peer_verifiers"}},
                "model": "mock",
                "client": {"type": "eval", "base_url": url, "api_key_var": "HOME"},
                "select": {"limit": episodes},
                "max_concurrent": concurrency,
                "push": False,
                "rich": None,
                "output_dir": Path(folder),
            }
        )
        began = time.perf_counter()
        found = await run_eval(config)
        seconds = time.perf_counter() - began
    bad = [error for episode in found for trace in episode.traces for error in trace.errors]
    assert not bad, bad[0]
    return seconds, sum(trace.num_turns for episode in found for trace in episode.traces)
