"""The supervisor: the one program of ours that runs inside a sandbox, and runs everything else there.

It is started as a script with the standard library alone, so it imports nothing of turnwise. It has two forms:

    inside.py launcher FD    (bubblewrap) waits on a socket; every message forks a session into fresh namespaces
    inside.py session        (process, docker) one session, spoken to over standard input and output

A session S answers one request after another. Each *call* is a new process P that S starts, and ends with all that P
started. In bubblewrap and docker S is process 1 of a pid namespace that holds nothing else, so it kills all others at one
stroke; as `process` it is the reaper of P's orphans and kills them one by one.

P cannot signal S, nor look into it: S is process 1, which takes no signal from inside, is marked undumpable, and holds
capabilities that P lacks; where S may, it runs P as another user. P inherits its three standard streams and no other
descriptor. What a call gave back is put together by S (output, read from pipes) and by the kernel (exit status), so P
cannot forge it.

A frame is `>IQ` (bytes of header, bytes of payload), a JSON header, and the payload: blobs whose sizes the header lists.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import errno
import gc
import io
import json
import os
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import sys
import tarfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Set
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_SLAVE = 0x4000, 0x80000
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER = 4, 22, 24, 36
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 47
PR_CAP_AMBIENT_CLEAR_ALL, SECCOMP_MODE_FILTER, CAPABILITY_VERSION_3 = 4, 2, 0x20080522
REPORT = struct.Struct("=iqd")  # wait status, largest resident set in KiB, CPU seconds
VERDICT = struct.Struct("=8sidQ")  # status, exit code, seconds, largest resident set
ORDER = struct.Struct(">Q")  # bytes of standard input that follow
CHUNK = 1 << 16
WARM = (
    *(
        "bisect",
        "collections",
        "copy",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "functools",
    ),
    *("heapq", "itertools", "math", "operator", "random", "re", "statistics", "string", "textwrap", "typing"),
)
NOTHING_RAN = {
    "status": "error",
    "exit_code": 126,
    "seconds": 0.0,
    "peak_memory": 0,
    "truncated": False,
}
DEEPEST = 100  # folders within folders that a snapshot follows
POLL_SECONDS = 0.05  # how often a session without a memory cgroup looks at what its call holds

libc = ctypes.CDLL(None, use_errno=True)


def system(name: str, *arguments: Any) -> None:
    """Call a function of the C library that returns 0, or raise OSError."""
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount a file system."""
    system("mount", source.encode(), target.encode(), kind and kind.encode(), flags, options.encode())


class Channel:
    """Frames over a pair of file descriptors."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self.writer = reader, writer
        self.when_gone: Callable[[], object] = lambda: None

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes; ends this process when the other side has gone."""
        parts, left = [], size
        while left:
            part = os.read(self.reader, min(left, 1 << 20))
            if not part:
                self.when_gone()
                os._exit(0)
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def receive(self) -> tuple[dict[str, Any], list[bytes]]:
        """The next frame: header and blobs."""
        size, payload = struct.unpack(">IQ", self.read(12))
        header = json.loads(self.read(size))
        blobs = [self.read(n) for n in header.pop("blobs", [])]
        assert sum(map(len, blobs)) == payload
        return header, blobs

    def send(self, header: dict[str, Any], blobs: list[bytes]) -> None:
        """Write one frame."""
        head = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
        for part in (struct.pack(">IQ", len(head), sum(map(len, blobs))) + head, *blobs):
            view = memoryview(part)
            while view:
                view = view[os.write(self.writer, view[: 1 << 20]) :]


class Running:
    """A process that runs a call, and the pipes to it. `answer` carries a `REPORT` of the interpreter that stays."""

    def __init__(self, pid: int, feed: int, out: int, err: int, answer: int) -> None:
        self.pid, self.pidfd = pid, os.pidfd_open(pid)
        self.feed, self.out, self.err, self.answer = feed, out, err, answer
        for fd in (feed, out, err, answer):
            os.set_blocking(fd, False)


class Session:
    """One sandbox: a working folder, and calls that run in it.

    `settings` come from the host: the folders `work` and `code`; `limits`; `uid` of programs, or None to stay who we
    are; `isolated`: take every capability; `seccomp`: the filter as hexadecimal, or empty; `nproc`: RLIMIT_NPROC, or 0
    where something else counts processes; `watch`: no cgroup bounds memory, so look; `oom`: a file of the cgroup that
    counts kills, or 0; `remove`: a folder to remove at the end, or empty; `environment` of programs.
    """

    def __init__(self, channel: Channel, settings: dict[str, Any]) -> None:
        self.channel = channel
        self.settings = settings
        self.work, self.code = settings["work"], settings["code"]
        self.limits = settings["limits"]
        self.uid = settings["uid"]
        self.kept: Running | None = None

        oom = settings["oom"]  # a path where we see the cgroup, or a descriptor that came with the settings
        self.oom = os.open(oom, os.O_RDONLY) if isinstance(oom, str) and oom else oom
        self.channel.when_gone = self.end

    def restrict(self) -> None:
        """Take from this process what it needs no more; every program inherits that."""
        os.umask(0o022)
        system("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if self.settings["isolated"]:
            for capability in range(64):
                libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
            libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        if code := bytes.fromhex(self.settings["seccomp"]):
            instructions = ctypes.create_string_buffer(code, len(code))
            program = struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
            system("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0)

    def end(self) -> None:
        """Kill what runs, and remove the folder of a session that has one on the host's disk. Never returns."""
        self.kept = None
        self.kill_rest()
        if self.settings["remove"]:
            shutil.rmtree(self.settings["remove"], ignore_errors=True)
        os._exit(0)

    def serve(self) -> None:
        """Answer requests until the other side goes."""
        self.restrict()
        while True:
            header, blobs = self.channel.receive()
            operation = header.pop("op")
            try:
                if operation == "run":
                    reply, data = self.run(blobs, **header)
                else:
                    reply, data = self.as_program(FILES[operation], blobs, header)
            except OSError as error:
                reply, data = {"errno": error.errno or errno.EIO}, []
            self.channel.send(reply, data)

    def serve_once(self, stream: socket.socket) -> None:
        """Be a worker of a pool: run each program in a folder of its own, and never read what it is given.

        A message is a number of seconds and the descriptors of the program's text and its three streams. The program, a
        fork of this process, mounts a folder that goes with it, and reads its text itself; so it finds nothing of the
        programs before it, on disk or in its memory. The answer is how it ended: a `VERDICT`.
        """
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        while True:
            message, ancillary, _flags, _address = stream.recvmsg(8, socket.CMSG_SPACE(16))
            if not message:
                self.end()
            began, kills = time.monotonic(), self.kills()
            deadline = began + struct.unpack(">d", message)[0]
            text, *streams = array.array("i", ancillary[0][2])
            pid = os.fork()
            if pid == 0:
                self.become_once(text, streams)
            for fd in (text, *streams):
                os.close(fd)
            pidfd = os.pidfd_open(pid)
            poll.register(pidfd, select.POLLIN)
            ended = ""
            while not ended:
                wait = max(0.0, deadline - time.monotonic())
                events = poll.poll(1000 * (min(wait, POLL_SECONDS) if self.settings["watch"] else wait) + 1)
                if any(fd != pidfd for fd, _event in events):
                    self.end()
                if events:
                    break
                if time.monotonic() >= deadline:
                    ended = "timeout"
                elif self.settings["watch"] and self.held() > self.limits["memory_bytes"]:
                    ended = "memory"
            poll.unregister(pidfd)
            os.close(pidfd)
            if ended:
                os.kill(pid, signal.SIGKILL)
            _, status, spent = os.wait4(pid, 0)
            self.kill_rest()
            cpu = spent.ru_utime + spent.ru_stime
            name, code = self.judge(status, cpu, ended, kills)
            seconds = time.monotonic() - began
            stream.send(VERDICT.pack(name.encode(), code, seconds, spent.ru_maxrss * 1024))

    def become_once(self, text: int, streams: list[int]) -> None:
        """Turn this process into a program of a pool. Never returns."""
        try:
            system("unshare", CLONE_NEWNS)
            mount_folders(self.limits["disk_bytes"], self.uid)
            with open(text, "rb") as file:
                self.as_program(write_file, [file.read()], {"path": "main.py", "folder": self.code})
            self.restrict()
            step = {"argv": [f"{self.code}/main.py"], "warm": True}
            self.become((streams[0], streams[1], streams[2]), (), step)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(126)

    def judge(self, status: int, cpu: float, ended: str, kills: int) -> tuple[str, int]:
        """The name of an end and its exit code, from what the kernel says and from what we did (`ended`)."""
        code = int(os.waitstatus_to_exitcode(status))
        if ended:
            return ended, -signal.SIGKILL
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu > self.limits["cpu_seconds"]):
            return "timeout", code
        if code != 0 and self.kills() > kills:
            return "memory", code
        return "ok" if code == 0 else "error" if code > 0 else "killed", code

    def as_program(
        self, operation: Any, blobs: list[bytes], header: dict[str, Any]
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Work on files with the rights of the program, so that no link leads us where it may not go itself."""
        if self.uid is None:
            return operation(self.work, *blobs, **header)  # type: ignore[no-any-return]
        libc.setfsgid(self.uid)
        libc.setfsuid(self.uid)
        try:
            return operation(self.work, *blobs, **header)  # type: ignore[no-any-return]
        finally:
            libc.setfsuid(os.geteuid())
            libc.setfsgid(os.getegid())

    # ---- calls ----

    def run(
        self, blobs: list[bytes], steps: list[dict[str, Any]], file: str, timeout: float, keep: bool
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Run the steps (compile, run) one after the other, the last once for each standard input.

        A step has `argv` and `warm`: whether a fork of this interpreter runs the file instead of a new one.

        Blobs: the text of `file` where one is named, then the standard inputs.
        """
        inputs = blobs
        results: list[dict[str, Any]] = []
        if file:
            inputs = blobs[1:]
            try:
                self.as_program(write_file, blobs[:1], {"path": file, "folder": self.code})
            except OSError as error:  # the program before it filled the disk, or made a folder of that name
                why = f"{file} cannot be written: {os.strerror(error.errno or errno.EIO)}\n".encode()
                results = [{**NOTHING_RAN, "stdout": b"", "stderr": why} for _ in inputs]
                steps = []
        for step in steps[:-1]:
            result = self.call(step, b"", timeout)
            if result["status"] != "ok":
                result["status"] = "compile" if result["status"] == "error" else result["status"]
                results = [dict(result) for _ in inputs]
                break
        if not results:
            call = self.call_kept if keep else self.call
            results = [call(steps[-1], stdin, timeout) for stdin in inputs]
        data = [bytes(result.pop(stream)) for result in results for stream in ("stdout", "stderr")]
        return {"results": results}, data

    def call(self, step: dict[str, Any], stdin: bytes, timeout: float) -> dict[str, Any]:
        """Run one program to its end and say how it went."""
        kills, began = self.kills(), time.monotonic()
        running = self.start(step)
        result = self.attend(running, stdin, timeout, kills, began, kept=False)
        for fd in (running.pidfd, running.out, running.err, running.answer):
            os.close(fd)
        return result

    def call_kept(self, step: dict[str, Any], stdin: bytes, timeout: float) -> dict[str, Any]:
        """Run a file in the interpreter that stays, starting it where there is none."""
        kills, began = self.kills(), time.monotonic()
        if self.kept is None:
            self.kept = self.start({**step, "keep": True})
        kept = self.kept
        result = self.attend(kept, ORDER.pack(len(stdin)) + stdin, timeout, kills, began, kept=True)
        if result["interpreter_ended"]:
            for fd in (kept.pidfd, kept.out, kept.err, kept.answer, kept.feed):
                os.close(fd)
            self.kept = None
        return result

    def attend(
        self, running: Running, stdin: bytes, timeout: float, kills: int, began: float, *, kept: bool
    ) -> dict[str, Any]:
        """Feed and read a call until it has ended; kill it at the deadline.

        A call has ended when its process has and its pipes are empty; in the interpreter that stays, when that says so.
        """
        deadline = began + timeout
        buffers = {running.out: bytearray(), running.err: bytearray()}
        poll = select.poll()
        for fd in (*buffers, running.answer, running.pidfd):
            poll.register(fd, select.POLLIN)
        poll.register(self.channel.reader, 0)  # reports POLLHUP alone: the other side has gone
        left = memoryview(stdin)
        if left:
            poll.register(running.feed, select.POLLOUT)
        elif not kept:
            os.close(running.feed)
        open_pipes = {*buffers, running.answer}
        alive, truncated, ended, report = True, False, "", b""
        usage = (0, 0, 0.0)
        while (alive or open_pipes) and len(report) < REPORT.size:
            wait = max(0.0, deadline - time.monotonic()) if not ended else 60.0
            if self.settings["watch"] and alive:
                wait = min(wait, POLL_SECONDS)
            for fd, _event in poll.poll(wait * 1000 + 1):
                if fd in open_pipes:
                    chunk = os.read(fd, CHUNK)
                    if not chunk:
                        poll.unregister(fd)
                        open_pipes.discard(fd)
                    elif fd == running.answer:
                        report += chunk
                    else:
                        truncated |= keep_some(buffers[fd], chunk, self.limits["output_bytes"])
                elif fd == running.feed:
                    try:
                        left = left[os.write(fd, left[:CHUNK]) :]
                    except BrokenPipeError:
                        left = left[:0]
                    if not left:
                        poll.unregister(fd)
                        if not kept:
                            os.close(fd)
                elif fd == running.pidfd:
                    poll.unregister(fd)
                    alive = False
                    _, status, spent = os.wait4(running.pid, 0)
                    usage = (status, spent.ru_maxrss, spent.ru_utime + spent.ru_stime)
                    self.kill_rest()
                else:
                    self.end()
            if alive and not ended:
                if time.monotonic() >= deadline:
                    ended = "timeout"
                elif self.settings["watch"] and self.held() > self.limits["memory_bytes"]:
                    ended = "memory"
                if ended:
                    os.kill(running.pid, signal.SIGKILL)
        if left and not kept:
            os.close(running.feed)
        if kept:
            for fd, buffer in buffers.items():  # what was written before the answer is in the pipes by now
                while fd in open_pipes and (chunk := read_now(fd)):
                    truncated |= keep_some(buffer, chunk, self.limits["output_bytes"])
        if len(report) >= REPORT.size:
            status, peak, cpu = REPORT.unpack_from(report)
            usage = (
                status & 0xFF00,
                peak & 0xFFFFFFFF,
                cpu,
            )  # a program can write there: an exit code, whatever it wrote
        status, peak, cpu = usage
        name, code = self.judge(status, cpu, ended, kills)
        return {
            "status": name,
            "exit_code": code,
            "seconds": time.monotonic() - began,
            "peak_memory": peak * 1024,
            "truncated": truncated,
            "interpreter_ended": kept and not alive,
            "stdout": buffers[running.out],
            "stderr": buffers[running.err],
        }

    def kills(self) -> int:
        """How often the kernel killed in this session's cgroup for want of memory."""
        if not self.oom:
            return 0
        lines = os.pread(self.oom, CHUNK, 0).decode().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def descendants(self, spared: Set[int] = frozenset()) -> list[int]:
        """Every process below this one, but for those in `spared` and below them."""
        found: list[int] = []
        look = [os.getpid()]
        while look:
            pid = look.pop()
            try:
                for thread in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{thread}/children") as file:
                        children = [pid for pid in map(int, file.read().split()) if pid not in spared]
                        look += children
                        found += children
            except OSError:
                continue  # it has ended meanwhile
        return found

    def held(self) -> int:
        """Bytes of memory that belong to the programs of this session.

        What several processes share is divided between them, except in those that hide their memory from us (dumpable
        processes do not), where it counts in full.
        """
        total = 0
        for pid in self.descendants():
            for file, fields in (
                ("smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")),
                ("status", ("RssAnon:", "RssShmem:")),
            ):
                try:
                    with open(f"/proc/{pid}/{file}") as lines:
                        total += sum(int(line.split()[1]) for line in lines if line.startswith(fields))
                        break
                except OSError:
                    continue  # it hides, or it has ended meanwhile
        return total * 1024

    def kill_rest(self) -> None:
        """Kill what a call left behind, which is below us or comes to us once its parents are dead."""
        for attempt in range(10_000):
            if os.getpid() == 1 and (self.kept is None or attempt > 20):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(
                        -1, signal.SIGKILL
                    )  # at one stroke; the interpreter that stays too, if all else failed
            rest = self.descendants({self.kept.pid} if self.kept else set())
            if not rest:
                return
            for pid in rest:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(
                    ChildProcessError
                ):  # a grandchild: its turn comes when its parent is dead
                    os.waitpid(pid, os.WNOHANG)
        os._exit(1)  # it breeds faster than we kill: the host takes down the whole session

    def start(self, step: dict[str, Any]) -> Running:
        """Start a program: its process, or that of its init."""
        pairs = [os.pipe() for _ in range(4)]
        (in_r, in_w), (out_r, out_w), (err_r, err_w), (answer_r, answer_w) = pairs
        keep = step.get("keep", False)
        streams = (os.open("/dev/null", os.O_RDONLY) if keep else in_r, out_w, err_w)
        kept_fds = (in_r, answer_w) if keep else ()
        pid = os.fork()
        if pid == 0:
            self.become(streams, kept_fds, step)
        for fd in {in_r, out_w, err_w, answer_w, streams[0]}:
            os.close(fd)
        return Running(pid, in_w, out_r, err_r, answer_r)

    def become(self, streams: tuple[int, int, int], kept_fds: tuple[int, ...], step: dict[str, Any]) -> None:
        """Turn this process into the program of a call. Never returns."""
        code = 126
        try:
            os.setsid()
            prefer_to_kill()
            for target, fd in enumerate(streams):
                os.dup2(fd, target)
            high = [os.dup2(fd, 200 + n, inheritable=False) for n, fd in enumerate(kept_fds)]
            os.closerange(3, 200)
            os.closerange(200 + len(high), 1 << 16)
            os.chdir(self.work)
            self.confine()
            if not step["warm"]:
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                execute(step["argv"], self.settings["environment"])
            os.environ.clear()
            os.environ.update(self.settings["environment"])
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            main = types.ModuleType("__main__")
            sys.modules["__main__"] = main
            sys.argv = [step["argv"][-1]]
            sys.path.insert(0, self.work)
            code = obey(main, *high) if high else interpret(main)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def confine(self) -> None:
        """Set every limit and take every privilege, in the program's own process."""
        limits = self.limits
        cpu = max(1, int(limits["cpu_seconds"] + 0.999))
        bounds = {
            resource.RLIMIT_CORE: (0, 0),
            resource.RLIMIT_CPU: (cpu, cpu + 1),
            resource.RLIMIT_DATA: (limits["memory_bytes"],) * 2,
            resource.RLIMIT_FSIZE: (limits["disk_bytes"],) * 2,
            resource.RLIMIT_NOFILE: (limits["open_files"],) * 2,
            resource.RLIMIT_MSGQUEUE: (0, 0),
        }
        if self.settings["nproc"]:
            bounds[resource.RLIMIT_NPROC] = (self.settings["nproc"],) * 2
        for what, (soft, hard) in bounds.items():
            most = resource.getrlimit(what)[1]
            if most != resource.RLIM_INFINITY:
                soft, hard = min(soft, most), min(hard, most)
            resource.setrlimit(what, (soft, hard))
        if self.uid is not None:
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        if self.settings["isolated"]:
            none = struct.pack("=Ii6I", CAPABILITY_VERSION_3, 0, *[0] * 6)
            system("capset", none[:8], none[8:])
        system("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self would be root's


def keep_some(buffer: bytearray, chunk: bytes, most: int) -> bool:
    """Append as much of `chunk` as fits; whether some was left out."""
    room = most - len(buffer)
    buffer += chunk[:room]
    return len(chunk) > room


def read_now(fd: int) -> bytes:
    """What a non-blocking descriptor has, empty when it has nothing."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return b""


def prefer_to_kill() -> None:
    """Let the kernel kill this process before the session when the cgroup's memory runs out."""
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else the file is root's
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def execute(argv: list[str], environment: dict[str, str]) -> None:
    """exec; a command that cannot be started ends as it does in a shell, with 127 or 126."""
    try:
        os.execvpe(argv[0], argv, environment)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        os.write(2, f"{argv[0]}: {why}\n".encode(errors="backslashreplace"))
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def interpret(main: types.ModuleType) -> int:
    """Run the file `sys.argv[0]` as Python runs a script, and give its exit code."""
    code = run_file(main)
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        code = code or 1
    return flush() or code


def run_file(main: types.ModuleType) -> int:
    """Execute the file `sys.argv[0]` in a module; an exception is printed as Python prints it."""
    main.__dict__["__file__"] = sys.argv[0]
    try:
        with open(sys.argv[0], "rb") as file:
            program = compile(file.read(), sys.argv[0], "exec")
        exec(program, main.__dict__)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code is run_file.__code__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return 1
    return 0


def flush() -> int:
    """Flush the standard streams; 120, as Python has it, where that fails."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        return 120
    return 0


def obey(main: types.ModuleType, orders: int, answer: int) -> int:
    """Be the interpreter that stays: run the file at every order, with the same variables."""
    feed = open(orders, "rb", closefd=False)  # noqa: SIM115
    while order := feed.read(ORDER.size):
        sys.stdin = io.TextIOWrapper(io.BytesIO(feed.read(ORDER.unpack(order)[0])), encoding="utf-8")
        code = run_file(main)
        code = flush() or code
        spent = resource.getrusage(resource.RUSAGE_SELF)
        os.write(answer, REPORT.pack(code << 8, spent.ru_maxrss, 0.0))
    return 0


# ---- files: paths are relative, and no part of one may be a link ----


def open_folder(root: str, parts: list[str], *, create: bool) -> int:
    """A descriptor of a folder below `root`, reached part by part without following a link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    here = os.open(root, flags)
    try:
        for part in parts:
            if part == "..":
                raise PermissionError(errno.EPERM, "a path may not leave the working folder")
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here)
            there = os.open(part, flags, dir_fd=here)
            os.close(here)
            here = there
    except BaseException:
        os.close(here)
        raise
    return here


def split(path: str) -> list[str]:
    """The parts of a relative path."""
    return [part for part in path.split("/") if part not in ("", ".")]


def read_file(work: str, path: str) -> tuple[dict[str, Any], list[bytes]]:
    """The content of a regular file."""
    *parts, name = split(path) or ["."]
    folder = open_folder(work, parts, create=False)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    with open(fd, "rb") as file:
        kind = os.fstat(fd).st_mode
        if not stat.S_ISREG(kind):
            raise OSError(errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL, "not a regular file")
        return {}, [file.read()]


def write_file(work: str, data: bytes, path: str, folder: str = "") -> tuple[dict[str, Any], list[bytes]]:
    """Make a file, with the folders above it, or replace its content."""
    *parts, name = split(path) or ["."]
    where = open_folder(folder or work, parts, create=True)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(name, flags, 0o644, dir_fd=where)
    finally:
        os.close(where)
    with open(fd, "wb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        file.write(data)
    return {}, []


def list_folder(work: str, path: str) -> tuple[dict[str, Any], list[bytes]]:
    """The names in a folder, sorted, those of folders with a slash at the end."""
    folder = open_folder(work, split(path), create=False)
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries)
    finally:
        os.close(folder)
    return {}, ["\0".join(names).encode(errors="surrogateescape")]


def pack_folder(work: str) -> tuple[dict[str, Any], list[bytes]]:
    """The working folder as a tar archive: files, folders, links, times in whole seconds and modes, in sorted order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(folder: int, prefix: str, depth: int) -> None:
            if depth > DEEPEST:
                raise OSError(errno.ENAMETOOLONG, "folders are nested too deep for a snapshot")
            for name in sorted(os.listdir(folder)):
                about = os.stat(name, dir_fd=folder, follow_symlinks=False)
                info = tarfile.TarInfo(prefix + name)
                info.mode, info.mtime = stat.S_IMODE(about.st_mode), int(about.st_mtime)
                if stat.S_ISREG(about.st_mode):
                    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                    with open(fd, "rb") as file:
                        info.size = os.fstat(fd).st_size
                        archive.addfile(info, file)
                elif stat.S_ISDIR(about.st_mode):
                    info.type = tarfile.DIRTYPE
                    archive.addfile(info)
                    below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                    try:
                        add(below, f"{prefix}{name}/", depth + 1)
                    finally:
                        os.close(below)
                elif stat.S_ISLNK(about.st_mode):
                    info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=folder)
                    info.mtime = 0  # extraction leaves the times of links alone
                    archive.addfile(info)

        folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        try:
            add(folder, "", 0)
        finally:
            os.close(folder)
    return {}, [buffer.getvalue()]


def unpack_folder(work: str, data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Put the content of an archive into the working folder."""
    user, group = libc.setfsuid(-1), libc.setfsgid(-1)  # -1 sets nothing and gives what is set
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = archive.getmembers()
        for member in members:
            member.uid, member.gid = user, group
        # we are the program's user, below a root that holds nothing else: no member can reach further than that program
        archive.extraction_filter = lambda member, _path: member
        archive.extractall(work, members, numeric_owner=True)
    return {}, []


FILES = {
    "read": read_file,
    "write": write_file,
    "list": list_folder,
    "pack": pack_folder,
    "unpack": unpack_folder,
}


# ---- how a session begins ----


def launch(control: socket.socket) -> None:
    """Fork a session into fresh namespaces for every message: settings, and the socket to speak to it over.

    This process never reads what a session is asked, so a session cannot find in its own memory, a copy of this one's,
    anything of the sessions before it. `alone` settings let a session use the network and IPC namespaces of this
    process instead of new ones, which take milliseconds to make; the host asks for it when no other session is in them.
    """
    # over that of bwrap, parts of which are covered, for which reason no namespace below could mount its own
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended sessions leave no zombies
    before = -1
    control.send(b"ready")
    while True:
        message, ancillary, _flags, _address = control.recvmsg(1 << 16, socket.CMSG_SPACE(8))
        if not message:
            return
        settings = json.loads(message)
        fd, *counter = array.array("i", ancillary[0][2])  # the second one is there where there is a cgroup
        settings["oom"] = counter[0] if counter else 0
        if settings["alone"] and before >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(before, signal.SIGKILL)
            select.select([before], [], [])
            os.close(before)
            before = -1
        system("unshare", CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            control.close()
            begin(fd, settings)
        system("setns", own_pids, CLONE_NEWPID)
        for sent in (fd, *counter):
            os.close(sent)
        if settings["alone"]:
            before = os.pidfd_open(pid)


def begin(fd: int, settings: dict[str, Any]) -> None:
    """Be the session of a fresh pid namespace: mount its folders, say who we are, serve. Never returns."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        system("unshare", CLONE_NEWNS | (0 if settings["alone"] else settings["unshare"]))
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount_folders(settings["limits"]["disk_bytes"], settings["uid"])
        if settings["uid"] is None:
            own_user_namespace()
        channel = socket.socket(fileno=fd)
        who = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
        channel.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, who)])
        session = Session(Channel(fd, fd), settings)
        if settings["pool"]:
            session.serve_once(channel)
        session.serve()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def mount_folders(size: int, uid: int | None) -> None:
    """Mount a tmpfs of that many bytes, and show its folders where programs look for them."""
    options = f"size={size},nr_inodes={max(1024, size // 4096)},mode=0755"
    mount("tmpfs", "/box", "tmpfs", MS_NOSUID | MS_NODEV, options)
    for name, target in (("work", "/work"), ("code", "/code"), ("tmp", "/tmp"), ("shm", "/dev/shm")):
        os.mkdir(f"/box/{name}")
        if uid is not None:
            os.chown(f"/box/{name}", uid, uid)
        mount(f"/box/{name}", target, None, MS_BIND)


def own_user_namespace() -> None:
    """Enter a user namespace, so that RLIMIT_NPROC, which counts a user in a namespace, counts this session alone."""
    user, group = os.getuid(), os.getgid()
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else the files are root's
    system("unshare", CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def serve_streams() -> None:
    """Be a session that speaks over standard input and output; the first frame holds the settings."""
    channel = Channel(os.dup(0), os.dup(1))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(
        signal.SIGTERM, lambda *_: os._exit(1)
    )  # as process 1 we would not heed it, and `docker stop` waits
    settings, _ = channel.receive()
    for folder in (settings["work"], settings["code"]):
        os.makedirs(folder, exist_ok=True)
    channel.send({"pid": os.getpid()}, [])
    Session(channel, settings).serve()


def warm_up() -> None:
    """Import what programs commonly import, so that every fork has it, and keep the collector off those objects."""
    for name in WARM:
        __import__(name)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    system("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    warm_up()
    if sys.argv[1] == "launcher":
        launch(socket.socket(fileno=int(sys.argv[2])))
    else:
        serve_streams()
