"""Re-rolls against exact dynamic programming, their determinism, and the exactness of the tokens they go on from."""

import asyncio
import math
from functools import lru_cache
from typing import Annotated, Literal

import pytest
from pydantic import Field
from transformers import AutoModelForCausalLM, AutoTokenizer

from turnwise.agents.local import LocalAgent
from turnwise.agents.random import RandomAgent, turn_rng
from turnwise.configs.schema import ModelSection
from turnwise.envs import Call, Job, Outcome, Reply, TurnEnv, make, tool
from turnwise.envs.errors import UsageError
from turnwise.envs.rollout import collect, make_jobs
from turnwise.trainers import rerolls
from turnwise.trainers.local.tiny import tiny
from turnwise.trainers.rerolls import ReplayMismatch, Rerolls, Value, gain, values


class Walk(TurnEnv):
    """A walk on 0..3 with slips: 3 succeeds with score 1, 0 fails with score 0, a cut-off scores position / 3."""

    slip: Annotated[float, Field(ge=0, le=1)] = 0.25
    max_turns: int = 6

    def start(self, task, rng):
        self.position = 1 + task.seed % 2
        return f"at {self.position}"

    @tool
    def go(self, way: Literal["left", "right"]) -> Outcome:
        """Go.

        Args:
            way: where.
        """
        step = 1 if way == "right" else -1
        self.position += -step if self.np_random.random() < self.slip else step
        if self.position in (0, 3):
            return Outcome("the end", reward=0.5, success=self.position == 3)
        return Outcome(f"at {self.position}", reward=-0.1)

    def score(self):
        return self.position / 3

    def state_key(self):
        return self.position


async def biased(conversation):
    """Right with probability 0.6."""
    return go(conversation, "right" if turn_rng(conversation).random() < 0.6 else "left")


def go(conversation, way):
    return Reply(conversation.env.write(Call("go", {"way": way})))


@lru_cache(None)
def exact(position, taken, target):
    """The value of a state under `biased`, rewards to come included for "return"."""
    up = 0.6 * 0.75 + 0.4 * 0.25
    total = 0.0
    for chance, there in ((up, position + 1), (1 - up, position - 1)):
        if there in (0, 3):
            worth = {"success": there == 3, "score": there == 3, "return": 0.5}[target]
        elif taken + 1 == 6:
            worth = {"success": 0.0, "score": there / 3, "return": -0.1}[target]
        else:
            worth = exact(there, taken + 1, target) - 0.1 * (target == "return")
        total += chance * worth
    return total


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """An environment, and a model with random weights and a tokenizer for it."""
    env = make("HigherLower-v1", format="bracket", max_turns=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TURNWISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tiny(env, ModelSection(size="xs", warm_up={"episodes": 0}), seed=0, say=lambda _: None)
    return env, AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def record(episodes=12, group_size=4, agent=biased, env=None):
    env = env or Walk(format="bracket")
    jobs = make_jobs(env, episodes, seed=3, split=None, tasks=None, group_size=group_size)
    return env, asyncio.run(collect(env, agent, jobs)).trajectories


@pytest.mark.parametrize("target", ["success", "score", "return"])
def test_values_are_the_exact_ones_within_their_standard_error(target):
    env, trajectories = record()
    trajectories = trajectories[::2]
    states = [range(len(t.turns) + 1) for t in trajectories]
    found = asyncio.run(values(env, biased, trajectories, states, 400, target=target, seed=1))
    checked = 0
    for t, row in zip(trajectories, found, strict=True):
        for k, turn in enumerate(t.turns):
            paid = sum(u.reward for u in t.turns[:k]) if target == "return" else 0.0
            truth = paid + exact(int(turn.state_key), k, target)
            assert 0 < row[k].error < 0.05
            assert abs(row[k].mean - truth) < 4 * row[k].error
            checked += 1
        assert row[len(t.turns)] == Value((rerolls._worth(t, target),), known=True)
    assert checked > 8


def test_gains_of_turns_telescope_to_the_outcome_minus_the_first_value():
    env, trajectories = record()
    states = [range(len(t.turns) + 1) for t in trajectories]
    for t, row in zip(
        trajectories, asyncio.run(values(env, biased, trajectories, states, 5, target="score")), strict=True
    ):
        gains = [gain(row, k) for k in range(len(t.turns))]
        assert sum(mean for mean, _ in gains) == pytest.approx(t.score - row[0].mean)
        assert gains[-1][1] == row[len(t.turns) - 1].error  # the end is known


def test_an_error_is_the_deviation_over_the_root_of_the_count():
    assert Value((0.0, 1.0, 1.0, 1.0)).error == pytest.approx(math.sqrt(0.25 / 4))  # variance 0.75/3
    assert math.isnan(Value((1.0,)).error)
    assert Value((1.0,), known=True).error == 0.0
    assert math.isnan(Value(()).mean)
    mean, error = gain({2: Value((0.0, 1.0)), 3: Value((1.0, 1.0, 0.0, 1.0))}, 2)
    assert (mean, error) == (0.25, pytest.approx(math.hypot(0.5, 0.25)))


def test_what_is_drawn_depends_on_neither_concurrency_nor_the_order_of_requests():
    env, trajectories = record(episodes=4, group_size=1)
    states = [range(len(t.turns)) for t in trajectories]
    once = asyncio.run(values(env, biased, trajectories, states, 9, seed=5))
    again = asyncio.run(values(env, biased, trajectories, states, 9, seed=5, concurrency=3))
    other = asyncio.run(values(env, biased, trajectories, states, 9, seed=6))
    assert once == again != other

    async def in_pieces():
        found = Rerolls(env, biased, trajectories, seed=5)
        for part in (4, 5):
            for i, row in reversed(list(enumerate(states))):
                await found.more({(i, k): part for k in row})
        return [{k: found.value((i, k)) for k in row} for i, row in enumerate(states)]

    assert asyncio.run(in_pieces()) == once


def test_the_beginning_is_shared_by_a_group_and_measured_once():
    env, trajectories = record(episodes=8, group_size=4)

    async def play():
        found = Rerolls(env, biased, trajectories)
        await found.more({(i, 0): 7 for i in range(8)})
        return found

    found = asyncio.run(play())
    assert found.played == 2 * 7
    assert found.value((0, 0)) == found.value((3, 0)) != found.value((4, 0))


def test_random_numbers_of_the_environment_are_drawn_anew():
    # With the noise of the recording every re-roll of a fixed policy would be the same episode.
    async def right(conversation):
        return go(conversation, "right")

    env, trajectories = record(episodes=1, group_size=1, agent=right, env=Walk(format="bracket", slip=0.5))
    (row,) = asyncio.run(values(env, right, trajectories, [[0]], 40))
    assert 0 < row[0].mean < 1


def test_an_environment_that_does_not_repeat_itself_is_told_apart():
    class Moody(Walk):
        episodes = 0

        def start(self, task, rng):
            Moody.episodes += 1
            return super().start(task, rng) + f" ({Moody.episodes})"

    env, trajectories = record(episodes=2, group_size=1, env=Moody(format="bracket"))
    with pytest.raises(ReplayMismatch, match=r"turn 0 was answered by 'at . \(3\)' instead of 'at . \(1\)'"):
        asyncio.run(values(env, biased, trajectories, [[0], [0]], 2))

    async def keep_going():
        found = Rerolls(env, biased, trajectories)
        await found.more({(0, 0): 3, (1, 0): 3})
        return found

    found = asyncio.run(keep_going())
    assert set(found.lost) == {0, 1}
    assert (found.played, found.value((0, 0))) == (0, Value(()))


def test_re_rolls_that_fail_are_counted_and_in_no_mean():
    env, trajectories = record(episodes=1, group_size=1)
    calls = []

    async def fails_half_the_time(conversation):
        calls.append(conversation.id)
        if conversation.seed % 2:
            raise OSError("gone")
        return await biased(conversation)

    async def play():
        found = Rerolls(env, fails_half_the_time, trajectories)
        await found.more({(0, 0): 20})
        return found

    found = asyncio.run(play())
    assert found.failed["OSError"] + found.played == 20
    assert len(found.value((0, 0)).samples) == found.played > 0
    assert found.failed["OSError"] > 0


def test_states_that_are_not_there_are_refused():
    env, trajectories = record(episodes=1, group_size=1)
    with pytest.raises(UsageError, match="has the states 0 to"):
        asyncio.run(values(env, biased, trajectories, [[99]], 2))
    trajectories[0].status = "failed"
    with pytest.raises(UsageError, match="failed"):
        Rerolls(env, biased, trajectories)


def test_a_branch_goes_on_from_the_exact_tokens_that_were_sampled(untrained):
    env, model, tokenizer = untrained
    agent = LocalAgent(model, tokenizer, max_new_tokens=6)
    recorded = asyncio.run(collect(env, agent, [Job(1, None, "train", 0, s) for s in range(6)])).trajectories
    t = max(recorded, key=lambda t: len(t.turns))
    assert len(t.turns) > 2
    seen = []
    act = agent.act

    async def spying(conversation):
        first = conversation.id not in agent._episodes
        reply = await act(conversation)
        if first:
            tokens = agent._episodes[conversation.id].stream.tokens
            seen.append((len(conversation.history), list(tokens[: -len(reply.action_ids)])))
        return reply

    agent.act = spying
    found = asyncio.run(values(env, agent, [t], [range(len(t.turns))], 2, seed=4))
    assert len(seen) == 2 * len(t.turns)
    for k, tokens in seen:
        expected = [i for turn in t.turns[:k] for i in (*turn.prompt_ids, *turn.action_ids)]
        expected += t.turns[k].prompt_ids  # what the recorded turn itself was sampled from
        assert tokens == expected
    assert all(len(value.samples) == 2 for value in found[0].values())


def test_a_history_without_tokens_is_encoded_from_its_messages(untrained):
    env, model, tokenizer = untrained
    agent = LocalAgent(model, tokenizer, max_new_tokens=6)
    recorded = asyncio.run(collect(env, RandomAgent(), [Job(2)])).trajectories
    (row,) = asyncio.run(values(env, agent, recorded, [[1]], 3))
    assert len(row[1].samples) == 3
