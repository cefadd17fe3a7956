"""What a sandbox costs: `python benchmarks/sandbox.py [docker-host]`. Ratios within one run, on whatever else the machine does.

Bare subprocess: the same interpreter, started with the same flags and the same one-line program, without any isolation.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

try:
    from turnwise.sandbox import Limits, Pool, open_sandbox
except ModuleNotFoundError:
    raise SystemExit("install the package first: pip install -e .") from None

CODE = "print(6 * 7)"
PYTHON = [sys.executable, "-s", "-S", "-c", CODE]


def timed(call: Callable[[], object], seconds: float = 4.0) -> list[float]:
    """Milliseconds of each call, for as long as said, after one that is not counted."""
    call()
    took, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - began))
    return took


def row(name: str, took: list[float]) -> float:
    """Print a line of figures; the median."""
    middle = statistics.median(took)
    p95 = statistics.quantiles(took, n=20)[-1]
    print(f"{name:<58}{middle:9.2f}{p95:9.2f}{1000 * len(took) / sum(took):11.0f}")
    return middle


def rate(call: Callable[[], object], threads: int, seconds: float = 4.0) -> float:
    """Calls per second of several threads together."""
    count, end, lock = 0, time.perf_counter() + seconds, threading.Lock()

    def work() -> None:
        nonlocal count
        while time.perf_counter() < end:
            call()
            with lock:
                count += 1

    began = time.perf_counter()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return count / (time.perf_counter() - began)


def one_shot(backend: str, **options: object) -> None:
    with open_sandbox(backend, **options) as box:
        assert box.run(code=CODE).stdout == "42\n"


def proportional_memory(pid: int) -> int:
    """Bytes that a process holds, shared pages divided among those that share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0


def bubblewrap() -> None:
    bare = row("bare subprocess", timed(lambda: subprocess.run(PYTHON, capture_output=True, check=True)))
    with open_sandbox() as box:
        new = row("bubblewrap, a new interpreter", timed(lambda: box.run(["python3", *PYTHON[1:]])))
        warm = row("bubblewrap, code in a warm interpreter", timed(lambda: box.run(code=CODE)))
        cases = timed(lambda: box.run_cases(CODE, [""] * 10))
        row("bubblewrap, one of ten cases of one start", [ms / 10 for ms in cases])
    with Pool(1) as pool:
        row("pool, an isolated call", timed(lambda: pool.run(CODE)))
    row("bubblewrap, open + run + close", timed(lambda: one_shot("bubblewrap")))
    print(
        f"bubblewrap costs {new - bare:+.1f} ms a call beside a bare subprocess (goal: at most +25); warm {warm - bare:+.1f} ms"
    )
    threads = os.cpu_count() or 1
    bare_rate = rate(lambda: subprocess.run(PYTHON, capture_output=True, check=True), threads)
    with Pool(threads) as pool:
        pooled = rate(lambda: pool.run(CODE), threads)
    print(
        f"{threads} threads: {pooled:.0f} isolated calls a second in a pool (goal: 400), {bare_rate:.0f} bare subprocesses"
    )
    boxes = [open_sandbox(limits=Limits(wall_seconds=60)) for _ in range(64)]
    boxes_of = iter(boxes * 1000)
    lock = threading.Lock()

    def next_box() -> None:
        with lock:
            box = next(boxes_of)
        box.run(code=CODE)

    together = rate(next_box, 64)
    held = [proportional_memory(box._member.pid) for box in boxes]
    print(
        f"64 sessions at once: {together:.0f} calls a second, {statistics.mean(held) / 2**20:.1f} MiB each (PSS)"
    )
    for box in boxes:
        box.close()


def docker(host: str) -> None:
    environment = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
    flags = ["--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    command = ["docker", "run", *flags, "turnwise-sandbox", "python3", *PYTHON[1:]]
    run = row(
        "docker run",
        timed(lambda: subprocess.run(command, capture_output=True, check=True, env=environment), 12),
    )
    with open_sandbox("docker", docker_host=host, warm=0) as box:
        session = row("docker session, code in a warm interpreter", timed(lambda: box.run(code=CODE)))
        new = row("docker session, a new interpreter", timed(lambda: box.run(["python3", *PYTHON[1:]])))
    print(
        f"a call in a session is {run / session:.0f} times faster than docker run, {run / new:.0f} with a new interpreter (goal: 8)"
    )


if __name__ == "__main__":
    print(f"{'':<58}{'p50 ms':>9}{'p95 ms':>9}{'a second':>11}")
    bubblewrap()
    try:
        docker(sys.argv[1] if len(sys.argv) > 1 else "")
    except Exception as error:
        if type(error).__name__ != "SandboxUnavailable" and not isinstance(
            error, OSError | subprocess.SubprocessError
        ):
            raise
        print(f"docker: not measured, {error}")
