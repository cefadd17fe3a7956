"""The `docker` backend: a container for each sandbox, from a pool of warm ones.

A container runs the supervisor (`inside.py`, handed over as an argument, so any image with Python 3.11 or newer does) and
is spoken to over its attached standard streams: no `docker exec`, no shared folder, no open port. The read-only container
has no network, no capability but those by which the supervisor becomes another user and kills, no way to new privileges,
and bounds on memory and processes. It ends and is removed as soon as its standard input closes, also when we are killed;
what a crash of the daemon leaves behind is found by its label and removed when the backend is next used.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import socket
import struct
import threading
import time
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

from . import seccomp
from .errors import SandboxDied, SandboxUnavailable
from .sandbox import Limits
from .session import INSIDE, Connection, Session, settings

if TYPE_CHECKING:
    from docker import DockerClient

IMAGE = "turnwise-sandbox"
LABEL = "turnwise.sandbox"
_FIRST_UID = 2_000_000_000  # programs are users that this machine does not have
_OVERHEAD = 32 << 20  # what the supervisor holds, on top of what programs may
_CAPABILITIES = ["KILL", "SETGID", "SETPCAP", "SETUID"]


class DockerSandbox(Session):
    """Programs in a container. Needs the extra `docker`, a Docker daemon, and the image of `turnwise sandbox build`.

    Args:
        limits: `disk_bytes` bounds the working folder, temporary files and shared memory each; all count as memory too.
            `network=True` puts the container on Docker's default bridge.
        persistent: keep one Python interpreter for all code in Python.
        image: with `python3` of version 3.11 or newer, and what other languages need.
        warm: how many containers with these limits stand ready for the next sandboxes; each holds about 10 MiB.
        docker_host: of the daemon, such as `unix:///run/docker.sock`; empty for DOCKER_HOST or Docker's default.

    Raises:
        SandboxUnavailable: the SDK, the daemon or the image is missing.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        persistent: bool = False,
        image: str = IMAGE,
        warm: int = 1,
        docker_host: str = "",
    ) -> None:
        self._yard = _yard(docker_host)
        self._order = (limits, image)
        self._warm = warm
        super().__init__(limits, persistent=persistent)

    def _begin(self) -> Connection:
        self._container = self._yard.take(*self._order, self._warm)
        how: dict[str, Any] = {
            "uid": _FIRST_UID + next(_uids),
            "seccomp": "",
            "oom": self._container.oom,
            "environment": _ENVIRONMENT,
        }
        if self._container.machine in seccomp.architectures():
            how["seccomp"] = seccomp.assemble(self._container.machine).hex()
        connection = Connection(self._container.stream)
        try:
            connection.ask(settings(self.limits, **how), [], 60.0, 0)
        except BaseException as error:
            connection.close()
            self._end()
            raise SandboxDied(f"the container of a sandbox did not begin: {error}") from error
        return connection

    def _end(self) -> None:
        """Nothing: the container ends and is removed because its standard input has closed."""


_ENVIRONMENT = {
    "HOME": "/work",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": "/work",
    "TMPDIR": "/tmp",
    "USER": "sandbox",
}
_uids = itertools.cycle(range(60_000))


class _Stream:
    """The attached standard streams of a container as one stream; what the daemon sends comes in frames of its own."""

    def __init__(self, attached: Any) -> None:
        self.attached = attached  # a SocketIO, which has no timeouts
        self.raw: socket.socket = attached._sock
        self.left = 0  # of the frame that is being read

    def settimeout(self, seconds: float) -> None:
        """Seconds until a read or a write raises TimeoutError."""
        self.raw.settimeout(seconds)

    def sendall(self, data: bytes) -> None:
        """Write to standard input."""
        self.raw.sendall(data)

    def recv_into(self, view: memoryview) -> int:
        """Read standard output."""
        if not self.left:
            head = b""
            while len(head) < 8:
                part = self.raw.recv(8 - len(head))
                if not part:
                    return 0
                head += part
            (self.left,) = struct.unpack(">4xI", head)
        count = self.raw.recv_into(view[: self.left])
        self.left -= count
        return count

    def close(self) -> None:
        """Hang up, which ends the container."""
        with contextlib.suppress(OSError):
            self.raw.shutdown(socket.SHUT_RDWR)
        self.attached.close()
        self.raw.close()


class _Container:
    """A started container whose supervisor waits for its settings."""

    def __init__(
        self, client: DockerClient, limits: Limits, image: str, owner: str, info: dict[str, str]
    ) -> None:
        size = f"size={limits.disk_bytes},nr_inodes={max(1024, limits.disk_bytes // 4096)},nosuid,nodev,exec,mode=1777"
        memory = limits.memory_bytes + limits.disk_bytes + _OVERHEAD
        self.container = client.containers.create(
            image,
            ["python3", "-s", "-S", "-B", "-P", "-c", INSIDE.read_text(encoding="utf-8"), "streams"],
            auto_remove=True,
            cap_add=_CAPABILITIES,
            cap_drop=["ALL"],
            entrypoint=[],
            environment={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
            hostname="sandbox",
            ipc_mode="private",
            labels={LABEL: owner},
            log_config={"Type": "none"},
            mem_limit=memory,
            memswap_limit=memory,
            network_mode="bridge" if limits.network else "none",
            pids_limit=limits.processes + 2,
            read_only=True,
            security_opt=["no-new-privileges"],
            shm_size=limits.disk_bytes,
            stdin_open=True,
            tmpfs=dict.fromkeys(("/code", "/tmp", "/work"), size),
            user="0:0",
            working_dir="/",  # not /work: the daemon would make that folder first, and root's
        )
        self.machine, self.oom = info["machine"], info["oom"]
        self.stream: Any = _Stream(
            self.container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
        )
        self.container.start()


class _Yard:
    """The containers of one daemon: those that stand ready, and a thread that makes and removes them."""

    def __init__(self, host: str) -> None:
        self.client = connect(host)
        self.owner = f"{_boot()}:{os.getpid()}:{_started(os.getpid())}"
        self.info = self._facts()
        self.ready: dict[tuple[Limits, str], Queue[_Container]] = {}
        self.wanted: Queue[tuple[Limits, str, int]] = Queue()
        self._remove_stale()
        threading.Thread(target=self._work, name="turnwise-docker", daemon=True).start()
        atexit.register(self.close)

    def _facts(self) -> dict[str, str]:
        info = self.client.info()
        versions = {"1": "/sys/fs/cgroup/memory/memory.oom_control", "2": "/sys/fs/cgroup/memory.events"}
        return {
            "machine": info.get("Architecture", ""),
            "oom": versions.get(info.get("CgroupVersion", ""), ""),
        }

    def _containers(self, owner: str = "") -> list[Any]:
        """The containers of one process, or of all."""
        label = f"{LABEL}={owner}" if owner else LABEL
        found: list[Any] = self.client.containers.list(
            all=True, filters={"label": label}, ignore_removed=True
        )
        return found

    def _remove_stale(self) -> None:
        """Remove what runs on this machine that are over have left."""
        for container in self.client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
            boot, _, rest = container.labels[LABEL].partition(":")
            pid, _, started = rest.partition(":")
            if boot == _boot() and _started(int(pid)) != started:
                self._remove(container)

    def take(self, limits: Limits, image: str, warm: int) -> _Container:
        """A container that is ready, or else a new one; others are made ready meanwhile."""
        ready = self.ready.setdefault((limits, image), Queue())
        try:
            taken = ready.get_nowait()
        except Empty:
            taken = self._make(limits, image)
        for _ in range(warm - ready.qsize()):
            self.wanted.put((limits, image, warm))
        return taken

    def _make(self, limits: Limits, image: str) -> _Container:
        import docker
        import requests

        try:
            return _Container(self.client, limits, image, self.owner, self.info)
        except docker.errors.ImageNotFound as error:
            raise SandboxUnavailable(
                f"the Docker daemon has no image {image!r}: run `turnwise sandbox build`, or pass image=NAME of one that has"
                " python3"
            ) from error
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise SandboxUnavailable(f"the Docker daemon makes no container: {error}") from error

    def _remove(self, container: Any) -> None:
        import docker
        import requests

        # gone, going by itself (its standard input has closed), or the daemon is away and the label stays
        with contextlib.suppress(docker.errors.DockerException, requests.RequestException, OSError):
            container.remove(force=True)

    def _work(self) -> None:
        while True:
            limits, image, warm = self.wanted.get()
            ready = self.ready[limits, image]
            if ready.qsize() < warm:
                with contextlib.suppress(SandboxUnavailable):  # whoever needs it will be told
                    ready.put(self._make(limits, image))
            self.wanted.task_done()

    def close(self) -> None:
        """Remove every container that stands ready, and wait until those that were used are gone."""
        import docker
        import requests

        self.wanted.join()
        for ready in self.ready.values():
            with contextlib.suppress(Empty):
                while True:
                    ready.get_nowait().stream.close()
        deadline = time.monotonic() + 10
        with contextlib.suppress(docker.errors.DockerException, requests.RequestException, OSError):
            while left := self._containers(self.owner):
                if time.monotonic() > deadline:
                    for container in left:
                        self._remove(container)
                    break
                time.sleep(0.05)
        self.client.close()


_yards: dict[tuple[int, str], _Yard] = {}
_lock = threading.Lock()


def _yard(host: str) -> _Yard:
    key = (os.getpid(), host)
    with _lock:
        if key not in _yards:
            _yards[key] = _Yard(host)
        return _yards[key]


def connect(host: str) -> DockerClient:
    """A client of a daemon that answers."""
    try:
        import docker
        import requests
    except ModuleNotFoundError as error:
        raise SandboxUnavailable(
            f"the docker backend needs the package {error.name}: pip install 'turnwise[docker]'"
        ) from error
    try:
        client = docker.DockerClient(base_url=host) if host else docker.from_env()
        client.ping()
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise SandboxUnavailable(
            f"no Docker daemon answers at {host or os.environ.get('DOCKER_HOST') or 'its default socket'}: {error}. Start"
            " dockerd (Debian: the package docker.io), or set DOCKER_HOST"
        ) from error
    return client


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> str:
    """When a process began, in ticks since boot; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
