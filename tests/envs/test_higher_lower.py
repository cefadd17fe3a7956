"""`HigherLower-v1`."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import turnwise as tw


def game(high: int = 100, seed: int = 0, **parameters: object) -> tw.TurnEnv:
    env = tw.make("HigherLower-v1", high=high, format="bracket", **parameters)
    env.reset(seed=seed)
    return env


@given(st.integers(2, 10**9), st.integers(0, 1000))
def test_the_expert_needs_no_more_guesses_than_halving(high: int, seed: int) -> None:
    env = game(high, seed, max_turns=40)
    turn = 0
    while True:
        turn += 1
        call = env.expert()
        assert call is not None
        _, _, terminated, _, _ = env.step(env.write(call))
        if terminated:
            break
    assert turn <= math.ceil(math.log2(high + 1))


def test_the_expert_always_wins_as_registered() -> None:
    assert tw.make("HigherLower-v1").rollout(tw.agents.ExpertAgent(), 200, split="test").success_rate == 1.0


def test_answers_are_true_for_every_hidden_number() -> None:
    seen = set()
    for seed in range(200):
        env = game(5, seed, max_turns=30)
        hidden = int(env.reference()[0])  # type: ignore[index]
        seen.add(hidden)
        for number in [n for n in range(-1, 8) if n != hidden]:
            observation = env.step(f"guess[{number}]")[0]
            assert observation == ("Higher." if hidden > number else "Lower.")
        assert env.step(f"guess[{hidden}]")[0] == "Right."
    assert seen == {1, 2, 3, 4, 5}


def test_rewards_by_hand() -> None:
    seed = next(s for s in range(100) if game(4, s).reference() == ["3"])
    env = game(4, seed)
    # 1 to 4 hold two bits. `Higher` than 2 leaves 3 and 4: one bit of two is known.
    assert env.step("guess[2]")[1] == pytest.approx(0.5)
    # Asking again, or out of range, tells nothing.
    assert env.step("guess[2]")[1] == 0.0
    assert env.step("guess[9]")[1] == 0.0
    # 3 is right: 1, less the half that was paid before.
    assert env.step("guess[3]")[1] == pytest.approx(1.0 - 0.5)


@given(st.integers(0, 10**6), st.lists(st.integers(-5, 110), min_size=1, max_size=8))
def test_the_shaping_of_an_episode_that_ends_sums_to_nothing(seed: int, numbers: list[int]) -> None:
    env = game(100, seed, max_turns=20)
    hidden = int(env.reference()[0])  # type: ignore[index]
    paid = [env.step(f"guess[{n}]")[1] for n in numbers if n != hidden]
    last = env.step(f"guess[{hidden}]")[1]
    assert sum(paid) + last == pytest.approx(1.0)  # the potential of the first state is 0
    assert all(p >= 0.0 for p in paid)


def test_state_keys_are_the_number_and_what_is_left() -> None:
    env = game(10, 1)
    hidden = int(env.reference()[0])  # type: ignore[index]
    assert env.state_key() == (hidden, 1, 10)
    env.step("guess[0]")
    assert env.state_key() == (hidden, 1, 10)
    env.step(f"guess[{hidden + 1}]")
    assert env.state_key() == (hidden, 1, hidden)


def test_numbers_of_any_size_are_guesses() -> None:
    env = game(max_turns=9)
    assert env.step("guess[" + "9" * 4_000 + "]")[0] == "Lower."
    assert env.step("guess[-" + "9" * 4_000 + "]")[0] == "Higher."
