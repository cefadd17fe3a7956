"""A Docker daemon of our own, and the backends to test."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from turnwise.envs.cache import cache_folder, content_key
from turnwise.sandbox import Limits, Sandbox, SandboxError, SandboxUnavailable, open_sandbox

Open = Callable[..., Sandbox]


def unavailable(why: str) -> None:
    """Skip on a user's machine, fail where everything has to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


class Daemon:
    """A dockerd with folders and a socket of its own; it sees no other daemon's containers."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder = data, folder
        self.host = f"unix://{folder}/docker.sock"
        self.start()

    def start(self) -> None:
        paths = ("--data-root", self.data, "--exec-root", self.folder / "exec")
        quiet = ("--pidfile", self.folder / "pid", "--iptables=false", "--ip6tables=false", "--bridge=none")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["dockerd", *map(str, (*paths, *quiet)), "--host", self.host],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.1)

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.host.removeprefix("unix://")) == 0

    def containers(self, pid: int) -> int:
        """How many a process has."""
        import docker

        with contextlib.closing(docker.DockerClient(base_url=self.host)) as client:
            found = client.containers.list(all=True, ignore_removed=True)
            return sum(f":{pid}:" in container.labels.get("turnwise.sandbox", "") for container in found)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Daemon]:
    """A daemon that has the image, made of this machine's own packages.

    Its images are kept in the cache: to unpack some 8,000 files and to remove them takes longer than all the tests.
    """
    try:
        import docker
    except ModuleNotFoundError:
        unavailable("the Docker SDK is not installed: pip install 'turnwise[docker]'")
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        unavailable("a Docker daemon of our own needs root and the package docker.io")
    from turnwise.sandbox import docker as backend
    from turnwise.sandbox import image

    kept = cache_folder() / "sandbox-docker"
    kept.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="turnwise-dockerd-"))
    daemon = None
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one daemon at a time may use the data
        try:
            try:
                daemon = Daemon(kept / "data", folder)
            except RuntimeError as error:
                unavailable(f"dockerd does not start: {error}")
            assert daemon is not None
            made_of = f"{backend.IMAGE}:{content_key(Path(image.__file__), Path('/var/lib/dpkg/status'))}"
            with contextlib.closing(docker.DockerClient(base_url=daemon.host)) as client:
                if not client.images.list(made_of):
                    image.build(docker_host=daemon.host, debian=True)
                    client.images.get(backend.IMAGE).tag(made_of)
            yield daemon
        finally:
            for yard in backend._yards.values():
                yard.close()
            backend._yards.clear()
            if daemon is not None:
                daemon.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def docker_boxes(dockerd: Daemon) -> Iterator[dict[Limits, Sandbox]]:
    """Containers that tests share one after the other: one takes a second to start."""
    boxes: dict[Limits, Sandbox] = {}
    yield boxes
    for box in boxes.values():
        box.close()


@pytest.fixture
def empty_on(request: pytest.FixtureRequest, open_on: Open) -> Callable[[str, Limits], Sandbox]:
    """`empty_on(backend, limits)`: a sandbox with no files, not for a test that closes or restores it."""

    def get(backend: str, limits: Limits) -> Sandbox:
        if backend != "docker":
            return open_on(backend, limits)
        boxes = request.getfixturevalue("docker_boxes")
        host = request.getfixturevalue("dockerd").host
        if limits in boxes:
            try:
                boxes[limits].run(["sh", "-c", "find /work /tmp /dev/shm -mindepth 1 -delete"])
                return boxes[limits]
            except SandboxError:
                boxes.pop(limits).close()
        box = boxes[limits] = open_sandbox(backend, limits, docker_host=host, warm=0)
        return box

    return get


@pytest.fixture
def open_on(request: pytest.FixtureRequest) -> Iterator[Open]:
    """`open_on(backend, limits, files, **options)`; what it opens is closed after the test."""
    boxes: list[Sandbox] = []

    def add(
        backend: str,
        limits: Limits | None = None,
        files: dict[str, str | bytes] | None = None,
        **options: Any,
    ) -> Sandbox:
        if backend == "process":
            options["allow_unsafe"] = True
        if backend == "docker":
            options = {"docker_host": request.getfixturevalue("dockerd").host, "warm": 0, **options}
        try:
            boxes.append(open_sandbox(backend, limits, files, **options))
        except SandboxUnavailable as error:
            unavailable(str(error))
        return boxes[-1]

    yield add
    for box in boxes:
        box.close()
