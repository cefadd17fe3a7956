"""Progress rewards against exact values, their budgets, and the learned estimators of progress."""

import asyncio
import itertools
import math
import random
from collections import Counter
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from turnwise.agents.local import LocalAgent
from turnwise.agents.random import turn_rng
from turnwise.configs.schema import ModelSection
from turnwise.envs import Call, Job, Outcome, Reply, Trajectory, Turn, TurnEnv, make, tool
from turnwise.envs.rollout import collect, make_jobs
from turnwise.trainers import credit
from turnwise.trainers.collate import collate
from turnwise.trainers.local.tiny import tiny
from turnwise.trainers.rerolls import Value
from turnwise.trainers.rewards import MissingNeed, Models, RewardError, RewardPipeline, build
from turnwise.trainers.rewards.linear_head import LinearHead, hidden_at_turns, hidden_states, with_constant
from turnwise.trainers.rewards.progress import allocate, best_of_k
from turnwise.trainers.rewards.spa import with_residual

SAFE = 0.8


class Corridor(TurnEnv):
    """A corridor of `length` doors; who takes one trap fails at the end, and sees nothing of it before.
    Who is `doomed` has taken one at the start."""

    length: int = 5
    doomed: bool = False
    max_turns: int = 99

    def start(self, task, rng):
        self.at, self.trapped = 0, self.doomed
        return "door 0"

    @tool
    def take(self, door: Literal["safe", "trap"]) -> Outcome:
        """Take a door.

        Args:
            door: which.
        """
        self.at += 1
        self.trapped = self.trapped or door == "trap"
        if self.at == self.length:
            return Outcome("the end", success=not self.trapped, score=0.25 if self.trapped else 1.0)
        return Outcome(f"door {self.at}")

    def state_key(self):
        return self.at, self.trapped


async def walker(conversation):
    """The safe door with probability 0.8."""
    door = "safe" if turn_rng(conversation).random() < SAFE else "trap"
    return Reply(conversation.env.write(Call("take", {"door": door})))


def record(episodes=8, **parameters):
    env = Corridor(format="bracket", **parameters)
    jobs = [Job(g, None, "train", g, s) for g in range(episodes // 4) for s in range(4)]
    return env, asyncio.run(collect(env, walker, jobs)).trajectories


def path(t):
    """Whether the trajectory is still free in each of its states."""
    safe = [turn.arguments["door"] == "safe" for turn in t.turns]
    return [all(safe[:k]) for k in range(len(safe) + 1)]


def score(source, trajectories, env, agent=walker, **changes):
    return asyncio.run(source.score(trajectories, Models(env=env, agent=agent, **changes)))


# The estimates.


@given(n=st.integers(1, 12), k=st.integers(1, 12), p=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_best_of_k_is_unbiased(n, k, p):
    mean = 0.0
    for wins in range(n + 1):
        chance = math.comb(n, wins) * p**wins * (1 - p) ** (n - wins)
        mean += chance * best_of_k(Value((1.0,) * wins + (0.0,) * (n - wins)), k)
    if n >= k:
        assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-9)


def test_best_of_k_of_what_is_known_and_of_what_is_not():
    assert best_of_k(Value((0.0,), known=True), 4) == 0.0
    assert best_of_k(Value((1.0,), known=True), 4) == 1.0
    assert best_of_k(Value((0.25, 0.75)), 1) == 0.5
    assert best_of_k(Value((1.0, 0.0)), 3) == 1 - 0.5**3  # fewer than k: into the formula
    assert math.isnan(best_of_k(Value(()), 2))


@given(
    states=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.0, 1.0, 2.0])), max_size=3
    ),
    budget=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_a_budget_is_shared_out_to_the_smallest_summed_variance(states, budget):
    values = [Value((1.0,) * wins + (0.0,) * losses) for wins, losses, _ in states]
    weights = [weight for _, _, weight in states]
    given_out = allocate(values, weights, budget)

    def variance(extra):
        total = 0.0
        for value, weight, more in zip(values, weights, extra, strict=True):
            m = (sum(value.samples) + 1) / (len(value.samples) + 2)
            total += weight * m * (1 - m) / max(len(value.samples) + more, 1)
        return total

    if any(weights):
        assert sum(given_out) == budget
        every = (e for e in itertools.product(range(budget + 1), repeat=len(values)) if sum(e) == budget)
        # A state without a sample counts as one with one, so its first re-roll may come for nothing.
        if all(value.samples for value in values):
            assert variance(given_out) == pytest.approx(min(map(variance, every)))
    else:
        assert sum(given_out) == 0


def test_what_is_known_gets_no_further_re_rolls():
    assert allocate([Value((0.0,), known=True), Value((1.0,))], [1.0, 1.0], 3) == [0, 3]


@pytest.mark.parametrize("k", [1, 4])
def test_progress_is_the_exact_difference_of_values_within_its_standard_error(k):
    env, trajectories = record(12)
    rerolls = 300
    scores = score(build("progress", rerolls=rerolls, best_of=k), trajectories, env)
    turns = 0
    for t, row in zip(trajectories, scores, strict=True):
        length = len(t.turns)
        exact = [1 - (1 - free * SAFE ** (length - i)) ** k for i, free in enumerate(path(t))]
        for i, reward in enumerate(row):
            # The slope of the formula carries the error of V over; V = 0 or 1 is met without an error.
            error = math.sqrt(
                sum(
                    (k * (1 - v) ** (k - 1)) ** 2 * v * (1 - v) / rerolls
                    for free, j in ((path(t)[i], i), (path(t)[i + 1], i + 1))
                    for v in (free * SAFE ** (length - j),)
                )
            )
            assert abs(reward - (exact[i + 1] - exact[i])) <= 4 * error + 1e-12
            turns += 1
    assert turns == 60
    bad = {i for t in trajectories for i, free in enumerate(path(t)) if not free}
    assert bad  # there were traps


@pytest.mark.parametrize(
    "options",
    [{}, {"best_of": 3}, {"target": "score"}, {"allocation": "adaptive", "budget": 300}],
)
def test_progress_telescopes_to_the_outcome_minus_the_first_value(options):
    env, trajectories = record(8)
    source = build("progress", **{"rerolls": 4, **options})
    scores = score(source, trajectories, env)
    for first in (0, 4):  # trajectories of a group share their first value
        starts = []
        for t, row in list(zip(trajectories, scores, strict=True))[first : first + 4]:
            outcome = t.score if options.get("target") == "score" else float(t.success)
            starts.append(outcome - sum(row))
        assert starts == pytest.approx([starts[0]] * 4)
        assert 0 <= starts[0] <= 1
    assert source.counters["rerolls"] <= options.get("budget", 10**9)


def test_no_chance_and_certainty_make_no_progress():
    env, trapped = record(4, doomed=True)
    assert score(build("progress"), trapped, env) == [[0.0] * 5] * 4

    async def careful(conversation):
        return Reply(conversation.env.write(Call("take", {"door": "safe"})))

    env, free = record(4)
    free = [t for t in free if t.success]
    assert score(build("progress"), free, env, agent=careful) == [[0.0] * 5] * len(free)


# Allocation.


def test_an_adaptive_budget_goes_to_uncertain_states():
    env, trajectories = record(8)
    source = build("progress", rerolls=3, allocation="adaptive", budget=400)
    played = {}

    async def spy(conversation):
        played[conversation.id] = tuple(turn.action for turn in conversation.history)
        return await walker(conversation)

    score(source, trajectories, env, agent=spy)
    assert source.counters["rerolls"] == len(played) == 400
    played = Counter(played.values())
    hopeless = [n for key, n in played.items() if any("trap" in action for action in key)]
    open_ = [n for key, n in played.items() if key and not any("trap" in action for action in key)]
    assert sum(open_) / len(open_) > 2 * sum(hopeless) / len(hopeless)


@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_bisection_finds_the_first_bad_turn_in_about_log2_probes(length):
    env, trajectories = record(12, length=length)

    async def lucky(conversation):
        return Reply(conversation.env.write(Call("take", {"door": "safe"})))

    for t in trajectories:
        source = build("progress", rerolls=2, allocation="bisect")
        (row,) = score(source, [t], env, agent=lucky)
        first_bad = path(t).index(False) - 1 if not t.success else None
        assert row == [-1.0 if k == first_bad else 0.0 for k in range(length)]
        assert source.counters["probed_states"] <= (0 if t.success else 1 + math.ceil(math.log2(length)))
        assert source.counters["rerolls"] == 2 * source.counters["probed_states"]
        assert source.counters["blamed"] == (not t.success)


def test_bisection_blames_nobody_where_there_was_no_chance():
    env, trajectories = record(4, doomed=True)
    source = build("progress", rerolls=2, allocation="bisect", best_of=2)
    assert score(source, trajectories, env) == [[0.0] * 5] * 4
    assert (source.counters["hopeless"], source.counters["blamed"]) == (4, 0)
    assert source.counters["rerolls"] == 2  # the start of all four is one state


@pytest.mark.parametrize("allocation", ["even", "adaptive", "bisect"])
@pytest.mark.parametrize("budget", [1, 6, 20, 1000])
def test_a_budget_is_never_exceeded_and_what_it_leaves_out_is_counted(allocation, budget, caplog):
    env, trajectories = record(8)
    source = build("progress", rerolls=4, allocation=allocation, budget=budget)
    scores = score(source, trajectories, env)
    left_out = [row for row in scores if None in row]
    assert all(set(row) == {None} for row in left_out)
    assert source.counters["rerolls"] <= budget
    assert source.counters["over_budget"] == len(left_out)
    if budget in (1, 1000):
        assert bool(left_out) == (budget == 1)
    assert caplog.text.count("is too small") == bool(left_out)
    again = build("progress", rerolls=4, allocation=allocation, budget=budget, concurrency=3)
    assert score(again, trajectories, env) == scores


# Faults.


def test_a_trajectory_that_cannot_be_played_again_has_no_number(caplog):
    env, trajectories = record(4)
    trajectories[1].turns[0].observation = "another place"
    source = build("progress", rerolls=2)
    scores = score(source, trajectories, env)
    assert [None in row for row in scores] == [False, True, False, False]
    assert source.counters["lost"] == 1
    assert "instead of 'another place'" in caplog.text


def test_somebody_must_be_there_to_play_on(tmp_path):
    env, _ = record(4)
    with pytest.raises(MissingNeed, match="name a model as `prover`"):
        build("progress").check(Models(env=env))
    with pytest.raises(MissingNeed, match="could not be loaded"):
        build("progress", prover=str(tmp_path / "none")).check(Models(env=env))
    with pytest.raises(RewardError, match="without a budget"):
        build("progress", allocation="adaptive")
    with pytest.raises(RewardError, match="take target='success'"):
        build("progress", target="score", best_of=2)


# Language models.


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """An environment, a folder with a model of random weights, and episodes that it played."""
    env = make("HigherLower-v1", format="bracket", max_turns=4, high=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TURNWISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tiny(env, ModelSection(size="xs", warm_up={"episodes": 0}), seed=0, say=lambda _: None)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    agent = LocalAgent(model, tokenizer, max_new_tokens=6)
    jobs = make_jobs(env, 4, seed=0, split=None, tasks=None, group_size=2)
    return env, folder, model, agent, asyncio.run(collect(env, agent, jobs)).trajectories


def test_the_policy_and_a_prover_play_on(untrained):
    env, folder, _, agent, trajectories = untrained
    for source in (
        build("progress", rerolls=2),
        build("progress", rerolls=2, prover=str(folder), prover_max_new_tokens=6),
    ):
        models = Models(env=env, agent=agent)
        source.check(models)
        scores = asyncio.run(source.score(trajectories, models))
        assert [len(row) for row in scores] == [len(t.turns) for t in trajectories]
        assert all(value is not None for row in scores for value in row)
        assert source.counters["failed_rerolls"] == 0
        source.close()
    assert agent._engine.cache.keys == []  # nothing computed by weights that are about to change is left


def test_hidden_states_are_those_of_the_plain_model(untrained):
    _, _, model, _, trajectories = untrained
    batch = collate(trajectories)
    where = batch.action_mask & (torch.arange(batch.tokens.shape[1]) % 3 == 0)
    for budget in (10_000, 1):
        found = hidden_states(model, batch.tokens, where, token_budget=budget)
        with torch.no_grad():
            plain = model(batch.tokens, output_hidden_states=True).hidden_states[-1][where]
        torch.testing.assert_close(
            found, torch.nn.functional.layer_norm(plain, plain.shape[-1:]), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("before", [False, True])
def test_turns_get_their_own_hidden_states_in_any_layout_of_rows(before):
    model = policy()
    batch = credit.house_rules.random_batch(3)  # one row per turn, in random order
    tokens = torch.randint(1, 11, batch.turn_of_token.shape, generator=torch.Generator().manual_seed(0))
    batch = batch.unchecked(tokens=tokens)
    features, cells = hidden_at_turns(batch, Models(policy=model, **LEARNERS), before=before)
    assert sorted(cells.tolist()) == batch.turn_mask.flatten().nonzero()[:, 0].tolist()
    width = batch.turn_mask.shape[1]
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True).hidden_states[-1]
    for feature, cell in zip(features, cells.tolist(), strict=True):
        row, columns = next(
            (r, (batch.turn_of_token[r] == cell % width).nonzero()[:, 0])
            for r in range(len(tokens))
            if batch.row_to_trajectory[r] == cell // width and (batch.turn_of_token[r] == cell % width).any()
        )
        state = states[row, columns[0] - 1 if before else columns[-1]]
        expected = with_constant(torch.nn.functional.layer_norm(state, state.shape)[None])[0]
        torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-4)


def policy():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=11,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            tie_word_embeddings=True,
            pad_token_id=0,
        )
    ).eval()


def good(turn):
    return turn.action_ids[0] < 6


def play(count, seed, turns=(2, 4)):
    """Actions of one token out of six; the score is the share of turns with a good one."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        rows = [
            Turn("seen", "done", prompt_ids=[1], action_ids=[draw.randrange(3, 9)], action_log_probs=[-1.8])
            for _ in range(draw.randint(*turns))
        ]
        value = sum(map(good, rows)) / 4
        found.append(
            Trajectory(
                "Test-v0", f"{i // 8}", "train", 0, "terminated", value, value == 1, rows, group=i // 8
            )
        )
    return found


LEARNERS = {"env": make("HigherLower-v1", format="bracket"), "chat": object()}


def learn(source, model, steps):
    models = Models(policy=model, **LEARNERS)
    return [source.update(part, collate(part), models) for part in steps]


def test_spa_learns_which_turns_contribute():
    model, source = policy(), build("spa")
    metrics = learn(source, model, [play(64, seed) for seed in range(20)])
    assert metrics[-1]["loss"] < 0.2 * metrics[0]["loss"]
    assert metrics[-1]["explained"] > 0.5
    unseen = play(64, 99)
    paid = {True: [], False: []}
    scores = asyncio.run(source.score(unseen, Models(policy=model, **LEARNERS)))
    for t, row in zip(unseen, scores, strict=True):
        assert sum(row) == pytest.approx(t.score, abs=0.35)
        for turn, value in zip(t.turns, row, strict=True):
            paid[good(turn)].append(value)
    means = [sum(values) / len(values) for values in paid.values()]
    assert means == pytest.approx([0.25, 0.0], abs=0.08)


def test_a_head_is_the_ridge_regression_of_all_batches_the_latest_counting_most():
    draw = torch.Generator().manual_seed(0)
    batches = [
        (with_constant(torch.randn(n, 3, generator=draw)), torch.randn(n, generator=draw).double())
        for n in (5, 2, 4)
    ]
    head = LinearHead(ridge=0.01, memory=0.5)
    for x, y in batches:
        metrics = head.fit(x, y)
    # The same by stacked rows: each batch's weight under the root, and the penalty as further rows.
    rows = [(x * w**0.5, y * w**0.5) for (x, y), w in zip(batches, (0.25, 0.5, 1.0), strict=True)]
    power = sum(float((x[:, :3] ** 2).sum()) for x, _ in rows)
    penalty = torch.zeros(3, 4, dtype=torch.float64)
    penalty[:, :3] = (0.01 * power) ** 0.5 * torch.eye(3)
    stacked = torch.cat([*(x for x, _ in rows), penalty])
    expected = torch.linalg.lstsq(
        stacked, torch.cat([*(y for _, y in rows), torch.zeros(3)])[:, None]
    ).solution
    torch.testing.assert_close(head(torch.eye(4, dtype=torch.float64)), expected[:, 0])
    x, y = batches[-1]
    assert metrics["loss_after"] == pytest.approx(float(((x @ expected)[:, 0] - y).square().mean()))


def test_the_residual_makes_the_contributions_sum_to_the_score():
    model, source = policy(), build("spa", residual=True)
    learn(source, model, [play(16, 0)])
    unseen = play(16, 1) + play(4, 2, turns=(1, 1))
    for t, row in zip(
        unseen, asyncio.run(source.score(unseen, Models(policy=model, **LEARNERS))), strict=True
    ):
        assert sum(row) == pytest.approx(t.score, abs=1e-6)
        if len(t.turns) == 1:
            assert row == pytest.approx([t.score], abs=1e-6)
    known = torch.tensor([[True, True, False], [True, False, True]])
    c = torch.tensor([[0.5, 0.1, 0.0], [0.2, 0.0, 0.2]])
    assert with_residual(c, known, torch.tensor([1.0, 0.0])).tolist() == [
        pytest.approx([0.7, 0.3, 0.0]),
        pytest.approx([0.0, 0.0, 0.0]),
    ]


def test_an_untrained_head_says_nothing():
    unseen, models = play(8, 0), Models(policy=policy(), **LEARNERS)
    assert asyncio.run(build("spa").score(unseen, models)) == [[0.0] * len(t.turns) for t in unseen]
    for t, row in zip(unseen, asyncio.run(build("value_progress").score(unseen, models)), strict=True):
        assert row == [0.0] * (len(t.turns) - 1) + [t.score]


def test_learned_values_telescope_and_have_not_seen_the_action():
    model, source = policy(), build("value_progress")
    metrics = learn(source, model, [play(64, seed) for seed in range(20)])
    assert metrics[-1]["loss"] < 0.95 * metrics[0]["loss"]
    unseen, models = play(32, 99), Models(policy=model, **LEARNERS)
    scores = asyncio.run(source.score(unseen, models))
    starts = [t.score - sum(row) for t, row in zip(unseen, scores, strict=True)]
    assert starts == pytest.approx([starts[0]] * 32, abs=1e-5)  # all begin with the same prompt
    paid = {True: [], False: []}
    for t, row in zip(unseen, scores, strict=True):
        for turn, value in zip(t.turns, row, strict=True):
            paid[good(turn)].append(value)
    assert sum(paid[True]) / len(paid[True]) > sum(paid[False]) / len(paid[False]) + 0.1
    for t in unseen:  # other last actions: all values before them stay
        t.turns[-1].action_ids = [9]
    other = asyncio.run(source.score(unseen, models))
    assert other == [pytest.approx(row, abs=1e-6) for row in scores]


def test_a_learned_value_is_kept_within_what_a_score_can_be():
    source, trajectories = build("value_progress"), play(4, 0)
    for said, value in ((7.0, 1.0), (-7.0, 0.0)):
        source._head = lambda features, said=said: torch.full((len(features),), said, dtype=torch.float64)
        found = asyncio.run(source.score(trajectories, Models(policy=policy(), **LEARNERS)))
        assert found == [[0.0] * (len(t.turns) - 1) + [t.score - value] for t in trajectories]


@pytest.mark.parametrize("name", ["spa", "value_progress"])
def test_a_checkpoint_of_a_head_goes_on_bit_for_bit(name, tmp_path):
    model, steps = policy(), [play(16, seed) for seed in range(4)]
    whole, first, second = build(name), build(name), build(name)
    expected = learn(whole, model, steps)
    learn(first, model, steps[:2])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.state_dict().keys() == first.state_dict().keys()
    assert learn(second, model, steps[2:]) == expected[2:]


@pytest.mark.parametrize("name", ["spa", "value_progress"])
def test_a_turn_without_tokens_has_no_number(name):
    trajectories = play(4, 0, turns=(3, 3))
    trajectories[2].turns[1].action_ids, trajectories[2].turns[1].action_log_probs = [], []
    source = build(name)
    scores = asyncio.run(source.score(trajectories, Models(policy=policy(), **LEARNERS)))
    expected = [False, True, False] if name == "spa" else [True, True, False]
    assert [value is None for value in scores[2]] == expected
    assert sum(value is None for row in scores for value in row) == sum(expected)
    assert source.counters["without_tokens"] == 1


def test_spa_and_grounding_feed_the_credit_scheme():
    trajectories = play(16, 0)
    trajectories[0].turns[0].invalid = True
    pipeline = RewardPipeline(["env", {"name": "spa", "weight": 0.0}, {"name": "grounding", "weight": 0.0}])
    batch = asyncio.run(
        pipeline.score(trajectories, collate(trajectories), Models(policy=policy(), **LEARNERS))
    ).batch
    assert batch.extra["grounding"][0, :2].tolist() == [0.0, 1.0]
    assert credit.compute("spa", batch).abs().max() > 0
