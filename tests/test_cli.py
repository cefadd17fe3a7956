"""The command line: what it prints, how it refuses, and how it stops."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from click.testing import CliRunner

import turnwise as tw
from turnwise.__main__ import main

MY_ENV = textwrap.dedent(
    '''
    import time
    import turnwise as tw

    class Wait(tw.TurnEnv):
        """Wait a little."""

        blocking = True
        delay: float = 0.0

        def start(self, task, rng):
            return "Wait."

        @tw.tool
        def wait(self) -> tw.Outcome:
            """Wait."""
            time.sleep(self.delay)
            return tw.Outcome("Done.", reward=1.0, success=True)

        def expert(self):
            return tw.Call("wait", {})

    tw.register("Wait-v0", Wait)
    '''
)


def call(*arguments, **options):
    return CliRunner().invoke(main, list(arguments), **options)


def start(*arguments, cwd):
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "TURNWISE_CACHE": str(cwd / "cache"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "turnwise", *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def my_env(tmp_path):
    path = tmp_path / "wait_env.py"
    path.write_text(MY_ENV)
    return str(path)


def test_envs_lists_every_id_with_its_first_sentence():
    result = call("envs")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == tw.env_ids()
    assert "Walk over a frozen lake" in next(line for line in lines if line.startswith("FrozenLake-v1"))


@pytest.mark.parametrize(
    "command",
    ["", "envs", "check", "play", "eval", "eval-compare", "rescore", "compare", "eval-rewards", "train"],
)
def test_help_shows_examples(command):
    result = call(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Examples:\n  turnwise" in result.stdout.replace("    turnwise", "  turnwise").replace(
        "  Examples", "Examples"
    )


def test_the_version_is_printed():
    assert tw.__version__ in call("--version").stdout


def test_check_passes_on_a_good_environment_and_exits_1_on_a_broken_one(tmp_path):
    assert call("check", "HigherLower-v1").exit_code == 0
    broken = tmp_path / "broken_env.py"
    broken.write_text(
        MY_ENV.replace('return "Wait."', "import random; return str(random.random())").replace(
            "Wait-v0", "Broken-v0"
        )
    )
    process = start("--import", str(broken), "check", "Broken-v0", cwd=tmp_path)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1, out
    assert "Traceback" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "FrozenLake-v9"], ["'FrozenLake-v9'", "Did you mean 'FrozenLake-v1'?"]),
        (["play", "Frozen"], ["no environment is registered as 'Frozen'"]),
        (["play", "FrozenLake-v1", "--set", "sise=3"], ["no parameter 'sise'", "'size'"]),
        (["play", "FrozenLake-v1", "--set", "size=big"], ["size='big'"]),
        (["play", "FrozenLake-v1", "--set", "size"], ["NAME=VALUE"]),
        (["play", "FrozenLake-v1", "--task", "test-x"], ["no task 'test-x'"]),
        (["play", "FrozenLake-v1", "--seed", "x"], ["'x' is not a valid integer"]),
        (["eval", "env=frozen"], ["no env 'frozen'", "frozen_lake"]),
        (["eval", "episode=4"], ["unknown key 'episode'", "Did you mean 'episodes'?"]),
        (["eval", "episodes=3", "attempts=2"], ["multiple of attempts", "episodes=3"]),
        (["eval", "suite=cor"], ["no suite 'cor'", "Did you mean 'core'?"]),
        (
            ["eval", "suite=core", "env.parameters.size=5"],
            ["env.parameters.size does not go with suite=core"],
        ),
        (["eval", "prices.input=1"], ["prices.input and prices.output go together"]),
        (["eval", "split=tset"], ["no split 'tset'", "'test'"]),
        (
            ["eval", "agent=human"],
            [
                "no agent 'human'",
                "best_of_n, expert, local, majority, openai, random, reflect, reward_model, self_certainty, tree",
            ],
        ),
        (["eval", "agent=local"], ["agent.path must be given"]),
        (["eval", "agent.noise=0.1"], ["unknown key 'agent.noise'", "it is a key of agent=expert"]),
        (["eval", "agent.path=x"], ["unknown key 'agent.path'", "it is a key of agent=local"]),
        (["eval", "agent=openai", "agent.url=http://x/v1"], ["agent.model must be given"]),
        (["eval", "agent.name=locla"], ["agent.name='locla'", "'local'"]),
        (
            [
                "eval",
                "agent=openai",
                "agent.url=http://x/v1",
                "agent.model=m",
                "agent.api_key_env=NO_SUCH_KEY",
            ],
            ["agent.api_key_env=NO_SUCH_KEY"],
        ),
        (["eval", "env.parameters.size=1"], ["size=1"]),
        (["train", "credit=gipo"], ["no credit 'gipo'", "'gigpo'", "rloo"]),
        (["train", "trainer.stps=1"], ["'trainer.steps'"]),
        (["--import", "nowhere.py", "envs"], ["nowhere.py", "no such file"]),
        (["--import", "no_such_module", "envs"], ["No module named 'no_such_module'"]),
        (["tarin"], ["No such command 'tarin'"]),
    ],
)
def test_a_mistake_exits_with_2_and_one_message(arguments, words):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert [word for word in words if word not in result.stderr] == []
    assert isinstance(result.exception, SystemExit)


def test_a_mistake_leaves_no_traceback_in_a_real_process(tmp_path):
    process = start("eval", "agent=local", "agent.path=./nowhere", cwd=tmp_path)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2, out
    assert "agent.path='./nowhere' is neither a run folder" in out
    assert "Traceback" not in out


def test_an_error_that_is_not_the_users_is_not_hidden(monkeypatch):
    def broken():
        raise ValueError("a bug")

    monkeypatch.setattr("turnwise.__main__.env_ids", broken)
    assert isinstance(call("envs").exception, ValueError)


def test_a_full_disk_is_said_in_one_line(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "o/trajectories.jsonl")

    monkeypatch.setattr("turnwise.agents.evaluate.evaluate", full)
    result = call("eval")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr


def test_import_registers_a_users_environment_by_file_and_by_module(my_env, tmp_path):
    for name in (my_env, "wait_env"):
        process = start("--import", name, "eval", "env=Wait-v0", "agent=expert", "episodes=4", cwd=tmp_path)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
        assert "1.000" in out


@pytest.mark.parametrize(
    ("text", "words"),
    [("1 / 0", "ZeroDivisionError"), ("import nowhere", "No module named 'nowhere'"), ("def", "SyntaxError")],
)
def test_an_import_that_fails_says_why(text, words, tmp_path):
    path = tmp_path / f"bad_{abs(hash(text))}.py"
    path.write_text(text)
    result = call("--import", str(path), "envs")
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_file_cannot_shadow_a_module(tmp_path):
    path = tmp_path / "json.py"
    path.write_text("")
    result = call("--import", str(path), "envs")
    assert result.exit_code == 2
    assert "rename the file" in result.stderr


def test_eval_prints_the_figures_and_saves_them(tmp_path):
    out = tmp_path / "new" / "folder"
    result = call(
        "eval", "env=higher_lower", "agent=expert", "episodes=20", "attempts=2", f"out={out}", "seed=3"
    )
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["episodes"], summary["tasks"], summary["success"], summary["failed"]) == (20, 10, 1.0, 0)
    trajectories = list(tw.read_trajectories(out / "trajectories.jsonl"))
    expected = tw.make("HigherLower-v1", format="bracket", system_prompt=False).rollout(
        tw.agents.ExpertAgent(), 20, seed=3, split="test", group_size=2
    )
    assert [(t.id, t.group) for t in trajectories] == [(t.id, t.group) for t in expected.trajectories]
    assert [t.turns[0].action for t in trajectories] == ["guess[50]"] * 20
    # Ten tasks that were done twice are ten tasks: Wilson's interval of 10 out of 10.
    for word in (
        "expert on HigherLower-v1",
        "success",
        "1.000",
        "(95 % 0.722 to 1.000)",
        "episodes",
        "pass^2",
    ):
        assert word in result.stdout
    assert "| success | 1.000" in (out / "report.md").read_text()


def test_eval_names_the_keys_of_another_evaluation_and_leaves_it_alone(tmp_path):
    assert call("eval", "episodes=2", f"out={tmp_path}").exit_code == 0
    before = (tmp_path / "trajectories.jsonl").read_bytes()
    result = call("eval", "episodes=4", "seed=1", f"out={tmp_path}")
    assert result.exit_code == 2
    assert "episodes=4 does not go with" in result.stderr
    assert "seed=1 does not go with" in result.stderr
    assert (tmp_path / "trajectories.jsonl").read_bytes() == before


def test_eval_of_a_finished_folder_plays_nothing_and_says_the_same(tmp_path):
    first = call("eval", "episodes=4", f"out={tmp_path}")
    before = (tmp_path / "trajectories.jsonl").read_bytes()
    for again in (f"out={tmp_path}", f"resume={tmp_path}"):
        result = call("eval", *(["episodes=4"] if "out" in again else []), again)
        assert result.exit_code == 0, result.output
        assert next(line for line in first.stdout.splitlines() if "success" in line) in result.stdout
    assert (tmp_path / "trajectories.jsonl").read_bytes() == before


def test_a_command_that_was_wrong_leaves_nothing_that_the_right_one_would_be_held_to(tmp_path):
    wrong = call("eval", "env=frozen_lake", "split=tset", f"out={tmp_path / 'o'}")
    assert wrong.exit_code == 2
    right = call("eval", "env=frozen_lake", "split=val", "episodes=4", f"out={tmp_path / 'o'}")
    assert right.exit_code == 0, right.output
    assert "split: val" in (tmp_path / "o" / "config.yaml").read_text()


def test_eval_does_not_write_among_trajectories_that_are_not_its_own(tmp_path):
    (tmp_path / "trajectories.jsonl").write_text("")
    result = call("eval", "episodes=4", f"out={tmp_path}")
    assert result.exit_code == 2
    assert "holds trajectories that no `turnwise eval` left there" in result.stderr


def test_eval_plays_a_suite_of_ones_own_with_its_tasks_and_formats(tmp_path):
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        """
        panels:
          - {env: HigherLower-v1, name: ten, parameters: {high: 10}, number: 3, seed: 2, format: hermes}
          - {env: HigherLower-v1, name: two, tasks: [val-5, val-7], split: val, format: bracket}
        """
    )
    result = call("eval", f"suite={suite}", "agent=expert", "attempts=2", f"out={tmp_path / 'o'}")
    assert result.exit_code == 0, result.output
    found = list(tw.read_trajectories(tmp_path / "o" / "trajectories.jsonl"))
    assert sorted({(t.group, t.task_id) for t in found}) == [
        (0, "test-20000"),
        (1, "test-20001"),
        (2, "test-20002"),
        (3, "val-5"),
        (4, "val-7"),
    ]
    assert len(found) == 10
    assert {t.env_kwargs.get("high") for t in found if t.group < 3} == {10}
    assert all("<tool_call>" in t.turns[0].action for t in found if t.group < 3)
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert list(summary["panels"]) == ["ten", "two"]
    assert summary["success"] == 1.0
    assert "10.0" not in result.stdout
    suite.write_text(suite.read_text().replace("number: 3", "number: 4"))
    again = call("eval", f"suite={suite}", "agent=expert", "attempts=2", f"out={tmp_path / 'o'}")
    assert again.exit_code == 2
    assert "panels.0.number=4 does not go with" in again.stderr


def test_a_run_is_evaluated_in_its_own_environment_and_format_unless_another_is_given(tmp_path):
    from turnwise.__main__ import _eval_config
    from turnwise.configs.compose import compose
    from turnwise.configs.schema import TrainConfig

    trained = compose(
        TrainConfig,
        ["env=HigherLower-v1", "env.parameters.high=9", "format=react", "format.system_prompt=true"],
        registered={"env": tw.env_ids},
    )
    (tmp_path / "config.yaml").write_text(trained.model_dump_json())
    own = _eval_config(["agent=local", f"agent.path={tmp_path}"])
    assert own.env == trained.env
    assert own.format == trained.format
    other = _eval_config(["agent=local", f"agent.path={tmp_path}", "env=sokoban", "format=hermes"])
    assert (other.env.id, other.format.name) == ("Sokoban-v1", "hermes")
    larger = _eval_config(["agent=local", f"agent.path={tmp_path}", "env.parameters.high=99"])
    assert (larger.env.id, larger.env.parameters) == ("HigherLower-v1", {"high": 99})


def test_eval_says_that_a_score_with_many_failures_is_not_to_be_trusted(tmp_path):
    path = tmp_path / "flaky_env.py"
    path.write_text(
        MY_ENV.replace(
            "time.sleep(self.delay)", "if self.task.seed % 4 == 0: raise tw.EnvFailure('gone')"
        ).replace("Wait-v0", "Flaky-v0")
    )
    command = ["--import", str(path), "eval", "env=Flaky-v0", "agent=expert", "episodes=8"]
    result = call(*command, f"out={tmp_path / 'o'}")
    assert result.exit_code == 1
    assert "25.0% of the episodes failed (2 EnvFailure)" in result.stdout
    assert "not to be trusted" in result.stdout
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert (summary["trusted"], summary["success"], summary["failed"]) == (False, 1.0, 2)
    allowed = call("eval", f"resume={tmp_path / 'o'}", "max_failure_share=0.25")
    assert allowed.exit_code == 0, allowed.output
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["trusted"] is True


def test_progress_is_plain_lines_in_a_log():
    result = call("eval", "episodes=40")
    assert result.stderr.splitlines() == [f"episodes: {n} of 40" for n in range(4, 41, 4)]
    assert "\x1b" not in result.stdout + result.stderr


def test_an_evaluation_in_which_every_episode_fails_says_so(tmp_path):
    path = tmp_path / "failing_env.py"
    path.write_text(
        MY_ENV.replace("time.sleep(self.delay)", "raise tw.EnvFailure('gone')").replace("Wait-v0", "Gone-v0")
    )
    result = call(
        "--import", str(path), "eval", "env=Gone-v0", "agent=expert", "episodes=2", f"out={tmp_path / 'o'}"
    )
    assert result.exit_code == 1
    assert "every episode failed; the first: EnvFailure: gone" in result.stderr
    assert "2 EnvFailure" in result.stdout
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["success"] is None


def test_ctrl_c_in_eval_exits_130_and_keeps_the_finished_episodes(my_env, tmp_path):
    process = start(
        *("--import", my_env, "eval", "env=Wait-v0", "env.parameters.delay=0.05"),
        *("agent=expert", "episodes=5000", "concurrency=2", "out=o"),
        cwd=tmp_path,
    )
    file = tmp_path / "o" / "trajectories.jsonl"
    wait_for(lambda: file.exists() and file.read_bytes().count(b"\n") >= 5, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "Traceback" not in out
    kept = list(tw.read_trajectories(file))
    assert (
        f"interrupted after {len(kept)} of 5000 episodes; they are in o/trajectories.jsonl; the same command goes"
        in out
    )
    assert all(t.success for t in kept)


def test_play_shows_the_game_and_its_end():
    lines = "".join(f"{n}\n" for n in (50, 25, 75, 12, 37, 62, 87, 1))
    result = call("play", "HigherLower-v1", "--seed", "3", input=lines)
    assert result.exit_code == 0, result.output
    assert "I think of a number from 1 to 100." in result.stdout
    assert "solved in" in result.stdout
    assert "task train-3" in result.stdout


def test_play_takes_parameters_and_a_task():
    result = call(
        "play",
        "HigherLower-v1",
        "--set",
        "high=2",
        "--set",
        "max_turns=2",
        "--task",
        "test-7",
        input="1\n2\n",
    )
    assert result.exit_code == 0, result.output
    assert "from 1 to 2." in result.stdout
    assert "task test-7" in result.stdout


def test_the_end_of_the_input_leaves_play_neatly():
    result = call("play", "FrozenLake-v1", input="")
    assert result.exit_code == 130
    assert "left the game" in result.stderr


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_a_key_on_a_real_terminal_leaves_play_at_once(key, tmp_path):
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", "turnwise", "play", "FrozenLake-v1"])
    shown = b""
    try:
        while b"> " not in shown:
            shown += os.read(terminal, 4096)
        time.sleep(0.2)  # the prompt is there before the line is waited for
        os.write(terminal, key.encode())
        while chunk := _read(terminal):
            shown += chunk
    finally:
        os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 130, shown
    assert b"left the game" in shown
    assert b"Traceback" not in shown


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says so when the other side has closed
        return b""


def test_train_hands_over_the_configuration_and_prints_the_report(monkeypatch):
    import turnwise.trainers.local.train as module

    given = []
    figures = {"success": 0.25, "success_low": 0.2, "success_high": 0.3}

    def fake(config, *, say):
        given.append(config)
        say("a line")
        return {"before": figures, "after": {**figures, "success": 0.75}, "run": "runs/x"}

    monkeypatch.setattr(module, "train", fake)
    result = call("train", "credit=rloo", "trainer.steps=3")
    assert result.exit_code == 0, result.output
    assert (given[0].credit.name, given[0].trainer.steps) == ("rloo", 3)
    for words in ("a line", "0.250", "0.750", "0.200 to 0.300", "run folder: runs/x"):
        assert words in result.stdout


def test_train_refuses_a_parameter_that_the_credit_scheme_does_not_have(tmp_path):
    process = start("train", "credit=rloo", "credit.gama=0.5", cwd=tmp_path)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2, out
    assert "gama" in out
    assert "Traceback" not in out
    assert not (tmp_path / "runs").exists()


def test_the_demo_in_small_trains_evaluates_stops_and_goes_on(tmp_path):
    """`turnwise train` as `make demo` runs it, with fewer steps: Ctrl-C, resume, and the result evaluated."""
    process = start("train", "experiment=smoke", "trainer.steps=200", "run=r", cwd=tmp_path)
    checkpoints = tmp_path / "r" / "checkpoints"
    wait_for(lambda: checkpoints.exists() and any(checkpoints.glob("step-*/complete.json")), process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out
    assert "resume=r" in out
    assert "Traceback" not in out

    done = max(int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*"))
    config = tmp_path / "r" / "config.yaml"
    config.write_text(config.read_text().replace("steps: 200", f"steps: {done + 1}"))
    process = start("train", "resume=r", cwd=tmp_path)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "before training" in out
    assert "after training" in out
    assert "run folder: r" in out
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert set(summary["after"]) >= {"success", "success_low", "success_high"}
    metrics = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(1, done + 2))
    assert any(line["gradient_norm"] for line in metrics)  # null where no episode succeeded

    process = start(
        "eval", "agent=local", "agent.path=r", "episodes=8", "agent.max_new_tokens=8", cwd=tmp_path
    )
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert "on FrozenLake-v1" in out
