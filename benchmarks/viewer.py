"""How fast the viewer opens a large file.

    python benchmarks/viewer.py [--trajectories 200000] [--kilobytes 10] [--no-browser]

A file of real episodes (FrozenLake and Sokoban, played here; token ids and log-probs as a model gives them) is written into a
temporary folder, and opened as `turnwise view` does. Seconds on the wall, unless it says CPU; on a machine that does other
things they are upper bounds, and the load is printed beside them.

| figure         | what it is                                                                                       |
|----------------|--------------------------------------------------------------------------------------------------|
| server         | from the start of the process until the server answers                                           |
| first page     | until the first rows stand in Chromium (`--no-browser`: until the first rows are answered)       |
| indexed        | until all of the file is indexed; the page shows what there is meanwhile                         |
| again          | first page with every row, when the index of an earlier look lies in the cache                   |
| filter, sort   | a filter that keeps a tenth of the rows; ordering all rows by score                              |
| search         | all trajectories that say a word which stands in one of them                                     |
| row            | one trajectory from the middle, read and drawn                                                   |
| cpu            | seconds of CPU that the server took until all was indexed, the page's questions included          |
| reader         | megabytes per CPU second of `read_trajectories` on the first 100 MB, and of the scan               |

Targets: first page below 3 s, all of it below 30 s, and again below 3 s, at 200,000 trajectories of 2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

import turnwise as tw
from turnwise.envs.trajectory import Trajectory, read_trajectories

FIRST, ALL, AGAIN = 3.0, 30.0, 3.0


def write(path: Path, count: int, size: int) -> None:
    """`count` trajectories of about `size` bytes, and one word in one of them."""
    rng = np.random.default_rng(0)
    kinds: list[Trajectory] = []
    for env_id in ("FrozenLake-v1", "Sokoban-v1"):
        result = tw.make(env_id).rollout(tw.agents.RandomAgent(), episodes=32, seed=1)
        kinds += result.trajectories
    lines = []
    for t in kinds:
        turns = list(t.turns)
        for turn in turns:
            turn.action_ids = rng.integers(0, 150_000, 24).tolist()
            turn.action_log_probs = (-rng.exponential(0.3, 24)).tolist()
            turn.prompt_ids = rng.integers(0, 150_000, 60).tolist()
        each = len(t.to_json()) / max(1, len(turns))
        t.turns = (turns * (1 + int(size / each)))[: max(1, round(size / each))]
        t.task_id = "MARK"
        lines.append(t.to_json().split("MARK"))
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            head, tail = lines[n // 8 % len(lines)]
            if n == count // 3:
                tail = tail.replace('"final_observation":"', '"final_observation":"zebra ', 1)
            file.write(f"{head}train-{n // 8}{tail}\n")


class Opened:
    """A `turnwise view` in a process of its own."""

    def __init__(self, path: Path, cache: Path) -> None:
        self.began = time.perf_counter()
        command = [sys.executable, "-m", "turnwise", "view", str(path), "--no-open"]
        environment = {**os.environ, "TURNWISE_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[4]
        self.started = self.since()

    def since(self) -> float:
        """Seconds since the start of the process."""
        return time.perf_counter() - self.began

    def get(self, name: str, **parameters: Any) -> Any:
        """An answer of the server."""
        with urllib.request.urlopen(f"{self.url}api/{name}?{urlencode(parameters)}") as answer:
            return json.load(answer)

    def rows(self, q: str = "", sort: str = "-step") -> Any:
        """The first stretch of the table."""
        return self.get("rows", q=q, sort=sort, start=0, count=100)

    def cpu(self) -> float:
        """Seconds of CPU that the process took; NaN where there is no /proc."""
        with suppress(OSError):
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return float("nan")

    def until_indexed(self) -> float:
        """Wait until all of the file is indexed; seconds since the start."""
        while self.get("state")["progress"] < 1:
            time.sleep(0.05)
        return self.since()

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()


def first_rows(view: Opened, browser: Any) -> float:
    """Seconds until there is something to see."""
    if browser is None:
        while not view.rows()["rows"]:
            time.sleep(0.02)
        return view.since()
    page = browser.new_page()
    page.goto(view.url)
    page.locator(".row:not(.waiting)").first.wait_for(timeout=120_000)
    seconds = view.since()
    page.close()
    return seconds


def timed(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def searched(view: Opened, word: str) -> Any:
    while (found := view.rows(word))["searched"] < 1:
        time.sleep(0.05)
    return found


def measure(path: Path, cache: Path, browser: Any) -> dict[str, float]:
    size = path.stat().st_size / 1e6
    view = Opened(path, cache)
    try:
        found = {"megabytes": size, "server": view.started, "first page": first_rows(view, browser)}
        found["indexed"] = view.until_indexed()
        found["cpu"] = view.cpu()
        count = view.rows()["total"]
        found["trajectories"] = count
        found["filter"] = timed(lambda: view.rows("task:train-1*"))
        found["sort"] = timed(lambda: view.rows(sort="-score"))
        hits: list[Any] = []
        found["search"] = timed(lambda: hits.append(searched(view, "zebra")))
        assert hits[0]["matched"] == 1, hits
        middle = view.get("rows", q="", sort="", start=count // 2, count=1)["rows"][0]["at"]
        found["row"] = timed(lambda: view.get("trajectory", at=middle))
    finally:
        view.close()
    view = Opened(path, cache)
    try:
        first_rows(view, browser)
        view.until_indexed()
        found["again"] = view.since()
        assert view.rows()["total"] == count
    finally:
        view.close()
    return found


def reader_speed(path: Path, limit: float = 100e6) -> float:
    """Megabytes per second of reading trajectories one by one."""
    with path.open("rb") as file:
        head = file.read(int(limit))
    part = path.with_name("part.jsonl")
    part.write_bytes(head[: head.rfind(b"\n") + 1])
    began = time.process_time()
    for _ in read_trajectories(part):
        pass
    return part.stat().st_size / 1e6 / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trajectories", type=int, default=200_000)
    parser.add_argument("--kilobytes", type=float, default=10.0, help="of one trajectory")
    parser.add_argument("--no-browser", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "many.jsonl")
        write(path, arguments.trajectories, int(1000 * arguments.kilobytes))
        if arguments.no_browser:
            found = measure(path, Path(folder, "cache"), None)
        else:
            from playwright.sync_api import sync_playwright

            from turnwise.envs.webshop.browser import find_chromium

            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=str(find_chromium()), args=["--no-sandbox"]
                )
                found = measure(path, Path(folder, "cache"), browser)
                browser.close()
        found["reader"] = reader_speed(path)
    scan = found["megabytes"] / found["cpu"]
    print(
        f"{found['trajectories']:,.0f} trajectories, {found['megabytes']:,.0f} MB, load {os.getloadavg()[0]:.1f}"
    )
    for name in ("server", "first page", "indexed", "cpu", "again", "filter", "sort", "search", "row"):
        print(f"{name:<12}{found[name]:>9.3f} s")
    print(
        f"{'reader':<12}{found['reader']:>9.0f} MB/s of CPU, the scan {scan:.0f} MB/s: {scan / found['reader']:.1f} times"
    )
    slow = [n for n, most in (("first page", FIRST), ("indexed", ALL), ("again", AGAIN)) if found[n] > most]
    print("targets met" if not slow else f"slower than the target: {', '.join(slow)}")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
