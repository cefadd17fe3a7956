"""`FormatReward`: a reward for messages of the right form."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from .wrapper import Taken, Wrapper

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)


class FormatReward(Wrapper):
    """Pays every turn whose message is of the right form, and charges every other.

    A message is of the right form where the environment finds a call in it, of a tool it has, with arguments of the right
    names and types. A well-formed call that is illegal here is one too. With `think`, the message must also begin with one
    block `<think>...</think>` that is not blank, and no such tag may follow it.

    Observation: the inner environment's.
    Tools: the inner environment's.
    Reward: the inner environment's, plus `bonus` or less `penalty`.
    Terminated: as the inner environment.

    Attributes:
        bonus: what a message of the right form is paid, at least 0.
        penalty: what any other message costs, at least 0.
        think: whether a thought must come first.
    """

    bonus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    think: bool = False

    def paid(self, turn: Taken) -> float:
        """Bonus or penalty."""
        right = turn.info["call"] is not None and (not self.think or _thinks_first(turn.action))
        return self.bonus if right else -self.penalty


def _thinks_first(action: str) -> bool:
    found = _THOUGHT.match(action)
    if found is None:
        return False
    thought, rest = found.groups()
    return bool(thought.strip()) and "<think>" not in thought + rest and "</think>" not in rest
