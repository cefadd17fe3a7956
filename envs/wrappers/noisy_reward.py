"""`NoisyReward`: a verifier that is wrong now and then."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import Field

from .wrapper import Taken, Wrapper


class NoisyReward(Wrapper):
    """Flips the outcome of an episode with probability `p`: score s becomes 1 - s, success becomes failure.

    Whether it is flipped follows from task, seed and actions alone. Episodes of one group are therefore flipped apart from
    each other, and an episode that is played again is judged again as it was. An episode that the loop cuts off before
    `max_turns` has its score flipped; it is no success either way.

    Observation: the inner environment's.
    Tools: the inner environment's.
    Reward: the inner environment's; the last turn is also paid the change of the score.
    Terminated: as the inner environment. `info["inner_score"]` and `info["inner_success"]` are the truth.

    Attributes:
        p: probability of a flip, in [0, 1].
    """

    p: Annotated[float, Field(ge=0, le=1)] = 0.1

    def begin(self) -> None:
        """Start the digest of the episode."""
        assert self.task is not None
        self.digest = _digest(repr((self.task.id, self._np_random_seed)).encode())

    def paid(self, turn: Taken) -> float:
        """Nothing; the action enters the digest."""
        self.digest = _digest(self.digest + turn.action.encode())
        return 0.0

    def outcome(self, score: float, success: bool) -> tuple[float, bool]:
        """Score and success, flipped or not."""
        uniform = int.from_bytes(self.digest[:8], "little") / 2**64
        return (1.0 - score, not success) if uniform < self.p else (score, success)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
