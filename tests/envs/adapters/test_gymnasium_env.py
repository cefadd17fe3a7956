"""`gymnasium:NAME` against Gymnasium's own environments, driven by their own loop."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import turnwise as tw
from turnwise.envs.adapters.foreign import ForeignEnvFailed
from turnwise.envs.errors import InvalidParameter, UnknownEnv

TOY_TEXT = ["FrozenLake-v1", "Taxi-v4", "CliffWalking-v1", "Blackjack-v1"]


@pytest.mark.parametrize("name", TOY_TEXT)
def test_it_keeps_the_contract(name: str) -> None:
    report = tw.check(f"gymnasium:{name}")
    assert not report.problems, str(report)


@pytest.mark.parametrize("name", TOY_TEXT)
def test_the_same_seed_and_actions_give_the_rewards_and_ends_of_the_library(name: str) -> None:
    env = tw.make(f"gymnasium:{name}", max_turns=500)
    theirs = gymnasium.make(name, max_episode_steps=-1)
    rng = np.random.default_rng(0)
    for seed in range(5):
        env.reset(seed=seed)
        assert env.task is not None
        state, _ = theirs.reset(seed=env.task.seed)
        for _ in range(60):
            action = env.sample_action(rng)
            _, reward, terminated, _, info = env.step(action)
            number = env._names.index(info["call"].arguments["action"])
            state, paid, ended, cut, _ = theirs.step(number)
            assert (reward, terminated) == (float(paid), ended or cut)
            assert info["state_key"] == f"{env.task.id} {state!r}"
            if terminated:
                break


def test_a_walk_to_the_goal_is_a_success_and_a_hole_is_none() -> None:
    env = tw.make("gymnasium:FrozenLake-v1", options={"is_slippery": False}, format="bracket")
    for walk, success in (("down down right right down right", True), ("down right", False)):
        first, _ = env.reset(seed=0)
        assert first.startswith("[S]FFF\n")
        for step in walk.split():
            observation, _, terminated, _, info = env.step(f"act[{step}]")
        assert terminated
        assert info["success"] is success
        assert observation.endswith("[G]" if success else "FFFH\nHFFG")


def test_what_is_no_action_moves_nothing() -> None:
    env = tw.make("gymnasium:FrozenLake-v1", format="bracket")
    _, info = env.reset(seed=0)
    for said in ("north", "7", "", "left right", "x" * 100_000):
        observation, reward, _, _, after = env.step(f"act[{said}]")
        assert after["invalid"]
        assert (reward, after["state_key"]) == (0.0, info["state_key"])
    assert "left, down, right, up" in observation


class Levers(gymnasium.Env):
    """Two levers with three places each; paid where they differ."""

    action_space = spaces.MultiDiscrete([3, 3])
    observation_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        if action[0] == action[1] == 2:
            raise RuntimeError("a lever broke")
        return 1, float(action[0] != action[1]), True, False, {}


@pytest.fixture
def levers():
    gymnasium.register("Levers-v0", Levers)
    yield
    gymnasium.registry.pop("Levers-v0")


@pytest.mark.parametrize(("said", "success"), [("0,1", True), (" 1 , 1", False)])
def test_numbers_of_a_multi_discrete_space_are_read(levers, said, success) -> None:
    env = tw.make("gymnasium:Levers-v0", format="bracket")
    env.reset(seed=0)
    assert env.step(f"act[{said}]")[4]["success"] is success


@pytest.mark.parametrize("said", ["0,3", "1", "1,1,1", "a,b", "-1,0", "9999999999,0"])
def test_numbers_outside_of_a_multi_discrete_space_are_invalid(levers, said) -> None:
    env = tw.make("gymnasium:Levers-v0", format="bracket")
    env.reset(seed=0)
    assert env.step(f"act[{said}]")[4]["invalid"]


def test_an_exception_inside_is_a_typed_failure_and_counted(levers) -> None:
    env = tw.make("gymnasium:Levers-v0", format="bracket")
    env.reset(seed=0)
    with pytest.raises(
        ForeignEnvFailed, match=r"gymnasium:Levers-v0 failed in step: RuntimeError: a lever broke"
    ):
        env.step("act[2,2]")
    result = env.rollout(lambda messages: "act[2,2]", episodes=2, seed=0)
    assert [t.status for t in result.trajectories] == ["failed", "failed"]
    assert result.failures == {"ForeignEnvFailed": 2}


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownEnv, match=r"'FrozenLake-v1'"):
        tw.make("gymnasium:FrozenLak-v1")
    with pytest.raises(UnknownEnv, match=r"no environment is registered as .gymnasiun:FrozenLake-v1"):
        tw.make("gymnasiun:FrozenLake-v1")


def test_a_space_of_real_numbers_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="discrete, multi-discrete and text spaces"):
        tw.make("gymnasium:Pendulum-v1")


class Parrot(gymnasium.Env):
    """Says what it hears; after the word `break` it raises for ever."""

    action_space = spaces.Text(10_000, min_length=1)
    observation_space = spaces.Text(10_000)
    broken = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.broken:
            raise RuntimeError("broken before")
        return "hello", {}

    def step(self, action):
        if action == "break":
            self.broken = True
            raise RuntimeError("broken now")
        return action, 0.0, False, False, {}


@pytest.fixture
def parrot():
    gymnasium.register("Parrot-v0", Parrot)
    yield tw.make("gymnasium:Parrot-v0", format="bracket")
    gymnasium.registry.pop("Parrot-v0")


def test_a_text_reaches_the_environment_whole_or_not_at_all(parrot) -> None:
    parrot.reset(seed=0)
    assert parrot.step("act[goodday]")[0] == "goodday"
    observation, *_, info = parrot.step(f"act[{'x' * 6_000}]")
    assert info["invalid"]
    assert "is no action here" in observation


def test_an_environment_that_raised_is_made_anew_for_the_next_episode(parrot) -> None:
    parrot.reset(seed=0)
    with pytest.raises(ForeignEnvFailed, match="broken now"):
        parrot.step("act[break]")
    assert parrot.reset(seed=1)[0].startswith("hello")
