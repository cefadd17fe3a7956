"""`reasoning_gym:NAME` against the library's own data sets and scorers."""

from __future__ import annotations

import os

import pytest

import turnwise as tw
from turnwise.envs.errors import InvalidParameter, UnknownEnv, UsageError

if os.environ.get("CI") != "true":
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
import reasoning_gym

NAMES = ["chain_sum", "family_relationships", "leg_counting"]
PLAIN = {"format": "bracket"}


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_contract(name: str) -> None:
    report = tw.check(f"reasoning_gym:{name}", attempts=3)
    assert not report.problems, str(report)


@pytest.mark.parametrize("name", NAMES)
def test_questions_and_scores_are_those_of_the_library(name: str) -> None:
    env = tw.make(f"reasoning_gym:{name}", **PLAIN)
    theirs = reasoning_gym.create_dataset(name, seed=0, size=10_000)
    for seed in range(3):
        question, _ = env.reset(seed=seed)
        item = next(
            i
            for i in (theirs[k] for k in range(env.task.seed * 16 % 10_000, 10_000))
            if i["question"] == question
        )
        for said in (str(item["answer"]), "42", "x + y"):
            env.reset(seed=seed)
            _, reward, terminated, _, info = env.step(f"answer[{said}]")
            assert terminated
            assert reward == info["score"] == pytest.approx(theirs.score_answer(said, item))


def test_no_question_is_in_two_splits() -> None:
    env = tw.make("reasoning_gym:chain_sum", **PLAIN)
    seen = {
        split: {env.reset(seed=seed, options={"split": split})[0] for seed in range(60)}
        for split in ("train", "val", "test")
    }
    assert len(seen["test"]) > 45
    assert not (seen["train"] & seen["val"] or seen["train"] & seen["test"] or seen["val"] & seen["test"])


def test_a_wrong_answer_may_be_mended_until_the_attempts_are_used_up() -> None:
    env = tw.make("reasoning_gym:chain_sum", attempts=2, **PLAIN)
    env.reset(seed=0)
    assert env.step("answer[no]")[0] == "Wrong. You have 1 more attempt."
    assert env.step(env.write(env.expert()))[4]["success"]
    env.reset(seed=0)
    env.step("answer[no]")
    _, reward, terminated, _, info = env.step("answer[no]")
    assert (reward, terminated, info["success"]) == (0.0, True, False)


@pytest.mark.parametrize("said", ["", "x" * 100_000, "1/0", "__import__('os')", "((((", "\x00", "9**9**9**9"])
def test_what_a_model_writes_scores_and_never_raises(said: str) -> None:
    env = tw.make("reasoning_gym:chain_sum")
    env.reset(seed=0)
    info = env.step(env.write(tw.envs.Call("answer", {"text": said})))[4]
    assert info["score"] < 1.0


def test_unknown_names_and_settings_are_refused() -> None:
    with pytest.raises(UnknownEnv, match="countdown"):
        tw.make("reasoning_gym:countdwn")
    with pytest.raises(InvalidParameter, match="does not take config="):
        tw.make("reasoning_gym:countdown", config={"numbers": 3}, allow_unsafe=True)


def test_a_missing_library_is_named_with_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(UsageError, match=r"pip install 'turnwise\[reasoning-gym\]'"):
        tw.make("reasoning_gym:countdown")


@pytest.mark.parametrize("name", ["countdown", "n_queens", "puzzle24", "simple_integration", "spiral_matrix"])
def test_a_scorer_that_evaluates_what_a_model_writes_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="evaluates the answer as Python code"):
        tw.make(f"reasoning_gym:{name}")
    env = tw.make(f"reasoning_gym:{name}", allow_unsafe=True)
    env.reset(seed=0)
    assert env.step(env.write(env.expert()))[4]["success"]
