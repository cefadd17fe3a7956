"""`HigherLower-v1` as a task of inspect_ai; see `benchmarks/eval.py`."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import inspect_ai
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, get_model
from inspect_ai.scorer import Score, mean, scorer
from inspect_ai.solver import solver

import turnwise as tw


@solver
def numbers(template: tw.TurnEnv) -> Any:
    """Plays an episode; the environment is stepped here."""

    async def solve(state: Any, generate: Any) -> Any:
        env = template.clone()
        observation, _ = env.reset(seed=int(state.sample_id))
        system, opening = (message["content"] for message in env.messages(observation))
        state.messages = [ChatMessageSystem(content=system), ChatMessageUser(content=opening)]
        while True:
            state = await generate(state)
            observation, _, terminated, truncated, info = env.step(state.output.completion)
            if terminated or truncated:
                state.metadata["score"] = info["score"]
                return state
            state.messages.append(ChatMessageUser(content=observation))

    return solve


@scorer(metrics=[mean()])
def score() -> Any:
    """The environment's score."""

    async def of(state: Any, _: Any) -> Score:
        return Score(value=state.metadata["score"])

    return of


def play(template: tw.TurnEnv, url: str, episodes: int, concurrency: int) -> tuple[float, int]:
    """Seconds of an evaluation that saves, and its turns; display and live log off, which is its fastest."""
    task = inspect_ai.Task(
        dataset=[Sample(id=seed, input="x") for seed in range(episodes)],
        solver=numbers(template),
        scorer=score(),
    )
    model = get_model("openai-api/mock/mock", base_url=url, api_key="x")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        (log,) = inspect_ai.eval(
            task,
            model=model,
            max_samples=concurrency,
            max_connections=concurrency,
            display="none",
            log_realtime=False,
            log_dir=folder,
        )
        seconds = time.perf_counter() - began
        assert log.status == "success", log.error
        # The samples are read from the folder when they are asked for.
        turns = [sum(m.role == "assistant" for m in sample.messages) for sample in log.samples or []]
    return seconds, sum(turns)
