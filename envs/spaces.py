"""`MessageSpace`: any text as a Gymnasium space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces


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

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A legal action, or a short random text."""
        if self._sampler is not None:
            return self._sampler(self.np_random)
        return "".join(chr(c) for c in self.np_random.integers(32, 127, size=int(self.np_random.integers(1, 20))))

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
