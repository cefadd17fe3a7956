"""`CodeRepair-v1`: find and mend the bug in a small package, with a shell."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Hashable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ...sandbox import Limits, Sandbox
from ..core import Outcome, TurnEnv
from ..errors import InvalidParameter, nearest
from ..tasks import Task, TaskSet
from ..tools import Call, tool
from . import packages
from .generated_tasks import GeneratedTasks
from .grading import passed_calls
from .packages import LEVELS, TOPICS, Package
from .sessions import Sessions

_LONGEST_OUTPUT = 4_000
_LONGEST_FILE = 100_000  # bytes
_MOST_FILES = 100

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class CodeRepair(TurnEnv):
    """A small package has a bug; find it, mend it, and hand the package in. Hidden tests decide.

    Observation: first the report of a user and the package's files. `read` shows a file with line numbers, `shell` what a command
        printed, 4,000 characters at most.
    Tools: `files()` lists the files; `read(path)` shows one; `edit(path, old, new)` replaces a text that stands in it once, or with an
        empty `old` writes the whole file; `shell(command)` runs a command in a sandbox that holds the package, and keeps what it
        changes; `submit()` ends the episode.
    Reward: the score, when the package is handed in. With `reward="step"` also the change of the potential `test_reward` x the share
        of the package's own tests that pass.
    Terminated: the package was handed in; success if it passes all hidden tests. The score is then 1, else `partial_credit` x (hidden
        tests mended - hidden tests broken) / hidden tests that failed at first, not below 0. Truncated: `max_turns` (15 as registered),
        score 0.
    Task: a generated package of three modules and a further one that calls them; the bug is a mutant of one function. `level` and
        `topics` choose among them.
    State key: the task and the content of all files. Expert: runs the tests, reads the file, mends the function, runs the tests again
        and submits; it knows the function.
    Failure: a sandbox that goes away is `SandboxLost` or `SandboxMissing`.
    Source: the tools of repository tasks as in SWE-agent (Yang et al., arXiv 2405.15793), on packages made from mutants.
    """

    level: Literal["any", "easy", "medium", "hard"] = "any"
    topics: tuple[str, ...] = ()
    sandbox: str = "bubblewrap"
    allow_unsafe: bool = False
    seconds: Annotated[float, Field(gt=0.0)] = 10.0
    memory: Annotated[int, Field(ge=64)] = 256
    test_reward: Annotated[float, Field(ge=0.0)] = 0.5
    partial_credit: Share = 0.5

    blocking = True
    rules = (
        "A small Python package has a bug. Find it, mend it where it is, and submit the package. Its tests run with"
        " `python -m unittest`; hidden tests decide, more than those. Each docstring says what its function should do."
    )

    def load_tasks(self) -> TaskSet:
        """The tasks, and the sandboxes that the packages run in."""
        for name in self.topics:
            if name not in TOPICS:
                raise InvalidParameter(
                    f"topics: there is no {name!r}.{nearest(name, TOPICS)} Known: {', '.join(TOPICS)}"
                )
        limits = Limits(wall_seconds=self.seconds, cpu_seconds=self.seconds, memory_bytes=self.memory << 20)
        self._sessions = Sessions(self.sandbox, limits, allow_unsafe=self.allow_unsafe)
        self._rewards: dict[str, float] = {}
        levels = [level for level in LEVELS if self.level in ("any", level)]
        return GeneratedTasks([(t, level) for t in self.topics or TOPICS for level in levels])

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Tell what is known of the bug, and list the files."""
        self.package: Package = packages.package(task.family, task.difficulty, task.split, task.seed)
        self.contents: dict[str, bytes] = {path: text.encode() for path, text in self.package.files.items()}
        self.opened: set[str] = set()
        self.ran = 0  # commands since the last edit
        self.share = 1 - sum(call in self._failing() for call in self.package.shown) / len(self.package.shown)
        return f"The package {self.package.name} has a bug. {self.package.report}\n\nFiles:\n{self._listed()}"

    def _failing(self) -> list[packages.Call]:
        return [self.package.hidden[i] for i in self.package.failing]

    def _listed(self) -> str:
        return "\n".join(sorted(self.contents))

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """See `TurnEnv.step`; info has `rewards` by name in addition, which sum to the reward."""
        self._rewards = {}
        observation, reward, terminated, truncated, info = super().step(action)
        if self.reward == "outcome":
            self._rewards = {"outcome": reward} if reward else {}
        elif info["shaping"]:
            self._rewards["tests"] = info["shaping"]
        info["rewards"] = self._rewards
        return observation, reward, terminated, truncated, info

    @tool
    def files(self) -> str:
        """List the files of the package."""
        return self._listed() or "There are no files."

    @tool
    def read(self, path: str) -> Outcome:
        """Show a file.

        Args:
            path: as it stands in the list of files.
        """
        content = self.contents.get(path.strip())
        if content is None:
            return self._missing(path)
        self.opened.add(path.strip())
        lines = _text(content).split("\n")
        shown = "\n".join(
            f"{n:4} {line}" for n, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1)
        )
        return Outcome(_cut(shown, 4 * _LONGEST_OUTPUT) or "The file is empty.")

    @tool
    def edit(self, path: str, old: str, new: str) -> Outcome:
        """Replace a text in a file, or write a whole file.

        Args:
            path: of the file.
            old: the text to replace, which stands in the file exactly once; empty to write the whole file.
            new: what stands there afterwards.
        """
        name = path.strip()
        if not old:
            if not _is_path(name):
                return Outcome(f"{name[:200]!r} is no path inside the package.", invalid=True)
            changed = new
        else:
            if name not in self.contents:
                return self._missing(path)
            text = _text(self.contents[name])
            count = text.count(old)
            if count != 1:
                found = "does not stand" if count == 0 else f"stands {count} times"
                return Outcome(
                    f"That text {found} in {name}; it must stand there exactly once.", invalid=True
                )
            changed = text.replace(old, new)
        content = changed.encode("utf-8", "surrogateescape")
        if len(content) > _LONGEST_FILE or len(self.contents | {name: b""}) > _MOST_FILES:
            return Outcome(
                f"A package holds at most {_MOST_FILES} files of at most {_LONGEST_FILE:,} bytes.",
                invalid=True,
            )
        self.contents[name] = content
        self.ran = 0
        self._measure()
        return Outcome(f"{name} is written.")

    @tool
    def shell(self, command: str) -> Outcome:
        """Run a command of the shell in the folder of the package.

        Args:
            command: for bash, as in `python -m unittest`.
        """
        if "\0" in command or len(command) > _LONGEST_FILE:
            return Outcome("A command is a text without null bytes, not longer than a file.", invalid=True)
        with self._sessions.open(self.contents) as sandbox:
            result = sandbox.run(["bash", "-c", command], timeout=self.seconds)
            kept = _changed(sandbox)
        self.ran += 1
        said = "\n".join(part.rstrip("\n") for part in (result.stdout, result.stderr) if part.strip())
        said = _cut(_stable(said), _LONGEST_OUTPUT)
        if result.status != "ok":
            ended = {
                "error": f"exit code {result.exit_code}",
                "timeout": "took too long",
                "memory": "used too much memory",
            }
            said += f"{chr(10) if said else ''}[{ended.get(result.status, 'was killed')}]"
        if kept is None:
            said += f"\n[more than {_MOST_FILES} files, or one of more than {_LONGEST_FILE:,} bytes: no change was kept]"
        elif kept != self.contents:
            self.contents = kept
            self._measure()
        return Outcome(said or "[nothing was printed]")

    @tool
    def submit(self) -> Outcome:
        """Hand the package in, which ends the episode."""
        hidden = self.package.hidden
        passed = passed_calls(self._sessions, hidden, self.contents, self.seconds)
        at_first = set(self.package.failing)
        mended = sum(ok and i in at_first for i, ok in enumerate(passed))
        broken = sum(not ok and i not in at_first for i, ok in enumerate(passed))
        solved = all(passed)
        score = 1.0 if solved else self.partial_credit * max(0.0, (mended - broken) / len(at_first))
        if self.reward == "step":
            self._rewards["outcome"] = score
        return Outcome("Right." if solved else "Wrong.", score, success=solved, score=score)

    def _measure(self) -> None:
        """Run the package's own tests, from outside."""
        if self.reward == "step" and self.test_reward:
            passed = passed_calls(self._sessions, self.package.shown, self.contents, self.seconds)
            self.share = sum(passed) / len(passed)

    def _missing(self, path: str) -> Outcome:
        near = nearest(path[:200], self.contents)
        return Outcome(f"There is no file {path[:200]!r}.{near}", invalid=True)

    def potential(self) -> float:
        """`test_reward` x the share of the package's own tests that pass."""
        return self.test_reward * self.share

    def state_key(self) -> Hashable:
        """A hash of the task and of all files."""
        assert self.task is not None
        digest = hashlib.blake2b(self.task.id.encode(), digest_size=8)
        for path, content in sorted(self.contents.items()):
            digest.update(repr((path, content)).encode())
        return digest.hexdigest()

    def expert(self) -> Call:
        """Run the tests, read the file, mend it, run the tests again, submit."""
        known = {**self.package.files, self.package.path: self.package.repaired}
        left = self.max_turns - self._turn
        for path, text in known.items():
            if self.contents.get(path) == text.encode():
                continue
            bad = (
                path == self.package.path
                and _text(self.contents.get(path, b"")).count(self.package.wrong) == 1
            )
            if bad and left > 4:
                if not self.ran and not self.opened:
                    return Call("shell", {"command": "python -m unittest"})
                if path not in self.opened:
                    return Call("read", {"path": path})
            if left > 1:
                change = (
                    {"old": self.package.wrong, "new": self.package.right}
                    if bad
                    else {"old": "", "new": text}
                )
                return Call("edit", {"path": path, **change})
        if not self.ran and left > 1:
            return Call("shell", {"command": "python -m unittest"})
        return Call("submit", {})

    def sample_action(self, rng: np.random.Generator) -> str:
        """A random tool: mostly reading and running, sometimes taking a line out of a file."""
        name = ("read", "read", "shell", "files", "edit", "submit")[int(rng.integers(6))]
        paths = sorted(self.contents) if self.task is not None else ["README.md"]
        path = paths[int(rng.integers(len(paths)))]
        if name == "shell":
            commands = ("python -m unittest", "ls", f"cat '{path}'", "grep -rn return .")
            return self.write(Call(name, {"command": commands[int(rng.integers(len(commands)))]}))
        if name == "edit":
            lines = _text(self.contents[path]).splitlines() if self.task is not None else []
            old = lines[int(rng.integers(len(lines)))] if lines else "x"
            return self.write(Call(name, {"path": path, "old": old, "new": "    pass"}))
        return self.write(Call(name, {"path": path} if name == "read" else {}))


def _is_path(path: str) -> bool:
    parts = path.split("/")
    return (
        0 < len(path) <= 200
        and path.isprintable()
        and not any(p in ("", ".", "..") for p in parts)
        and path.isascii()
    )


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}\n[cut: {len(text):,} characters]"


_VARYING = (
    (re.compile(r"(Ran \d+ tests? in )[\d.]+s"), r"\g<1>0s"),  # of unittest
    (re.compile(r"0x[0-9a-f]{6,}"), "0x..."),
)


def _stable(text: str) -> str:
    """Output without what differs from run to run: how long tests took, addresses."""
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    return text


def _changed(sandbox: Sandbox) -> dict[str, bytes] | None:
    """The files that a command left, without what Python compiled; None where they are too many or too large."""
    found: dict[str, bytes] = {}
    try:
        packed = io.BytesIO(sandbox.snapshot())
    except OSError:  # folders nested too deep
        return None
    with tarfile.open(fileobj=packed) as archive:
        for member in archive:
            if not member.isfile() or "__pycache__" in member.name.split("/") or not _is_path(member.name):
                continue
            if member.size > _LONGEST_FILE or len(found) == _MOST_FILES:
                return None
            content = archive.extractfile(member)
            assert content is not None
            found[member.name] = content.read()
    return found
