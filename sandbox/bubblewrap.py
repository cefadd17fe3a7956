"""The `bubblewrap` backend: namespaces, a read-only root, a bounded tmpfs, a system call filter and cgroups.

Opening a sandbox forks a process that is warm already. For each user of the package there are two kinds of process:

    launcher   started by bwrap with a user, mount, pid, network, IPC and UTS namespace, a root that has what interpreters
               need and nothing else, and no content of any sandbox in its memory
    session    one sandbox: a fork of a launcher in a mount and pid namespace of its own, with a tmpfs of its own. The only
               session of a launcher uses the launcher's network and IPC namespaces, which hold nothing that a process
               which ended could leave there; while it lives, further ones get namespaces of their own

`inside.py` has what happens in them.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import itertools
import json
import os
import platform
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from . import cgroups, seccomp
from .errors import SandboxDied, SandboxUnavailable
from .sandbox import Limits
from .session import INSIDE, Connection, Session, settings

_CLONE_NEWUSER, _CLONE_NEWIPC, _CLONE_NEWNET = 0x10000000, 0x8000000, 0x40000000
_FIRST_UID, _UIDS = 1000, 60_000  # inside; outside they are this many above _OUTSIDE
_OUTSIDE = 2_000_000_000  # above what /etc/subuid and other containers are commonly given
_OVERHEAD = 24 << 20  # what the session itself holds, on top of what its programs may
_CAPABILITIES = ("SYS_ADMIN", "SETUID", "SETGID", "SETPCAP", "CHOWN", "KILL")
_ETC = ("ssl/openssl.cnf", "alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime")
_ETC_NETWORK = ("ca-certificates", "hosts", "nsswitch.conf", "pki", "resolv.conf", "ssl")
_INSTALL = "install it (Debian, Ubuntu, Fedora: the package `bubblewrap`)"
_NAMESPACES = (
    "this machine forbids user namespaces. Allow them: sysctl kernel.unprivileged_userns_clone=1 (Debian),"
    " kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces above 0; in a container start it"
    " with --security-opt seccomp=unconfined, or use backend='docker'"
)


class BubblewrapSandbox(Session):
    """Programs in namespaces of their own, under a filter of system calls. The default on Linux.

    Args:
        limits: all are enforced; docs/sandbox.md says by what. `network=True` shares the machine's network with all its
            local services; the docker backend gives a network of its own.
        persistent: keep one Python interpreter for all code in Python.

    Raises:
        SandboxUnavailable: bwrap is not installed, or the machine forbids user namespaces; nothing falls back.
    """

    def _begin(self) -> Connection:
        self._member = Member(self.limits)
        return Connection(self._member.stream)

    def _end(self) -> None:
        self._member.end()


class Member:
    """A session of a launcher: its process, the stream to it, and its control group.

    Args:
        limits: of the session.
        pool: whether it is a worker of a `Pool`; see `inside.Session.serve_once`.

    Raises:
        SandboxUnavailable: as `BubblewrapSandbox`.
    """

    def __init__(self, limits: Limits, *, pool: bool = False) -> None:
        self.launcher = _launcher(limits.network)
        bounded = bool(cgroups.find())
        how: dict[str, Any] = {
            "uid": self.launcher.next_uid(),
            "seccomp": seccomp.assemble().hex(),
            "nproc": 0 if bounded else limits.processes + 2,
            "watch": not bounded,
            "environment": {**_ENVIRONMENT, "PATH": f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin"},
            "pool": pool,
        }
        self.cgroup = None
        if bounded:
            memory = limits.memory_bytes + limits.disk_bytes + _OVERHEAD
            self.cgroup = cgroups.Cgroup(memory, limits.processes + 2)
        try:
            self.stream, self.pid, self.alone = self.launcher.fork(settings(limits, **how), self.cgroup)
            self.pidfd = os.pidfd_open(self.pid)
            if self.cgroup:
                self.cgroup.add(self.pid)
        except BaseException:
            if self.cgroup:
                self.cgroup.remove()
            raise

    def end(self) -> None:
        """Wait for the process, whose stream has been closed, to end, and help it; then remove the rest."""
        select.select([self.pidfd], [], [], 0.05)  # it has read the end of its stream and goes
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        select.select([self.pidfd], [], [], 10)
        os.close(self.pidfd)
        if self.cgroup:
            self.cgroup.remove()
        self.launcher.forget(self.alone)


_ENVIRONMENT = {
    "HOME": "/work",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": "/work",
    "TMPDIR": "/tmp",
    "USER": "sandbox",
}


class Launcher:
    """A bwrap process whose program forks sessions. Sessions of several threads may be open at once."""

    def __init__(self, network: bool) -> None:
        self.network = network
        self.lock = threading.Lock()
        self.uids = itertools.cycle(range(_FIRST_UID, _FIRST_UID + _UIDS))
        self.taken = False  # whether a session is in the namespaces of the launcher itself
        program = _bwrap()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.ExitStack() as stack:
            fds = [theirs.fileno()]
            if os.geteuid() == 0:
                namespace = _user_namespace()
                stack.callback(os.close, namespace)
                fds.append(namespace)
                user = ["--userns", str(namespace)]
            else:
                user = ["--unshare-user", "--uid", "1000", "--gid", "1000"]
            command = [
                program,
                *user,
                *_root(network),
                "--",
                *_interpreter(),
                "launcher",
                str(theirs.fileno()),
            ]
            # --die-with-parent means the thread, so the thread that starts bwrap is one that stays
            self.process = _starter.run(
                lambda: subprocess.Popen(
                    command,
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={},
                )
            )
        self.control.settimeout(60)
        try:
            ready = self.control.recv(16)
        except OSError as error:
            ready = str(error).encode()
        if ready != b"ready":
            self.process.kill()
            self.process.wait()
            said = self.said()
            self.close()
            raise SandboxUnavailable(_explain(said))
        os.set_blocking(self.process.stderr.fileno(), False)

    def next_uid(self) -> int | None:
        """A user that no other session is, or None where this process may be only itself."""
        if os.geteuid() != 0:
            return None
        with self.lock:
            return next(self.uids)

    def fork(self, how: dict[str, Any], cgroup: cgroups.Cgroup | None) -> tuple[socket.socket, int, bool]:
        """A new session: a socket to it, its process as this machine numbers it, and whether it is `alone`.

        Raises:
            SandboxDied: the launcher is gone; the next call of `_launcher` starts another.
        """
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with self.lock:
            alone = not self.taken
            message = {
                **how,
                "alone": alone,
                "unshare": _CLONE_NEWIPC | (0 if self.network else _CLONE_NEWNET),
            }
            try:
                with theirs, contextlib.ExitStack() as stack:
                    fds = array.array("i", [theirs.fileno()])
                    if cgroup:
                        fds.append(stack.enter_context(cgroup.oom.open()).fileno())
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)
                    self.control.sendmsg([json.dumps(message).encode()], [rights])
                self.taken = True
            except OSError as error:
                ours.close()
                raise SandboxDied(f"the sandbox launcher is gone: {error.strerror}") from error
        ours.settimeout(60)
        try:
            data, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(12))
            if data != b"!":
                raise SandboxDied("a new sandbox ended before it began")
        except (OSError, SandboxDied) as error:
            ours.close()
            self.forget(alone)
            raise SandboxDied(f"a new sandbox did not begin: {error}. {self.said()}") from error
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        (pid, _, _) = struct.unpack("3i", ancillary[0][2])
        return ours, pid, alone

    def forget(self, alone: bool) -> None:
        """A session has ended; `alone` ones leave the launcher's namespaces free."""
        if alone:
            with self.lock:
                self.taken = False

    def said(self) -> str:
        """What the launcher wrote as an error, if anything."""
        assert self.process.stderr is not None
        try:
            return os.read(self.process.stderr.fileno(), 1 << 16).decode(errors="replace").strip()
        except BlockingIOError:
            return ""

    def alive(self) -> bool:
        """Whether the process is there."""
        return self.process.poll() is None

    def close(self) -> None:
        """End the launcher and every session of it."""
        self.control.close()
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


class _Starter:
    """A thread that lives as long as the process and runs what is handed to it."""

    def __init__(self) -> None:
        self.work: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self.thread: threading.Thread | None = None
        self.lock = threading.Lock()

    def run(self, task: Callable[[], Any]) -> Any:
        """Run a task there and give its result."""
        with self.lock:
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._loop, name="turnwise-sandbox", daemon=True)
                self.thread.start()
        future: Future[Any] = Future()
        self.work.put((task, future))
        return future.result()

    def _loop(self) -> None:
        while True:
            task, future = self.work.get()
            try:
                future.set_result(task())
            except BaseException as error:
                future.set_exception(error)


_starter = _Starter()
_launchers: dict[tuple[int, bool], Launcher] = {}
_lock = threading.Lock()


def _launcher(network: bool) -> Launcher:
    """The launcher of this process, started at first use and after it died."""
    global _starter
    key = (os.getpid(), network)
    with _lock:
        launcher = _launchers.get(key)
        if launcher is None or not launcher.alive():
            if not any(pid == os.getpid() for pid, _ in _launchers):
                _starter = _Starter()  # that of a parent did not come along in the fork
                atexit.register(_close_launchers)
            if launcher is not None:
                launcher.close()
            launcher = _launchers[key] = Launcher(network)
        return launcher


def _close_launchers() -> None:
    for (pid, _), launcher in list(_launchers.items()):
        if pid == os.getpid():
            launcher.close()


def _bwrap() -> str:
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxUnavailable(
            f"the bubblewrap backend needs the program bwrap, which is not on PATH; {_INSTALL}"
        )
    if platform.machine() not in seccomp.architectures():
        raise SandboxUnavailable(
            f"the bubblewrap backend has no system call filter for {platform.machine()}, only for"
            f" {', '.join(seccomp.architectures())}; use backend='docker'"
        )
    return path


def _interpreter() -> list[str]:
    """The command that starts the supervisor: the Python that we are, without its virtual environment."""
    program = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [str(program), "-s", "-S", "-B", "-P", "/turnwise/inside.py"]


def _root(network: bool) -> list[str]:
    """The arguments of bwrap for namespaces, privileges and the file system."""
    arguments = [
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--hostname",
        "sandbox",
    ]
    arguments += [] if network else ["--unshare-net"]
    arguments += ["--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    for capability in _CAPABILITIES:
        arguments += ["--cap-add", f"CAP_{capability}"]
    arguments += ["--clearenv", "--setenv", "PYTHONHASHSEED", "0", "--setenv", "LANG", "C.UTF-8"]
    arguments += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    outside_usr = [] if Path(sys.base_prefix).is_relative_to("/usr") else [sys.base_prefix]
    above = [str(folder) for prefix in outside_usr for folder in reversed(Path(prefix).parents)][1:]
    for folder in ("/etc", "/etc/ssl", *above):
        arguments += ["--perms", "0755", "--dir", folder]
    for name in (*_ETC, *(_ETC_NETWORK if network else ())):
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for prefix in outside_usr:
        arguments += ["--ro-bind", prefix, prefix]
    arguments += ["--dir", "/dev"]
    for device in ("null", "zero", "full", "random", "urandom"):
        arguments += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        arguments += ["--symlink", f"/proc/self/{target}", f"/dev/{name}"]
    for folder in ("/box", "/code", "/dev/shm", "/tmp", "/work"):
        arguments += ["--dir", folder]
    arguments += ["--ro-bind", str(INSIDE), "/turnwise/inside.py"]
    return [*arguments, "--proc", "/proc", "--chdir", "/work", "--remount-ro", "/"]


def _user_namespace() -> int:
    """As root: a user namespace in which root is root, to see what is to be mounted, and programs are users of no account."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready_r, ready_w = os.pipe()
    done_r, done_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if libc.unshare(_CLONE_NEWUSER) == 0:
                os.write(ready_w, b"!")
            else:
                os.write(ready_w, b"?")
            os.read(done_r, 1)
        finally:
            os._exit(0)
    try:
        if os.read(ready_r, 1) != b"!":
            raise SandboxUnavailable(_NAMESPACES)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(f"0 0 1\n{_FIRST_UID} {_OUTSIDE} {_UIDS}\n")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    except OSError as error:
        raise SandboxUnavailable(f"{_NAMESPACES} ({error})") from error
    finally:
        os.write(done_w, b"!")
        os.waitpid(pid, 0)
        for fd in (ready_r, ready_w, done_r, done_w):
            os.close(fd)


def _explain(said: str) -> str:
    """What bwrap's own words mean for the user."""
    if (
        "namespace" in said
        or "uid map" in said
        or "Operation not permitted" in said
        or "Permission denied" in said
    ):
        return f"{_NAMESPACES}. bwrap said: {said}"
    return f"bwrap does not start: {said or 'it said nothing'}; {_INSTALL} in version 0.5 or newer"
