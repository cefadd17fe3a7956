"""`Replay`: recorded episodes as an environment, without what stands behind the original."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..agent import Message
from ..core import TurnEnv
from ..errors import InvalidParameter, ReplayDiffers
from ..formats import tool_format
from ..registry import _spec, env_class
from ..tasks import ListedTasks, Task, TaskSet
from ..tools import Call, ToolSpec
from ..trajectory import Trajectory, Turn, read_trajectories
from .wrapper import Wrapper


class Replay(TurnEnv):
    """Play recorded episodes again: the recorded actions get the recorded answers and rewards, and no other is taken.

    A recording is a file of trajectories, as `rollout(out=)`, `turnwise eval` and training write them. The original
    environment's class is imported for its tools; the environment is never made, so its server, database or sandbox need not
    exist.

    Observation: the recorded one.
    Tools: the original environment's.
    Reward: the recorded one, of the environment alone.
    Terminated, truncated: as recorded.
    Task: one per recorded episode with at least one turn that did not fail, called `number:task`, number counted from 0 over
        the lines of the file; in the split of the original.

    Attributes:
        recording: the file; its episodes are of one environment.
    """

    recording: Path | None = None

    def __init__(self, *, render_mode: str | None = None, **parameters: Any) -> None:
        recording = parameters.get("recording")
        if recording is None or not Path(recording).is_file():
            raise InvalidParameter(
                f"recording={recording!r} is no file; give one that `rollout(out=...)` wrote"
            )
        episodes = {
            f"{number}:{t.task_id}": t
            for number, t in enumerate(read_trajectories(recording))
            if t.turns and t.status != "failed"
        }
        kinds = sorted({t.env_id for t in episodes.values()})
        if len(kinds) != 1:
            raise InvalidParameter(
                f"recording={str(recording)!r} holds episodes of {len(kinds)} environments ({', '.join(kinds)}); it must be one"
            )
        first = next(iter(episodes.values()))
        self.episodes: Mapping[str, Trajectory] = episodes
        self.tools = _tools(first.env_id, first.env_kwargs)  # type: ignore[misc]
        parameters.setdefault("split", first.split)
        super().__init__(render_mode=render_mode, **parameters)
        self.max_turns = max(len(t.turns) for t in episodes.values())

    def load_tasks(self) -> TaskSet:
        """One task for each recorded episode."""
        return ListedTasks(
            [
                Task(
                    name,
                    t.split,
                    t.seed,
                    reference=None if t.reference is None else tuple(t.reference),
                    family=t.family,
                    difficulty=t.difficulty,
                )
                for name, t in self.episodes.items()
            ]
        )

    def start(self, task: Task, rng: np.random.Generator) -> str:
        """The recorded first observation."""
        self.name = task.id
        return self.trajectory.turns[0].observation

    @property
    def trajectory(self) -> Trajectory:
        """The recorded episode."""
        return self.episodes[self.name]

    @property
    def recorded(self) -> Turn:
        """The recorded turn that comes next; its `action` is the one that `step` takes."""
        return self.trajectory.turns[self._turn]

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take the recorded action.

        Raises:
            ReplayDiffers: it is another.
            ResetNeeded: the episode is over, or has not begun.
        """
        if not self._running:
            raise self._reset_needed()
        turn = self.recorded
        if action != turn.action:
            raise ReplayDiffers(
                f"episode {self.name!r}, turn {self._turn}: recorded was {turn.action!r:.200}, got {action!r:.200}; a "
                "recording answers the recorded actions alone"
            )
        self._turn += 1
        last = self._turn == len(self.trajectory.turns)
        self._running = not last
        self._observation = self.trajectory.final_observation if last else self.recorded.observation
        info: dict[str, Any] = {
            "state_key": self.state_key(),
            "task": self.name,
            "turn": self._turn,
            "tool": turn.tool,
            "call": None if turn.arguments is None else Call(turn.tool or "", turn.arguments),
            "invalid": turn.invalid,
            "shaping": 0.0,
        }
        if last:
            info["score"], info["success"] = self.trajectory.score, self.trajectory.success
        terminated = last and self.trajectory.status == "terminated"
        return (
            self._observation,
            turn.rewards.get("env", turn.reward),
            terminated,
            last and not terminated,
            info,
        )

    def score(self) -> float:
        """The recorded one."""
        return self.trajectory.score

    def state_key(self) -> Hashable:
        """The recorded one; behind the last turn, of which none is recorded, the empty text."""
        turns = self.trajectory.turns
        return turns[self._turn].state_key if self._turn < len(turns) else ""

    def messages(self, observation: str) -> list[Message]:
        """The recorded system prompt and the observation."""
        system: list[Message] = [{"role": "system", "content": self.trajectory.system}]
        return [*(system if self.trajectory.system else []), {"role": "user", "content": observation}]

    @property
    def role(self) -> str:
        """The recorded seat."""
        return self.trajectory.role

    @property
    def observation_role(self) -> str:
        """Chat role of the observations, by the recorded format."""
        return tool_format(self.trajectory.env_kwargs.get("format", TurnEnv.format)).observation_role


def _tools(env_id: str, parameters: Mapping[str, Any]) -> Mapping[str, ToolSpec]:
    """The tools of a class, of a wrapper those of what it wraps."""
    cls = env_class(env_id)
    if issubclass(cls, Wrapper):
        parameters = {**_spec(env_id).kwargs, **parameters}
        return _tools(parameters.get("inner", cls.inner), parameters.get("inner_parameters", {}))
    return cls.tools
