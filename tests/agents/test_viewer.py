"""The viewer behind its page: the index of trajectory files, filters, search, curves, tokens, the exported data."""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import turnwise as tw
from turnwise.agents.viewer import curves, library, server
from turnwise.agents.viewer.export import export
from turnwise.agents.viewer.filters import FIELDS, InvalidFilter, order, parse, select
from turnwise.agents.viewer.index import STATUSES, FileIndex, Texts
from turnwise.agents.viewer.library import Gone, Library
from turnwise.agents.viewer.search import said_in
from turnwise.agents.viewer.server import Api
from turnwise.envs.errors import UsageError
from turnwise.envs.trajectory import Trajectory, Turn, write_trajectories

WORDS = [
    "ice",
    "hole",
    "red shoes",
    "Größe",
    "日本",
    '"quoted"',
    "back\\slash",
    "<script>",
    "a\nb",
    "reward",
    "turns",
]
TRAPS = [
    '"turns":[',
    '],"env_kwargs":{',
    ',"attempts":',
    '"invalid":true,"agent_seconds":',
    ',"reward":9,"rewards":',
    ',"version":9}',
]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWISE_CACHE", str(tmp_path_factory.mktemp("cache")))


def episodes(count: int, seed: int = 0) -> list[Trajectory]:
    """Varied trajectories, with what could mislead a scan of bytes in every text."""
    rng = random.Random(seed)

    def text() -> str:
        return " ".join(rng.choice(WORDS + TRAPS) for _ in range(rng.randrange(4)))

    found = []
    for n in range(count):
        status = rng.choice(["terminated", "terminated", "truncated", "failed"])
        turns = [
            Turn(
                text(),
                text(),
                tool="move",
                arguments={"reward": text(), "turns": [{"invalid": True}]},
                reward=rng.choice([0.0, 1.0, -0.25, 1e-9]),
                rewards={"env": 0.5, "x": -1.0},
                advantage=rng.gauss(0, 1),
                state_key=str(rng.randrange(5)),
                invalid=rng.random() < 0.3,
            )
            for _ in range(rng.randrange(6))
        ]
        found.append(
            Trajectory(
                rng.choice(["FrozenLake-v1", "Sokoban-v1"]),
                f"train-{rng.randrange(9)}",
                "train",
                rng.randrange(2**62),
                status,
                rng.random() if status != "failed" else 0.0,
                status == "terminated" and rng.random() < 0.5,
                turns,
                env_kwargs={"text": text(), "nested": {"turns": []}},
                group=n // 4,
                sample=n % 4,
                family=rng.choice(["", "f"]),
                difficulty=rng.choice(["", "easy"]),
                agent=f"local:{n % 2}",
                agent_seed=rng.randrange(2**62),
                reference=rng.choice([None, [text()]]),
                error=f"SandboxDied: {text()}" if status == "failed" else None,
                system=text(),
                final_observation=text(),
            )
        )
    return found


def as_row(t: Trajectory) -> dict[str, Any]:
    """What a table should show, by the plain reader."""
    return {
        "seed": t.seed,
        "reward": sum(turn.reward for turn in t.turns),
        "score": t.score,
        "env": t.env_id,
        "task": t.task_id,
        "split": t.split,
        "agent": t.agent,
        "family": t.family,
        "difficulty": t.difficulty,
        "error": (t.error or "").partition(":")[0],
        "group": t.group,
        "sample": t.sample,
        "turns": len(t.turns),
        "invalid": sum(turn.invalid for turn in t.turns),
        "status": t.status,
        "success": t.success,
    }


def rows_of(index: FileIndex, texts: Texts) -> list[dict[str, Any]]:
    named = {"env", "task", "split", "agent", "family", "difficulty", "error"}
    found = []
    for row in index.rows:
        values = {name: row[name].item() for name in index.rows.dtype.names}
        for name in named:
            values[name] = texts.names[values[name]]
        values["status"] = STATUSES[values["status"]]
        for name in ("offset", "length", "later"):
            del values[name]
        found.append(values)
    return found


def scanned(path: Path) -> tuple[FileIndex, list[dict[str, Any]]]:
    texts = Texts()
    index = FileIndex(path, texts)
    for _ in index.scan():
        pass
    return index, rows_of(index, texts)


def test_the_scan_agrees_with_the_reader_whatever_the_texts_hold(tmp_path: Path) -> None:
    found = episodes(200)
    path = tmp_path / "t.jsonl"
    write_trajectories(path, found)
    index, rows = scanned(path)
    assert rows == [as_row(t) for t in found]
    data = path.read_bytes()
    lines = [data[r["offset"] : r["offset"] + r["length"]] for r in index.rows]
    assert [Trajectory.from_json(line) for line in lines] == found


@pytest.mark.parametrize("block", [7, 1000, 1 << 18])
def test_blocks_of_any_size_give_the_same_rows(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwise.agents.viewer.index.BLOCK", block)
    found = episodes(20)
    write_trajectories(tmp_path / "t.jsonl", found)
    assert scanned(tmp_path / "t.jsonl")[1] == [as_row(t) for t in found]


def test_lines_in_another_form_of_json_are_read_too(tmp_path: Path) -> None:
    found = episodes(30)
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(json.loads(t.to_json()), sort_keys=True) + "\r\n" for t in found))
    assert scanned(path)[1] == [as_row(t) for t in found]


def test_version_1_files_are_read(tmp_path: Path) -> None:
    old = json.loads(episodes(1)[0].to_json())
    for name in ("family", "difficulty"):
        del old[name]
    old["version"] = 1
    (tmp_path / "t.jsonl").write_text(json.dumps(old, separators=(",", ":"), ensure_ascii=False) + "\n")
    (row,) = scanned(tmp_path / "t.jsonl")[1]
    assert (row["family"], row["task"], row["turns"]) == ("", old["task_id"], len(old["turns"]))


def test_a_line_being_written_waits_for_its_end(tmp_path: Path) -> None:
    found = episodes(3)
    path = tmp_path / "t.jsonl"
    lines = [t.to_json().encode() + b"\n" for t in found]
    texts = Texts()
    index = FileIndex(path, texts)
    path.write_bytes(lines[0] + lines[1][:50])
    assert sum(index.scan()) > 0
    assert (len(index.rows), index.rest) == (1, 50)
    path.write_bytes(lines[0] + lines[1] + lines[2])
    read = sum(index.scan())
    assert rows_of(index, texts) == [as_row(t) for t in found]
    assert read == len(lines[1]) + len(lines[2]), "only what is new is read"
    assert index.rest == 0


def test_rows_may_be_read_while_a_file_is_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnwise.agents.viewer.index.BLOCK", 500)
    found = episodes(400)
    write_trajectories(tmp_path / "t.jsonl", found)
    texts = Texts()
    index = FileIndex(tmp_path / "t.jsonl", texts)
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            assert len(index.rows) <= len(found)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    list(index.scan())
    over.set()
    for thread in readers:
        thread.join()
    assert rows_of(index, texts) == [as_row(t) for t in found]


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    texts = Texts()
    index = FileIndex(path, texts)
    for found in (episodes(5, 1), episodes(9, 2), episodes(2, 3), episodes(2, 4)):
        write_trajectories(path, found)
        os.utime(path, ns=(0, time.time_ns()))
        list(index.scan())
        assert rows_of(index, texts) == [as_row(t) for t in found]


def test_damaged_lines_are_listed_and_cost_no_other(tmp_path: Path) -> None:
    good = episodes(4)
    lines = [t.to_json().encode() for t in good]
    path = tmp_path / "t.jsonl"
    broken = [
        b"{",
        b"[1]",
        b"null",
        b"{}",
        b'{"env_id":1,"turns":3}',
        lines[1][:40] + lines[2],
        b"\xff\xfe",
        b"1" * 5000,
    ]
    path.write_bytes(b"\n".join([lines[0], *broken, b"", lines[3]]) + b"\n")
    _, rows = scanned(path)
    assert [r["status"] == "damaged" for r in rows] == [False, *[True] * len(broken), False]
    assert [rows[0], rows[-1]] == [as_row(good[0]), as_row(good[3])]
    held = Library([path])
    held.refresh()
    assert any("8 lines cannot be read" in text for text in held.snapshot.problems)
    shown = Api(held).trajectory("t/t:2")
    assert shown["trajectory"] is None
    assert "cannot be read" in shown["problem"]


def test_bytes_that_are_not_utf8_are_shown_as_such(tmp_path: Path) -> None:
    t = episodes(1)[0]
    t.turns = [Turn("see MARK here", "move[up]", reward=1.0)]
    t.task_id, t.status = "task-MARK", "terminated"
    (tmp_path / "t.jsonl").write_bytes(t.to_json().encode().replace(b"MARK", b"\xff\xc3") + b"\n")
    held = Library([tmp_path / "t.jsonl"])
    held.refresh()
    shown = Api(held).trajectory("t/t:1")
    assert shown["row"]["task"].startswith("task-\ufffd")
    assert shown["trajectory"]["turns"][0]["observation"].startswith("see \ufffd")
    assert "not UTF-8" in shown["problem"]


def test_a_later_schema_is_shown_with_a_warning(tmp_path: Path) -> None:
    later = json.loads(episodes(1)[0].to_json()) | {"version": 99, "mood": "good"}
    (tmp_path / "t.jsonl").write_text(json.dumps(later) + "\n")
    held = Library([tmp_path / "t.jsonl"])
    held.refresh()
    assert held.snapshot.rows["later"].tolist() == [True]
    assert "Schema version 99" in Api(held).trajectory("t/t:1")["problem"]


def test_an_empty_file_is_empty_and_a_missing_one_a_message(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").touch()
    held = Library([tmp_path / "t.jsonl"])
    held.refresh()
    api = Api(held)
    assert api.rows("", "", 0, 10)["rows"] == []
    assert api.state()["total"] == 0
    with pytest.raises(UsageError, match="does not exist"):
        Library([tmp_path / "no.jsonl"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no run and no trajectories"):
        Library([tmp_path / "empty"])


# The index on disk.


def kept_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(library, "_WORTH_KEEPING", 1)
    path = tmp_path / "t.jsonl"
    write_trajectories(path, episodes(50))
    held = Library([path])
    held.refresh()
    return path


def bytes_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[dict[str, Any]]]:
    """What opening costs, and the rows."""
    count = 0
    plain = FileIndex.scan

    def scan(self: FileIndex) -> Iterator[int]:
        nonlocal count
        for size in plain(self):
            count += size
            yield size

    with monkeypatch.context() as patch:
        patch.setattr(FileIndex, "scan", scan)
        held = Library([path])
        held.refresh()
    api = Api(held)
    rows = api.rows("", "", 0, 1000)["rows"]
    return count, [{k: row[k] for k in as_row(episodes(1)[0])} for row in rows]


def test_an_index_on_disk_saves_the_second_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept_library(tmp_path, monkeypatch)
    expected = [{**as_row(t), "seed": str(t.seed) if t.seed >= 2**53 else t.seed} for t in episodes(50)]
    assert bytes_read(path, monkeypatch) == (0, expected)
    more = episodes(1, 7)[0]
    write_trajectories(path, [more], append=True)
    assert bytes_read(path, monkeypatch)[0] == len(more.to_json().encode()) + 1


@pytest.mark.parametrize("harm", ["rewritten", "half", "garbage"])
def test_an_index_on_disk_is_not_trusted_further_than_it_goes(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kept_library(tmp_path, monkeypatch)
    found = episodes(50)
    (cache,) = Path(os.environ["TURNWISE_CACHE"], "viewer").glob("*.npz")
    if harm == "rewritten":
        found = episodes(60, 5)
        write_trajectories(path, found)
    elif harm == "half":
        cache.write_bytes(cache.read_bytes()[:300])
    else:
        cache.write_bytes(b"PK\x03\x04 no archive")
    _, rows = bytes_read(path, monkeypatch)
    assert [(r["task"], r["turns"]) for r in rows] == [(t.task_id, len(t.turns)) for t in found]


def test_the_viewer_works_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TURNWISE_CACHE", str(tmp_path / "file"))
    assert len(bytes_read(kept_library(tmp_path, monkeypatch), monkeypatch)[1]) == 50


# Runs.


def make_run(
    folder: Path, *, seed: int = 0, credit: str = "gigpo", steps: int = 3, success: float = 0.5
) -> Path:
    (folder / "trajectories").mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"env:\n  id: FrozenLake-v1\ncredit:\n  name: {credit}\ntrainer:\n  steps: {steps}\nseed: {seed}\nrun: {folder}\n"
    )
    lines = [
        {"step": n + 1, "success": success + 0.1 * n, "reward": None, "seconds/step": 1.5}
        for n in range(steps)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for n in (1, 10, 2):
        write_trajectories(folder / "trajectories" / f"step-{n}.jsonl", episodes(8, n))
    return folder


def test_a_folder_of_runs_is_all_of_them_with_their_steps_in_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / name)
    (tmp_path / "notes").mkdir()
    held = Library([tmp_path])
    held.refresh()
    assert list(held.runs) == ["a", "b"]
    assert [key for key in held.snapshot.files if key[0] == "a"] == [
        ("a", "step-1"),
        ("a", "step-2"),
        ("a", "step-10"),
    ]
    assert sorted(set(held.snapshot.rows["step"].tolist())) == [1, 2, 10]


def test_what_a_running_training_writes_appears(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    held = Library([tmp_path])
    held.refresh()
    before = held.snapshot
    assert held.refresh() is False
    assert held.snapshot.version == before.version
    write_trajectories(run / "trajectories" / "step-11.jsonl", episodes(4))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "success": 0.9}) + "\n" + '{"step": 5, "succ')
    make_run(tmp_path / "later")
    assert held.refresh() is True
    assert held.snapshot.version > before.version
    assert len(held.snapshot.rows) == len(before.rows) + 4 + 24
    assert [line["step"] for line in held.runs["a"].metrics] == [1, 2, 3, 4]


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / place / "run") for place in ("x", "y")]
    held = Library(paths)
    assert list(held.runs) == ["run", "y/run"]
    held.refresh()
    api = Api(held)
    assert api.trajectory("y/run/step-2:3")["row"]["run"] == "y/run"


@pytest.mark.parametrize(
    "at",
    ["", "x", "a/step-1", "a/step-1:0", "a/step-1:99", "a/step-9:1", "b/step-1:1", "a/step-1:1e3", "../a:1"],
)
def test_an_address_that_leads_nowhere_is_a_message(at: str, tmp_path: Path) -> None:
    held = Library([make_run(tmp_path / "a")])
    held.refresh()
    with pytest.raises(Gone):
        Api(held).trajectory(at)


# Filters.


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Api:
    held = Library([make_run(tmp_path_factory.mktemp("runs") / "a")])
    held.refresh()
    return Api(held)


def every(api: Api) -> list[dict[str, Any]]:
    return api.rows("", "", 0, 1000)["rows"]


QUERIES = {
    "success:yes": lambda r: r["success"],
    "-success:yes": lambda r: not r["success"],
    "status:failed,truncated": lambda r: r["status"] in ("failed", "truncated"),
    "turns>2 invalid=0": lambda r: r["turns"] > 2 and r["invalid"] == 0,
    "turns:1..3": lambda r: 1 <= r["turns"] <= 3,
    "turns:..1": lambda r: r["turns"] <= 1,
    "step:2,10": lambda r: r["step"] in (2, 10),
    "step:1.5": lambda r: False,
    "score>=0.5 -env:Sokoban-v1": lambda r: r["score"] >= 0.5 and r["env"] != "Sokoban-v1",
    "env:frozen*": lambda r: r["env"] == "FrozenLake-v1",
    "task:train-1,train-2": lambda r: r["task"] in ("train-1", "train-2"),
    'agent:"local:1"': lambda r: r["agent"] == "local:1",
    "error:sandboxdied": lambda r: r["error"] == "SandboxDied",
    "run:a file:step-2": lambda r: r["step"] == 2,
    "difficulty:easy family:f": lambda r: r["difficulty"] == "easy" and r["family"] == "f",
    "reward<0": lambda r: r["reward"] < 0,
    "group:1 sample<2": lambda r: r["group"] == 1 and r["sample"] < 2,
}


@pytest.mark.parametrize("q", QUERIES)
def test_a_filter_picks_what_a_loop_picks(q: str, api: Api) -> None:
    expected = [r for r in every(api) if QUERIES[q](r)]
    found = api.rows(q, "", 0, 1000)
    assert found["rows"] == expected
    assert found["matched"] == len(expected)


def test_words_are_found_where_they_were_said_and_nowhere_else(api: Api) -> None:
    texts = {r["at"]: said_in(api.trajectory(r["at"])["trajectory"]) for r in every(api)}
    for q, words in {
        "hole": ["hole"],
        "HOLE ice": ["hole", "ice"],
        '"red shoes"': ["red shoes"],
        "größe": ["größe"],
        "日本": ["日本"],
        "back\\slash": ["back\\slash"],
        "<SCRIPT>": ["<script>"],
        '"\\"quoted\\""': ['"quoted"'],
        "agent_seconds": ["agent_seconds"],
        "train-3": ["train-3"],
        "nothing-like-it": ["nothing-like-it"],
    }.items():
        while (found := api.rows(q, "", 0, 1000))["searched"] < 1:
            time.sleep(0.01)
        assert [r["at"] for r in found["rows"]] == [
            at for at, said in texts.items() if all(w in said for w in words)
        ], q
    while (found := api.rows("-hole success:yes", "", 0, 1000))["searched"] < 1:
        time.sleep(0.01)
    assert [r["at"] for r in found["rows"]] == [
        r["at"] for r in every(api) if r["success"] and "hole" not in texts[r["at"]]
    ]


@pytest.mark.parametrize(
    ("q", "message"),
    [
        ("sucess:yes", r"no field 'sucess'. Did you mean 'success'\?"),
        ("success:maybe", "success is yes or no"),
        ("status:done", "status is one of terminated"),
        ("turns:many", "turns is a number, got 'many'"),
        ("turns>", "a value is missing behind turns>"),
        ("env>3", "env is no number"),
        ('"open', "quotation mark is not closed"),
        ("score:nan", "score is a number"),
    ],
)
def test_what_cannot_be_understood_is_said(q: str, message: str) -> None:
    with pytest.raises(InvalidFilter, match=message):
        parse(q)


def test_no_filter_raises_anything_else(api: Api) -> None:
    rng = random.Random(0)
    pieces = [
        *FIELDS,
        ":",
        ">=",
        "<",
        "..",
        '"',
        "\\",
        "*",
        "-",
        ",",
        " ",
        "1",
        "-1",
        "e",
        "[",
        "?",
        "ß",
        "\n",
    ]
    for _ in range(2000):
        q = "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 8)))
        try:
            wanted = parse(q)
        except InvalidFilter:
            continue
        assert select(api.library.snapshot, wanted.terms).dtype == bool


@pytest.mark.parametrize("field", FIELDS)
def test_the_table_is_ordered_by_any_field_and_equal_rows_keep_their_order(field: str, api: Api) -> None:
    rows = every(api)
    if field == "file":
        return
    assert api.rows("", field, 0, 1000)["rows"] == sorted(rows, key=lambda r: _key(r, field))
    assert api.rows("", f"-{field}", 0, 1000)["rows"] == sorted(
        rows, key=lambda r: _key(r, field), reverse=True
    ) or len({_key(r, field) for r in rows}) < len(rows)


def _key(row: dict[str, Any], field: str) -> Any:
    if field == "seed":
        return float(row["seed"])
    return row[field]


def test_neighbours_are_those_of_the_table(api: Api) -> None:
    rows = [r["at"] for r in api.rows("success:no", "-score", 0, 1000)["rows"]]
    middle = api.near("success:no", "-score", rows[3])
    assert (middle["place"], middle["previous"], middle["next"]) == (3, rows[2], rows[4])
    assert api.near("success:no", "-score", rows[0])["previous"] is None
    assert api.near("success:no", "-score", rows[-1])["next"] is None


def test_figures_leave_failed_episodes_out(api: Api) -> None:
    played = [r for r in every(api) if r["status"] in ("terminated", "truncated")]
    figures = api.rows("", "", 0, 1)["figures"]
    assert figures["played"] == len(played) < len(every(api))
    assert figures["success"] == pytest.approx(sum(r["success"] for r in played) / len(played))
    assert figures["turns"] == pytest.approx(sum(r["turns"] for r in played) / len(played))


def test_group_and_same_task_are_found(tmp_path: Path) -> None:
    base = episodes(1)[0]
    for step in (1, 2):
        made = []
        for n in range(6):
            t = Trajectory.from_json(base.to_json())
            t.group, t.sample, t.seed, t.task_id = n // 3, n % 3, 5 + n // 3, f"task-{n // 3}"
            made.append(t)
        write_trajectories(tmp_path / "r" / "trajectories" / f"step-{step}.jsonl", made)
    held = Library([tmp_path / "r"])
    held.refresh()
    found = Api(held).trajectory("r/step-1:5")
    assert [r["at"] for r in found["group"]] == ["r/step-1:4", "r/step-1:5", "r/step-1:6"]
    assert [r["at"] for r in found["elsewhere"]] == ["r/step-2:4", "r/step-2:5", "r/step-2:6"]


# Curves.


def test_the_interval_over_seeds_is_students(tmp_path: Path) -> None:
    # By hand: mean 0.5, deviation sqrt((0.04 + 0 + 0.04) / 2) = 0.2, half = 4.303 x 0.2 / sqrt(3) = 0.49687.
    low, high = curves.interval([0.3, 0.5, 0.7])  # type: ignore[misc]
    assert (low, high) == (pytest.approx(0.5 - 0.49687, abs=1e-4), pytest.approx(0.5 + 0.49687, abs=1e-4))
    assert curves.interval([1.0]) is None
    from scipy.stats import t

    for n in (2, 5, 16, 17, 30):
        values = [math.sin(i) for i in range(n)]
        half = t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)
        low, high = curves.interval(values)  # type: ignore[misc]
        assert high - low == pytest.approx(2 * half, rel=1e-3 if n <= 16 else 0.1)


def test_runs_are_grouped_by_configuration_but_for_the_seed(tmp_path: Path) -> None:
    for seed, success in ((0, 0.3), (1, 0.5)):
        make_run(tmp_path / f"gigpo-{seed}", seed=seed, success=success)
    make_run(tmp_path / "rloo", credit="rloo", success=0.0)
    held = Library([tmp_path])
    found = Api(held).curves(["success", "reward"])
    assert [(g["label"], g["runs"]) for g in found["groups"]] == [
        ("credit=gigpo", ["gigpo-0", "gigpo-1"]),
        ("credit=rloo", ["rloo"]),
    ]
    gigpo, rloo = found["curves"]["success"]
    assert gigpo["steps"] == [1, 2, 3]
    assert gigpo["mean"] == pytest.approx([0.4, 0.5, 0.6])
    assert gigpo["low"][0] == pytest.approx(0.4 - 12.706 * 0.1)
    assert rloo["mean"][0] == 0.0, "a zero is a value"
    assert rloo["low"] == [None] * 3
    assert found["curves"]["reward"][0]["steps"] == []


def test_a_single_run_brings_its_own_interval_and_long_curves_are_thinned() -> None:
    lines = [
        {"step": n, "eval/success": 0.5, "eval/success_low": 0.4, "eval/success_high": 0.6}
        for n in range(5000)
    ]
    run = library.Run("r", Path("r"), metrics=lines)
    found = curves.curve([run], "eval/success")
    assert len(found["steps"]) <= curves.POINTS
    assert found["low"] == pytest.approx([0.4] * len(found["low"]))
    assert found["high"] == pytest.approx([0.6] * len(found["steps"]))


def test_damaged_metrics_are_left_out_and_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    (run / "metrics.jsonl").write_bytes(
        b'{"step": 1, "success": 1}\n{"step": \n\xff\xff\n{"step": 1, "success": NaN}\n{"step": 2, "x": 1'
    )
    (run / "config.yaml").write_text("[a\n")
    held = Library([run])
    held.refresh()
    assert [line["step"] for line in held.runs["a"].metrics] == [1]
    assert any("2 lines of metrics.jsonl" in p for p in held.snapshot.problems)
    assert any("config.yaml cannot be read" in p for p in held.snapshot.problems)
    assert Api(held).curves(["success"])["curves"]["success"][0]["mean"] == []


# Tokens.


def test_tokens_get_their_texts_and_characters_of_several_tokens_stand_with_the_last(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({c: n for n, c in enumerate(alphabet)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    run = make_run(tmp_path / "a")
    for step in (9, 10):
        (run / "checkpoints" / f"step-{step}").mkdir(parents=True)
    made.save(str(run / "checkpoints" / "step-10" / "tokenizer.json"))
    t = episodes(1)[0]
    ids = made.encode("aé語!").ids
    t.turns = [Turn("o", "aé語!", action_ids=ids, action_log_probs=[-0.1] * len(ids))]
    write_trajectories(run / "trajectories" / "step-3.jsonl", [t])
    held = Library([run])
    held.refresh()
    api = Api(held)
    found = api.tokens("a/step-3:1", 0)
    assert found["texts"] == ["a", "", "é", "", "", "語", "!"]
    assert found["log_probs"] == [-0.1] * 7
    with pytest.raises(Gone, match="no turn 2"):
        api.tokens("a/step-3:1", 1)
    t.turns[0].action_ids[0] = 70_000
    write_trajectories(run / "trajectories" / "step-4.jsonl", [t])
    held.refresh()
    assert "does not know some" in api.tokens("a/step-4:1", 0)["reason"]


def test_without_a_tokenizer_the_reason_is_said(api: Api) -> None:
    at = next(r["at"] for r in every(api) if r["turns"])
    found = api.tokens(at, 0)
    assert found["texts"] is None
    assert "no checkpoint" in found["reason"]


# The server and the exported file.


def test_the_server_answers_this_machine_alone_and_forbids_all_but_itself(tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx")
    viewer = server.Viewer(Library([make_run(tmp_path / "a")]))
    try:
        assert viewer.url.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=viewer.url, trust_env=False) as client:
            page = client.get("/")
            assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
            for name in server.STATIC:
                assert client.get(f"/static/{name}").status_code == 200
            assert client.get("/static/../server.py").status_code == 404
            assert client.get("/static/%2e%2e%2fserver.py").status_code == 404
            assert client.get("/", headers={"host": "evil.example"}).status_code == 400
            assert client.post("/api/state").status_code == 405
            wrong = client.get("/api/rows", params={"q": "sucess:yes"})
            assert (wrong.status_code, "Did you mean" in wrong.json()["error"]) == (400, True)
            assert client.get("/api/trajectory", params={"at": "a/step-1:99"}).status_code == 404
            assert client.get("/api/rows", params={"start": "-1", "count": "x"}).status_code == 200
    finally:
        viewer.close()


def test_a_page_that_comes_before_the_first_look_at_the_files_is_told_everything(tmp_path: Path) -> None:
    held = Library([make_run(tmp_path / "a")])
    assert held.snapshot.version == 0
    first = Api(held).state()
    assert (first["version"], first["total"]) == (0, 0)
    assert "success" in first["metrics"]
    assert Api(held).state(0) == {"version": 0}
    held.refresh()
    assert Api(held).state(0)["total"] == 24


def test_a_port_that_is_taken_is_a_message(tmp_path: Path) -> None:
    held = Library([make_run(tmp_path / "a")])
    viewer = server.Viewer(held)
    try:
        port = int(viewer.url.rstrip("/").rpartition(":")[2])
        with pytest.raises(server.ServerFailure, match="--port"):
            server.Viewer(held, port=port)
    finally:
        viewer.close()
    assert not any(t.name.startswith("viewer-") for t in threading.enumerate())


def test_an_export_keeps_to_its_limits_and_holds_no_markup_of_others(tmp_path: Path) -> None:
    held = Library([make_run(tmp_path / "a")])
    page = tmp_path / "out" / "page.html"
    written = export(held, page, q="turns>0", limit=5)
    matched = Api(held).rows("turns>0", "", 0, 1)["matched"]
    assert written[:2] == (5, matched)
    assert page.stat().st_size == written.bytes
    text = page.read_text()
    assert text.count("<script") == 2, "the trajectories hold <script> too"
    assert "import " not in text.partition('<script type="module">')[2].partition("\n")[0]
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert sum(count for _, count in data["state"]["facets"]["success"]) == 5, (
        "counts are of what is in the page"
    )
    assert str(tmp_path) not in json.dumps(data["state"]), (
        "whoever gets the page need not know where the run lies"
    )
    smaller = export(held, page, limit=1000, most_bytes=written.bytes)
    assert smaller.trajectories < smaller.matched
    assert page.stat().st_size <= written.bytes
    with pytest.raises(UsageError, match="not even one trajectory fits"):
        export(held, page, most_bytes=1000)
    with pytest.raises(UsageError, match="no trajectory fits"):
        export(held, page, q="turns>99")


def test_no_script_of_the_page_reads_markup() -> None:
    for name in server.STATIC:
        if name.endswith(".js"):
            code = server.read_static(name).decode()
            for danger in (
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "http://",
                "https://",
            ):
                assert danger not in code.replace('"http://www.w3.org/2000/svg"', ""), (name, danger)


def test_a_rollout_of_an_environment_opens(tmp_path: Path) -> None:
    result = tw.make("FrozenLake-v1").rollout(tw.agents.ExpertAgent(), episodes=6, seed=1)
    result.save(tmp_path / "out")
    held = Library([tmp_path / "out"])
    held.refresh()
    api = Api(held)
    assert [r["success"] for r in every(api)] == [True] * 6
    assert api.trajectory("out/trajectories:1")["trajectory"]["system"] != ""
    assert order(held.snapshot, np.ones(6, bool), "").tolist() == list(range(6))
