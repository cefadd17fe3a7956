"""Lines of text on disk, by number: what does not fit into memory, or should not be in the memory of every process.

    with lines_writer(folder / "records") as write:
        write("first")
    Lines(folder / "records")[0]

A line is read from the file when it is asked for. The operating system keeps what is read often, once for all processes of
the machine, and none of it counts as the memory of one.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


class Lines:
    """The lines that a `lines_writer` wrote; threads and forks may read them at the same time.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._begins = np.load(path.with_suffix(".npy"), mmap_mode="r")
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self._begins) - 1

    def __getitem__(self, number: int) -> str:
        begin = int(self._begins[number])
        return os.pread(self._file, int(self._begins[number + 1]) - begin, begin).decode()


@contextmanager
def lines_writer(path: Path) -> Iterator[Callable[[str], None]]:
    """Write a file that `Lines` reads, with a function that adds a line; a line may hold line ends itself.

    A lone surrogate, which UTF-8 has no form for, becomes a question mark.
    """
    begins = [0]
    with path.open("wb") as file:
        yield lambda text: begins.append(begins[-1] + file.write(text.encode("utf-8", "replace")))
    np.save(path.with_suffix(".npy"), np.array(begins, np.int64))
