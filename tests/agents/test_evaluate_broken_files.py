"""Trajectory files that are not as they should be: what is whole is read, and what is not is named."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

import turnwise as tw
from turnwise.__main__ import main
from turnwise.agents.evaluate import Panel, evaluate, read_evaluation
from turnwise.envs import SCHEMA_VERSION
from turnwise.envs.errors import InvalidTrajectory


@pytest.fixture
def lines(tmp_path: Path) -> list[bytes]:
    """Four episodes as they stand in a file."""
    panel = Panel("lake", tw.make("FrozenLake-v1", format="bracket"), number=4, split="test")
    evaluate([panel], tw.agents.ExpertAgent(), out=tmp_path / "whole")
    return (tmp_path / "whole" / "trajectories.jsonl").read_bytes().splitlines(keepends=True)


def newer(line: bytes) -> bytes:
    return json.dumps({**json.loads(line), "version": SCHEMA_VERSION + 1, "colour": "red"}).encode() + b"\n"


def older(line: bytes) -> bytes:
    data = json.loads(line)
    for name in ("sample", "family", "difficulty"):
        del data[name]
    for turn in data["turns"]:
        for name in ("input_tokens", "output_tokens", "cached_tokens"):
            del turn[name]
    return json.dumps({**data, "version": 1}).encode() + b"\n"


def test_an_empty_file_has_no_episodes(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(b"")
    assert read_evaluation(file) == []


def test_lines_of_an_older_schema_are_read_beside_new_ones(lines: list[bytes], tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(older(lines[0]) + lines[1])
    found = read_evaluation(file)
    assert [t.version for t in found] == [SCHEMA_VERSION] * 2
    assert found[0].to_json().encode() + b"\n" == lines[0]  # nothing was lost but defaults


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (newer, f"line 2: schema version {SCHEMA_VERSION + 1} is later than {SCHEMA_VERSION}"),
        (
            lambda line: line[:40] + b"\xff\xfe" + line[42:],
            "line 2: not a line of JSON: 'utf-8' codec can't decode",
        ),
        (lambda line: line[:40] + b"\n", "line 2: not a line of JSON"),
        (lambda line: b"\n", "line 2: not a line of JSON"),
        (lambda line: line.replace(b'"score"', b'"scroe"'), "line 2: field "),
    ],
    ids=["newer", "utf-8", "cut", "blank", "field"],
)
def test_a_line_that_cannot_be_read_is_named_by_every_command(
    damage: object, said: str, lines: list[bytes], tmp_path: Path
) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(lines[0] + damage(lines[1]) + lines[2])  # type: ignore[operator]
    with pytest.raises(InvalidTrajectory, match=said.replace("(", r"\(")):
        read_evaluation(file)
    for command in (["rescore", str(file)], ["eval-compare", str(file), str(file)]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2, result.output
        assert said in result.stderr
        assert "t.jsonl, line 2" in result.stderr


def test_an_evaluation_does_not_go_on_over_a_line_that_it_cannot_read(
    lines: list[bytes], tmp_path: Path
) -> None:
    panel = Panel("lake", tw.make("FrozenLake-v1", format="bracket"), number=4, split="test")
    file = tmp_path / "whole" / "trajectories.jsonl"
    file.write_bytes(lines[0] + newer(lines[1]) + b'{"cut')
    with pytest.raises(InvalidTrajectory, match="upgrade turnwise"):
        evaluate([panel], tw.agents.ExpertAgent(), out=tmp_path / "whole")
    assert file.read_bytes().startswith(lines[0] + newer(lines[1]))  # nothing whole was touched


def test_a_file_that_is_being_written_is_read_up_to_its_last_whole_line(
    lines: list[bytes], tmp_path: Path
) -> None:
    file = tmp_path / "t.jsonl"
    total, seen = 300, 0
    stop = threading.Event()

    def write() -> None:
        with file.open("wb", buffering=0) as out:
            for i in range(total):
                line = lines[i % 4]
                out.write(line[:50])
                out.write(line[50:])
        stop.set()

    writer = threading.Thread(target=write)
    file.touch()
    writer.start()
    while not stop.is_set():
        count = len(read_evaluation(file))
        assert seen <= count <= total
        seen = count
    writer.join()
    assert len(read_evaluation(file)) == total
