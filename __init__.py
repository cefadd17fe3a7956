"""turnwise: multi-turn environments for language-model agents, and a trainer that gives every turn its own credit."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from .envs import (
    Call,
    CheckReport,
    Conversation,
    EnvFailure,
    Outcome,
    Reply,
    RolloutResult,
    Task,
    Trajectory,
    Turn,
    TurnEnv,
    check,
    env_ids,
    errors,
    make,
    read_trajectories,
    register,
    rollout,
    tool,
    write_trajectories,
)

if TYPE_CHECKING:
    from . import agents, envs, trainers

__all__ = [
    "Call",
    "CheckReport",
    "Conversation",
    "EnvFailure",
    "Outcome",
    "Reply",
    "RolloutResult",
    "Task",
    "Trajectory",
    "Turn",
    "TurnEnv",
    "__version__",
    "agents",
    "check",
    "env_ids",
    "envs",
    "errors",
    "make",
    "read_trajectories",
    "register",
    "rollout",
    "tool",
    "trainers",
    "write_trajectories",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `import turnwise` never pays for torch.
    if name in ("agents", "trainers"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'turnwise' has no attribute {name!r}; it has {', '.join(__all__)}")
