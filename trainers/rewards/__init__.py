"""Rewards: named sources that give every turn a number, and the pipeline that makes them one reward."""

from . import (  # noqa: F401  (importing a source registers it)
    env,
    grounding,
    implicit_prm,
    info_gain,
    judge,
    outcome,
    progress,
    spa,
    value_progress,
)
from .pipeline import Entry, Rewarded, RewardPipeline
from .registry import (
    BadRewardParameter,
    MissingNeed,
    Models,
    RewardError,
    RewardExists,
    RewardSource,
    RewardSpec,
    Scores,
    UnknownReward,
    UnknownRewardParameter,
    build,
    register_reward,
    reward_sources,
    spec,
)

__all__ = [
    "BadRewardParameter",
    "Entry",
    "MissingNeed",
    "Models",
    "RewardError",
    "RewardExists",
    "RewardPipeline",
    "RewardSource",
    "RewardSpec",
    "Rewarded",
    "Scores",
    "UnknownReward",
    "UnknownRewardParameter",
    "build",
    "register_reward",
    "reward_sources",
    "spec",
]
