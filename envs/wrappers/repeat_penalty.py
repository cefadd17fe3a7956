"""`RepeatPenalty`: a call that was made before costs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Literal

from pydantic import Field

from .wrapper import Taken, Wrapper


class RepeatPenalty(Wrapper):
    """A call that the agent has made before costs `penalty`.

    Two calls are the same where tool and validated arguments are. What is no valid call is not counted.

    Observation: the inner environment's.
    Tools: the inner environment's.
    Reward: the inner environment's, less `penalty` for each repeated call.
    Terminated: as the inner environment.

    Attributes:
        penalty: what a repeated call costs, at least 0.
        within: `state` counts a call made again in the same state, one that leads in circles or nowhere; `episode` one made
            again anywhere.
    """

    penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    within: Literal["state", "episode"] = "state"

    def begin(self) -> None:
        """No call has been made."""
        self.made: set[Hashable] = set()

    def paid(self, turn: Taken) -> float:
        """The penalty, where the call was made before."""
        call = turn.info["call"]
        if call is None:
            return 0.0
        made = (
            turn.before if self.within == "state" else None,
            call.tool,
            repr(sorted(call.arguments.items())),
        )
        if made in self.made:
            return -self.penalty
        self.made.add(made)
        return 0.0
