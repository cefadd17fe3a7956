"""What breaks: programs that are missing, daemons and processes that die, hosts that are killed. And what is left: nothing."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from turnwise.sandbox import (
    Limits,
    SandboxDied,
    SandboxError,
    SandboxUnavailable,
    backends,
    cgroups,
    open_sandbox,
)
from turnwise.sandbox import bubblewrap as bubblewrap_backend

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, *before: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code with turnwise in a process of its own."""
    return subprocess.run(
        [*before, sys.executable, "-B", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def until(condition, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def descendants() -> set[int]:
    """The living processes below this one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def groups(pid: int | None = None) -> list[Path]:
    """The control groups that this process, or another, has made and not removed."""
    return [folder for parent in cgroups.find() for folder in parent.glob(f"turnwise-{pid or os.getpid()}-*")]


def test_a_missing_bwrap_says_what_to_install(monkeypatch):
    monkeypatch.setattr(bubblewrap_backend, "_launchers", {})
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="package `bubblewrap`"):
        open_sandbox("bubblewrap")


def test_a_machine_that_forbids_user_namespaces_says_so_and_nothing_falls_back():
    code = """
        from pathlib import Path
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        from turnwise.sandbox import open_sandbox, SandboxUnavailable
        try:
            open_sandbox()
        except SandboxUnavailable as error:
            print(error)
    """
    done = python(code, "unshare", "--user", "--map-root-user")
    assert "forbids user namespaces" in done.stdout, done.stderr
    assert "unprivileged_userns_clone" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="this is the user that the other tests run as")
def test_an_ordinary_user_has_the_same_sandbox(tmp_path):
    """No second user, no control groups: limits rest on rlimits and on the supervisor."""
    code = """
        from turnwise.sandbox import Limits, Pool, cgroups, open_sandbox
        boxes = [open_sandbox(limits=Limits(memory_bytes=64 << 20, processes=8, wall_seconds=20)) for _ in range(3)]
        print(cgroups.find(), [box.run(code="print(input())", stdin="hi").stdout for box in boxes])
        fork = "import os, time\\nn = 0\\ntry:\\n    while True:\\n        if not os.fork(): time.sleep(60)\\n        n += 1\\nexcept OSError: print(n)"
        print([int(box.run(code=fork).stdout) <= 8 for box in boxes])
        share = "import mmap\\nm = mmap.mmap(-1, 300 << 20)\\nwhile True:\\n    for i in range(0, 300 << 20, 1 << 20): m[i : i + (1 << 20)] = bytes(1 << 20)"
        print(boxes[0].run(code=share).status)
        print(boxes[1].run(code="import os\\ntry: os.kill(1, 9); open('/proc/1/mem', 'rb')\\nexcept OSError as e: print(e.errno)").stdout)
        print(Pool(1).run("open('x', 'w'); print(input())", "pooled").stdout)
        print(boxes[2].run(["sh", "-c", "grep NoNewPrivs /proc/self/status; cat /etc/shadow; echo end"]).stdout)
    """
    # the interpreter may lie where only root comes by; a private mount namespace opens the way
    prefix = sys.base_prefix
    top = "/" + prefix.split("/")[1]
    script = f"""
        set -e
        if [ "$(stat -c %a {top})" = 700 ]; then
            mkdir {tmp_path}/hold && mount -t tmpfs none {tmp_path}/hold && mkdir {tmp_path}/hold/prefix
            mount --rbind {prefix} {tmp_path}/hold/prefix
            mount -t tmpfs -o mode=755 none {top} && mkdir -p {prefix}
            mount --rbind {tmp_path}/hold/prefix {prefix}
        fi
        exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
    """
    done = python(code, "unshare", "--mount", "bash", "-c", script, "-", HOME="/tmp")
    assert done.stdout.splitlines() == [
        "() ['hi\\n', 'hi\\n', 'hi\\n']",
        "[True, True, True]",
        "memory",
        "13",
        "",
        "pooled",
        "",
        "NoNewPrivs:\t1",
        "end",
        "",
    ], done.stderr


def test_a_dead_session_is_a_typed_failure_and_the_next_one_works(open_on):
    box, other = open_on("bubblewrap"), open_on("bubblewrap")
    os.kill(box._member.pid, signal.SIGKILL)
    with pytest.raises(SandboxDied):
        box.run(code="1")
    assert other.run(code="print(1)").stdout == "1\n"
    assert open_on("bubblewrap").run(code="print(2)").stdout == "2\n"


def test_a_dead_launcher_is_a_typed_failure_and_the_next_one_is_started(open_on):
    box = open_on("bubblewrap")
    bubblewrap_backend._launchers[os.getpid(), False].process.kill()
    with pytest.raises(SandboxDied):
        box.run(code="import time; time.sleep(60)")
    with pytest.raises(SandboxError):
        box.read("x")
    assert open_on("bubblewrap").run(code="print(2)").stdout == "2\n"


def test_closing_in_the_middle_of_a_run_ends_it(open_on):
    box = open_on("bubblewrap")
    failed: list[BaseException] = []

    def run() -> None:
        try:
            box.run(["sleep", "600"], timeout=9)
        except SandboxError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.3)
    os.kill(box._member.pid, signal.SIGKILL)
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(failed[0], SandboxDied)


def test_sandboxes_of_many_threads_at_once(open_on):
    """Launchers are started by a thread that stays, so that the end of a caller's thread ends no sandbox of another."""
    open_on("bubblewrap")
    kept = []
    threads = [threading.Thread(target=lambda: kept.append(open_on("bubblewrap"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [box.run(code=f"print({n})").stdout for n, box in enumerate(kept)] == [f"{n}\n" for n in range(8)]


@pytest.mark.parametrize("backend", backends())
def test_a_host_that_is_killed_leaves_nothing(backend, request):
    options = {"process": "allow_unsafe=True", "bubblewrap": ""}.get(backend)
    if options is None:
        options = f"docker_host={request.getfixturevalue('dockerd').host!r}"
    code = f"""
        import os, sys, threading
        sys.path.insert(0, {str(ROOT)!r})
        from turnwise.sandbox import open_sandbox
        boxes = [open_sandbox({backend!r}, {options}) for _ in range(2)]
        threading.Thread(target=lambda: boxes[0].run(["sleep", "5417"], timeout=9.5)).start()
        boxes[1].run(code="print(1)")
        print(getattr(boxes[0], "_folder", ""), flush=True)
        threading.Event().wait()
    """
    host = subprocess.Popen(
        [sys.executable, "-B", "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    folder = host.stdout.readline().strip()
    host.kill()
    host.communicate()
    mark = f"turnwise-{host.pid}-".encode()

    def left() -> list[bytes]:
        lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        return [line for line in lines if b"sleep\x005417" in line or mark in line]

    assert until(lambda: not left())
    assert not folder or until(lambda: not Path(folder).exists())
    if backend == "docker":
        assert until(lambda: request.getfixturevalue("dockerd").containers(host.pid) == 0)
    if backend == "bubblewrap":
        assert python("from turnwise.sandbox import cgroups; cgroups.find()").returncode == 0
        assert until(lambda: groups(host.pid) == [])


def test_a_container_that_dies_is_a_typed_failure(open_on):
    box = open_on("docker")
    box._container.container.kill()
    with pytest.raises(SandboxDied):
        box.run(code="1")
    assert open_on("docker").run(code="print(2)").stdout == "2\n"


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # sockets that the SDK leaves open
def test_a_daemon_that_stops_in_the_middle_is_a_typed_failure_and_comes_back(open_on, dockerd):
    box = open_on("docker")
    assert box.run(code="print(1)").stdout == "1\n"
    dockerd.stop()
    try:
        with pytest.raises(SandboxDied):
            box.run(code="1")
        with pytest.raises(SandboxUnavailable, match="Docker daemon"):
            open_sandbox("docker", docker_host=dockerd.host)
    finally:
        dockerd.start()
        gc.collect()
    assert open_on("docker").run(code="print(2)").stdout == "2\n"


def test_a_warm_container_is_used_once_and_replaced(open_on, dockerd):
    limits = Limits(disk_bytes=32 << 20)
    first = open_on("docker", limits, warm=1)
    ready = first._yard.ready[limits, "turnwise-sandbox"]
    assert until(lambda: ready.qsize() == 1)
    second = open_on("docker", limits, warm=0)
    assert ready.qsize() == 0
    names = {
        box.run(code="import os; open('x', 'a').write('x'); print(os.getpid())").stdout
        for box in (first, second)
    }
    assert first._container.container.id != second._container.container.id
    assert [list(box.list()) for box in (first, second)] == [["x"], ["x"]]
    assert names


def test_an_image_that_is_missing_says_how_to_make_it(open_on, dockerd):
    with pytest.raises(SandboxUnavailable, match="turnwise sandbox build"):
        open_sandbox("docker", docker_host=dockerd.host, image="no-such-image")


def kill_session(box: Any) -> None:
    """Kill what answers for a sandbox, in the way of its backend."""
    if hasattr(box, "_container"):
        box._container.container.kill()
    else:
        os.kill(box._member.pid if hasattr(box, "_member") else box._process.pid, signal.SIGKILL)


def soak(backend: str, sessions: int, **options: object) -> None:
    """Open, use and close sandboxes in four threads, with one in twenty killed in some way at a random moment."""
    dice = random.Random(11)
    turns = iter([dice.random() for _ in range(sessions)])
    lock = threading.Lock()
    ends: list[str] = []

    def work() -> None:
        while True:
            with lock:
                chance = next(turns, None)
            if chance is None:
                return
            try:
                with open_sandbox(backend, Limits(wall_seconds=20), {"a": "1"}, **options) as box:
                    if chance < 0.05:
                        killer = threading.Timer(chance, kill_session, [box])
                        killer.start()
                        try:
                            while True:
                                box.run(["sleep", "0.01"])
                        finally:
                            killer.join()
                    assert box.run(code="open('b', 'w'); print(1)").stdout == "1\n"
                    assert list(box.list()) == ["a", "b"]
                    ends.append("ok")
            except SandboxDied:
                ends.append("died")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == sessions
    assert 0.02 * sessions < ends.count("died") < 0.1 * sessions


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "sessions"), [("bubblewrap", 1000), ("process", 300), ("docker", 150)])
def test_nothing_is_left_after_many_sessions_of_which_one_in_twenty_is_killed(backend, sessions, request):
    """No container, process, control group, descriptor or folder."""
    options: dict[str, object] = {}

    def containers() -> int:
        return request.getfixturevalue("dockerd").containers(os.getpid()) if backend == "docker" else 0

    shared = containers()  # with other tests
    if backend == "process":
        options = {"allow_unsafe": True}
    if backend == "docker":
        options = {"docker_host": request.getfixturevalue("dockerd").host, "warm": 2}
    soak(backend, 20, **options)  # what stays for the next sandbox is there now
    time.sleep(2)
    folders = set(Path("/tmp").glob("turnwise-sandbox-*"))
    before = len(descendants()), len(os.listdir("/proc/self/fd"))
    soak(backend, sessions, **options)
    assert until(lambda: len(descendants()) <= before[0])
    assert until(lambda: len(os.listdir("/proc/self/fd")) <= before[1] + 4)  # warm containers have sockets
    assert set(Path("/tmp").glob("turnwise-sandbox-*")) == folders
    assert groups() == []
    assert until(lambda: containers() <= shared + 2)  # that stand ready
