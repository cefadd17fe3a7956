"""`check` finds what is broken, says how to mend it, and leaves sound environments alone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

import turnwise as tw
from turnwise.envs import ListedTasks, TaskSet
from turnwise.envs.check import CHECKS, Broken, CheckReport, CheckResult, Subject
from turnwise.envs.errors import InvalidEnvironment, InvalidParameter, UnknownEnv


class Sound(tw.TurnEnv):
    """Add numbers until the sum is ten or more.

    Observation: the sum.
    Tools: `add(number)`.
    Reward: 1 for ten.
    Terminated: the sum is ten (success) or more.
    """

    max_turns: int = 12

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        self.sum = task.seed % 7
        return f"{self.sum}"

    @tw.tool
    def add(self, number: int) -> tw.Outcome:
        """Add a number.

        Args:
            number: from 1 to 3.
        """
        if not 1 <= number <= 3:
            return tw.Outcome("A number from 1 to 3.", invalid=True)
        self.sum += number
        if self.sum < 10:
            return tw.Outcome(f"{self.sum}")
        return tw.Outcome("Over.", float(self.sum == 10), self.sum == 10)

    def state_key(self) -> Any:
        return self.sum

    def expert(self) -> tw.Call | None:
        return tw.Call("add", {"number": 3 if self.sum <= 6 else min(3, 10 - self.sum)})


class NoDocs(Sound):
    """Says nothing."""


class Undescribed(Sound):
    __doc__ = Sound.__doc__

    @tw.tool
    def double(self, twice: bool) -> str:
        """Double the sum."""
        self.sum *= 2
        return f"{self.sum}"


class OldReset(Sound):
    __doc__ = Sound.__doc__

    def reset(self, **options: Any) -> Any:  # type: ignore[override]
        return super().reset(**options)[0]


class DeafReset(Sound):
    __doc__ = Sound.__doc__

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)


class NeverOver(Sound):
    __doc__ = Sound.__doc__

    def step(self, action: str) -> Any:
        if not self._running:
            self.reset()
        return super().step(action)


class HighScore(Sound):
    __doc__ = Sound.__doc__

    @tw.tool
    def add(self, number: int) -> tw.Outcome:
        """Add a number.

        Args:
            number: from 1 to 3.
        """
        return tw.Outcome("Over.", 1.0, True, score=10.0)


class NanReward(HighScore):
    @tw.tool
    def add(self, number: int) -> tw.Outcome:
        """Add a number.

        Args:
            number: from 1 to 3.
        """
        return tw.Outcome("On.", float("nan"))


class Talkative(HighScore):
    @tw.tool
    def add(self, number: int) -> tw.Outcome:
        """Add a number.

        Args:
            number: from 1 to 3.
        """
        return tw.Outcome("on " * 20_000)


class Fragile(Sound):
    __doc__ = Sound.__doc__

    @tw.tool
    def add(self, number: int) -> tw.Outcome:
        """Add a number.

        Args:
            number: from 1 to 3.
        """
        return tw.Outcome(["one", "two", "three"][number])


class Endless(Sound):
    __doc__ = Sound.__doc__

    def step(self, action: str) -> Any:
        observation, reward, terminated, _, info = super().step(action)
        self._running = not terminated
        return observation, reward, terminated, False, info


class Random(Sound):
    __doc__ = Sound.__doc__

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        super().start(task, rng)
        return f"{random.random()}"


class Remembers(Sound):
    __doc__ = Sound.__doc__

    def load_tasks(self) -> TaskSet:
        self.before: list[int] = []
        return super().load_tasks()

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        self.before.append(task.seed)
        return f"{super().start(task, rng)} {len(self.before)}"


class Shared(Sound):
    __doc__ = Sound.__doc__
    playing: ClassVar[int] = 0

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        Shared.playing = 0
        return super().start(task, rng)

    @tw.tool
    def add(self, number: int) -> tw.Outcome:
        """Add a number.

        Args:
            number: from 1 to 3.
        """
        Shared.playing += 1
        now = Shared.playing
        time.sleep(0.002)
        return tw.Outcome(f"{now} {Shared.playing}")


class Hashes(Sound):
    __doc__ = Sound.__doc__

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        super().start(task, rng)
        return " ".join({"red", "green", "blue", "white", "black", "grey", "pink", "lime"})


class OneSeed(Sound):
    __doc__ = Sound.__doc__

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        self.sum = 0
        return "0"


class Leaking(Sound):
    __doc__ = Sound.__doc__

    def load_tasks(self) -> TaskSet:
        return ListedTasks([tw.Task("a", "train", 1), tw.Task("b", "test", 1)])


class ListKey(Sound):
    __doc__ = Sound.__doc__

    def state_key(self) -> Any:
        return [self.sum]


class CountingKey(Sound):
    __doc__ = Sound.__doc__

    def state_key(self) -> Any:
        self.asked = getattr(self, "asked", 0) + 1
        return self.asked


class Hidden(Sound):
    """State in an attribute that `snapshot` takes for a part of the environment, since it is older than the episode."""

    __doc__ = Sound.__doc__

    def load_tasks(self) -> TaskSet:
        self.box = {"sum": 0}
        return super().load_tasks()

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        self.box["sum"] = 0
        return super().start(task, rng)

    @tw.tool
    def add(self, number: int) -> tw.Outcome:
        """Add a number.

        Args:
            number: from 1 to 3.
        """
        self.box["sum"] += 1
        return tw.Outcome(f"{self.box['sum']}")

    def state_key(self) -> Any:
        return self.box["sum"]


class Generates(Sound):
    __doc__ = Sound.__doc__

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        self.draws = (i for i in range(100))
        return super().start(task, rng)


class Unpicklable(Sound):
    __doc__ = Sound.__doc__

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        self.rule = lambda number: number + 1
        return super().start(task, rng)


class FickleBonus(Sound):
    __doc__ = Sound.__doc__

    def potential(self) -> float:
        self.asked = getattr(self, "asked", 0.0) + 1.0
        return self.asked


class PaysTwice(Sound):
    __doc__ = Sound.__doc__

    def step(self, action: str) -> Any:
        observation, _, *rest = super().step(action)
        return observation, 1.0, *rest


class Reveals(Sound):
    __doc__ = Sound.__doc__

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        self.secret = f"word{task.seed}"
        return f"{super().start(task, rng)}, the word is {self.secret}."

    def reference(self) -> list[str]:
        return [self.secret]


class BadExpert(Sound):
    __doc__ = Sound.__doc__

    def expert(self) -> tw.Call | None:
        return tw.Call("add", {"number": 1 if self.sum < 8 else 3})


class MeddlingExpert(Sound):
    __doc__ = Sound.__doc__

    def expert(self) -> tw.Call | None:
        self.sum += 1
        return super().expert()


class WritesWrong(Sound):
    __doc__ = Sound.__doc__

    def write(self, call: tw.Call) -> str:
        return super().write(tw.Call(call.tool, {"number": 1}))


class NoClones(Sound):
    __doc__ = Sound.__doc__

    def clone(self) -> tw.TurnEnv:
        raise tw.EnvFailure("the server takes no more connections")


BROKEN: list[tuple[str, type[tw.TurnEnv], str]] = [
    ("docs", NoDocs, "`Observation:`, `Tools:`, `Reward:`, `Terminated:`"),
    ("docs", Undescribed, "tool 'double' does not describe twice"),
    ("gymnasium", OldReset, "check_env says"),
    ("reset", DeafReset, "leave reset to TurnEnv"),
    ("order", NeverOver, "step before the first reset"),
    ("infos", HighScore, r"the score is 10.0; it must be in \[0, 1\]"),
    ("infos", NanReward, "the reward is nan"),
    ("infos", Talkative, "60000 characters"),
    ("malformed", Fragile, "raised IndexError"),
    ("truncation", Endless, "max_turns=3"),
    ("determinism", Random, "Draw only from the rng"),
    ("determinism", Remembers, "set in start all that an episode changes"),
    ("threads", Shared, "not on the class"),
    ("processes", Hashes, "no hash"),
    ("seeds", OneSeed, "generate the task from task.seed"),
    ("splits", Leaking, "share 1 tasks"),
    ("state_key", ListKey, "cannot be hashed"),
    ("state_key", CountingKey, "another key when it is asked again"),
    ("snapshot", Hidden, "first set in start"),
    ("snapshot", Generates, "deep-copied"),
    ("pickle", Unpicklable, "__getstate__"),
    ("shaping", FickleBonus, "must depend on the state alone"),
    ("outcome", PaysTwice, "reward='outcome' paid 1.0"),
    ("reference", Reveals, "stands in what the agent is told"),
    ("expert", BadExpert, "solves 0 of 20"),
    ("expert", MeddlingExpert, "let it only look"),
    ("formats", WritesWrong, "is written"),
    ("rollout", NoClones, "an episode failed twice: EnvFailure: the server takes no more"),
]


@pytest.mark.parametrize(
    ("name", "cls", "said"), BROKEN, ids=lambda v: v.__name__ if isinstance(v, type) else None
)
def test_a_broken_environment_is_found(
    name: str, cls: type[tw.TurnEnv], said: str, register: Callable[..., str]
) -> None:
    with pytest.raises(Broken, match=said):
        CHECKS[name](Subject(register(cls), {}))


@pytest.mark.parametrize("name", CHECKS)
def test_a_sound_environment_passes(name: str, register: Callable[..., str]) -> None:
    CHECKS[name](Subject(register(Sound), {}))


def test_every_check_is_tested_with_an_environment_that_it_fails() -> None:
    assert {name for name, _, _ in BROKEN} == set(CHECKS)


def test_the_report_of_a_sound_environment_is_a_table_and_does_not_raise(
    register: Callable[..., str],
) -> None:
    report = tw.check(register(Sound))
    assert report.ok
    assert not report.problems
    report.raise_if_failed()
    lines = str(report).splitlines()
    assert [line.split()[1] for line in lines[:-1] if line[0] != " "] == list(CHECKS)
    # Seven sums are few for a thousand seeds; there is neither a potential nor a reference.
    assert [line.split()[1] for line in lines if line.startswith("note")] == [
        "splits",
        "shaping",
        "reference",
    ]
    assert lines[-1] == "Sound-v0: all 21 checks passed"


def test_the_report_of_a_broken_environment_goes_on_after_the_first_problem(
    register: Callable[..., str],
) -> None:
    report = tw.check(register(Random))
    assert not report.ok
    assert "determinism" in report.problems
    assert len(report.results) == len(CHECKS)
    with pytest.raises(InvalidEnvironment, match=r"FAILED  determinism .*"):
        report.raise_if_failed()


def test_an_exception_in_the_environment_is_a_result_with_its_place(
    register: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Explodes(Sound):
        def start(self, task: tw.Task, rng: np.random.Generator) -> str:
            raise ZeroDivisionError("no luck")

    report = tw.check(register(Explodes))
    assert "raised ZeroDivisionError: no luck (test_check.py, line" in report.problems["determinism"]


def test_parameters_reach_the_environment(register: Callable[..., str]) -> None:
    made: list[Mapping[str, Any]] = []

    class Sized(Sound):
        __doc__ = Sound.__doc__
        size: int = 3

        def load_tasks(self) -> TaskSet:
            made.append({"size": self.size, "format": self.format})
            return super().load_tasks()

    tw.check(register(Sized), size=5, format="bracket")
    assert {m["size"] for m in made} == {5}
    assert {"bracket", "hermes", "react", "python"} == {m["format"] for m in made}


def test_unknown_ids_and_parameters_are_the_callers_mistakes(register: Callable[..., str]) -> None:
    with pytest.raises(UnknownEnv, match=r"Did you mean 'Sokoban-v1'"):
        tw.check("Sokobann-v1")
    with pytest.raises(InvalidParameter, match="no parameter 'siz'"):
        tw.check("Sokoban-v1", siz=5)


def test_a_long_message_is_wrapped_beside_its_name() -> None:
    report = CheckReport("X-v0", [CheckResult("docs", "failed", "word " * 40), CheckResult("reset", "ok")])
    assert all(len(line) <= 110 for line in str(report).splitlines())
    assert str(report).splitlines()[1].startswith(" " * 24 + "word")
    assert str(report).endswith("X-v0: 1 of 2 checks failed")
