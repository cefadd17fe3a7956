"""The episode loop: side by side, none holds up or loses another, and what is reported is what was played."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

import turnwise as tw
from turnwise.envs import Job, play
from turnwise.envs.agent import Conversation
from turnwise.envs.errors import ContextFull, InvalidEnvironment, UsageError
from turnwise.envs.rollout import agent_seed, wilson

LOCK = threading.Lock()


class ServerGone(tw.EnvFailure):
    """What stands behind the environment broke."""


class Countdown(tw.TurnEnv):
    """Say `down` until nothing is left; `plan` says what goes wrong in which episode, by seed."""

    length: int = 3
    plan: ClassVar[dict[int, Callable[[int], None]]] = {}
    attempts: ClassVar[Counter[int]] = Counter()
    open: ClassVar[int] = 0

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        with LOCK:
            type(self).open += 1

    def close(self) -> None:
        with LOCK:
            type(self).open -= 1

    def start(self, task: tw.Task, rng: np.random.Generator) -> str:
        self.left = self.length
        self.number = int(task.id.rpartition("-")[2])
        self.attempts[self.number] += 1
        if self.number in self.plan:
            self.plan[self.number](self.attempts[self.number])
        return f"{self.left} {rng.integers(1000)}"

    @tw.tool
    def down(self, by: int = 1) -> tw.Outcome:
        """Count down."""
        if by < 0:
            return tw.Outcome("never up", invalid=True)
        self.left -= by
        if self.left > 0:
            return tw.Outcome(f"{self.left}", 0.5)
        return tw.Outcome("done", 1.0, success=self.left == 0)

    def score(self) -> float:
        return 1 - self.left / self.length


class Waiting(Countdown):
    """The same, behind a server."""

    blocking = True


@pytest.fixture(autouse=True)
def _fresh() -> None:
    for cls in (Countdown, Waiting):
        cls.plan, cls.attempts, cls.open = {}, Counter(), 0


def env(cls: type[Countdown] = Countdown, **parameters: Any) -> Countdown:
    return cls(format="bracket", **parameters)


def down(_: Any) -> str:
    return "down[1]"


def essence(result: tw.RolloutResult) -> list[Any]:
    """All of the trajectories but times."""
    return [
        (
            t.task_id,
            t.seed,
            t.group,
            t.agent_seed,
            t.status,
            t.score,
            [(x.observation, x.action, x.reward) for x in t.turns],
        )
        for t in result.trajectories
    ]


def random_agent(talk: Any) -> str:
    rng = np.random.default_rng([talk.seed, len(talk)])
    return f"down[{rng.integers(1, 3)}]"


def test_the_same_seed_plays_the_same_episodes_however_many_at_once() -> None:
    played = [env(length=6).rollout(random_agent, 24, seed=3, concurrency=c) for c in (1, 5, 64)]
    played.append(env(Waiting, length=6).rollout(random_agent, 24, seed=3, concurrency=7))
    assert essence(played[0]) == essence(played[1]) == essence(played[2]) == essence(played[3])
    other = env(length=6).rollout(random_agent, 24, seed=4)
    assert {t.task_id for t in other.trajectories}.isdisjoint(t.task_id for t in played[0].trajectories)


def test_a_group_shares_task_and_seed_but_not_the_agents_draws() -> None:
    result = env(length=8).rollout(random_agent, 12, group_size=4, seed=1)
    groups = [result.trajectories[i : i + 4] for i in (0, 4, 8)]
    for number, group in enumerate(groups):
        assert {t.group for t in group} == {number}
        assert len({(t.task_id, t.seed, t.turns[0].observation) for t in group}) == 1
        assert len({t.agent_seed for t in group}) == 4
    assert len({t.task_id for t in result.trajectories}) == 3
    assert len({tuple(x.action for x in t.turns) for t in groups[0]}) > 1


def test_tasks_can_be_named_and_take_turns() -> None:
    result = env().rollout(down, 4, tasks=["test-7", "val-2"], group_size=1)
    assert [(t.task_id, t.split) for t in result.trajectories] == [("test-7", "test"), ("val-2", "val")] * 2
    assert [t.split for t in env().rollout(down, 2, split="val").trajectories] == ["val", "val"]


def test_figures_are_those_of_the_episodes() -> None:
    # By hand: seed 0 counts 3, 2, 1 in three turns; seed 1 counts too far at once; seed 2 wastes its three turns.
    texts = {0: ["down[1]"] * 3, 1: ["down[5]"], 2: ["up", "down[-1]", "down[1]"]}
    result = env(max_turns=3).rollout(lambda talk: texts[talk.env.number][len(talk) // 2 - 1], 3)  # type: ignore[attr-defined]
    good, far, late = result.trajectories
    assert [t.status for t in result.trajectories] == ["terminated", "terminated", "truncated"]
    assert [t.success for t in result.trajectories] == [True, False, False]
    assert [t.score for t in result.trajectories] == [1.0, 0.0, pytest.approx(1 / 3)]
    assert [t.total_reward for t in result.trajectories] == [0.5 + 0.5 + 1.0, 1.0, 0.5]
    assert [x.invalid for x in late.turns] == [True, True, False]
    assert [x.arguments for x in late.turns] == [None, {"by": -1}, {"by": 1}]
    assert [x.tool for x in late.turns] == [None, "down", "down"]
    assert good.turns[1].observation == "2"
    assert good.final_observation == far.final_observation == "done"
    assert result.success_rate == pytest.approx(1 / 3)
    assert result.mean_score == pytest.approx(4 / 9)
    assert result.mean_reward == pytest.approx(3.5 / 3)
    assert result.mean_turns == pytest.approx(7 / 3)
    assert result.invalid_share == pytest.approx(2 / 7)
    assert result.truncated_share == pytest.approx(1 / 3)
    assert result.success_interval == wilson(1, 3)
    assert str(result).startswith(
        "success 0.333 (95 % 0.061 to 0.792)  score 0.444  turns 2.3  invalid 28.6%  episodes 3"
    )


def test_conversations_grow_by_one_pair_a_turn_and_know_their_episode() -> None:
    seen: dict[str, list[Any]] = {}

    def agent(talk: Any) -> str:
        assert isinstance(talk, Conversation)
        before = seen.setdefault(talk.id, [])
        assert list(talk)[: len(before)] == before
        before[:] = list(talk)
        assert talk.tools[0]["function"]["name"] == "down"
        assert talk.seed >= 0
        return talk.env.write(tw.Call("down", {"by": 1}))

    result = Countdown(format="hermes").rollout(agent, 6, group_size=3)
    assert len(seen) == 6
    for messages in seen.values():
        assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert result.trajectories[0].system == next(iter(seen.values()))[0]["content"]


def test_environments_that_block_run_side_by_side() -> None:
    class Slow(Waiting):
        def start(self, task: tw.Task, rng: np.random.Generator) -> str:
            time.sleep(0.05)
            return super().start(task, rng)

    began = time.perf_counter()
    result = env(Slow).rollout(down, 32, concurrency=32)
    assert result.success_rate == 1.0
    assert time.perf_counter() - began < 0.8  # one after another it would be 1.6 s
    assert result.env_seconds < 0.05


def test_agents_that_wait_run_side_by_side() -> None:
    async def agent(talk: Any) -> str:
        await asyncio.sleep(0.02)
        return "down[1]"

    began = time.perf_counter()
    result = env().rollout(agent, 64, concurrency=64)  # type: ignore[arg-type]
    assert result.mean_turns == 3
    assert time.perf_counter() - began < 1.5  # one after another it would be 3.8 s
    assert result.agent_seconds >= 0.02


def test_the_first_reply_does_not_wait_until_every_environment_is_reset() -> None:
    resets: list[int] = []
    first: list[int] = []

    class Counted(Countdown):
        def start(self, task: tw.Task, rng: np.random.Generator) -> str:
            resets.append(self.length)
            return super().start(task, rng)

    async def agent(talk: Conversation) -> str:
        await asyncio.sleep(0)
        first.append(len(resets))
        return "down[3]"

    result = env(Counted).rollout(agent, 1000, concurrency=1000)
    assert first[0] < 50
    assert result.success_rate == 1.0
    assert len(resets) == 1000


def test_one_environment_is_used_by_one_thread_at_a_time() -> None:
    class Guarded(Waiting):
        @tw.tool
        def down(self, by: int = 1) -> tw.Outcome:
            """Count down."""
            assert self.lock.acquire(blocking=False)
            time.sleep(0.001)
            self.lock.release()
            return tw.Outcome("done", 1.0, success=True)

        def load_tasks(self) -> Any:
            self.lock = threading.Lock()
            return super().load_tasks()

    assert env(Guarded).rollout(down, 40, concurrency=8).failures == {}


def test_finished_episodes_are_told_of_while_others_are_played() -> None:
    events: list[Any] = []

    def agent(talk: Any) -> str:
        events.append("turn")
        return "down[3]"

    tw.rollout(env(), agent, 6, concurrency=2, progress=lambda done, total: events.append((done, total)))
    assert [e for e in events if e != "turn"] == [(n, 6) for n in range(1, 7)]
    assert events.index((1, 6)) < len(events) - 1 - events[::-1].index("turn")


def fails(times: int, error: Callable[[], BaseException]) -> Callable[[int], None]:
    def plan(attempt: int) -> None:
        if attempt <= times:
            raise error()

    return plan


@pytest.mark.parametrize("cls", [Countdown, Waiting])
def test_a_failed_episode_is_tried_once_more_and_then_recorded_with_its_error(cls: type[Countdown]) -> None:
    cls.plan = {
        2: fails(1, lambda: ServerGone("once")),
        4: fails(9, lambda: ServerGone("for good\ud800")),
        5: fails(9, lambda: ZeroDivisionError("a bug")),
        6: fails(9, lambda: StopIteration("the end of the data")),
        7: fails(9, lambda: SystemExit(3)),
    }
    result = env(cls).rollout(down, 10, concurrency=3)
    status = [t.status for t in result.trajectories]
    assert status == ["terminated"] * 4 + ["failed"] * 4 + ["terminated"] * 2
    assert [t.attempts for t in result.trajectories] == [1, 1, 2, 1, 2, 2, 2, 2, 1, 1]
    errors = [t.error for t in result.trajectories]
    assert errors[2] is None
    assert errors[4] == "ServerGone: for good?"
    assert errors[5] == "ZeroDivisionError: a bug"
    assert errors[6] is not None
    assert "the end of the data" in errors[6] or "StopIteration" in errors[6]
    assert (
        result.failures["ServerGone"]
        == result.failures["ZeroDivisionError"]
        == result.failures["SystemExit"]
        == 1
    )
    # What failed is in no figure.
    assert result.episodes == 10
    assert result.success_rate == 1.0
    assert result.success_interval == wilson(6, 6)
    assert "failed: 1 RuntimeError, 1 ServerGone, 1 SystemExit, 1 ZeroDivisionError" in str(result)
    assert cls.attempts == {n: 2 if n in (2, 4, 5, 6, 7) else 1 for n in range(10)}


def test_an_environment_that_fails_in_the_middle_keeps_the_turns_it_had() -> None:
    class Breaks(Countdown):
        @tw.tool
        def down(self, by: int = 1) -> tw.Outcome:
            """Count down."""
            if self.left == 2:
                raise ServerGone("gone")
            return super().down(by)

    (t,) = env(Breaks).rollout(down, 1).trajectories
    assert (t.status, t.score, t.success, len(t.turns)) == ("failed", 0.0, False, 1)


@pytest.mark.parametrize("cls", [Countdown, Waiting])
def test_an_environment_that_cannot_be_made_fails_its_episodes_and_no_other(cls: type[Countdown]) -> None:
    clones: list[int] = []

    class Scarce(cls):  # type: ignore[valid-type, misc]
        def clone(self) -> tw.TurnEnv:
            clones.append(1)
            if len(clones) in (1, 2, 4):
                raise ServerGone("no more connections")
            return super().clone()

    result = env(Scarce).rollout(down, 6, concurrency=1)
    # The first episode finds no environment twice, the second has one, which all others then share.
    assert [t.status for t in result.trajectories] == ["failed"] + ["terminated"] * 5
    assert result.failures == {"ServerGone": 1}


def test_a_hanging_environment_holds_up_nobody() -> None:
    forever = threading.Event()
    Waiting.plan = {n: lambda _: forever.wait(30) for n in (0, 1)}  # type: ignore[dict-item, misc, return-value]
    began = time.perf_counter()
    result = env(Waiting).rollout(down, 12, concurrency=2, timeout=0.2)
    took = time.perf_counter() - began
    forever.set()
    assert [t.status for t in result.trajectories] == ["failed"] * 2 + ["terminated"] * 10
    assert result.trajectories[0].error == "TimeoutError: the episode took longer than 0.2 s"
    assert took < 2.0
    time.sleep(0.05)  # those that were left behind are closed as soon as they come back


def test_a_hanging_environment_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    script = tmp_path / "hang.py"
    script.write_text(
        textwrap.dedent(
            """
            import time
            import turnwise as tw

            class Hangs(tw.TurnEnv):
                blocking = True

                def start(self, task, rng):
                    time.sleep(1000)

                @tw.tool
                def go(self) -> str:
                    "Go."
                    return ""

            print(Hangs().rollout(lambda talk: "", 2, timeout=0.1).failures)
            """
        )
    )
    began = time.perf_counter()
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "{'TimeoutError': 2}", found.stderr
    assert time.perf_counter() - began < 30


def test_a_slow_agent_is_timed_out_and_told_to_let_go() -> None:
    closed: list[str] = []

    class Slow:
        async def act(self, talk: Conversation) -> tw.Reply:
            if talk.env.number == 1:  # type: ignore[attr-defined]
                await asyncio.sleep(30)
            return tw.Reply("down[1]")

        def close(self, talk: Conversation) -> None:
            closed.append(talk.id)

    result = env().rollout(Slow(), 4, timeout=0.2)
    assert [t.status for t in result.trajectories] == ["terminated", "failed", "terminated", "terminated"]
    assert result.failures == {"TimeoutError": 1}
    assert len(closed) == len(set(closed)) == 5  # once per attempt


def test_an_agent_that_breaks_fails_the_episode_and_a_mistake_of_the_caller_ends_all() -> None:
    def breaks(talk: Any) -> str:
        raise ConnectionError("no route")

    assert env().rollout(breaks, 2).failures == {"ConnectionError": 2}

    def mistaken(talk: Any) -> str:
        raise UsageError("no such model")

    with pytest.raises(UsageError, match="no such model"):
        env().rollout(mistaken, 2)
    with pytest.raises(UsageError, match="must answer with a str or a Reply, got int"):
        env().rollout(lambda talk: 5, 2)  # type: ignore[arg-type, return-value]
    with pytest.raises(UsageError, match="an agent has `async act"):
        env().rollout("expert", 2)  # type: ignore[arg-type]


def test_a_cancellation_inside_an_agent_fails_its_episode_alone() -> None:
    async def agent(talk: Any) -> str:
        if talk.env.number == 0:
            raise asyncio.CancelledError
        return "down[1]"

    result = env().rollout(agent, 3)  # type: ignore[arg-type]
    assert [t.status for t in result.trajectories] == ["failed", "terminated", "terminated"]
    assert result.failures == {"CancelledError": 1}


def test_an_agent_that_cannot_close_fails_its_episode_alone() -> None:
    class Sticky:
        def act(self, talk: Any) -> str:
            return "down[1]"

        def close(self, talk: Any) -> None:
            if talk.env.number == 0:
                raise OSError("cannot free the cache")

    result = env().rollout(Sticky(), 2)  # type: ignore[arg-type]
    assert [t.status for t in result.trajectories] == ["failed", "terminated"]


def test_a_full_context_truncates() -> None:
    def agent(talk: Any) -> str:
        if len(talk) > 4:
            raise ContextFull("no room")
        return "down[1]"

    (t,) = env(length=4).rollout(agent, 1).trajectories
    assert (t.status, t.score, t.success, len(t.turns)) == ("truncated", 0.5, False, 2)
    assert t.final_observation == "2"
    (t,) = env(length=4, reward="outcome").rollout(agent, 1).trajectories
    assert [x.reward for x in t.turns] == [0.0, 0.5]
    assert [x.rewards for x in t.turns] == [{"env": 0.0}, {"env": 0.5}]

    def never(talk: Any) -> str:
        raise ContextFull("no room at all")

    (t,) = env().rollout(never, 1).trajectories
    assert (t.status, t.score, t.turns) == ("truncated", 0.0, [])


def test_max_turns_truncates_earlier_and_pays_the_outcome_there() -> None:
    (t,) = env(length=4).rollout(down, 1, max_turns=3).trajectories
    assert (t.status, t.score, len(t.turns)) == ("truncated", 0.75, 3)
    (t,) = env(length=4, reward="outcome").rollout(down, 1, max_turns=3).trajectories
    assert [x.reward for x in t.turns] == [0.0, 0.0, 0.75]
    (t,) = env(length=4, max_turns=2).rollout(down, 1, max_turns=9).trajectories
    assert (t.status, len(t.turns)) == ("truncated", 2)


def test_what_a_model_writes_can_always_be_saved(tmp_path: Path) -> None:
    texts = ["\ud800", '<tool_call>{"name": "down", "arguments": {"by": 1e999}}</tool_call>', "\0", "🙂"]
    texts += ['<tool_call>{"name": "\\udfff", "arguments": {"\\ud800": NaN}}</tool_call>']
    result = Countdown(max_turns=5).rollout(lambda talk: texts[len(talk) // 2 - 1], 1)
    result.save(tmp_path)
    (t,) = tw.read_trajectories(tmp_path / "trajectories.jsonl")
    assert t == result.trajectories[0]
    assert [x.invalid for x in t.turns] == [True] * 5


def test_parameters_that_json_does_not_have_are_recorded_as_texts() -> None:
    class Odd(Countdown):
        where: Path = Path()
        rate: float = 1.0

    (t,) = Odd(where=Path("/data/x"), rate=math.inf, format="bracket").rollout(down, 1).trajectories
    assert t.env_kwargs == {"where": "/data/x", "rate": math.inf, "format": "bracket"}
    assert tw.Trajectory.from_json(t.to_json()) == t


def test_out_keeps_what_was_finished_when_the_caller_is_interrupted(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt, UsageError):
        out = tmp_path / "new" / f"{error.__name__}.jsonl"

        def agent(talk: Any, error: Any = error) -> str:
            if talk.env.number == 5:
                raise error("stop")
            return "down[1]"

        with pytest.raises(error):
            env().rollout(agent, 10, concurrency=1, out=out)  # type: ignore[arg-type]
        assert [t.seed for t in tw.read_trajectories(out)] == [0, 1, 2, 3, 4]


def test_a_full_disk_ends_the_rollout_with_its_error_and_no_episode_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def full(t: tw.Trajectory) -> str:
        written.append(t.seed)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return "{}"

    monkeypatch.setattr(tw.Trajectory, "to_json", full)
    with pytest.raises(OSError, match="No space left"):
        env().rollout(down, 50, concurrency=2, out=tmp_path / "t.jsonl")  # type: ignore[arg-type]
    assert len(written) == 3
    assert Countdown.attempts.total() < 10


def test_ctrl_c_ends_a_running_rollout_and_loses_no_finished_episode(tmp_path: Path) -> None:
    script, out = tmp_path / "long.py", tmp_path / "t.jsonl"
    script.write_text(
        textwrap.dedent(
            f"""
            import time
            import turnwise as tw

            env = tw.make("HigherLower-v1", format="bracket", max_turns=2)
            try:
                env.rollout(lambda talk: time.sleep(0.002) or "guess[1]", 100_000, out={str(out)!r}, concurrency=4)
            except KeyboardInterrupt:
                print("interrupted")
            """
        )
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_bytes().count(b"\n") >= 5):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=10)
    assert printed.strip() == "interrupted"
    whole = out.read_bytes()
    assert whole.endswith(b"\n")
    assert len(list(tw.read_trajectories(out))) == whole.count(b"\n") >= 5


def test_results_are_saved_summarised_and_framed(tmp_path: Path) -> None:
    Countdown.plan = {1: fails(9, lambda: ServerGone("gone"))}
    result = env().rollout(down, 3)
    folder = result.save(tmp_path / "run" / "eval")
    assert essence(
        tw.RolloutResult(list(tw.read_trajectories(folder / "trajectories.jsonl")), 1.0)
    ) == essence(result)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == json.loads(json.dumps(result.summary()))
    assert summary["episodes"] == 3
    assert summary["failed"] == 1
    assert summary["failures"] == {"ServerGone": 1}
    assert summary["success"] == 1.0
    frame = result.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["status"]) == ["terminated", "failed", "terminated"]
    assert list(frame["turns"]) == [3, 0, 3]
    assert frame["reward"].sum() == 4.0


def test_figures_over_no_episode_are_nan_and_null() -> None:
    Countdown.plan = {0: fails(9, lambda: ServerGone("gone"))}
    result = env().rollout(down, 1)
    assert math.isnan(result.success_rate)
    assert result.success_interval == (0.0, 1.0)
    assert result.summary()["score"] is None
    assert "NaN" not in json.dumps(result.summary())
    assert str(result).startswith("success nan")


@given(st.integers(0, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons(counts: tuple[int, int]) -> None:
    successes, total = counts
    if total == 0:
        assert wilson(0, 0) == (0.0, 1.0)
        return
    expected = binomtest(successes, total).proportion_ci(method="wilson")
    assert wilson(successes, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_interval_by_hand() -> None:
    # Wilson's formula for 8 of 10 at z = 1.959964: centre 0.7168, half width 0.2266.
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"episodes": 0}, "episodes must be a positive multiple of group_size"),
        ({"episodes": 5, "group_size": 2}, "got episodes=5, group_size=2"),
        ({"group_size": 0}, "group_size=0"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"max_turns": 0}, "max_turns must be at least 1, got 0"),
        ({"timeout": 0}, "timeout is a number of seconds above 0, got 0"),
        ({"timeout": math.nan}, "timeout is a number"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"seed": 1.5}, "got 1.5"),
        ({"split": "tst"}, "no split 'tst'. Did you mean 'test'"),
        ({"tasks": ["nowhere"]}, "no task 'nowhere'"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        env().rollout(down, **options)
    assert said in str(caught.value)


def test_an_author_s_mistake_ends_the_rollout_at_once() -> None:
    class Wrong(Countdown):
        @tw.tool
        def down(self, by: int = 1) -> tw.Outcome:
            """Count down."""
            return None  # type: ignore[return-value]

    with pytest.raises(InvalidEnvironment, match="must return an Outcome"):
        env(Wrong).rollout(down, 4)


def test_rollout_works_where_an_event_loop_runs_already() -> None:
    async def notebook() -> float:
        return env().rollout(down, 4).success_rate

    assert asyncio.run(notebook()) == 1.0


def test_episodes_are_yielded_as_they_end_and_the_rest_is_stopped() -> None:
    async def agent(talk: Any) -> str:
        await asyncio.sleep(0.001 if talk.env.number == 3 else 0.05)
        return "down[3]"

    async def first() -> int:
        stream = play(env(), agent, [Job(seed) for seed in range(6)])  # type: ignore[arg-type]
        async for index, _ in stream:
            await stream.aclose()
            return index
        return -1

    assert asyncio.run(first()) == 3


def test_the_environment_of_the_caller_is_left_alone() -> None:
    own = env()
    own.reset(seed=9)
    own.step("down[1]")
    before = own.snapshot()
    own.rollout(down, 4)
    assert own.left == 2
    assert own.snapshot()["number"] == before["number"]


def test_agent_seeds_are_the_same_in_every_process_and_differ_by_part() -> None:
    assert 0 <= agent_seed(0, "a", None) < 2**63
    seeds = {agent_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    code = "from turnwise.envs.rollout import agent_seed; print(agent_seed(0, 'a', None))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == agent_seed(0, "a", None)


@pytest.mark.parametrize("cls", [Countdown, Waiting])
def test_every_clone_is_closed(cls: type[Countdown]) -> None:
    cls.plan = {2: fails(1, lambda: ServerGone("once"))}
    env(cls).rollout(down, 12, concurrency=4)
    assert cls.open == 1
    with pytest.raises(UsageError):
        env(cls).rollout(lambda talk: 5, 12, concurrency=4)  # type: ignore[arg-type, return-value]
    assert cls.open == 2
