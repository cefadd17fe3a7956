"""The reward pipeline: what configuration it takes, in which order it works, and what it leaves alone."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
import torch

import turnwise as tw
from turnwise.envs import Trajectory, Turn
from turnwise.trainers import credit
from turnwise.trainers.collate import collate
from turnwise.trainers.rewards import (
    BadRewardParameter,
    MissingNeed,
    Models,
    RewardError,
    RewardExists,
    RewardPipeline,
    RewardSource,
    UnknownReward,
    UnknownRewardParameter,
    build,
    normalisation,
    register_reward,
    registry,
    reward_sources,
    shaping,
)
from turnwise.trainers.rewards.beliefs import gains
from turnwise.trainers.rewards.pipeline import correlation


@pytest.fixture
def register():
    """Registers a source for the length of a test."""
    names = []

    def add(name, cls):
        names.append(name)
        return register_reward(name)(cls)

    yield add
    for name in names:
        registry._SOURCES.pop(name, None)


@pytest.fixture
def fixed(register):
    """A source that gives the numbers it is told, and notes what happens to it."""

    class Fixed(RewardSource):
        """Gives `numbers`."""

        numbers: list = []  # noqa: RUF012
        log: list = []  # noqa: RUF012

        def __init__(self, *, scale: float = 1.0):
            super().__init__()
            self.scale = scale
            self.seen = 0

        async def score(self, trajectories, models):
            self.log.append("score")
            self.seen += len(trajectories)
            return [
                [None if v is None else v * self.scale for v in row]
                for row in self.numbers
                if len(self.numbers) == len(trajectories)
            ]

        def update(self, trajectories, batch, models):
            self.log.append("update")
            assert len(trajectories) == len(batch.rewards)
            self.counters["updates"] += 1
            return {"loss": 0.5}

        def state_dict(self):
            return {"seen": self.seen}

        def load_state_dict(self, state):
            self.seen = state["seen"]

        def close(self):
            self.log.append("close")

    Fixed.log = []
    return register("fixed", Fixed)


def _trajectory(rewards, *, score=0.0, group=0, status="terminated", success=None):
    turns = [
        Turn(f"see {k}", f"do {k}", "t", {"k": k}, r, rewards={"env": r}, state_key=str(k))
        for k, r in enumerate(rewards)
    ]
    return Trajectory(
        "E-v1",
        f"task-{group}",
        "train",
        group,
        status,
        score,
        score > 0 if success is None else success,
        turns,
        group=group,
    )


def _pay(pipeline, trajectories, **models):
    env = tw.make("HigherLower-v1")
    batch = collate(trajectories)
    return asyncio.run(pipeline.score(trajectories, batch, Models(env=env, **{"steps": 10, **models})))


def _rows(tensor, trajectories):
    return [row[: len(t.turns)] for row, t in zip(tensor.tolist(), trajectories, strict=True)]


# The environment's reward.


def test_env_alone_is_the_batch_itself():
    trajectories = [_trajectory([0.1, 0.2], score=1.0), _trajectory([0.3]), _trajectory([], status="failed")]
    before = [[dict(turn.rewards) for turn in t.turns] for t in trajectories]
    pipeline = RewardPipeline(["env"])
    batch = collate(trajectories)
    out = asyncio.run(pipeline.score(trajectories, batch, Models(env=tw.make("HigherLower-v1"))))
    assert pipeline.plain
    assert out.batch is batch
    assert out.metrics == {}
    assert [[turn.rewards for turn in t.turns] for t in trajectories] == before


def test_env_beside_a_silent_source_is_bit_for_bit_the_environments(fixed):
    rewards = [[0.1, 1 / 3, 0.7], [1e-7, -2.5]]
    trajectories = [_trajectory(r) for r in rewards]
    fixed.numbers = [[None, None, None], [5.0, 5.0]]
    for config in (["env", {"name": "fixed", "weight": 0.0}], [{"name": "fixed", "weight": 0}, "env"]):
        out = _pay(RewardPipeline(config), trajectories)
        assert torch.equal(out.batch.rewards, collate(trajectories).rewards)


# The order of operations.


def test_the_paper_separate_and_logprob(fixed):
    """IGPO's camera-ready on beliefs .1 .4 .3 (right) and .1 .1 (wrong): A by hand in its docs page."""
    trajectories = [_trajectory([0, 0, 1], score=1.0), _trajectory([0, 0], score=0.0)]
    fixed.numbers = [gains([math.log(b) for b in row]) for row in ([0.1, 0.4, 0.3], [0.1, 0.1])]
    config = [{"name": n, "norm": "group_separate"} for n in ("fixed", "outcome")]
    out = _pay(RewardPipeline(config), trajectories)
    advantage = credit.compute("turn_returns", out.batch, norm="none")
    assert _rows(advantage, trajectories) == [
        pytest.approx([1.5011, 0.1053, 1.0], abs=1e-4),
        pytest.approx([-1.5011, -1.0], abs=1e-4),
    ]


def test_the_paper_joint_and_prob(fixed):
    """IGPO's first version on the same beliefs: one mean and deviation over gains and outcomes."""
    trajectories = [_trajectory([0, 0, 1], score=1.0), _trajectory([0, 0], score=0.0)]
    fixed.numbers = [gains(row) for row in ([0.1, 0.4, 0.3], [0.1, 0.1])]
    config = [{"name": n, "norm": "group"} for n in ("fixed", "outcome")]
    out = _pay(RewardPipeline(config), trajectories)
    assert _rows(out.batch.rewards, trajectories) == [
        pytest.approx([0.1489, -0.8437, 1.8859], abs=1e-4),
        pytest.approx([-0.5955, -0.5955], abs=1e-4),
    ]
    advantage = credit.compute("turn_returns", out.batch, norm="none")
    assert _rows(advantage, trajectories)[0] == pytest.approx([1.1911, 1.0422, 1.8859], abs=1e-4)


def test_sources_that_pay_the_same_turn_are_added_before_they_are_normalised_together(fixed):
    trajectories = [_trajectory([1.0, 2.0], score=1.0), _trajectory([4.0, 0.0])]
    fixed.numbers = [[10.0, None], [20.0, 30.0]]
    config = [
        {"name": "env", "norm": "group", "weight": 2.0},
        {"name": "fixed", "norm": "group", "weight": 0.5},
    ]
    out = _pay(RewardPipeline(config), trajectories)
    sums = [2 + 5, 4, 8 + 10, 15]
    mean = sum(sums) / 4
    std = math.sqrt(sum((s - mean) ** 2 for s in sums) / 4)
    assert out.batch.rewards.flatten().tolist() == pytest.approx(
        [(s - mean) / (std + 1e-6) for s in sums], abs=1e-5
    )
    # The parts in the trajectory file sum to the whole.
    for t, row in zip(trajectories, out.batch.rewards.tolist(), strict=True):
        for turn, value in zip(t.turns, row, strict=True):
            parts = [v for key, v in turn.rewards.items() if key.endswith("/normalised")]
            assert sum(parts) == pytest.approx(value, abs=1e-5)


def test_bound_then_gate_then_normalise_then_weigh(fixed):
    trajectories = [_trajectory([0.0, 0.0], score=1.0), _trajectory([0.0, 0.0])]
    fixed.numbers = [[3.0, 1.0], [5.0, 4.0]]
    config = [
        {
            "name": "fixed",
            "bound": "delta",
            "gate": "posterior",
            "norm": "group_separate",
            "weight": 2.0,
            "schedule": "linear",
            "adaptive": True,
        }
    ]
    out = _pay(RewardPipeline(config), trajectories, step=6)
    # delta: 2, 1 | 1, 4; posterior: 2, 1 | 0, 0; z over (2, 1, 0, 0); weight 2 x .5 (linear) x .5 (success rate)
    values = [2.0, 1.0, 0.0, 0.0]
    mean = sum(values) / 4
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / 4)
    expected = [(v - mean) / (std + 1e-6) for v in values]
    assert out.batch.rewards.flatten().tolist() == pytest.approx([0.5 * v for v in expected], abs=1e-5)
    assert out.metrics["reward/fixed/weight"] == pytest.approx(0.5)
    assert [t.rewards["fixed"] for t in trajectories[0].turns] == [3.0, 1.0]
    assert [t.rewards["fixed/normalised"] for t in trajectories[0].turns] == pytest.approx(expected[:2])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bound": "clip", "eta": 2.0}, lambda x, known, _: shaping.clip(x, known, 2.0)),
        ({"bound": "par"}, lambda x, known, group: shaping.par(x, known, group)),
        ({"norm": "batch"}, lambda x, known, _: normalisation.batch_standardise(x, known)),
        ({"norm": "batch", "ddof": 1}, lambda x, known, _: normalisation.batch_standardise(x, known, ddof=1)),
        (
            {"norm": "running", "ddof": 1},  # at its first step
            lambda x, known, _: normalisation.batch_standardise(x, known, ddof=1),
        ),
        (
            {"norm": "group_separate", "ddof": 1},
            lambda x, known, group: normalisation.group_standardise(x, known, group, ddof=1),
        ),
        (
            {"norm": "group", "ddof": 1},
            lambda x, known, group: normalisation.group_standardise(x, known, group, ddof=1),
        ),
        ({"schedule": "linear", "schedule_steps": 4}, lambda x, *_: 0.5 * x),
        ({"schedule": "cosine", "final_weight": 2.0, "schedule_steps": 4}, lambda x, *_: 1.5 * x),
    ],
)
def test_every_setting_is_its_function(fixed, settings, expected):
    trajectories = [_trajectory([0.0, 0.0], group=g) for g in (0, 0, 1, 1)]
    fixed.numbers = [[1.0, 3.0], [4.0, None], [9.0, 2.0], [5.0, 5.0]]
    x = torch.tensor([[v or 0.0 for v in row] for row in fixed.numbers], dtype=torch.float64)
    known = torch.tensor([[v is not None for v in row] for row in fixed.numbers])
    out = _pay(RewardPipeline([{"name": "fixed", **settings}]), trajectories, step=3)
    torch.testing.assert_close(
        out.batch.rewards.double(), expected(x, known, torch.tensor([0, 0, 1, 1])), rtol=1e-5, atol=1e-6
    )


def test_each_group_is_weighed_by_what_it_cannot_do_itself(fixed):
    trajectories = [_trajectory([0.0], score=s, group=g) for s, g in ((1.0, 0), (0.0, 0), (0.0, 1))]
    fixed.numbers = [[4.0], [2.0], [3.0]]
    out = _pay(RewardPipeline([{"name": "fixed", "adaptive": True}]), trajectories)
    assert out.batch.rewards.tolist() == [[2.0], [1.0], [3.0]]


def test_prof_through_the_pipeline_reads_its_penalty_limit_mode_seed_and_step(fixed):
    trajectories = [_trajectory([0.0] * n, score=float(s)) for n, s in ((3, 1), (1, 1), (5, 1), (3, 0))]
    fixed.numbers = [[0.1] * 3, [0.9], [0.8] * 5, [0.3] * 3]

    def kept(**settings):
        chooser = {"name": "fixed", "select": "prof", "keep": 2, **settings}
        return _pay(RewardPipeline(["env", chooser]), trajectories).batch.valid.tolist()

    assert kept() == [False, True, False, True]
    assert kept(length_penalty=5.0) == [False, False, True, True]  # one turn is odd
    assert kept(length_penalty=5.0, length_limit=5) == [True, False, False, True]
    failures = [_trajectory([0.0, 0.0]) for _ in range(6)] + [_trajectory([0.0, 1.0], score=1.0)]
    fixed.numbers = [[float(i), 0.0] for i in range(7)]

    def chosen(mode="prof", **models):
        pipeline = RewardPipeline(["env", {"name": "fixed", "select": mode, "keep": 2}])
        return _pay(pipeline, failures, **models).batch.valid.nonzero()[0].item()

    assert chosen("prof_both") == 0  # the failure whose steps were rated worst
    assert chosen() == chosen()
    assert len({chosen(step=s) for s in range(1, 11)}) > 1
    assert len({chosen(seed=s) for s in range(10)}) > 1
    twice = failures + [replace(t, group=1) for t in failures]
    fixed.numbers = fixed.numbers * 2
    pipeline = RewardPipeline(["env", {"name": "fixed", "select": "prof", "keep": 2}])
    drawn = [_pay(pipeline, twice, step=s).batch.valid.view(2, 7) for s in range(1, 11)]
    assert not all(torch.equal(one, other) for one, other in drawn)  # each group draws for itself


def test_atr_moves_the_reward_from_the_process_to_the_outcome(fixed):
    trajectories = [_trajectory([0.0, 1.0], score=1.0), _trajectory([0.0, 0.0])]
    fixed.numbers = [[1.0, 1.0], [3.0, 3.0]]
    pipeline = RewardPipeline(["outcome", {"name": "fixed", "schedule": "atr", "weight": 0.5}])
    for step, process in ((1, 0.5), (6, 0.25), (11, 0.0)):
        out = _pay(pipeline, trajectories, step=step)
        assert out.batch.rewards.tolist() == [
            pytest.approx([process, process + (1 - process)]),
            pytest.approx([3 * process, 3 * process]),
        ]


def test_renorm_holds_the_outcome_already(fixed):
    trajectories = [_trajectory([0.0, 1.0], score=1.0), _trajectory([0.0, 0.0])]
    fixed.numbers = [[1.0, 2.0], [3.0, None]]
    out = _pay(RewardPipeline([{"name": "fixed", "norm": "renorm"}]), trajectories)
    assert out.batch.rewards.tolist() == [pytest.approx([-0.5, 0.5]), pytest.approx([0.5, -0.5])]


def test_running_normalisation_remembers_and_is_restored(fixed):
    pipeline = RewardPipeline([{"name": "fixed", "norm": "running"}])
    trajectories = [_trajectory([0.0, 0.0])]
    fixed.numbers = [[1.0, 3.0]]
    assert _pay(pipeline, trajectories).batch.rewards.tolist() == [pytest.approx([-1.0, 1.0], abs=1e-5)]
    fixed.numbers = [[2.0, 2.0]]
    state = pipeline.state_dict()
    again = RewardPipeline([{"name": "fixed", "norm": "running"}])
    again.load_state_dict(state)
    assert _pay(again, trajectories).batch.rewards.tolist() == [[0.0, 0.0]]
    assert again.entries[0].source.seen == 2


def test_prof_selects_and_never_pays(fixed):
    trajectories = [_trajectory([0.0, float(s)], score=float(s)) for s in (1, 1, 1, 0)]
    fixed.numbers = [[0.1, 0.1], [0.9, 0.9], [0.5, 0.5], [0.3, 0.3]]
    out = _pay(RewardPipeline(["env", {"name": "fixed", "select": "prof", "keep": 2}]), trajectories)
    assert out.batch.valid.tolist() == [False, True, False, True]
    assert torch.equal(out.batch.rewards[out.batch.valid], collate(trajectories).rewards[out.batch.valid])
    assert [t.turns[0].rewards["fixed"] for t in trajectories] == [0.1, 0.9, 0.5, 0.3]


def test_normalisation_sees_the_selected_trajectories_only(fixed, register):
    class Other(fixed):
        """Chooses."""

    register("chooser", Other)
    trajectories = [_trajectory([1.0], score=1.0), _trajectory([100.0], score=1.0), _trajectory([2.0])]
    fixed.numbers = [[1.0], [0.0], [0.0]]
    config = [{"name": "env", "norm": "group_separate"}, {"name": "chooser", "select": "prof", "keep": 2}]
    out = _pay(RewardPipeline(config), trajectories)
    assert out.batch.valid.tolist() == [True, False, True]
    assert out.batch.rewards[[0, 2], 0].tolist() == pytest.approx([-1.0, 1.0], abs=1e-5)


# Missing numbers and failed episodes.


def test_a_missing_number_pays_nothing_and_enters_no_statistic(fixed):
    trajectories = [_trajectory([0.0, 0.0, 0.0]), _trajectory([0.0])]
    fixed.numbers = [[1.0, None, 2.0], [None]]
    out = _pay(RewardPipeline([{"name": "fixed", "norm": "group_separate"}]), trajectories)
    assert out.batch.rewards.tolist() == [pytest.approx([-1.0, 0.0, 1.0], abs=1e-5), [0.0, 0.0, 0.0]]
    assert out.metrics["reward/fixed/missing"] == pytest.approx(0.5)
    assert "fixed" not in trajectories[0].turns[1].rewards
    assert "fixed/normalised" not in trajectories[0].turns[1].rewards
    assert trajectories[0].turns[0].rewards["fixed"] == 1.0
    assert out.batch.extra["fixed"].tolist() == [[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]


def test_a_failed_episode_is_never_scored(fixed):
    trajectories = [
        _trajectory([1.0, 1.0], status="failed"),
        _trajectory([0.0, 0.5]),
        _trajectory([], status="failed"),
    ]
    fixed.numbers = [[1.0, 2.0]]
    out = _pay(RewardPipeline(["env", "fixed"]), trajectories)
    assert out.batch.valid.tolist() == [False, True, False]
    assert out.batch.rewards[1].tolist() == [1.0, 2.5]
    assert "fixed" not in trajectories[0].turns[0].rewards


def test_a_step_in_which_everything_failed_is_left_as_it_is(fixed):
    trajectories = [_trajectory([1.0], status="failed")]
    batch = collate(trajectories)
    out = asyncio.run(
        RewardPipeline(["env", "fixed"]).score(trajectories, batch, Models(env=tw.make("HigherLower-v1")))
    )
    assert out.batch is batch
    assert fixed.log == []


# Learning, checkpoints, metrics.


@pytest.mark.parametrize(
    ("learns", "order"), [("no", ["score"]), ("before", ["update", "score"]), ("after", ["score", "update"])]
)
def test_sources_learn_when_they_say(fixed, learns, order):
    fixed.learns = learns
    fixed.numbers = [[1.0]]
    pipeline = RewardPipeline(["fixed"])
    out = _pay(pipeline, [_trajectory([0.0]), _trajectory([0.0], status="failed")])
    assert fixed.log == order
    assert out.metrics.get("reward/fixed/loss") == (None if learns == "no" else 0.5)
    assert out.metrics.get("reward/fixed/updates") == (None if learns == "no" else 1.0)
    assert not pipeline.entries[0].source.counters
    pipeline.close()
    assert fixed.log[-1] == "close"


def test_metrics_say_how_a_source_goes_with_success(fixed):
    trajectories = [
        _trajectory([0.0, 0.0], score=s, group=g) for g, s in ((0, 1.0), (0, 0.0), (1, 1.0), (1, 0.0))
    ]
    # Inside the groups it goes with success, across them it is confounded by the task.
    fixed.numbers = [[1.0, 0.0], [0.0, 0.0], [11.0, 0.0], [10.0, 0.0]]
    metrics = _pay(RewardPipeline(["fixed"]), trajectories).metrics
    assert metrics["reward/fixed/correlation_in_group"] == pytest.approx(1.0)
    assert metrics["reward/fixed/correlation"] == pytest.approx(0.5 / math.sqrt(25.25), abs=1e-3)
    assert metrics["reward/fixed/mean"] == pytest.approx(22 / 8)
    assert metrics["reward/fixed/std"] == pytest.approx(math.sqrt((1 + 121 + 100) / 8 - (22 / 8) ** 2))
    assert metrics["reward/fixed/missing"] == 0.0
    assert metrics["reward/fixed/seconds"] >= 0
    fixed.numbers = [[1.0, None], [0.0, None], [1.0, 0.0], [0.0, 0.0]]
    assert _pay(RewardPipeline(["fixed"]), trajectories).metrics["reward/fixed/missing"] == 0.25
    fixed.numbers = [[1.0, 0.0]] * 4
    assert "reward/fixed/correlation" not in _pay(RewardPipeline(["fixed"]), trajectories).metrics


def test_correlation_is_pearsons():
    x = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    y = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    assert correlation(x, y) == pytest.approx(float(torch.corrcoef(torch.stack([x, y]))[0, 1]))
    assert correlation(x, torch.ones(4, dtype=torch.float64)) is None
    assert correlation(x[:1], y[:1]) is None


def test_extra_feeds_credit_schemes(fixed, register):
    register_name = "implicit_prm_test"
    register(register_name, type("Prm", (fixed,), {}))
    fixed.numbers = [[1.0, 2.0], [0.5]]
    pipeline = RewardPipeline(["env", {"name": register_name, "weight": 0.0}])
    assert pipeline.provides == {f"extra.{register_name}"}
    out = _pay(pipeline, [_trajectory([0.0, 1.0]), _trajectory([0.0])])
    assert out.batch.extra[register_name].tolist() == [[1.0, 2.0], [0.5, 0.0]]


# Configuration.


def test_the_summary_states_the_order():
    config = [
        "env",
        {
            "name": "outcome",
            "weight": 0.5,
            "norm": "group_separate",
            "schedule": "cosine",
            "bound": "clip",
            "eta": 0.1,
        },
    ]
    assert RewardPipeline(config).in_words() == [
        "env > x 1",
        "outcome > clip(0.1) > norm group_separate > x 0.5 to 0 (cosine)",
    ]


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ([], RewardError, "no reward source; known: env"),
        (["info_gian"], UnknownReward, "Did you mean 'info_gain'"),
        (
            [{"name": "env", "wieght": 1.0}],
            UnknownRewardParameter,
            "no parameter 'wieght'. Did you mean 'weight'",
        ),
        (
            [{"name": "env", "weight": -1.0}],
            BadRewardParameter,
            r"weight of reward source 'env' is -1.0; allowed",
        ),
        ([{"name": "env", "norm": "zscore"}], BadRewardParameter, "'group_separate'"),
        ([{"name": "info_gain", "definition": "odds"}], BadRewardParameter, "'logprob', 'prob'"),
        (["env", "env"], RewardError, "'env' stands twice"),
        ([{"weight": 1.0}], RewardError, "a mapping with a name"),
        ([{"name": "info_gain", "select": "prof"}], RewardError, "`keep` is not given"),
        ([{"name": "info_gain", "select": "prof", "keep": 2, "weight": 0.5}], RewardError, "never mixes"),
        ([{"name": "info_gain", "keep": 2}], BadRewardParameter, "unless `select`"),
        ([{"name": "outcome", "schedule": "atr", "weight": 0.5}], RewardError, "'outcome' is the outcome"),
        (["env", {"name": "info_gain", "schedule": "atr", "weight": 2.0}], RewardError, "at most 1 together"),
        (
            [{"name": "env", "norm": "group", "ddof": 1}, {"name": "outcome", "norm": "group"}],
            RewardError,
            "env and outcome are normalised together .* differ in ddof",
        ),
    ],
)
def test_mistakes_in_the_configuration_are_named(config, error, message):
    with pytest.raises(error, match=message):
        RewardPipeline(config)


def test_a_source_without_what_it_needs_is_refused_before_the_first_rollout():
    with pytest.raises(MissingNeed, match="'info_gain' needs policy"):
        RewardPipeline(["info_gain"]).check(Models(env=tw.make("HigherLower-v1")))
    RewardPipeline(["env", "outcome"]).check(Models(env=tw.make("FrozenLake-v1")))


def test_snapshots_are_tried(register):
    class Copying(RewardSource):
        """Needs copies."""

        needs = frozenset({"snapshots"})

        async def score(self, trajectories, models):
            return []

    register("copying", Copying)

    class NoCopies(tw.TurnEnv):
        """Cannot be copied."""

        def start(self, task, rng):
            self.lock = __import__("threading").Lock()
            return "Go."

        @tw.tool
        def act(self) -> str:
            """Act."""
            return "ok"

    RewardPipeline(["copying"]).check(Models(env=tw.make("HigherLower-v1")))
    with pytest.raises(MissingNeed, match="cannot be copied in the middle of an episode"):
        RewardPipeline(["copying"]).check(Models(env=NoCopies()))


def test_a_name_is_registered_once():
    with pytest.raises(RewardExists, match="'env'"):
        register_reward("env")(type("Again", (RewardSource,), {}))


def test_parameters_must_be_keywords_with_defaults(register):
    class Bad(RewardSource):
        """Has a parameter without a default."""

        def __init__(self, *, size: int):
            super().__init__()

    with pytest.raises(TypeError, match="size"):
        register("bad", Bad)


@pytest.mark.parametrize("name", reward_sources())
def test_every_source_can_be_built_by_name_and_is_documented(name):
    assert registry.spec(name).doc
    try:
        source = build(name)
    except RewardError:
        return  # it asks for a parameter
    assert source.name == name
    assert source.needs <= {"reference", "tokens", "policy", "snapshots", "second_model", "judge"}


def test_numbers_that_do_not_fit_the_turns_are_an_error(fixed):
    fixed.numbers = [[1.0, 2.0, 3.0]]
    with pytest.raises(AssertionError, match=r"gave \[3\] numbers for trajectories of \[2\] turns"):
        _pay(RewardPipeline(["fixed"]), [_trajectory([0.0, 0.0])])
