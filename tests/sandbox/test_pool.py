"""A pool runs many programs that have nothing to do with one another, and keeps it so."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from turnwise.sandbox import InvalidOption, Limits, Pool, SandboxClosed, SandboxDied, SandboxUnavailable

from .conftest import unavailable

MIB = 1 << 20
LIMITS = Limits(wall_seconds=20, memory_bytes=128 * MIB, processes=16, disk_bytes=16 * MIB, output_bytes=5000)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One worker, so that every program follows the one before it in the same place."""
    try:
        opened = Pool(1, LIMITS)
    except SandboxUnavailable as error:
        unavailable(str(error))
    with opened:
        yield opened


def test_a_program_in_a_pool_is_run_as_in_a_sandbox(pool):
    result = pool.run("import sys; print(input()[::-1], __name__); print('no', file=sys.stderr)", "abc\n")
    assert (result.stdout, result.stderr, result.status) == ("cba __main__\n", "no\n", "ok")
    assert pool.run("raise SystemExit(3)").exit_code == 3
    assert "return [][1]" in pool.run("def f():\n    return [][1]\nf()").stderr
    assert pool.run("import os; os.abort()").status == "killed"
    assert pool.run("import time; print('on', flush=True); time.sleep(60)", timeout=0.3).status == "timeout"
    flood = pool.run("print('x' * 1_000_000)")
    assert (len(flood.stdout), flood.truncated) == (5000, True)


def test_limits_hold_in_a_pool(pool):
    share = "import mmap\nm = mmap.mmap(-1, 500 << 20)\nfor i in range(0, 500 << 20, 1 << 20): m[i : i + (1 << 20)] = bytes(1 << 20)"
    assert pool.run(share).status == "memory"
    assert int(pool.run("n = 0\ntry:\n    while True: n += open('f', 'ab', 0).write(bytes(MIB))\nexcept OSError: print(n)"
                        .replace("MIB", str(MIB))).stdout) <= LIMITS.disk_bytes  # fmt: skip
    fork = "import os, time\nn = 0\ntry:\n    while True:\n        if not os.fork(): time.sleep(60)\n        n += 1\nexcept OSError: print(n)"
    assert int(pool.run(fork).stdout) <= LIMITS.processes
    assert pool.run("print(1)").stdout == "1\n"


def test_a_program_finds_nothing_of_the_one_before_it(pool):
    """Files, processes, sockets, patches, in every place that can be written."""
    before = (
        "import builtins, os, socket, time\nfor f in ('.', '/tmp', '/dev/shm', '/code'): open(f + '/left', 'w').write('x')\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('\\0left'); s.listen()\nbuiltins.len = lambda x: 0\n"
        "if os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\nprint('left', flush=True)"
    )
    assert pool.run(before).stdout == "left\n"
    after = (
        "import os, socket\nprint([f for f in ('.', '/tmp', '/dev/shm', '/code', '/box/work') if 'left' in os.listdir(f)])\n"
        "try: socket.socket(socket.AF_UNIX).connect('\\0left'); print('met')\nexcept OSError: pass\n"
        "print(len('ab'), sum(p.isdigit() for p in os.listdir('/proc')))"
    )
    assert pool.run(after).stdout == "[]\n2 2\n"


def test_a_program_does_not_find_the_one_before_it_in_its_memory(pool):
    """The interpreter that is forked has read neither text nor input nor output of any program."""
    search = (
        "import re\nword = b'71-ltaoclazteuq'[::-1]\nfound = 0\nmem = open('/proc/self/mem', 'rb', 0)\n"
        "for line in open('/proc/self/maps'):\n    if ' r' not in line: continue\n"
        "    a, b = (int(x, 16) for x in line.split()[0].split('-'))\n"
        "    try:\n        mem.seek(a)\n        found += mem.read(b - a).count(word)\n    except (OSError, OverflowError): pass\n"
        "print(found)"
    )
    alone = int(pool.run(search).stdout)
    for _ in range(3):
        assert (
            "quetzal"
            in pool.run(
                "print('quetzalcoatl-17' * 200)\n" + "# quetzalcoatl-17\n" * 500, "quetzalcoatl-17 " * 500
            ).stdout
        )
    assert int(pool.run(search).stdout) <= alone + 1  # its own reversed word may lie in one place more


def test_a_program_cannot_reach_its_worker(pool):
    code = (
        "import os\nfor s in range(1, 65):\n    try: os.kill(1, s)\n    except OSError: pass\n"
        "for path in ('/proc/1/mem', '/proc/1/environ', '/proc/1/fd'):\n"
        "    try: os.open(path, os.O_RDONLY); print(path)\n    except OSError: pass\n"
        "for fd in range(3, 300):\n    try: os.write(fd, b'ok' + bytes(40)); print(fd)\n    except OSError: pass\n"
    )
    assert pool.run(code).stdout == ""
    assert pool.run("print(2)").stdout == "2\n"


def test_threads_share_the_workers_of_a_pool():
    found: dict[int, str] = {}
    with Pool(2, LIMITS) as pool:

        def work(n: int) -> None:
            for k in range(5):
                found[10 * n + k] = pool.run("print(int(input()) * 2)", str(10 * n + k)).stdout

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {10 * n + k: f"{2 * (10 * n + k)}\n" for n in range(6) for k in range(5)}


def test_a_dead_worker_is_a_typed_failure_and_is_replaced():
    with Pool(1, LIMITS) as pool:
        assert pool.run("print(1)").ok
        worker = pool._idle.get()
        pool._idle.put(worker)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(SandboxDied):
            pool.run("print(1)")
        assert pool.run("print(2)").stdout == "2\n"
    with pytest.raises(SandboxClosed):
        pool.run("print(1)")
    with pytest.raises(InvalidOption, match="at least 1"):
        Pool(0)
