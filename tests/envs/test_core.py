"""`TurnEnv`: reset, step, snapshots, what the agent is told, and the environment of the README."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

import turnwise as tw
from turnwise.envs import ListedTasks, TaskSet
from turnwise.envs.errors import (
    InvalidEnvironment,
    InvalidSeed,
    ResetNeeded,
    UnknownSplit,
    UnknownTask,
    UsageError,
)


class Counter(tw.TurnEnv):
    """Counts, with every feature on."""

    rules = "Count."

    def load_tasks(self) -> TaskSet:
        return ListedTasks(
            [tw.Task(f"{split}{n}", split, n) for split in ("train", "test") for n in range(3)]
        )

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        self.count = task.seed
        self.drawn = [int(rng.integers(100))]
        return f"{self.count}"

    @tw.tool
    def add(self, number: int = 1) -> tw.Outcome:
        """Add."""
        self.count += number
        self.drawn.append(int(self.np_random.integers(100)))
        return tw.Outcome(f"{self.count}", reward=0.25, success=True if self.count >= 5 else None, score=0.75)

    @tw.tool
    def fail(self) -> tw.Outcome:
        """Fail."""
        return tw.Outcome("failed", success=False)

    @tw.tool
    def say(self, what: Literal["none", "tuple", "number"]) -> Any:
        """Answer wrongly."""
        return {"none": None, "tuple": ("a", 1.0), "number": tw.Outcome(5)}[what]  # type: ignore[arg-type]

    @tw.tool
    def refuse(self) -> tw.Outcome:
        """Refuse, in numpy's types."""
        return tw.Outcome("no", np.float32(0.5), invalid=np.bool_(True))  # type: ignore[arg-type]

    def score(self) -> float:
        return self.count / 10

    def potential(self) -> float:
        return float(self.count)


def counter(**parameters: Any) -> Counter:
    env = Counter(format="bracket", **parameters)
    env.reset(seed=0)
    return env


def test_the_environment_of_the_readme_is_complete_in_fifteen_lines(register: Callable[..., str]) -> None:
    class HigherLower(tw.TurnEnv):
        """Guess a hidden number; every answer says higher or lower."""

        def start(self, task: tw.Task, rng) -> str:  # type: ignore[no-untyped-def]
            self.hidden = rng.integers(1, self.high + 1)  # type: ignore[attr-defined]
            return f"I think of a number from 1 to {self.high}."  # type: ignore[attr-defined]

        @tw.tool
        def guess(self, number: int) -> tw.Outcome:
            """Guess the number.

            Args:
                number: your guess.
            """
            if number == self.hidden:
                return tw.Outcome("Right.", reward=1.0, success=True)
            return tw.Outcome("Higher." if number < self.hidden else "Lower.", reward=0.0)

    # The id of the README is taken by the environment that comes with the package, and the error says so.
    with pytest.raises(InvalidEnvironment, match="already registered for turnwise"):
        tw.register("HigherLower-v1", HigherLower, max_turns=8, high=100)
    register(HigherLower, "MyHigherLower-v1", max_turns=8, high=100)

    env = tw.make("MyHigherLower-v1")
    result = env.rollout(tw.agents.RandomAgent(), episodes=64, seed=0)
    assert result.episodes == 64
    assert result.failures == {}
    assert 0.0 <= result.success_rate < 0.5
    assert result.mean_turns > 6
    assert str(result).startswith("success 0.")
    # A perfect player, to see that the environment can be won.
    assert (
        env.rollout(
            lambda talk: env.write(tw.Call("guess", {"number": int(talk.env.hidden)})), 8
        ).success_rate
        == 1.0
    )  # type: ignore[attr-defined]


def test_a_reward_is_the_tools_plus_the_change_of_the_potential() -> None:
    env = counter()
    _, reward, terminated, truncated, info = env.step("add[2]")
    assert (reward, terminated, truncated) == (0.25 + 2.0, False, False)
    assert info == {
        "state_key": info["state_key"],
        "task": "train0",
        "turn": 1,
        "tool": "add",
        "call": tw.Call("add", {"number": 2}),
        "invalid": False,
        "shaping": 2.0,
    }
    _, reward, terminated, _, info = env.step("add[3]")
    assert terminated
    assert (
        info["shaping"] == -2.0
    )  # the terminal state has potential 0: the sum is minus the first potential, 0
    assert reward == 0.25 - 2.0
    assert info["score"] == 0.75
    assert info["success"] is True


def test_reward_outcome_pays_the_score_once() -> None:
    env = counter(reward="outcome")
    assert env.step("add[2]")[1] == 0.0
    assert env.step("add[3]")[1] == 0.75
    env = counter(reward="outcome", max_turns=2)
    assert env.step("nothing")[1] == 0.0
    _, reward, _, truncated, info = env.step("also nothing")
    assert truncated
    assert reward == info["score"] == 0.0  # score() of a count of 0


def test_an_episode_that_is_cut_off_has_the_score_of_its_state() -> None:
    env = counter(max_turns=2)
    env.step("add[3]")
    _, _, terminated, truncated, info = env.step("nothing")
    assert (terminated, truncated) == (False, True)
    assert info["score"] == 0.3
    assert info["success"] is False


def test_the_end_in_the_last_turn_is_terminated_not_truncated() -> None:
    env = counter(max_turns=1)
    assert env.step("fail[]")[2:4] == (True, False)


def test_an_illegal_call_is_invalid_and_of_plain_types() -> None:
    _, reward, _, _, info = counter().step("refuse[]")
    assert info["invalid"] is True
    assert type(reward) is float
    assert info["call"] == tw.Call("refuse", {})


@pytest.mark.parametrize("what", ["none", "tuple", "number"])
def test_a_tool_that_returns_no_outcome_is_the_authors_mistake(what: str) -> None:
    with pytest.raises(InvalidEnvironment, match="tool 'say' of Counter must return an Outcome or a str"):
        counter().step(f"say[{what}]")


def test_a_start_that_returns_no_text_is_the_authors_mistake() -> None:
    class Silent(Counter):
        def start(self, task: tw.Task, rng: np.random.Generator) -> str:
            return None  # type: ignore[return-value]

    with pytest.raises(InvalidEnvironment, match=r"Silent.start must return a str, got None"):
        Silent().reset(seed=0)


def test_step_needs_a_running_episode_and_a_text() -> None:
    env = Counter(format="bracket")
    with pytest.raises(ResetNeeded, match="before the first reset"):
        env.step("add[1]")
    env.reset(seed=0)
    with pytest.raises(UsageError, match="got int"):
        env.step(5)  # type: ignore[arg-type]
    env.step("fail[]")
    with pytest.raises(ResetNeeded, match="after the episode ended"):
        env.step("add[1]")
    env.reset(seed=0)
    env.step("add[1]")


def test_a_start_that_breaks_leaves_no_running_episode() -> None:
    class Breaks(Counter):
        def start(self, task: tw.Task, rng: np.random.Generator) -> str:
            if task.seed == 1:
                raise tw.EnvFailure("no database")
            return super().start(task, rng)

    env = Breaks(format="bracket")
    env.reset(seed=0)
    with pytest.raises(tw.EnvFailure):
        env.reset(seed=1)
    with pytest.raises(ResetNeeded):
        env.step("add[1]")


@pytest.mark.parametrize("seed", [-1, 1.0, "1", True, np.float64(1), [1], b"1"])
def test_a_seed_that_is_no_integer_is_refused_with_its_value(seed: Any) -> None:
    with pytest.raises(InvalidSeed, match="a seed must be an integer of at least 0, got ") as caught:
        Counter().reset(seed=seed)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)


def test_seeds_of_any_size_pick_tasks_in_turn() -> None:
    env = Counter()
    assert [env.reset(seed=s)[1]["task"] for s in (0, 1, 2, 3, np.int64(4), 2**70)] == [
        "train0",
        "train1",
        "train2",
        "train0",
        "train1",
        f"train{2**70 % 3}",
    ]


def test_options_pick_task_and_split() -> None:
    env = Counter()
    assert env.reset(seed=5, options={"task": "test1"})[1]["task"] == "test1"
    assert env.reset(seed=5, options={"split": "test"})[1]["task"] == "test2"
    assert env.reset(seed=5, options={"task": None, "split": None})[1]["task"] == "train2"
    with pytest.raises(UnknownTask, match=r"no task 'test9' .* Did you mean 'test"):
        env.reset(options={"task": "test9"})
    with pytest.raises(UnknownSplit):
        env.reset(options={"split": "tset"})
    with pytest.raises(UsageError, match="options may hold 'task' and 'split'"):
        env.reset(options={"tasks": "test1", 5: 5})


def test_resets_without_a_seed_follow_from_the_last_seed() -> None:
    def tasks() -> list[str]:
        env = tw.make("HigherLower-v1")
        env.reset(seed=3)
        return [env.reset()[1]["task"] for _ in range(5)]

    assert tasks() == tasks()
    assert len(set(tasks())) == 5
    assert tw.make("HigherLower-v1").reset()[1]["task"] != tw.make("HigherLower-v1").reset()[1]["task"]


def test_the_same_task_with_another_seed_draws_otherwise() -> None:
    env = Counter(format="bracket")
    draws = set()
    for seed in range(5):
        env.reset(seed=seed, options={"task": "train1"})
        draws.add(env.drawn[0])
    assert len(draws) > 1


def test_nothing_seeds_or_draws_from_the_process() -> None:
    import random

    random.seed(0)
    np.random.seed(0)
    expected = random.random(), np.random.random()
    random.seed(0)
    np.random.seed(0)
    for env_id in tw.env_ids():
        env = tw.make(env_id)
        env.reset(seed=1)
        env.step(env.sample_action(np.random.default_rng(0)))
    assert (random.random(), np.random.random()) == expected


def test_a_snapshot_is_untouched_by_what_comes_after_and_by_restoring() -> None:
    env = counter()
    env.step("add[1]")
    state = env.snapshot()
    before = copy.deepcopy(state["drawn"])
    futures = []
    for _ in range(3):
        futures.append([env.step(f"add[{n}]")[:2] for n in (1, 0)] + [tuple(env.drawn)])
        env.restore(state)
    assert futures[0] == futures[1] == futures[2]
    assert state["drawn"] == before
    clone = env.clone()
    clone.restore(state)
    clone.step("add[1]")
    assert env.drawn == before
    assert "spec" not in state
    assert "tasks" not in state


def test_restore_forgets_what_was_added_since() -> None:
    env = counter()
    state = env.snapshot()
    env.later = 1  # type: ignore[attr-defined]
    env.restore(state)
    assert not hasattr(env, "later")


def test_a_finished_episode_can_be_taken_back() -> None:
    env = counter()
    state = env.snapshot()
    env.step("fail[]")
    env.restore(state)
    assert env.step("add[5]")[2]


def test_a_snapshot_before_the_first_reset_needs_a_reset_too() -> None:
    env = Counter(format="bracket")
    state = env.snapshot()
    env.reset(seed=0)
    env.restore(state)
    with pytest.raises(ResetNeeded):
        env.step("add[1]")


def test_snapshots_can_be_sent_to_another_process() -> None:
    env = counter()
    env.step("add[1]")
    state = pickle.loads(pickle.dumps(env.snapshot()))
    future = env.step("add[2]"), env.drawn
    other = env.clone()
    other.restore(state)
    assert (other.step("add[2]"), other.drawn) == future


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copied_environment_goes_on_by_itself(copied: Callable[[Counter], Counter]) -> None:
    env = counter()
    env.step("add[1]")
    other = copied(env)
    assert other.step("add[2]") == env.step("add[2]")
    other.step("add[1]")
    assert env.count == 3
    assert other.action_space.sample().endswith("]")
    assert other.action_space._sampler.__self__ is other  # type: ignore[attr-defined]


def test_a_clone_has_the_same_parameters_and_id() -> None:
    env = tw.make("Sokoban-v1", boxes=2, format="bracket")
    clone = env.clone()
    assert clone.env_id == "Sokoban-v1"
    assert clone.parameters == env.parameters == {"max_turns": 30, "boxes": 2, "format": "bracket"}
    assert clone.reset(seed=3) == env.reset(seed=3)


def test_the_agent_is_told_rules_tools_and_turns() -> None:
    env = counter(max_turns=7)
    system, user = env.messages("0")
    assert system["role"] == "system"
    assert system["content"].startswith("Count.\n\n")
    assert "add[number]" in system["content"]
    assert system["content"].endswith("You have 7 turns.")
    assert user == {"role": "user", "content": "0"}
    assert counter(system_prompt=False).messages("0") == [user]


def test_malformed_actions_are_answered_with_what_is_expected() -> None:
    env = counter()
    for action, said in [
        ("hello", "Invalid action: no call found. Expected, for example: add[1]"),
        (
            "ad[1]",
            "Invalid action: there is no tool 'ad'. Did you mean 'add'? Tools: add, fail, say, refuse.",
        ),
        ("add[x]", "Invalid action: add: number='x' is wrong: input should be a valid integer"),
    ]:
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation.startswith(said)
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert info["invalid"]
        assert info["call"] is None


def test_the_default_state_key_is_the_observations_and_the_same_in_every_process() -> None:
    env = counter()
    assert env.reset(seed=1)[1]["state_key"] == hashlib.blake2b(b"1", digest_size=8).hexdigest()
    first = env.state_key()
    env.step("add[1]")
    assert env.state_key() != first
    env.step("add[-1]")
    assert env.state_key() == first


def test_the_reference_is_the_tasks() -> None:
    class Asked(Counter):
        def load_tasks(self) -> TaskSet:
            return ListedTasks([tw.Task("a", "train", reference=("yes", "Yes")), tw.Task("b", "train")])

    env = Asked()
    assert env.reference() is None
    env.reset(seed=0)
    assert env.reference() == ["yes", "Yes"]
    env.reset(seed=1)
    assert env.reference() is None


def test_render_shows_the_last_observation() -> None:
    env = counter(render_mode="ansi")
    assert env.render() == "0"
    env.step("add[2]")
    assert env.render() == "2"
