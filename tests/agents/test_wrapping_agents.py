"""Agents around an agent: what they choose, what it costs, and that the live episode is only looked at."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest

import turnwise as tw
from turnwise.agents import BestOfN, Majority, Reflect, RewardModel, SelfCertainty, TreeSearch
from turnwise.agents.candidates import read_call
from turnwise.envs import Conversation, Reply
from turnwise.envs.errors import ContextFull, EnvFailure, UsageError
from turnwise.envs.rollout import Branch, Job, collect, run_async


class Corridor(tw.TurnEnv):
    """Five steps to the right are wanted; each pays 0.1, and a step to the left ends it all."""

    max_turns: int = 8
    length: int = 5

    def start(self, task, rng):
        self.at = 0
        return "at 0"

    @tw.tool
    def go(self, where: str) -> tw.Outcome:
        """Go."""
        if where == "left":
            return tw.Outcome("fell", success=False, score=self.at / 10)
        self.at += 1
        return tw.Outcome(f"at {self.at}", reward=0.1, success=True if self.at == self.length else None)

    @tw.tool
    def wait(self) -> str:
        """Wait."""
        return f"at {self.at}"


class Dice(Corridor):
    """A corridor in which a step moves by 0, 1 or 2, as chance has it."""

    @tw.tool
    def go(self, where: str) -> tw.Outcome:
        """Go."""
        if where == "left":
            return tw.Outcome("fell", success=False, score=0.0)
        self.at += int(self.np_random.integers(3))
        return tw.Outcome(f"at {self.at}", success=True if self.at >= self.length else None)


class Drawing:
    """Says one of some texts, by the conversation's seed and length alone, and costs 10 tokens in and 2 out."""

    name = "drawing"

    def __init__(self, *texts, certainty=None):
        self.texts, self.certainty = texts, certainty or {}
        self.open, self.asked, self.seen = Counter(), 0, []

    async def act(self, conversation):
        self.open[conversation.id] = 1
        self.asked += 1
        self.seen.append(list(conversation))
        await asyncio.sleep(0)
        rng = np.random.default_rng([conversation.seed, len(conversation)])
        number = int(rng.integers(len(self.texts)))
        past = [len(turn.action_ids) for turn in conversation.history]
        assert all(past)
        return Reply(
            self.texts[number],
            [1, 2],
            [number + 10],
            [-0.5],
            10,
            2,
            4,
            self.certainty.get(self.texts[number], ()),
        )

    def close(self, conversation):
        self.open.pop(conversation.id, None)


RIGHT, LEFT, WAIT = "go[right]", "go[left]", "wait[]"
MIXED = (RIGHT, RIGHT, LEFT, WAIT)


async def by_length(env, trajectories):
    return [[float(len(turn.action)) for turn in t.turns] for t in trajectories]


def around(inner):
    """Every agent that is around an agent, in all of its ways."""
    return {
        "best_of_n": BestOfN(inner, 3),
        "majority": Majority(inner, 3),
        "self_certainty": SelfCertainty(inner, 3),
        "self_certainty of episodes": SelfCertainty(inner, 3, level="episode"),
        "reward_model": RewardModel(inner, by_length, 3),
        "reward_model of turns": RewardModel(inner, by_length, 3, level="turn"),
        "reflect": Reflect(inner, 3),
        "reflect on the attempt": Reflect(inner, 3, note="attempt"),
        "beam": TreeSearch(inner, method="beam", branch=3, beam=2, max_calls=12, guide="reward"),
        "best_first": TreeSearch(inner, method="best_first", branch=3, max_calls=12),
        "mcts": TreeSearch(inner, method="mcts", branch=3, max_calls=12, guide="reward"),
        "scored tree": TreeSearch(inner, branch=3, max_calls=12, guide=by_length),
    }


WRAPPERS = list(around(Drawing(RIGHT)))


def sure(*texts):
    return Drawing(
        *texts, certainty={text: (float(i), float(i)) for i, text in enumerate(dict.fromkeys(texts))}
    )


def plain(result):
    rows = []
    for t in result.trajectories:
        row = asdict(t)
        for turn in row["turns"]:
            turn["agent_seconds"] = turn["env_seconds"] = 0.0
        rows.append(row)
    return rows


# All of them.


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "HigherLower-v1", "Sokoban-v1"])
@pytest.mark.parametrize("form", ["bracket", "hermes"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_it_plays_every_environment_and_leaves_no_conversation_behind(name, form, env_id):
    class Uncertain:
        name = "random"

        async def act(self, conversation):
            reply = await tw.agents.RandomAgent().act(conversation)
            return reply._replace(certainties=[1.0])

    env = tw.make(env_id, format=form, max_turns=3)
    agent = around(Uncertain())[name]
    result = env.rollout(agent, episodes=2)
    assert [t.error for t in result.trajectories] == [None, None]
    assert all(not getattr(agent, memory, None) for memory in ("_taken", "_repeated", "_searches"))


@pytest.mark.parametrize("kind", [Corridor, Dice])
@pytest.mark.parametrize("name", WRAPPERS)
def test_the_same_seed_gives_the_same_episodes_at_any_concurrency(name, kind):
    env = kind(format="bracket", system_prompt=False)
    runs = [plain(env.rollout(around(sure(*MIXED))[name], episodes=6, seed=2, concurrency=c)) for c in (1, 6)]
    assert runs[0] == runs[1]
    other = plain(env.rollout(around(sure(*MIXED))[name], episodes=6, seed=3))
    assert [row["turns"] for row in other] != [row["turns"] for row in runs[0]]


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_live_environment_is_only_looked_at(name):
    env = Dice(format="bracket", system_prompt=False)
    env.reset(seed=5)

    def seen():
        return {k: v for k, v in env.snapshot().items() if k != "_np_random"}

    before = seen()
    state = env.np_random.bit_generator.state
    conversation = Conversation(env.messages("at 0"), id="c", seed=1, env=env)
    inner = sure(*MIXED)
    agent = around(inner)[name]
    asyncio.run(agent.act(conversation))
    assert seen() == before
    assert env.np_random.bit_generator.state == state
    assert conversation == env.messages("at 0")
    agent.close(conversation)
    assert not inner.open


@pytest.mark.parametrize("name", WRAPPERS)
def test_an_episode_costs_what_all_candidates_cost_and_has_the_tokens_of_what_was_played(name):
    inner = sure(*MIXED)
    result = Corridor(format="bracket", system_prompt=False).rollout(around(inner)[name], episodes=4)
    turns = [turn for t in result.trajectories for turn in t.turns]
    assert sum(turn.input_tokens for turn in turns) == 10 * inner.asked
    assert sum(turn.output_tokens for turn in turns) == 2 * inner.asked
    assert sum(turn.cached_tokens for turn in turns) == 4 * inner.asked
    for turn in turns:
        assert inner.texts.index(turn.action) <= turn.action_ids[0] - 10
        assert inner.texts[turn.action_ids[0] - 10] == turn.action
        assert (turn.prompt_ids, turn.action_log_probs) == ([1, 2], [-0.5])


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_server_that_is_down_fails_the_episode_with_its_type(name):
    class Down:
        name = "down"

        async def act(self, conversation):
            raise EnvFailure("gone")

    result = Corridor(format="bracket").rollout(around(Down())[name], episodes=2)
    assert sum(result.failures.values()) == 2
    assert set(result.failures) <= {"EnvFailure", "NoAttempt"}
    assert "gone" in result.trajectories[0].error


@pytest.mark.parametrize(
    "name", [name for name in WRAPPERS if name != "best_first"]
)  # that plays to the end alone
def test_one_candidate_that_fails_is_left_out(name):
    class Shaky(Drawing):
        async def act(self, conversation):
            if conversation.seed % 3 == 0:
                raise EnvFailure("gone")
            return await super().act(conversation)

    inner = Shaky(RIGHT, WAIT, certainty={RIGHT: (1.0,), WAIT: (0.5,)})
    result = Corridor(format="bracket").rollout(around(inner)[name], episodes=12, concurrency=4)
    assert len(result.played) >= 4


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_full_context_truncates_the_episode(name):
    class Short(Drawing):
        async def act(self, conversation):
            if len(conversation) > 4:
                raise ContextFull("full")
            return await super().act(conversation)

    inner = Short(RIGHT, certainty={RIGHT: (1.0,)})
    result = Corridor(format="bracket", system_prompt=False).rollout(around(inner)[name], episodes=2)
    assert [(t.status, len(t.turns)) for t in result.trajectories] == [("truncated", 2)] * 2


@pytest.mark.parametrize("name", ["majority", "self_certainty", "reward_model of turns", "beam", "mcts"])
def test_an_agent_that_chooses_per_turn_goes_on_from_the_middle_of_an_episode(name):
    env = Corridor(format="bracket", system_prompt=False)
    inner = sure(RIGHT)
    (t,) = env.rollout(inner, episodes=1).trajectories
    played = env.clone()
    observation, info = played.reset(seed=t.seed)
    for turn in t.turns[:2]:
        observation, _, _, _, info = played.step(turn.action)
    branch = Branch(played.snapshot(), t.turns[:2], observation, info["state_key"])
    result = run_async(collect(env, around(inner)[name], [Job(t.seed, branch=branch)]))
    assert (result.success_rate, len(result.trajectories[0].turns)) == (1.0, 5)


def test_an_agent_of_whole_episodes_refuses_the_middle_of_one():
    env = Corridor(format="bracket")
    env.reset(seed=0)
    told = [
        *env.messages("at 0"),
        {"role": "assistant", "content": WAIT},
        {"role": "user", "content": "at 0"},
    ]
    with pytest.raises(UsageError, match="cannot go on from the middle"):
        asyncio.run(BestOfN(Drawing(RIGHT)).act(Conversation(told, id="c", seed=0, env=env)))


def test_wrappers_nest():
    env = Corridor(format="bracket", system_prompt=False)
    inner = Drawing(*MIXED)
    result = env.rollout(BestOfN(Majority(inner, 3), 2), episodes=4)
    assert not result.failures
    assert sum(turn.output_tokens for t in result.trajectories for turn in t.turns) == 2 * inner.asked


# Each by itself.


def test_best_of_n_is_the_best_of_the_attempts_and_more_attempts_are_never_worse():
    env = Corridor(format="bracket", system_prompt=False)
    scores = [
        [t.score for t in env.rollout(BestOfN(Drawing(*MIXED), n), episodes=40).trajectories]
        for n in (1, 2, 4, 8)
    ]
    # the first attempts of more are those of fewer, so it holds for every episode and not only in the mean
    for fewer, more in itertools.pairwise(scores):
        assert all(a <= b for a, b in zip(fewer, more, strict=True))
    assert sum(scores[0]) < sum(scores[-1])


def test_an_environment_that_does_not_repeat_itself_is_a_failure():
    class Unsteady(Corridor):
        """Says something else every time."""

        count = 0

        @tw.tool
        def go(self, where: str) -> str:
            """Go."""
            Unsteady.count += 1
            return f"step {Unsteady.count}"

    result = Unsteady(format="bracket").rollout(BestOfN(Drawing(RIGHT), 2), episodes=1)
    assert result.failures == {"Diverged": 1}


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["go[right]", "go[left]", "go[left]"], 1),
        (["go[ right ]", "I say go[right]", "wait[]"], 2),
        (["go[left]", "go[right]"], 0),  # of equals the first
        (["nonsense", "nonsense", "wait[]"], 2),  # no vote for what cannot be done
        (["nonsense", "more"], 0),
    ],
)
def test_the_majority_is_of_calls_and_not_of_words(texts, expected):
    from turnwise.agents.candidates import turn_of, unfinished
    from turnwise.agents.rerank import Option

    class Number(Corridor):
        """Counts."""

    env = Number(format="bracket")
    env.reset(seed=0)
    conversation = Conversation(env.messages("o"), id="c", seed=0, env=env)
    options = [Option(unfinished(conversation, [turn_of("o", Reply(t), env)]), [Reply(t)]) for t in texts]
    ratings = asyncio.run(Majority(Drawing(RIGHT)).rate(conversation, options))
    best = ratings.index(max(ratings))
    if expected == 2 and texts[0].startswith("go["):
        # the argument is a text, so its white space is the model's choice and another call
        assert [read_call(env, t) for t in texts[:2]] == [
            ("go", {"where": " right "}),
            ("go", {"where": "right"}),
        ]
        assert ratings == [1.0, 1.0, 1.0]
    else:
        assert best == expected


def test_self_certainty_takes_the_surest_and_asks_for_certainties():
    env = Corridor(format="bracket", system_prompt=False)
    surest = Drawing(RIGHT, LEFT, certainty={RIGHT: (2.0, 1.0), LEFT: (0.1, 0.2)})
    assert env.rollout(SelfCertainty(surest, 12), episodes=20).success_rate == 1.0
    wrong = Drawing(RIGHT, LEFT, certainty={RIGHT: (0.1,), LEFT: (2.0,)})
    assert env.rollout(SelfCertainty(wrong, 12), episodes=20).success_rate == 0.0
    with pytest.raises(UsageError, match="drawing gives no certainties"):
        env.rollout(SelfCertainty(Drawing(RIGHT)), episodes=1)


def test_certainty_is_the_divergence_from_the_uniform_distribution():
    import math

    import torch

    from turnwise.agents.engine import certainty

    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [2.0, -1.0, 0.5, 0.0]])
    p = [[math.exp(x) / sum(math.exp(y) for y in row) for x in row] for row in logits.tolist()]
    by_hand = [sum(0.25 * math.log(0.25 / x) for x in row) for row in p]
    assert certainty(logits).tolist() == pytest.approx(by_hand, abs=1e-6)
    assert by_hand[0] == pytest.approx(0.0)


def test_a_reward_model_chooses_by_its_numbers_and_never_by_the_score():
    env = Corridor(format="bracket", system_prompt=False)

    async def likes_left(env, trajectories):
        return [
            [1.0 if turn.arguments == {"where": "left"} else 0.0 for turn in t.turns] for t in trajectories
        ]

    inner = Drawing(RIGHT, LEFT)
    assert env.rollout(RewardModel(inner, likes_left, 8), episodes=12).success_rate == 0.0
    assert env.rollout(RewardModel(inner, likes_left, 8, level="turn"), episodes=12).mean_turns < 1.2

    async def knows_nothing(env, trajectories):
        return [[None for _ in t.turns] for t in trajectories]

    assert not env.rollout(RewardModel(inner, knows_nothing, 2), episodes=2).failures


def test_a_reward_model_sees_the_episode_so_far_with_its_tokens():
    seen = []

    async def scorer(env, trajectories):
        seen.extend(trajectories)
        return [[0.0] * len(t.turns) for t in trajectories]

    env = Corridor(format="bracket", system_prompt=False, max_turns=3)
    (t,) = env.rollout(RewardModel(Drawing(RIGHT), scorer, 2, level="turn"), episodes=1).trajectories
    assert [len(s.turns) for s in seen] == [1, 1, 2, 2, 3, 3]
    assert [turn.action_ids for turn in seen[-1].turns] == [[10], [10], [10]]
    assert [turn.observation for turn in seen[-1].turns] == ["at 0", "at 1", "at 2"]
    assert {(s.task_id, s.seed, s.env_id) for s in seen} == {(t.task_id, t.seed, t.env_id)}


# Reflection.


class Learner:
    """Falls until a note says how not to, and writes that note when it is asked to."""

    name = "learner"

    def __init__(self):
        self.questions = []

    async def act(self, conversation):
        text = conversation[0]["content"]
        if "has failed" in text:
            self.questions.append(text)
            return Reply("<think>hm</think> Do not go left.", output_tokens=5)
        return Reply(RIGHT if "Do not go left." in text else LEFT, output_tokens=1)


def test_a_note_after_a_failure_helps_the_next_attempt():
    env = Corridor(format="bracket", system_prompt=False)
    learner = Learner()
    result = env.rollout(Reflect(learner, 2), episodes=3)
    assert result.success_rate == 1.0
    assert env.rollout(Reflect(Learner(), 5, note="none"), episodes=3).success_rate == 0.0
    (t, *_) = result.trajectories
    # one step, a note of 5, and five steps
    assert sum(turn.output_tokens for turn in t.turns) == 1 + 5 + 5
    question = learner.questions[0]
    assert "1. Seen: at 0" in question
    assert "Done: go[left]" in question
    assert "At the end: fell" in question
    assert "0.0" not in question


def test_the_notes_stand_in_the_prompt_and_old_ones_go():
    inner = Drawing(LEFT)
    Corridor(format="bracket", system_prompt=False).rollout(
        Reflect(inner, 4, note="attempt", memory=2), episodes=1
    )
    counts = [messages[0]["content"].count("Note on an earlier attempt:") for messages in inner.seen]
    assert counts == [0, 1, 2, 2]
    assert all(messages[0]["content"].startswith("at 0") for messages in inner.seen)


def test_another_agent_may_write_the_notes():
    class Writer(Learner):
        async def act(self, conversation):
            assert "has failed" in conversation[0]["content"]
            return await super().act(conversation)

    class Reader(Learner):
        async def act(self, conversation):
            assert "has failed" not in conversation[0]["content"]
            return await super().act(conversation)

    env = Corridor(format="bracket", system_prompt=False)
    assert env.rollout(Reflect(Reader(), 2, reflector=Writer()), episodes=2).success_rate == 1.0


def test_success_at_once_costs_one_attempt():
    inner = Drawing(RIGHT)
    Corridor(format="bracket").rollout(Reflect(inner, 5), episodes=1)
    assert inner.asked == 5


# Search.


@pytest.mark.parametrize("guide", ["score", "reward"])
@pytest.mark.parametrize("method", ["beam", "best_first", "mcts"])
def test_search_finds_the_way_that_the_agent_hardly_ever_finds(method, guide):
    inner = Drawing(RIGHT, LEFT, LEFT)
    env = Corridor(format="bracket", system_prompt=False)
    alone = env.rollout(inner, episodes=40).success_rate
    agent = TreeSearch(inner, method=method, guide=guide, branch=12, max_calls=240)
    assert alone < 0.1
    assert env.rollout(agent, episodes=20).success_rate >= 0.9


def test_a_scorer_guides_the_search_and_the_score_does_not():
    async def likes_waiting(env, trajectories):
        return [[float(turn.tool == "wait") for turn in t.turns] for t in trajectories]

    env = Corridor(format="bracket", system_prompt=False)
    agent = TreeSearch(Drawing(RIGHT, WAIT), guide=likes_waiting, branch=6, max_calls=30)
    (t, *_) = env.rollout(agent, episodes=3).trajectories
    assert [turn.tool for turn in t.turns].count("wait") >= 7


@pytest.mark.parametrize("method", ["beam", "best_first", "mcts"])
@pytest.mark.parametrize(("limit", "value"), [("max_calls", 8), ("max_turns", 6), ("max_tokens", 100)])
def test_budgets_bound_the_search_of_a_turn(method, limit, value):
    spent = []

    class Counted(Drawing):
        async def act(self, conversation):
            spent[-1] += 1
            return await super().act(conversation)

    class Marked(TreeSearch):
        async def act(self, conversation):
            spent.append(0)
            return await super().act(conversation)

    limits = {"max_calls": None, limit: value}
    agent = Marked(Counted(WAIT, RIGHT), method=method, guide="reward", branch=4, **limits)
    Corridor(format="bracket").rollout(agent, episodes=3, concurrency=1)
    # what is under way when the budget is reached is finished: at most one state too many
    most = {"max_calls": 8 + 3, "max_turns": 4 * 6, "max_tokens": 100 // 12 + 1 + 3}[limit]
    assert 4 <= max(spent) <= most


def test_what_was_found_is_followed_without_another_search():
    inner = Drawing(RIGHT, RIGHT, WAIT)
    agent = TreeSearch(inner, guide="score", branch=4, max_calls=400)
    env = Corridor(format="bracket", system_prompt=False)
    (t,) = env.rollout(agent, episodes=1).trajectories
    assert t.success
    assert t.turns[0].output_tokens == 2 * inner.asked
    assert [turn.output_tokens for turn in t.turns[1:]] == [0] * (len(t.turns) - 1)


def test_the_search_does_not_foresee_chance():
    class Coin(tw.TurnEnv):
        """Guess a coin that is thrown afterwards."""

        max_turns: int = 1

        def start(self, task, rng):
            return "Heads or tails?"

        @tw.tool
        def guess(self, side: str) -> tw.Outcome:
            """Guess."""
            thrown = "heads" if self.np_random.integers(2) else "tails"
            return tw.Outcome(thrown, success=thrown == side)

    agent = TreeSearch(Drawing("guess[heads]", "guess[tails]"), branch=8, max_calls=40)
    rate = Coin(format="bracket").rollout(agent, episodes=400).success_rate
    # a coin has a standard deviation of 0.025 here; five of them never happen by chance
    assert abs(rate - 0.5) < 0.125


def test_a_blocking_environment_is_searched_in_a_thread():
    import threading

    threads = set()

    class Slow(Corridor):
        """A corridor behind a door."""

        blocking = True

        @tw.tool
        def go(self, where: str) -> tw.Outcome:
            """Go."""
            threads.add(threading.current_thread().name)
            return Corridor.go(self, where)

    result = Slow(format="bracket").rollout(TreeSearch(Drawing(*MIXED), max_calls=20), episodes=2)
    assert not result.failures
    assert threading.main_thread().name not in threads
    assert any(name.startswith("turnwise-search") for name in threads)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BestOfN(None, 0), "n must be at least 1"),
        (lambda: Reflect(None, memory=0), "memory must be at least 1"),
        (lambda: TreeSearch(None, branch=0), "branch must be at least 1"),
        (lambda: TreeSearch(None, max_calls=None), "a search needs an end"),
        (lambda: TreeSearch(None, exploration=-1.0), "exploration must be at least 0"),
        (lambda: TreeSearch(None, guide="scores"), "guide must be 'score', 'reward' or a scorer"),
    ],
)
def test_wrong_arguments_are_named(make, words):
    with pytest.raises(UsageError, match=words):
        make()
