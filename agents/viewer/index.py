"""Where each trajectory of a JSON-lines file lies, and the few figures that tables show and filters compare.

A file is scanned once, in blocks: of a line only the fields before and behind the turns are parsed, the turns are
counted by their bytes. Lines that are not in the form that turnwise writes are parsed whole. A file that grew is
scanned from where the last scan ended.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import from_json

from ...envs.trajectory import SCHEMA_VERSION

BLOCK = 1 << 18
"""Bytes that are read at a time."""

STATUSES = ("terminated", "truncated", "failed", "damaged")
"""`damaged`: the line cannot be read. It is listed so that nobody takes a file for whole that is not."""

ROW = np.dtype(
    [
        ("offset", "<i8"),
        ("length", "<i8"),
        ("seed", "<i8"),
        ("reward", "<f8"),
        ("score", "<f8"),
        ("env", "<i4"),
        ("task", "<i4"),
        ("split", "<i4"),
        ("agent", "<i4"),
        ("family", "<i4"),
        ("difficulty", "<i4"),
        ("error", "<i4"),
        ("group", "<i4"),
        ("sample", "<i4"),
        ("turns", "<i4"),
        ("invalid", "<i4"),
        ("status", "i1"),
        ("success", "?"),
        ("later", "?"),
    ]
)
"""One trajectory. Texts are numbers of a `Texts` table; `later`: written in a later schema than is known here."""

TEXTS = ("env", "task", "split", "agent", "family", "difficulty", "error")
"""The fields of `ROW` that stand for a text."""

_HEAD = b',"turns":['
_TAIL = b'],"env_kwargs":{'
_REST = b',"attempts":'
_VERSION = b',"version":'
_REWARD = re.compile(rb',"reward":([^,]+),"rewards":')
_INVALID = b'"invalid":true,"agent_seconds":'
_LARGEST = 2**63 - 1


class Texts:
    """Texts that many rows share, by number."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._number: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text, a new one where it has none."""
        found = self._number.get(text)
        if found is None:
            found = self._number[text] = len(self.names)
            self.names.append(text)
        return found


class Stamp(NamedTuple):
    """What a file looked like when it was scanned."""

    size: int
    mtime_ns: int


class FileIndex:
    """The rows of one file.

    Attributes:
        path: of the file.
        rows: array of `ROW`, in the order of the file.
        end: bytes that are scanned, up to behind a line end.
        stamp: of the file at the last scan; None before the first.
        print: of the bytes at the beginning and before `end`, to tell a file that grew from one that was written anew.
    """

    def __init__(self, path: Path, texts: Texts) -> None:
        self.path = path
        self._texts = texts
        self._parts: list[np.ndarray] = []
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        with self._lock:
            self._parts = []
        self.end = 0
        self.stamp: Stamp | None = None
        self.print = b""

    @property
    def rows(self) -> np.ndarray:
        """What is scanned so far."""
        with self._lock:  # one thread scans, others read
            if len(self._parts) != 1:
                self._parts = [np.concatenate(self._parts) if self._parts else np.empty(0, ROW)]
            return self._parts[0]

    @property
    def rest(self) -> int:
        """Bytes behind the last line end: a line that is being written, or was cut off."""
        return 0 if self.stamp is None else self.stamp.size - self.end

    def resume(self, rows: np.ndarray, end: int, stamp: Stamp, mark: bytes) -> None:
        """Go on from an earlier index of the same file."""
        self._parts, self.end, self.stamp, self.print = [rows], end, stamp, mark

    def scan(self) -> Iterator[int]:
        """Take in what is new, and yield the bytes read after each block; a file that was written anew is read anew.

        Raises:
            OSError: the file cannot be read.
        """
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            stamp = Stamp(status.st_size, status.st_mtime_ns)
            if stamp == self.stamp:
                return
            if self.stamp is not None and (
                stamp.size <= self.stamp.size or self._print(file, self.end) != self.print
            ):
                self._reset()
            self.stamp = stamp
            file.seek(self.end)
            left = b""
            while block := file.read(min(BLOCK, max(0, stamp.size - self.end - len(left)))):
                cut = block.rfind(b"\n") + 1
                if cut == 0:
                    left += block
                    continue
                self._take(left + block[:cut])
                left = block[cut:]
                yield len(block)
            self.print = self._print(file, self.end)

    @staticmethod
    def _print(file: Any, end: int) -> bytes:
        file.seek(0)
        first = file.read(min(end, 4096))
        file.seek(max(0, end - 4096))
        return hashlib.blake2b(first + file.read(min(end, 4096)), digest_size=16).digest()

    def _take(self, data: bytes) -> None:
        found = []
        start = 0
        while start < len(data):
            stop = data.index(b"\n", start)
            if stop > start:
                found.append(self._row(data, start, stop))
            start = stop + 1
        with self._lock:
            self._parts.append(np.array(found, ROW))
        self.end += len(data)

    def _row(self, data: bytes, start: int, stop: int) -> tuple[Any, ...]:
        offset, length = self.end + start, stop - start
        try:
            head = data.index(_HEAD, start, stop)
            tail = data.rindex(_TAIL, head, stop)
            rest = data.index(_REST, tail, stop)
            fields = from_json(
                b"%b%b}" % (data[start : head + len(_HEAD)], data[tail:rest]), cache_strings="none"
            )
            rewards = list(map(float, _REWARD.findall(data, head, tail)))
            version = int(
                data[data.rindex(_VERSION, rest, stop) + len(_VERSION) : data.rindex(b"}", rest, stop)]
            )
            invalid = data.count(_INVALID, head, tail)
            return self._numbers(fields, offset, length, version, rewards, invalid)
        except (ValueError, TypeError, KeyError, OverflowError):
            return self._parsed_whole(data[start:stop], offset, length)

    def _parsed_whole(self, line: bytes, offset: int, length: int) -> tuple[Any, ...]:
        try:
            fields = read_line(line)
            turns = fields["turns"]
            rewards = [float(turn.get("reward", 0.0)) for turn in turns]
            invalid = sum(bool(turn.get("invalid")) for turn in turns)
            return self._numbers(fields, offset, length, int(fields.get("version", 1)), rewards, invalid)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            empty = self._texts.number("")
            return (
                offset,
                length,
                0,
                0.0,
                0.0,
                *[empty] * 7,
                0,
                0,
                0,
                0,
                STATUSES.index("damaged"),
                False,
                False,
            )

    def _numbers(
        self,
        fields: Mapping[str, Any],
        offset: int,
        length: int,
        version: int,
        rewards: list[float],
        invalid: int,
    ) -> tuple[Any, ...]:
        number = self._texts.number
        get = fields.get
        seed = int(fields["seed"])
        return (
            offset,
            length,
            seed if abs(seed) <= _LARGEST else -1,
            sum(rewards),
            float(fields["score"]),
            number(str(fields["env_id"])),
            number(str(fields["task_id"])),
            number(str(get("split", ""))),
            number(str(get("agent", ""))),
            number(str(get("family", ""))),
            number(str(get("difficulty", ""))),
            number((get("error") or "").partition(":")[0]),
            int(get("group", 0)),
            int(get("sample", 0)),
            len(rewards),
            invalid,
            STATUSES.index(fields["status"]),
            bool(fields["success"]),
            version > SCHEMA_VERSION,
        )


def read_line(line: bytes) -> dict[str, Any]:
    """The fields of a line, whatever the version of its schema; bytes that are not UTF-8 are shown as U+FFFD.

    Raises:
        ValueError: the line is not a JSON object.
    """
    try:
        fields = from_json(line)
    except ValueError:
        fields = from_json(line.decode("utf-8", "replace"))
    if not isinstance(fields, dict):
        raise ValueError(f"a line is a JSON object, this is {type(fields).__name__}")
    return fields
