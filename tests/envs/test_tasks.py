"""Tasks, splits and the registry: what is there, what is not, and what the error says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import turnwise as tw
from turnwise.envs import ListedTasks, ProceduralTasks, env_class
from turnwise.envs.errors import (
    InvalidEnvironment,
    InvalidParameter,
    UnknownEnv,
    UnknownSplit,
    UnknownTask,
    UsageError,
)
from turnwise.envs.tasks import split_of


class Plain(tw.TurnEnv):
    """An environment without parameters of its own."""

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        return f"{getattr(self, 'high', None)}"

    @tw.tool
    def look(self) -> str:
        """Look."""
        return ""


class Sized(Plain):
    """An environment with a parameter."""

    size: int = 4
    colour = "red"


@given(st.sampled_from(["train", "val", "test"]), st.integers(0, 2**20 - 1))
def test_a_procedural_task_is_found_by_its_id_and_its_seed_tells_its_split(split: str, index: int) -> None:
    tasks = ProceduralTasks()
    task = tasks.get(split, index)
    assert tasks.find(task.id) == task
    assert task.split == split
    ranges = {"val": range(2**20), "test": range(2**20, 2**21), "train": range(2**21, 2**21 + 2**31)}
    assert [name for name, seeds in ranges.items() if task.seed in seeds] == [split]


@pytest.mark.parametrize(
    "task_id",
    ["", "train", "train-", "train--1", "train-x", "best-1", f"test-{2**20}", "test-" + "9" * 5_000, None, 5],
)
def test_an_unknown_procedural_task_is_refused(task_id: str) -> None:
    with pytest.raises(UnknownTask, match=r"tasks are called split-index|indices run from 0"):
        ProceduralTasks().find(task_id)


def test_listed_tasks_keep_order_and_find_ids() -> None:
    tasks = ListedTasks([tw.Task("a", "test"), tw.Task("b", "train"), tw.Task("c", "test")])
    assert dict(tasks.splits) == {"test": 2, "train": 1}
    assert [tasks.get("test", i).id for i in range(2)] == ["a", "c"]
    assert tasks.find("b").split == "train"
    with pytest.raises(UnknownTask, match="no task 2 in split 'test'; indices run from 0 to 1"):
        tasks.get("test", 2)
    with pytest.raises(UnknownTask, match="among the 3 loaded"):
        tasks.find("nothing like it")
    with pytest.raises(UnknownTask):
        tasks.find(["a"])  # type: ignore[arg-type]
    with pytest.raises(UnknownSplit, match=r"no split 'tests'. Did you mean 'test'\? Known: test, train"):
        tasks.size("tests")


def test_contents_fall_into_splits_by_eight_one_and_one_of_ten_and_always_the_same() -> None:
    splits = Counter(split_of(str(n)) for n in range(5000))
    assert splits["train"] / 5000 == pytest.approx(0.8, abs=0.03)
    assert splits["val"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert splits["test"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert [split_of(content) for content in "aüfg"] == ["train", "train", "train", "val"]


def test_two_tasks_with_one_id_are_refused_over_all_splits() -> None:
    with pytest.raises(UsageError, match="two tasks have the id 'a'"):
        ListedTasks([tw.Task("a", "test"), tw.Task("a", "train")])


def test_a_task_is_frozen_and_shared_by_copies() -> None:
    task = tw.Task("a", "test")
    with pytest.raises(AttributeError):
        task.id = "b"  # type: ignore[misc]
    env = tw.make("HigherLower-v1")
    env.reset(seed=0)
    assert env.snapshot()["task"] is env.task


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("Sokobn-v1", "Sokoban-v1"), ("sokoban-v1", "Sokoban-v1"), ("FrozenLake-v0", "FrozenLake-v1")],
)
def test_an_unknown_id_is_answered_with_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UnknownEnv, match=f"no environment is registered as '{wrong}'. Did you mean '{near}'"):
        tw.make(wrong)
    with pytest.raises(UnknownEnv):
        env_class(wrong)
    with pytest.raises(LookupError):
        tw.make("")


def test_an_id_may_be_given_with_its_namespace() -> None:
    assert tw.make("turnwise/Sokoban-v1").env_id == "Sokoban-v1"


def test_ids_stand_in_gymnasiums_registry(register: Callable[..., str]) -> None:
    env_id = register(Plain)
    assert env_id in tw.env_ids()
    assert f"turnwise/{env_id}" in gymnasium.registry
    assert isinstance(gymnasium.make(f"turnwise/{env_id}").unwrapped, Plain)
    assert tw.env_ids() == sorted(tw.env_ids())


@pytest.mark.parametrize("env_id", ["Maze", "Maze-1", "a/Maze-v0", "", "Maze v0"])
def test_an_id_without_a_version_or_with_a_namespace_is_refused(env_id: str) -> None:
    with pytest.raises(InvalidEnvironment):
        tw.register(env_id, Plain)


def test_an_id_is_registered_for_one_class_only(register: Callable[..., str]) -> None:
    register(Plain, "Mine-v0")
    register(Plain, "Mine-v0", max_turns=3)  # a notebook cell that runs again
    assert tw.make("Mine-v0").max_turns == 3
    with pytest.raises(InvalidEnvironment, match=r"already registered for .*Plain; choose another id"):
        register(Sized, "Mine-v0")


@pytest.mark.parametrize("entry_point", [int, 5, None, Plain(format="bracket")])
def test_what_is_no_environment_class_is_refused(entry_point: object) -> None:
    with pytest.raises(InvalidEnvironment, match="must be a TurnEnv class or 'module:Class'"):
        tw.register("Mine-v0", entry_point)  # type: ignore[arg-type]


def test_a_named_entry_point_that_is_no_environment_is_refused_when_it_is_made() -> None:
    tw.register("Named-v0", "collections:Counter")
    try:
        with pytest.raises(InvalidEnvironment, match=r"Named-v0: the entry point .* is not a TurnEnv class"):
            tw.make("Named-v0")
    finally:
        del gymnasium.registry["turnwise/Named-v0"]


def test_parameters_are_validated_converted_and_named() -> None:
    env = tw.make("FrozenLake-v1", size="5")
    assert env.size == 5  # type: ignore[attr-defined]
    for parameters, said in [
        ({"sizes": 5}, "no parameter 'sizes'. Did you mean 'size'? It has "),
        ({"size": 99}, "size=99 is wrong: input should be less than or equal to 16"),
        ({"size": "big"}, "size='big' is wrong: input should be a valid integer"),
        ({"reward": "steps"}, "reward='steps' is wrong: input should be 'step' or 'outcome'"),
        ({"max_turns": 0}, "max_turns must be at least 1, got 0"),
        ({"rules": "none"}, "no parameter 'rules'"),
    ]:
        with pytest.raises(InvalidParameter, match=re.escape(said)):
            tw.make("FrozenLake-v1", **parameters)
    with pytest.raises(UnknownSplit, match=r"no split 'tes'. Did you mean 'test'"):
        tw.make("FrozenLake-v1", split="tes")


def test_an_attribute_that_is_not_annotated_is_no_parameter_and_the_error_says_how_to_make_it_one() -> None:
    assert Sized(size=3).parameters == {"size": 3}
    with pytest.raises(InvalidParameter, match=r"no parameter 'colour'.* parameter where it is annotated"):
        Sized(colour="blue")


def test_a_class_that_declares_no_parameter_takes_what_it_is_registered_with(
    register: Callable[..., str],
) -> None:
    env_id = register(Plain, max_turns=3, high=7)
    env = tw.make(env_id)
    assert env.reset(seed=0)[0] == "7"
    assert tw.make(env_id, high=9).reset(seed=0)[0] == "9"
    with pytest.raises(InvalidParameter, match="no parameter 'step'"):
        Plain(step=5)


def test_an_annotation_that_cannot_be_read_is_explained() -> None:
    class Odd(Plain):
        connection: Connection = None  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidEnvironment, match=r"annotation of the parameter 'connection' .* ClassVar"):
        Odd()


def test_an_environment_without_a_tool_is_refused() -> None:
    class Mute(tw.TurnEnv):
        pass

    with pytest.raises(InvalidEnvironment, match="Mute has no tool"):
        Mute()


def test_importing_the_package_imports_no_environment(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys, turnwise; print([m for m in sys.modules if m.endswith(('sokoban', 'frozen_lake', 'torch'))])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert found.stdout.strip() == "[]"
