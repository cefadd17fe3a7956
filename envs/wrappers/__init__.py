"""Wrappers: environments around another one. `Wrapped-v1` makes them by id, one class each makes them in Python."""

from .compose import Compose
from .efficacy import Efficacy
from .format_reward import FormatReward
from .noisy_reward import NoisyReward
from .repeat_penalty import RepeatPenalty
from .replay import Replay
from .tool_reward import ToolReward, call_reward
from .turn_budget import TurnBudget
from .wrapped import WRAPPERS, Wrapped
from .wrapper import Taken, Wrapper

__all__ = [
    "WRAPPERS",
    "Compose",
    "Efficacy",
    "FormatReward",
    "NoisyReward",
    "RepeatPenalty",
    "Replay",
    "Taken",
    "ToolReward",
    "TurnBudget",
    "Wrapped",
    "Wrapper",
    "call_reward",
]
