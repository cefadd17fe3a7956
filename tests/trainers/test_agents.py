"""Agents from their configuration, and reward sources as scorers."""

from __future__ import annotations

import asyncio

import pytest

import turnwise as tw
from turnwise.configs.compose import compose
from turnwise.configs.schema import EvalConfig, ScorerSection
from turnwise.envs import Trajectory
from turnwise.envs.errors import UsageError
from turnwise.trainers.agents import build_agent
from turnwise.trainers.scorer import Batched, build_scorer


def built(*overrides):
    return build_agent(compose(EvalConfig, overrides, registered={}).agent, slots=4)


@pytest.mark.parametrize(
    "agent",
    [
        ["agent=best_of_n", "agent.n=2"],
        ["agent=majority"],
        ["agent=reflect", "agent.note=none"],
        ["agent=reward_model", "agent.scorer.source=env", "agent.level=turn"],
        ["agent=tree", "agent.method=mcts", "agent.max_calls=8"],
        ["agent=tree", "agent.guide=scorer", "agent.scorer.source=env", "agent.max_calls=8"],
    ],
)
def test_what_is_configured_plays(agent):
    player = built(*agent, "agent.inner.name=expert", "agent.inner.noise=0.5")
    result = tw.make("HigherLower-v1", high=7).rollout(player, episodes=4)
    assert result.failures == {}
    assert "ExpertAgent" in player.name or "expert" in player.name


def test_a_greedy_agent_is_not_asked_several_times():
    with pytest.raises(UsageError, match="gives the same answer 4 times"):
        built("agent=majority", "agent.inner.name=local", "agent.inner.path=r", "agent.inner.temperature=0")


def test_self_certainty_needs_the_log_probs_of_a_server():
    server = ["agent.inner.name=openai", "agent.inner.url=http://x/v1", "agent.inner.model=m"]
    with pytest.raises(UsageError, match=r"agent\.inner\.top_log_probs=20"):
        built("agent=self_certainty", *server)
    assert built("agent=self_certainty", *server, "agent.inner.top_log_probs=20").n == 4


def test_a_key_comes_from_the_environment_and_is_not_configured(monkeypatch):
    server = ["agent=openai", "agent.url=http://x/v1", "agent.model=m", "agent.api_key_env=TURNWISE_TEST_KEY"]
    with pytest.raises(UsageError, match="TURNWISE_TEST_KEY"):
        built(*server)
    monkeypatch.setenv("TURNWISE_TEST_KEY", "k")
    assert built(*server)._endpoint._headers["Authorization"] == "Bearer k"


def test_a_source_that_reads_tokens_needs_the_run_it_was_trained_in():
    with pytest.raises(UsageError, match=r"agent\.scorer\.run=RUN"):
        build_scorer(ScorerSection(source="implicit_prm"))


def test_many_episodes_are_scored_together_and_each_gets_its_own():
    calls = []

    class Source:
        needs = frozenset()

        async def score(self, trajectories, models):
            calls.append([t.group for t in trajectories])
            await asyncio.sleep(0.01)
            if any(t.seed == 999 for t in trajectories):
                raise ValueError("bad")
            return [[float(t.seed)] for t in trajectories]

    env = tw.make("HigherLower-v1")

    def some(*seeds):
        return [Trajectory("HigherLower-v1", "t", "train", s, "truncated", 0.0, False, []) for s in seeds]

    async def run():
        scorer = Batched(Source(), None)
        rows = await asyncio.gather(*(scorer(env, some(i, i + 100)) for i in range(20)))
        with pytest.raises(ValueError, match="bad"):
            await scorer(env, some(999))
        return rows, await scorer(env, some(7))

    rows, after = asyncio.run(run())
    assert rows == [[[float(i)], [float(i + 100)]] for i in range(20)]
    assert after == [[7.0]]
    # candidates of one episode are a group, and of no other: sources refuse groups that mix tasks
    assert calls[0] == [group for group in range(20) for _ in range(2)]
