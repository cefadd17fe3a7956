"""`TurnBudget`: a limit of turns that training tightens or widens."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field

from ..core import TurnEnv
from ..errors import InvalidParameter
from .wrapper import Wrapper


class TurnBudget(Wrapper):
    """Limits the turns of an episode by a schedule over training steps.

    The agent is told the limit. A budget above the inner environment's own limit does nothing. `at_step(step)`, which the trainer calls, gives the
    environment of a training step.

    A schedule goes one way: ever more turns, as ScalingInter does so that exploring is learned late, or ever fewer, as
    WMAct does so that thinking ahead is. Both in one environment would undo each other and are refused.

    Observation: the inner environment's.
    Tools: the inner environment's.
    Reward: the inner environment's.
    Terminated: as the inner environment. Truncated: after the turns of the schedule.
    Source: ScalingInter-RL of AgentGym-RL; WMAct.

    Attributes:
        schedule: pairs (training step, turns): from that step on so many turns. The first step is 0.
    """

    schedule: tuple[tuple[int, Annotated[int, Field(ge=1)]], ...] = ((0, 20),)

    def make_inner(self, given: dict[str, Any], everywhere: dict[str, Any]) -> TurnEnv:
        """The inner environment with the limit of the training step."""
        schedule = given.get("schedule", self.schedule)
        steps = [step for step, _ in schedule]
        if not steps or steps[0] != 0 or any(a >= b for a, b in pairwise(steps)):
            raise InvalidParameter(
                f"schedule={schedule!r} is wrong: it holds pairs (training step, turns) with steps that rise from 0, such as "
                "((0, 10), (100, 5))"
            )
        way = _direction(schedule)
        if way is None:
            raise InvalidParameter(
                f"schedule={schedule!r} goes up and down; let the turns rise (ScalingInter) or fall (WMAct), not both"
            )
        here = given.get("training_step", self.training_step)
        turns = next(turns for step, turns in reversed(schedule) if step <= here)
        env = super().make_inner(given, everywhere)
        within: TurnEnv = env
        while isinstance(within, Wrapper):
            if isinstance(within, TurnBudget) and way * (_direction(within.schedule) or 0) < 0:
                raise InvalidParameter(
                    f"schedule={schedule!r} goes the opposite way of {within.schedule!r}, which stands inside; keep one of them"
                )
            within = within.env
        if env.max_turns > turns:
            env = super().make_inner(given, {**everywhere, "max_turns": turns})
        return env

    def scheduled(self) -> bool:
        """Whether the budget changes, or something inside does."""
        return len(self.schedule) > 1 or super().scheduled()


def _direction(schedule: tuple[tuple[int, int], ...]) -> int | None:
    """1 where the turns rise, -1 where they fall, 0 where they stay; None where they do both."""
    signs = {(b > a) - (b < a) for (_, a), (_, b) in pairwise(schedule)} - {0}
    return None if len(signs) == 2 else next(iter(signs), 0)
