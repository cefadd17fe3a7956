"""What a sandbox costs: `python benchmarks/sandbox.py [docker-host] [seconds]`. Ratios within one run, on whatever else the machine does.

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


def compared(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Make the calls in turn, so that all meet the same load, print a line for each, and give their medians in milliseconds."""
    for call in calls.values():
        call()
    took: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(took[next(iter(took))]) < 3:
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            took[name].append(1000 * (time.perf_counter() - began))
    for name, each in took.items():
        p95 = statistics.quantiles(each, n=20)[-1]
        print(f"{name:<50}{statistics.median(each):9.2f}{p95:9.2f}{len(each):8}")
    return {name: statistics.median(each) for name, each in took.items()}


def rate(call: Callable[[], object], threads: int, seconds: float) -> float:
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


def bare() -> None:
    subprocess.run(PYTHON, capture_output=True, check=True)


def bubblewrap(seconds: float) -> None:
    with open_sandbox() as box, Pool(1) as pool:
        calls = {
            "bare subprocess": bare,
            "bubblewrap, a new interpreter": lambda: box.run(["python3", *PYTHON[1:]]),
            "bubblewrap, code in a warm interpreter": lambda: box.run(code=CODE),
            "bubblewrap, ten cases of one start": lambda: box.run_cases(CODE, [""] * 10),
            "pool, an isolated call": lambda: pool.run(CODE),
            "bubblewrap, open + run + close": lambda: one_shot("bubblewrap"),
        }
        ms = compared(calls, seconds)
    new = ms["bubblewrap, a new interpreter"] - ms["bare subprocess"]
    warm = ms["bubblewrap, code in a warm interpreter"] - ms["bare subprocess"]
    print(
        f"beside a bare subprocess: a new interpreter {new:+.1f} ms a call (goal: at most +25), a warm one {warm:+.1f} ms"
    )
    threads = os.cpu_count() or 1
    with Pool(threads) as pool:
        rates = [rate(call, threads, seconds / 4) for call in (bare, lambda: pool.run(CODE))]
    print(
        f"{threads} threads: {rates[1]:.0f} isolated calls a second in a pool (goal: 400), {rates[0]:.0f} bare subprocesses"
    )
    boxes = [open_sandbox(limits=Limits(wall_seconds=60)) for _ in range(64)]
    boxes_of = iter(boxes * 1000)
    lock = threading.Lock()

    def next_box() -> None:
        with lock:
            box = next(boxes_of)
        box.run(code=CODE)

    together = rate(next_box, 64, seconds / 4)
    held = [proportional_memory(box._member.pid) for box in boxes]
    print(
        f"64 sessions at once: {together:.0f} calls a second, {statistics.mean(held) / 2**20:.1f} MiB each (PSS)"
    )
    for box in boxes:
        box.close()


def docker(host: str, seconds: float) -> None:
    environment = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
    flags = ["--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    command = ["docker", "run", *flags, "turnwise-sandbox", "python3", *PYTHON[1:]]
    with open_sandbox("docker", docker_host=host, warm=0) as box:
        docker_run = lambda: subprocess.run(command, capture_output=True, check=True, env=environment)  # noqa: E731
        (run,) = compared({"docker run": docker_run}, seconds).values()
        time.sleep(2)  # the daemon still removes the last ones
        calls = {
            "docker session, a new interpreter": lambda: box.run(["python3", *PYTHON[1:]]),
            "docker session, code in a warm interpreter": lambda: box.run(code=CODE),
        }
        new, warm = compared(calls, seconds / 2).values()
    print(
        f"docker run against a call in a session: {run / warm:.0f} times, {run / new:.0f} with a new interpreter (goal: 8)"
    )


if __name__ == "__main__":
    host = sys.argv[1] if len(sys.argv) > 1 else ""
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 16.0
    print(f"{'':<50}{'p50 ms':>9}{'p95 ms':>9}{'calls':>8}")
    bubblewrap(seconds)
    try:
        docker(host, seconds)
    except Exception as error:
        if type(error).__name__ != "SandboxUnavailable" and not isinstance(
            error, OSError | subprocess.SubprocessError
        ):
            raise
        print(f"docker: not measured, {error}")
