"""`turnwise watch`: a training in the terminal."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from turnwise.__main__ import main
from turnwise.agents.watch import look, picture, plain, remaining, span, spark, watch


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "env:\n  id: FrozenLake-v1\ntrainer:\n  steps: 8\ncredit:\n  name: gigpo\nseed: 3\n"
    )
    return folder


def steps(folder: Path, first: int, last: int) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        for n in range(first, last + 1):
            file.write(
                json.dumps({"step": n, "success": n / 10, "reward": None, "seconds/step": 2.0 + n % 2}) + "\n"
            )


def end(folder: Path, count: int = 8) -> None:
    figures = {"success": 0.5, "success_low": 0.25, "success_high": 0.75}
    (folder / "summary.json").write_text(json.dumps({"steps": count, "before": figures, "after": figures}))


def test_the_course_of_a_metric_is_drawn_from_lowest_to_highest() -> None:
    assert spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert spark([1, None, 0]) == "█ ▁"
    assert spark([5, 5]) == "▁▁"
    assert spark([None]) == spark([]) == ""
    long = spark([float(n) for n in range(1000)])
    assert len(long) <= 32
    assert (long[0], long[-1], "".join(sorted(long))) == ("▁", "█", long)


def test_times_are_for_people() -> None:
    assert [span(v) for v in (3.21, 60, 250, 7500, None)] == [
        "3.2 s",
        "1 min 0 s",
        "4 min 10 s",
        "2 h 5 min",
        "?",
    ]


def test_what_is_left_follows_from_the_last_steps(run: Path) -> None:
    steps(run, 1, 4)
    assert remaining(look(run)) == (2.5, 4 * 2.5)


def test_the_table_has_the_latest_figures(run: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(picture(look(run), ended=False, now=time.time()))
    assert "waiting for the first step" in console.file.getvalue()  # type: ignore[attr-defined]
    steps(run, 1, 4)
    console.print(picture(look(run), ended=False, now=time.time()))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 4 of 8" in text
    assert "10.0 s left" in text
    line = next(line for line in text.splitlines() if line.startswith("success"))
    assert line.split() == ["success", "0.4", "0.25", "▁▃▆█"]
    assert "reward" not in text, "no number was given"
    console.print(picture(look(run), ended=False, now=time.time() + 600))
    assert "last step 10 min 0 s ago" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("terminal", [False, True])
def test_it_follows_a_run_to_its_end(terminal: bool, run: Path) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal)
    steps(run, 1, 2)
    end(run, 4)  # an earlier summary of a run that was made longer
    thread = threading.Thread(target=watch, args=(run, console), kwargs={"seconds": 0.02})
    thread.start()
    for n in range(3, 9):
        time.sleep(0.05)
        steps(run, n, n)
    time.sleep(0.05)
    assert thread.is_alive(), "it ends when the run does, not when the last step is done"
    end(run)
    thread.join(timeout=10)
    assert not thread.is_alive()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "after training: success 0.500 (95 % 0.250 to 0.750)" in text
    if not terminal:
        lines = [line for line in text.splitlines() if line.startswith("step")]
        assert [line.split()[1] for line in lines] == [f"{n}/8" for n in range(1, 9)], "each step once"
        assert "\x1b" not in text


def test_a_step_in_a_log_is_one_line(run: Path) -> None:
    steps(run, 1, 5)
    held = look(run)
    assert plain(held, held.metrics[-1]) == "step 5/8  success 0.5  3.0 s a step  7.8 s left"


def test_files_that_are_half_written_or_damaged_do_not_end_it(run: Path) -> None:
    steps(run, 1, 2)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'garbage\n{"step": 3, "succ')
    held = look(run)
    assert [line["step"] for line in held.metrics] == [1, 2]
    console = Console(file=io.StringIO(), width=100)
    console.print(picture(held, ended=False, now=time.time()))
    assert "1 lines of metrics.jsonl cannot be read" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_folder_without_a_run_is_a_message(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["watch", str(tmp_path / "none")])
    assert done.exit_code == 2
    assert "holds no run" in done.output


def test_the_command_ends_with_a_run_that_has_ended(run: Path) -> None:
    steps(run, 1, 8)
    end(run)
    done = CliRunner().invoke(main, ["watch", str(run)])
    assert done.exit_code == 0
    assert done.output.splitlines()[-1] == f"{run} has ended"
