"""Every registered environment keeps the contract, Gymnasium's and ours."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

import turnwise as tw
from turnwise.envs.check import CHECKS, Subject

IDS = tw.env_ids()
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((env_id, {}) for env_id in IDS),
    ("Code-v1", {"style": "short", "format": "bracket", "max_turns": 4}),
    ("FrozenLake-v1", {"slip": 0.3, "size": 6, "format": "react"}),
    ("HigherLower-v1", {"high": 2, "format": "bracket", "system_prompt": False}),
    ("HigherLower-v1", {"high": 10**9, "max_turns": 31, "reward": "outcome"}),
    (
        "Search-v1",
        {"style": "short", "documents": 200, "hops": (1, 2), "judging": True, "repeat_penalty": 0.1},
    ),
    ("SQL-v1", {"style": "short", "questions": 60, "families": ("count_where", "above"), "schema": "prompt"}),
    ("Sokoban-v1", {"boxes": 3, "size": 7, "max_turns": 100, "format": "python"}),
    ("WebShop-v1", {"products": 60, "detail": "short", "strict": "original", "format": "bracket"}),
]
_SUBJECTS = [Subject(*variant) for variant in VARIANTS]


@pytest.mark.parametrize(
    "subject", _SUBJECTS, ids=lambda s: "-".join([s.env_id, *map(str, s.parameters.values())])
)
@pytest.mark.parametrize("name", CHECKS)
def test_contract(name: str, subject: Subject) -> None:
    CHECKS[name](subject)


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_make_gives_an_env_that_its_checker_passes_without_a_warning(env_id: str) -> None:
    env = gymnasium.make(f"turnwise/{env_id}")
    assert isinstance(env.unwrapped, tw.TurnEnv)
    check_env(env.unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_time_limit_of_gymnasium_truncates_earlier(env_id: str) -> None:
    for env in (TimeLimit(tw.make(env_id), 2), gymnasium.make(f"turnwise/{env_id}", max_episode_steps=2)):
        env.reset(seed=0)
        assert env.step("nothing")[2:4] == (False, False)
        assert env.step("nothing")[2:4] == (False, True)
        _, info = env.reset(seed=1)
        assert info["turn"] == 0


def test_wrappers_of_gymnasium_see_the_episode() -> None:
    env = RecordEpisodeStatistics(tw.make("HigherLower-v1", reward="outcome", format="bracket"))
    env.reset(seed=0)
    _, _, terminated, _, info = env.step(f"guess[{env.unwrapped.hidden}]")
    assert terminated
    assert info["episode"]["r"] == 1.0
    assert info["episode"]["l"] == 1


def _envs(cls: type, env_id: str, mode: AutoresetMode, **options: Any) -> Any:
    make = lambda: gymnasium.make(f"turnwise/{env_id}", format="bracket", max_turns=3)  # noqa: E731
    return cls([make, make], autoreset_mode=mode, **options)


KINDS = [
    pytest.param(SyncVectorEnv, {}, id="sync"),
    pytest.param(AsyncVectorEnv, {}, id="async"),
    pytest.param(AsyncVectorEnv, {"shared_memory": False}, id="async-pipes"),
]


@pytest.mark.parametrize(("cls", "options"), KINDS)
@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_vector_environments_play_the_same_episodes_as_single_ones(
    env_id: str, cls: type, options: dict[str, Any]
) -> None:
    single = [tw.make(env_id, format="bracket", max_turns=3) for _ in range(2)]
    expected = [env.reset(seed=5 + i)[0] for i, env in enumerate(single)]
    vector = _envs(cls, env_id, AutoresetMode.SAME_STEP, **options)
    try:
        observations, _ = vector.reset(seed=[5, 6])
        assert list(observations) == expected
        calls = [env.write(env.expert() or pytest.fail("an expert is needed")) for env in single]
        # One action is malformed while the other is a call, in turns: infos of both kinds share an array.
        for turn in range(3):
            actions = [calls[0], "nothing"] if turn % 2 else ["nothing", calls[1]]
            steps = [env.step(action) for env, action in zip(single, actions, strict=True)]
            observations, rewards, terminated, truncated, infos = vector.step(tuple(actions))
            assert list(terminated) == [s[2] for s in steps]
            assert list(truncated) == [s[3] for s in steps]
            np.testing.assert_allclose(rewards, [s[1] for s in steps])
            over = [s[2] or s[3] for s in steps]
            if any(over):
                # The last observation of the episode is kept, and its score.
                assert [o for o, last in zip(infos["final_obs"], over, strict=True) if last] == [
                    s[0] for s, last in zip(steps, over, strict=True) if last
                ]
                assert "score" in infos["final_info"]
                break
            assert list(observations) == [s[0] for s in steps]
            assert [bool(i) for i in infos["invalid"]] == [s[4]["invalid"] for s in steps]
    finally:
        vector.close()


@pytest.mark.parametrize(("cls", "options"), KINDS)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_vector_environments_that_reset_in_the_next_step_show_the_last_observation_first(
    cls: type, options: dict[str, Any]
) -> None:
    vector = _envs(cls, "HigherLower-v1", AutoresetMode.NEXT_STEP, **options)
    try:
        vector.reset(seed=0)
        for _ in range(2):
            vector.step(("nothing", "nothing"))
        last, _, _, truncated, infos = vector.step(("nothing", "guess[1]"))
        assert truncated.all()
        assert last[0].startswith("Invalid action")
        assert last[1] == "Higher."
        assert list(infos["score"]) == [0.0, 0.0]
        first, _, _, truncated, _ = vector.step(("nothing", "nothing"))
        assert not truncated.any()
        assert first == ("I think of a number from 1 to 100.",) * 2
    finally:
        vector.close()


def test_vector_environments_sample_legal_actions() -> None:
    vector = _envs(SyncVectorEnv, "HigherLower-v1", AutoresetMode.SAME_STEP)
    vector.action_space.seed(0)
    vector.reset(seed=0)
    _, _, _, _, infos = vector.step(vector.action_space.sample())
    assert not infos["invalid"].any()
    vector.close()
