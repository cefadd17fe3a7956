"""Every error the environments and the episode loop raise on purpose.

    TurnwiseError
    +- EnvFailure          (RuntimeError)  infrastructure broke: the episode is `failed`, never a zero reward
    +- UsageError          (ValueError)    the caller made a mistake
       +- UnknownEnv       (+LookupError)  no such id
       +- UnknownTask      (+LookupError)  no such task in this environment
       +- UnknownSplit     (+LookupError)  no such split
       +- UnknownFormat    (+LookupError)  no such tool format
       +- InvalidParameter                 an environment was made with a parameter it does not have or of the wrong type
       +- InvalidSeed                      a seed that is not a non-negative integer
       +- InvalidEnvironment               an environment class or registration that breaks the contract
       +- InvalidTrajectory                a line of a trajectory file cannot be read
       +- ReplayDiffers                    an action that the recorded episode does not have
       +- ResetNeeded                      step before reset, or after the end of the episode
       +- ContextFull                      the conversation no longer fits the model: the episode is `truncated`

What a model writes never raises any of these: a malformed action is an observation.
"""

from collections.abc import Collection
from difflib import get_close_matches


def nearest(name: str, known: Collection[str]) -> str:
    """The clause `` Did you mean 'x'?`` for the known name nearest to `name`, or an empty string."""
    by_lower = {k.lower(): k for k in known}
    near = get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    return f" Did you mean {by_lower[near[0]]!r}?" if near else ""


class TurnwiseError(Exception):
    """The base of every error that turnwise raises on purpose."""


class EnvFailure(TurnwiseError, RuntimeError):
    """Raised when what stands behind an environment broke: a server, a sandbox, a database.

    The episode loop retries the episode once with a fresh environment and then records it as `failed`.
    Subclass it to name what broke; the class name is what results count.
    """


class UsageError(TurnwiseError, ValueError):
    """The base of every error that the caller can mend."""


class UnknownEnv(UsageError, LookupError):
    """Raised when no environment is registered under an id."""

    def __init__(self, env_id: str, known: Collection[str]) -> None:
        super().__init__(
            f"no environment is registered as {env_id!r}.{nearest(str(env_id), known)}"
            f" `turnwise envs` lists the {len(known)} that are."
        )


class UnknownTask(UsageError, LookupError):
    """Raised when an environment has no task of this id."""


class UnknownSplit(UsageError, LookupError):
    """Raised when an environment has no split of this name."""


class UnknownFormat(UsageError, LookupError):
    """Raised when no tool format is registered under a name."""

    def __init__(self, name: str, known: Collection[str]) -> None:
        super().__init__(
            f"no tool format is called {name!r}.{nearest(str(name), known)} Known: {', '.join(known)}."
        )


class InvalidParameter(UsageError):
    """Raised when an environment is made with a parameter it does not have, or with a value it does not take."""


class InvalidSeed(UsageError, TypeError):
    """Raised when a seed is not a non-negative integer."""

    def __init__(self, seed: object) -> None:
        super().__init__(
            f"a seed must be an integer of at least 0, got {seed!r} ({type(seed).__name__}); pass for example seed=0"
        )


class InvalidEnvironment(UsageError):
    """Raised when an environment class or its registration breaks the contract."""


class InvalidTrajectory(UsageError):
    """Raised when a line of a trajectory file cannot be read; the message names the file and the line."""


class ReplayDiffers(UsageError):
    """Raised when a recorded episode is played again with another action than the recorded one."""


class ResetNeeded(UsageError):
    """Raised by `step` before the first `reset` and after the end of an episode."""


class ContextFull(UsageError):
    """Raised by an agent whose model has no room left for the conversation; the episode is truncated."""
