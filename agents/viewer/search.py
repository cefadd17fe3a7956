"""Search for words in what was said, through gigabytes: the results so far, and how far it has come."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .index import read_line
from .library import Library, Snapshot

_AT_ONCE = 1 << 22
_UNKNOWN, _NO, _YES = 0, 1, 2


class TextSearch:
    """Which trajectories hold all of some texts, found in a thread of its own.

    Args:
        texts: (negated, lower-case text).
    """

    def __init__(self, library: Library, texts: Sequence[tuple[bool, str]]) -> None:
        self._library = library
        self._texts = tuple(texts)
        self._needles = [_as_written(text) for negated, text in texts if not negated]
        self._known: dict[tuple[str, str], np.ndarray] = {}
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Give up; nobody asks any more."""
        self._stopped = True

    def known(self, snapshot: Snapshot) -> np.ndarray:
        """What is known of each row: 0 not looked at yet, 1 no, 2 yes."""
        rows = snapshot.rows
        state = np.zeros(len(rows), np.int8)
        for number, key in enumerate(snapshot.files):
            found = self._known.get(key)
            if found is not None:
                at = np.flatnonzero(rows["file"] == number)[: len(found)]
                state[at] = found[: len(at)]
        return state

    def run(self, snapshot: Snapshot, wanted: np.ndarray) -> None:
        """Look at the wanted rows that were not looked at; returns when all are, or it was stopped."""
        with self._lock:
            rows = snapshot.rows
            todo = np.flatnonzero(wanted & (self.known(snapshot) == _UNKNOWN))
            # The newest steps first: they are what the table shows first.
            todo = todo[np.argsort(-rows["step"][todo], kind="stable")]
            for run in _neighbours(rows, todo):
                if self._stopped:
                    return
                key = snapshot.files[int(rows["file"][run[0]])]
                first, last = int(rows["offset"][run[0]]), rows["offset"][run[-1]] + rows["length"][run[-1]]
                found = self._known.get(key, np.empty(0, np.int8))
                size = int(rows["record"][run[-1]]) + 1
                if len(found) < size:
                    found = np.concatenate([found, np.zeros(size - len(found), np.int8)])
                try:
                    lines = _lines(self._library.path_of(*key), first, int(last) - first, rows[run])
                    for number, line in zip(run, lines, strict=True):
                        found[int(rows["record"][number])] = _YES if self._holds(line) else _NO
                except (OSError, LookupError):
                    found[rows["record"][run]] = _NO
                self._known[key] = found

    def _holds(self, line: bytes) -> bool:
        small = line.lower()
        # Cheap and nearly always decisive; what it lets through may stand in a key, so it is read.
        if any(not any(form in small for form in forms) for forms in self._needles):
            return False
        try:
            said = said_in(read_line(line))
        except ValueError:
            return False
        return all((text in said) != negated for negated, text in self._texts)


def said_in(fields: dict[str, Any]) -> str:
    """All that was said in a trajectory, and what it is called, in lower case."""
    turns = fields.get("turns") or []
    parts = [fields.get("task_id"), fields.get("error"), *(fields.get("reference") or [])]
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, dict):
            parts += [turn.get("observation"), turn.get("action")]
    return "\n".join(str(p) for p in [*parts, fields.get("final_observation")] if p).lower()


def _as_written(text: str) -> list[bytes]:
    """How a lower-case text may stand in a line of JSON, ASCII letters in lower case."""
    forms = {json.dumps(text, ensure_ascii=False), json.dumps(text)}
    if not text.isascii():
        # Only ASCII is lowered below: the longest ASCII piece is what can be looked for.
        pieces = "".join(c if c.isascii() else "\n" for c in text).split("\n")
        forms = {json.dumps(max(pieces, key=len))}
    return [form[1:-1].encode("utf-8", "surrogatepass").lower() for form in forms]


def _neighbours(rows: np.ndarray, todo: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in pieces that lie near each other in one file, to be read at once."""
    start = 0
    while start < len(todo):
        first = todo[start]
        limit = rows["offset"][first] + _AT_ONCE
        stop = start + 1
        while (
            stop < len(todo)
            and rows["file"][todo[stop]] == rows["file"][first]
            and rows["offset"][todo[stop - 1]] < rows["offset"][todo[stop]] < limit
        ):
            stop += 1
        yield todo[start:stop]
        start = stop


def _lines(path: Path, first: int, length: int, rows: np.ndarray) -> Iterator[bytes]:
    with path.open("rb") as file:
        # Where most of a stretch is wanted it is read at once, else line by line.
        if int(rows["length"].sum()) * 4 > length:
            file.seek(first)
            data = file.read(length)
            for row in rows:
                start = int(row["offset"]) - first
                yield data[start : start + int(row["length"])]
        else:
            for row in rows:
                file.seek(int(row["offset"]))
                yield file.read(int(row["length"]))
