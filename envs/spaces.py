"""`MessageSpace`: any text as a Gymnasium space."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory


class _Unicode:
    """Every code point, where Gymnasium's vector environments expect a tuple of characters."""

    def __len__(self) -> int:
        return 0x110000

    def __getitem__(self, code: int) -> str:
        return chr(code)

    def __contains__(self, character: object) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unicode)

    def __hash__(self) -> int:
        return 0x110000


class MessageSpace(spaces.Text):
    """Texts of up to `max_length` characters, of any Unicode characters.

    `gymnasium.spaces.Text` holds a small alphabet; observations and model outputs hold anything. Sampling gives a
    legal action where the environment can make one, so that Gymnasium's checker plays real turns.
    """

    def __init__(
        self, max_length: int = 32_768, *, sampler: Callable[[np.random.Generator], str] | None = None
    ) -> None:
        super().__init__(max_length=max_length, min_length=0, seed=None)
        self._sampler = sampler
        self._char_set = self._char_list = _Unicode()  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        # Vector environments send spaces between processes; the sampler holds the environment and stays at home.
        return {**self.__dict__, "_sampler": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> MessageSpace:
        # Vector environments copy the space of one of theirs; a deep copy of the sampler would copy that environment.
        space = MessageSpace(self.max_length, sampler=self._sampler)
        space._np_random = copy.deepcopy(self._np_random, memo)
        return space

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A legal action, or a short random text."""
        if self._sampler is not None:
            return self._sampler(self.np_random)
        return "".join(
            chr(c) for c in self.np_random.integers(32, 127, size=int(self.np_random.integers(1, 20)))
        )

    def contains(self, x: object) -> bool:
        """Whether `x` is a text that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def character_index(self, char: str) -> np.int32:
        """Code point of a character."""
        return np.int32(ord(char))

    def __repr__(self) -> str:
        return f"MessageSpace({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MessageSpace) and self.max_length == other.max_length


class _SharedTexts(Sequence[str]):
    """The texts that the processes of a vector environment wrote last.

    Gymnasium 1.4 reads shared texts once, when the vector environment is made, and would hand out that reading for ever.
    """

    def __init__(self, memory: Any, number: int) -> None:
        # A text is its length and its code points.
        self._rows = np.frombuffer(memory.get_obj(), dtype=np.int32).reshape(number, -1)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        return row[1 : 1 + row[0]].tobytes().decode("utf-32-le", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)


@create_shared_memory.register(MessageSpace)
def _create(space: MessageSpace, n: int = 1, ctx: Any = multiprocessing) -> Any:
    return ctx.Array(np.dtype(np.int32).char, n * (space.max_length + 1))


@read_from_shared_memory.register(MessageSpace)
def _read(space: MessageSpace, shared_memory: Any, n: int = 1) -> _SharedTexts:  # noqa: ARG001
    return _SharedTexts(shared_memory, n)


@write_to_shared_memory.register(MessageSpace)
def _write(space: MessageSpace, index: int, values: str, shared_memory: Any) -> None:
    row = np.frombuffer(shared_memory.get_obj(), dtype=np.int32).reshape(-1, space.max_length + 1)[index]
    if len(values) > space.max_length:
        raise ValueError(
            f"a text of {len(values)} characters is longer than its space allows, {space.max_length}"
        )
    codes = np.frombuffer(values.encode("utf-32-le", "surrogatepass"), dtype=np.int32)
    row[0] = len(codes)
    row[1 : 1 + len(codes)] = codes
