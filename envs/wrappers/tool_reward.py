"""`ToolReward`: each call is compared with a reference call, part by part."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ..core import TurnEnv
from ..errors import InvalidParameter
from ..tools import Call
from .wrapper import Taken, Wrapper


class ToolReward(Wrapper):
    """Pays each call by how much of the expert's call it gets right: format, tool name, parameter names, values.

    `call_reward` has the sum, in [-3, 4]. The reference is what the inner environment's expert does in the state that the
    agent is in, so it follows the agent off the expert's way; where the expert knows nothing, the turn is paid nothing.
    Where several calls are as good, the expert's is the one that pays.

    Observation: the inner environment's.
    Tools: the inner environment's.
    Reward: the inner environment's, plus `weight` times the sum.
    Terminated: as the inner environment.
    Source: ToolRL (Qian et al., 2025, arXiv 2504.13958). Ours: the reference is an expert's, a turn has one call, the
        arguments are compared after validation with the defaults filled in, and the format is right where the environment takes the call.

    Attributes:
        weight: times the sum is the reward, at least 0; 0.05 keeps ten right turns at twice a success.
    """

    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05

    def make_inner(self, given: dict[str, Any], everywhere: dict[str, Any]) -> TurnEnv:
        """The inner environment, which must have an expert."""
        env = super().make_inner(given, everywhere)
        innermost = env
        while isinstance(innermost, Wrapper):
            innermost = innermost.env
        if type(innermost).expert is TurnEnv.expert:
            raise InvalidParameter(
                f"{innermost.env_id} has no expert to compare calls with; take another inner environment"
            )
        return env

    def reference_call(self) -> Call | None:
        """The expert's call."""
        return self.env.expert()

    def paid(self, turn: Taken) -> float:
        """The parts' sum, weighted."""
        if turn.reference is None:
            return 0.0
        call = turn.info["call"]
        return self.weight * call_reward(call and self._whole(call), self._whole(turn.reference))

    def _whole(self, call: Call) -> Call:
        """The call with its arguments validated and those that were left out filled in."""
        spec = self.tools[call.tool]
        checked = spec.validate(call.arguments)
        assert isinstance(checked, dict), checked
        return Call(call.tool, {**spec.defaults, **checked})


def call_reward(call: Call | None, reference: Call) -> float:
    """ToolRL's reward of one call against one reference call.

    With the reference's k parameters, of which m have the right value, and j in [0, 1] the number of parameter names that
    both have over that which either has (1 where neither has any): a call of the right tool gets
    `1 + 6 (1 + j + m) / (2 + k) - 3`, one of another tool `1 - 3`, and no valid call `0 - 3`.

    Args:
        call: the agent's, None where it made no valid one.
        reference: the right one.

    Returns:
        In [-3, 4].
    """
    if call is None:
        return -3.0
    if call.tool != reference.tool:
        return -2.0
    names, right = call.arguments.keys(), reference.arguments.keys()
    j = len(names & right) / len(names | right) if names | right else 1.0
    m = sum(bool(call.arguments[n] == reference.arguments[n]) for n in names & right)
    return 1.0 + 6.0 * (1.0 + j + m) / (2.0 + len(right)) - 3.0
