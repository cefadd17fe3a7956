"""Evaluations: what is counted, what is kept, and that nothing is lost or doubled however the process ends."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import turnwise as tw
from turnwise.agents.evaluate import Panel, Prices, evaluate, figures
from turnwise.agents.evaluate.figures import repeats
from turnwise.agents.evaluate.folder import Folder
from turnwise.envs.errors import UsageError

Make = Callable[..., tw.Trajectory]


@pytest.fixture
def episode() -> Make:
    def make(task: str, score: float = 1.0, **fields: Any) -> tw.Trajectory:
        turns = fields.pop("turns", [tw.Turn(observation="o", action="a", tool="go", state_key="s")])
        given = {"env_id": "A-v0", "task_id": task, "split": "test", "seed": 0, "status": "terminated"}
        given |= {"group": int(task.rpartition("-")[2] or 0), "success": score == 1.0}
        return tw.Trajectory(**{**given, **fields, "score": score, "turns": turns})  # type: ignore[arg-type]

    return make


def higher_lower(number: int = 8, **options: Any) -> Panel:
    return Panel(
        "numbers", tw.make("HigherLower-v1", format="bracket"), number=number, split="test", **options
    )


def test_the_figures_of_a_few_episodes_by_hand(episode: Make) -> None:
    broken = {"status": "failed", "error": "ServerGone: gone"}
    found = figures(
        [
            *(episode("t-0", s, sample=i) for i, s in enumerate((1.0, 0.0, 0.5, 0.0))),
            *(episode("t-1", 1.0, sample=i) for i in range(4)),
            *(episode("t-2", 0.0, sample=i) for i in range(3)),
            episode("", 0.0, group=2, sample=3, turns=[], **broken),
        ]
    )
    assert (found.episodes, found.tasks, found.attempts, found.failed) == (12, 3, 4, 1)
    assert found.failures == {"ServerGone": 1}
    assert found.success.value == pytest.approx((0.25 + 1 + 0) / 3)
    assert found.score.value == pytest.approx((0.375 + 1 + 0) / 3)
    # pass@2 of one success in four: 1 - C(3,2)/C(4,2) = 1/2. pass^2: 0.
    assert found.pass_at[2].value == pytest.approx((0.5 + 1 + 0) / 3)
    assert found.pass_all[2].value == pytest.approx((0 + 1 + 0) / 3)
    # The task of which an attempt failed has only three, and is left out of what needs four.
    assert found.pass_at[4].tasks == 2
    assert found.pass_at[4].value == pytest.approx(1.0)
    # Of the scores 0, 0, 0.5, 1 the six pairs have the maxima 0, 0.5, 0.5, 1, 1, 1.
    assert found.best_of[2].value == pytest.approx((4 / 6 + 1 + 0) / 3)


def test_behaviour_is_counted_over_turns(episode: Make) -> None:
    def turn(state: str, action: str, tool: str | None = "go", **fields: Any) -> tw.Turn:
        return tw.Turn(observation="", action=action, state_key=state, tool=tool, **fields)

    walk = [
        turn("1", "a"),
        turn("2", "a"),
        turn("1", "b"),
        turn("1", "a"),
        turn("1", "a", None, invalid=True),
    ]
    assert repeats(episode("t-0", turns=walk)) == [False, False, False, True, True]
    found = figures([episode("t-0", turns=walk), episode("t-1", turns=walk[:1], status="truncated")])
    assert found.turns == 3
    assert found.invalid == pytest.approx(1 / 6)
    assert found.repeated == pytest.approx(2 / 6)
    assert found.truncated == 0.5
    assert found.tools == {"go": 5, "": 1}


def test_tokens_and_money_are_those_of_all_turns_and_failures_cost_too(episode: Make) -> None:
    turn = tw.Turn(observation="", action="", input_tokens=1000, output_tokens=100, cached_tokens=600)
    episodes = [
        episode("t-0", turns=[turn, turn]),
        episode("t-1", turns=[turn], status="failed", error="ServerGone: x"),
    ]
    found = figures(episodes, prices=Prices(2.0, 10.0, 0.5))
    assert found.tokens == {"input": 2000, "output": 200, "cached": 1200}
    # A turn costs 400 x 2 + 600 x 0.5 + 100 x 10 = 2,100 millionths.
    assert found.cost == pytest.approx(3 * 2100e-6)
    assert figures(episodes, prices=Prices(2.0, 10.0)).cost == pytest.approx(3 * 3000e-6)
    assert figures(episodes).cost is None
    assert figures([episode("t-0")], prices=Prices(2.0, 10.0)).cost is None  # the agent counts no tokens


def test_levels_and_kinds_have_figures_of_their_own(episode: Make) -> None:
    found = figures(
        [
            episode("t-0", 1.0, difficulty="easy", family="x"),
            episode("t-1", 0.0, difficulty="hard", family="x"),
            episode("t-2", 1.0, difficulty="hard", family="x"),
        ]
    )
    assert {k: f.success.value for k, f in found.by_difficulty.items()} == {"easy": 1.0, "hard": 0.5}
    assert {k: f.episodes for k, f in found.by_family.items()} == {"x": 3}
    assert "by_family" not in figures([episode("t-0")]).as_json()


def test_a_stage_counts_the_episodes_it_applies_to(episode: Make) -> None:
    episodes = [episode("t-0", 1.0), episode("t-1", 0.5), episode("t-2", 0.0)]
    found = figures(
        episodes,
        stages={"half": lambda t: t.score >= 0.5, "whole": lambda t: None if t.score == 0 else t.success},
    )
    assert found.stages["half"].value == pytest.approx(2 / 3)
    assert found.stages["whole"][0::3] == (0.5, 2)


@pytest.mark.parametrize(
    ("env_id", "parameters", "idle"),
    [
        ("Search-v1", {"documents": 200}, {"answered"}),
        ("WebShop-v1", {"products": 50}, set()),
    ],
)
def test_the_stages_of_an_environment_are_passed_by_its_expert_and_not_by_who_does_nothing(
    env_id: str, parameters: dict[str, Any], idle: set[str]
) -> None:
    env = tw.make(env_id, format="bracket", split="test", **parameters)
    stages = type(env).stages
    assert len(stages) == 4

    def passed(agent: Any) -> set[str]:
        found = figures(env.rollout(agent, 6).trajectories, stages=stages).stages
        return {name for name, e in found.items() if e.value == 1} | {
            f"no {n}" for n, e in found.items() if not e.value
        }

    assert passed(tw.agents.ExpertAgent()) == set(stages)
    nothing = {"Search-v1": "answer[nothing at all]", "WebShop-v1": "click[nowhere]"}[env_id]
    assert passed(lambda talk: nothing) == idle | {f"no {name}" for name in stages.keys() - idle}


def test_a_summary_has_no_nan_and_a_table_no_broken_row(tmp_path: Path) -> None:
    panel = Panel("a | b\n<i>", tw.make("HigherLower-v1"), number=2, split="test")
    agent = tw.agents.ExpertAgent()
    found = evaluate([panel, higher_lower(2)], agent, out=tmp_path, max_failure_share=0.0)
    assert "NaN" not in (tmp_path / "summary.json").read_text()
    table = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert found.success.value == 1.0


def test_episodes_are_those_of_a_rollout_with_the_same_seed() -> None:
    panel = higher_lower(4, seed=3)
    found = evaluate([panel], tw.agents.RandomAgent(), attempts=2)
    same = panel.env.rollout(tw.agents.RandomAgent(), 8, seed=3, split="test", group_size=2)
    essence = [[turn.action for turn in t.turns] for t in found.trajectories]
    assert essence == [[turn.action for turn in t.turns] for t in same.trajectories]
    assert len({t.agent_seed for t in found.trajectories}) == 8


def test_panels_of_an_evaluation_have_groups_of_their_own_and_the_same_tasks() -> None:
    short = higher_lower(3)
    other = Panel("more", short.env, tasks=["val-1", "val-2"], split="val")
    found = evaluate([short, other], tw.agents.ExpertAgent(), attempts=2)
    assert [t.group for t in found.trajectories] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [t.task_id for t in found.trajectories[6:]] == ["val-1", "val-1", "val-2", "val-2"]
    assert list(found.figures) == ["numbers", "more"]


@pytest.mark.parametrize(
    ("panels", "options", "said"),
    [
        ([], {}, "needs panels"),
        ([higher_lower(), higher_lower()], {}, "names of their own"),
        ([higher_lower()], {"attempts": 0}, "attempts must be at least 1"),
        ([Panel("x", higher_lower().env)], {}, "give one of the two"),
        ([Panel("x", higher_lower().env, number=3, tasks=["val-1"])], {}, "give one of the two"),
        ([Panel("x", higher_lower().env, tasks=["val-x"])], {}, "no task 'val-x'"),
    ],
)
def test_a_mistake_in_the_panels_is_told(panels: list[Panel], options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        evaluate(panels, tw.agents.ExpertAgent(), **options)


def test_a_folder_goes_on_wherever_the_last_line_was_cut(tmp_path: Path) -> None:
    whole = evaluate([higher_lower()], tw.agents.ExpertAgent(), out=tmp_path)
    file = tmp_path / "trajectories.jsonl"
    written = file.read_bytes()
    line = written.index(b"\n") + 1
    for cut in (0, 1, line - 1, line, line + 5, len(written) - 1, len(written)):
        file.write_bytes(written[:cut])
        again = evaluate([higher_lower()], tw.agents.ExpertAgent(), out=tmp_path)
        assert again.played == 8 - written[:cut].count(b"\n")
        assert [t.id for t in again.trajectories] == [t.id for t in whole.trajectories]
        assert Counter((t.group, t.sample) for t in tw.read_trajectories(file)) == {
            (g, 0): 1 for g in range(8)
        }


def test_a_cut_line_that_is_longer_than_a_block_is_found(tmp_path: Path) -> None:
    evaluate([higher_lower(1)], tw.agents.ExpertAgent(), out=tmp_path)
    file = tmp_path / "trajectories.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b"x" * 300_000)
    with Folder(tmp_path):
        assert file.read_bytes() == whole
    file.write_bytes(b"x" * 300_000)
    with Folder(tmp_path):
        assert file.read_bytes() == b""


def test_episodes_of_another_evaluation_are_refused(tmp_path: Path) -> None:
    evaluate([higher_lower()], tw.agents.ExpertAgent(), out=tmp_path)
    for panel, agent, said in (
        (higher_lower(4), tw.agents.ExpertAgent(), "it has group"),
        (higher_lower(seed=1), tw.agents.ExpertAgent(), "with seed "),
        (higher_lower(), tw.agents.RandomAgent(), "with agent 'expert', and now agent is 'random'"),
        (
            Panel("x", tw.make("FrozenLake-v1"), number=8),
            tw.agents.ExpertAgent(),
            "environment 'HigherLower-v1'",
        ),
    ):
        with pytest.raises(UsageError, match=said):
            evaluate([panel], agent, out=tmp_path)
    file = tmp_path / "trajectories.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines, lines[0]]))
    with pytest.raises(UsageError, match="twice"):
        evaluate([higher_lower()], tw.agents.ExpertAgent(), out=tmp_path)


def test_two_processes_cannot_evaluate_into_one_folder(tmp_path: Path) -> None:
    with Folder(tmp_path), pytest.raises(UsageError, match="another process"):
        evaluate([higher_lower()], tw.agents.ExpertAgent(), out=tmp_path)
    assert evaluate([higher_lower()], tw.agents.ExpertAgent(), out=tmp_path).played == 8


def test_failed_episodes_are_kept_until_they_are_to_be_tried_again(tmp_path: Path) -> None:
    class Gone(tw.EnvFailure):
        """The model's server is gone."""

    down = True

    async def agent(talk: Any) -> str:
        if down and talk.env.task.seed % 4 == 0:
            raise Gone("gone")
        call = talk.env.expert()
        return str(talk.env.write(call))

    first = evaluate([higher_lower()], agent, out=tmp_path)
    assert first.figures["numbers"].failures == {"Gone": 2}
    assert first.untrusted == {"numbers": 0.25}
    assert first.summary()["trusted"] is False
    down = False
    kept = evaluate([higher_lower()], agent, out=tmp_path)
    assert (kept.played, kept.figures["numbers"].failed) == (0, 2)
    mended = evaluate([higher_lower()], agent, out=tmp_path, retry_failed=True)
    assert (mended.played, mended.figures["numbers"].failed, mended.untrusted) == (2, 0, {})
    assert len(list(tw.read_trajectories(tmp_path / "trajectories.jsonl"))) == 8
    assert json.loads((tmp_path / "summary.json").read_text())["success"] == 1.0


SLOW = textwrap.dedent(
    '''
    import os, time
    import turnwise as tw

    class Slow(tw.TurnEnv):
        """Count what is played."""

        blocking = True

        def start(self, task, rng):
            return "Wait."

        @tw.tool
        def wait(self) -> tw.Outcome:
            """Wait."""
            time.sleep(0.004)
            return tw.Outcome("x" * 3000, reward=1.0, success=True)

        def expert(self):
            return tw.Call("wait", {})

    tw.register("Slow-v0", Slow)
    '''
)


@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_an_evaluation_that_is_killed_again_and_again_loses_no_episode_and_plays_none_twice(
    kills: int, tmp_path: Path
) -> None:
    (tmp_path / "slow_env.py").write_text(SLOW)
    command = [
        sys.executable,
        "-m",
        "turnwise",
        "--import",
        "slow_env.py",
        "eval",
        "env=Slow-v0",
        "agent=expert",
    ]
    command += ["episodes=1200", "attempts=3", "concurrency=2", "out=o"]
    file = tmp_path / "o" / "trajectories.jsonl"
    rng = random.Random(kills)
    kept: dict[tuple[int, int], bytes] = {}

    def lines() -> list[bytes]:
        return file.read_bytes().splitlines(keepends=True) if file.exists() else []

    for _ in range(kills):
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        enough = len(kept) + rng.randrange(1, 1200 // kills)
        until = time.monotonic() + 120
        while len(lines()) < enough and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(rng.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole = {}
        for line in lines():
            if line.endswith(b"\n"):
                t = tw.Trajectory.from_json(line)
                assert (t.group, t.sample) not in whole
                whole[t.group, t.sample] = line
        assert kept.items() <= whole.items()  # what was finished before is there still, byte for byte
        kept = whole
    assert len(kept) >= kills
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    final = list(tw.read_trajectories(file))
    assert Counter((t.group, t.sample) for t in final) == {(g, s): 1 for g in range(400) for s in range(3)}
    assert kept.items() <= {(t.group, t.sample): t.to_json().encode() + b"\n" for t in final}.items()
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert (summary["episodes"], summary["success"], summary["failed"]) == (1200, 1.0, 0)
    assert summary["played_now"] == 1200 - len(kept)
