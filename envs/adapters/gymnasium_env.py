"""`gymnasium:NAME`: an environment of Gymnasium with discrete or text actions, as a conversation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ..core import Outcome, TurnEnv
from ..errors import InvalidParameter, UnknownEnv
from ..tasks import Task
from ..tools import Call, tool
from .foreign import blamed

_NAMES: dict[str, tuple[str, ...]] = {
    "FrozenLake": ("left", "down", "right", "up"),
    "FrozenLake8x8": ("left", "down", "right", "up"),
    "CliffWalking": ("up", "right", "down", "left"),
    "CliffWalkingSlippery": ("up", "right", "down", "left"),
    "Taxi": ("south", "north", "east", "west", "pickup", "dropoff"),
    "Blackjack": ("stick", "hit"),
}
"""Names of the actions of toy-text, in their order; elsewhere actions are numbers."""
_LONGEST_ACTION = 4_096
_TURNS = 100


class GymnasiumEnv(TurnEnv):
    """Play an environment of Gymnasium by naming its actions.

    Observation: what it draws as text where it has the render mode `ansi`, else the observation itself, as Python writes it.
    Tools: `act(action)`: one of the named actions, a number of a discrete space, numbers apart by commas of a
        multi-discrete one, a text of a text space. What is no action of the space is an invalid call and moves nothing.
    Reward: the environment's own. Success: it ended and the sum of its rewards reached `solved`. The score is 1 for success.
    Terminated: where it ends itself, or cuts itself off. Truncated: `max_turns`, its own time limit unless that is given.
    State key: the task, and the observation that Gymnasium gave.
    Source: Gymnasium (Towers et al., arXiv 2407.17032).

    A task is a seed: it is what the environment is reset with, so chance within an episode follows from the task too.

    Attributes:
        name: id in Gymnasium, such as `FrozenLake-v1`.
        options: what the environment is made with, such as `{"is_slippery": False}`.
        actions: names of the actions of a discrete space, in their order; empty for those of toy-text, and numbers elsewhere.
        solved: sum of rewards from which an episode is a success; None for the environment's own threshold, and for any
            sum above 0 where it has none.

    Raises:
        UnknownEnv: Gymnasium has no environment of this name.
        InvalidParameter: its action space is neither discrete, multi-discrete nor text.
        ForeignEnvFailed: it raised an exception; the episode is played again.
    """

    name: str = ""
    options: Mapping[str, Any] = {}
    actions: tuple[str, ...] = ()
    solved: float | None = None

    rules = "You play a game by naming one action per turn."

    def __init__(self, *, render_mode: str | None = None, **parameters: Any) -> None:
        super().__init__(render_mode=render_mode, **parameters)
        ids = [i for i in gymnasium.registry if not i.startswith("turnwise/")]
        if self.name not in gymnasium.registry or self.name.startswith("turnwise/"):
            raise UnknownEnv(self.name, ids)
        of_theirs = gymnasium.spec(self.name)
        made = self._made()
        space = made.action_space
        if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.Text):
            raise InvalidParameter(
                f"gymnasium:{self.name} has the action space {space}; discrete, multi-discrete and text spaces can be played"
            )
        self._space = space
        self._names = self.actions
        if not self._names and isinstance(space, spaces.Discrete):
            named = _NAMES.get(of_theirs.name, ())
            self._names = (
                named if len(named) == space.n else tuple(map(str, range(space.start, space.start + space.n)))
            )
        if self._names and (not isinstance(space, spaces.Discrete) or len(self._names) != space.n):
            raise InvalidParameter(f"actions has {len(self._names)} names for the action space {space}")
        if "max_turns" not in parameters:
            self.max_turns = of_theirs.max_episode_steps or _TURNS
        if self.solved is None and of_theirs.reward_threshold is not None:
            self._enough, self._above = float(of_theirs.reward_threshold), False
        else:
            self._enough, self._above = self.solved or 0.0, self.solved is None
        self._static |= {"_space", "_names", "_enough", "_above"}

    def _made(self) -> gymnasium.Env[Any, Any]:
        options = dict(self.options)
        with blamed(f"gymnasium:{self.name}", "make"):
            entry: Any = gymnasium.spec(self.name).entry_point
            probe: Any = (
                gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
            )
            if "ansi" in getattr(probe, "metadata", {}).get("render_modes", ()):
                options.setdefault("render_mode", "ansi")
            # Our own limit holds, so that a truncated episode is told from one that ended.
            return gymnasium.make(self.name, max_episode_steps=-1, disable_env_checker=True, **options)

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """Reset the environment with the task's seed."""
        if getattr(self, "_env", None) is None or getattr(self, "_broke", True):
            self._env = self._made()
        self._broke = True  # until the call below returns: what raised once is not played on
        with blamed(f"gymnasium:{self.name}", "reset"):
            self._state, _ = self._env.reset(seed=task.seed)
        self._broke = False
        self._sum = 0.0
        return f"{self._seen()}\nActions: {self._choices()}"

    def _seen(self) -> str:
        if self._env.render_mode == "ansi":
            with blamed(f"gymnasium:{self.name}", "render"):
                drawn = str(self._env.render())
            return _plain(drawn).strip("\n")
        return str(self._state)

    def _choices(self) -> str:
        if self._names:
            return ", ".join(self._names)
        if isinstance(self._space, spaces.MultiDiscrete):
            return f"{self._space.nvec.size} numbers apart by commas, below {', '.join(map(str, self._space.nvec.ravel()))}"
        return "a text"

    def _read(self, action: str) -> Any:
        """The action as Gymnasium takes it; None where it is none."""
        said = action.strip()
        if self._names:
            found = {n.casefold(): i for i, n in enumerate(self._names)}.get(said.casefold())
            return None if found is None else int(self._space.start) + found  # type: ignore[union-attr]
        if isinstance(self._space, spaces.MultiDiscrete):
            parts = [part.strip() for part in said.split(",")]
            if not all(part.isdecimal() and len(part) < 10 for part in parts):
                return None
            flat = np.array([int(part) for part in parts], dtype=self._space.dtype)
            if flat.size != self._space.nvec.size:
                return None
            value = flat.reshape(self._space.nvec.shape)
            return value if self._space.contains(value) else None
        return action if self._space.contains(action) else None

    @tool
    def act(self, action: str) -> Outcome:
        """Take an action.

        Args:
            action: one of those that the first message lists.
        """
        value = self._read(action) if len(action) <= _LONGEST_ACTION else None
        if value is None:
            return Outcome(f"{action[:80]!r} is no action here. Actions: {self._choices()}", invalid=True)
        self._broke = True
        with blamed(f"gymnasium:{self.name}", "step"):
            self._state, paid, ended, cut, _ = self._env.step(value)
            reward = float(paid)
        self._broke = False
        self._sum += reward
        success = None
        if ended or cut:
            success = self._sum > self._enough if self._above else self._sum >= self._enough
        return Outcome(self._seen(), reward, success=success)

    def sample_action(self, rng: np.random.Generator) -> str:
        """A random action of the space."""
        if self._names:
            said = self._names[int(rng.integers(len(self._names)))]
        elif isinstance(self._space, spaces.MultiDiscrete):
            said = ",".join(str(int(rng.integers(n))) for n in self._space.nvec.ravel())
        else:
            letters = sorted(self._space.character_set)  # type: ignore[union-attr]
            length = max(1, self._space.min_length)  # type: ignore[union-attr]
            said = "".join(letters[int(rng.integers(len(letters)))] for _ in range(length))
        return self.write(Call("act", {"action": said}))

    def state_key(self) -> Hashable:
        """The task and the observation."""
        assert self.task is not None
        return f"{self.task.id} {self._state!r}"

    def close(self) -> None:
        """Close the environment inside."""
        if getattr(self, "_env", None) is not None:
            self._env.close()
            self._env = None  # type: ignore[assignment]


_MARKS = {"34": ("(", ")"), "35": ("<", ">")}
"""Brackets for the two colours in which Taxi marks the passenger and the goal; whatever else is coloured is the agent."""


def _plain(drawn: str) -> str:
    """Without terminal colours, and with brackets around what was coloured."""
    first, *parts = drawn.split("\x1b[")
    text, closing = first, ""
    for part in parts:
        code, _, rest = part.partition("m")
        if code == "0":
            text, closing = text + closing + rest, ""
        else:
            opening, closing = _MARKS.get(code.partition(";")[0], ("[", "]"))
            text += opening + rest
    return text
