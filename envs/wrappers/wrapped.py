"""`Wrapped-v1`: any environment in any wrappers, by id and configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core import TurnEnv, _parameters
from ..errors import InvalidParameter, nearest
from .compose import Compose
from .efficacy import Efficacy
from .format_reward import FormatReward
from .noisy_reward import NoisyReward
from .repeat_penalty import RepeatPenalty
from .tool_reward import ToolReward
from .turn_budget import TurnBudget
from .wrapper import Wrapper

WRAPPERS: dict[str, type[Wrapper]] = {
    "compose": Compose,
    "efficacy": Efficacy,
    "format_reward": FormatReward,
    "noisy_reward": NoisyReward,
    "repeat_penalty": RepeatPenalty,
    "tool_reward": ToolReward,
    "turn_budget": TurnBudget,
}
"""The wrappers by the name that `Wrapped-v1` has for them."""


class Wrapped(Wrapper):
    """Play another environment in wrappers that change what is paid, how long an episode is, or what it counts as.

    Observation: the outermost wrapper's, as all else.
    Tools: the inner environment's.
    Reward: the inner environment's, changed by each wrapper in turn.
    Terminated: as the wrappers say.
    Task: the inner environment's, or chains of them with `compose`.
    State key: the inner environment's, with `compose` also the number of tasks solved.
    Expert: the inner environment's.

    Attributes:
        wrappers: from the innermost to the outermost, each a mapping of `name` and the wrapper's parameters.
    """

    wrappers: tuple[Mapping[str, Any], ...] = ()

    def make_inner(self, given: dict[str, Any], everywhere: dict[str, Any]) -> TurnEnv:
        """The outermost wrapper, around this class with the rest of them."""
        wrappers = given.get("wrappers", self.wrappers)
        if not wrappers:
            return super().make_inner(given, everywhere)
        *rest, outermost = wrappers
        settings = dict(outermost)
        name = settings.pop("name", None)
        if name not in WRAPPERS:
            raise InvalidParameter(
                f"no wrapper is called {name!r}.{nearest(str(name), WRAPPERS)} Known: {', '.join(WRAPPERS)}; write for example "
                "{'name': 'repeat_penalty', 'penalty': 0.1}"
            )
        clash = sorted(settings.keys() & (_parameters(Wrapper).keys()))
        if clash:
            raise InvalidParameter(
                f"wrapper {name!r} cannot set {clash[0]!r} here; set it on Wrapped-v1 itself"
            )
        inner, parameters = given.get("inner", self.inner), dict(given.get("inner_parameters", {}))
        if rest:
            parameters = {"inner": inner, "inner_parameters": parameters, "wrappers": rest}
            inner = "Wrapped-v1"
        step = {"training_step": given["training_step"]} if "training_step" in given else {}
        return WRAPPERS[name](inner=inner, inner_parameters=parameters, **settings, **step, **everywhere)
