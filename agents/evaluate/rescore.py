"""Play saved episodes again without a model: the recorded actions, in the environment as it is now.

An environment gives the same bytes for the same task, seed and actions, so an episode that comes out otherwise says that
the environment, its data or its reward has changed since; the episodes get the scores of the environment as it is.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic_core import to_jsonable_python

from ...envs.core import TurnEnv
from ...envs.errors import EnvFailure, UsageError
from ...envs.registry import make
from ...envs.trajectory import Trajectory, Turn

_FIELDS = ("observation", "tool", "arguments", "invalid", "reward", "state_key")
_ENDS = ("status", "score", "success", "final_observation", "reference")


class Change(NamedTuple):
    """One thing that came out otherwise.

    Attributes:
        episode: the trajectory's id.
        turn: from 0; None for what belongs to the whole episode.
        field: of the turn or of the trajectory.
        recorded, now: the two values.
    """

    episode: str
    turn: int | None
    field: str
    recorded: Any
    now: Any


@dataclass
class Rescored:
    """What `rescore` found.

    Attributes:
        before: the episodes that were played again, as they were recorded.
        after: the same, as they are now.
        changes: what differs, in the order of the episodes; at the first turn of an episode that does, all of that turn.
        skipped: number of episodes that could not be played again, by reason.
    """

    before: list[Trajectory] = field(default_factory=list)
    after: list[Trajectory] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def changed(self) -> int:
        """Number of episodes that came out otherwise."""
        return len({change.episode for change in self.changes})


def rescore(trajectories: Iterable[Trajectory]) -> Rescored:
    """Play the recorded actions again.

    Failed episodes are skipped, and so are those whose environment cannot be made or breaks.

    Args:
        trajectories: of registered environments.
    """
    found = Rescored()
    envs: dict[str, TurnEnv] = {}
    for t in trajectories:
        if t.status == "failed":
            found.skipped["failed when it was played"] += 1
            continue
        name = json.dumps([t.env_id, t.env_kwargs], sort_keys=True)
        try:
            if name not in envs:
                envs[name] = make(t.env_id, **t.env_kwargs)
            now = replay(t, envs[name])
        except (UsageError, EnvFailure, OSError) as error:
            found.skipped[f"{type(error).__name__}: {error}"] += 1
            continue
        found.before.append(t)
        found.after.append(now)
        found.changes += differences(t, now)
    for env in envs.values():
        env.close()
    return found


def replay(trajectory: Trajectory, env: TurnEnv) -> Trajectory:
    """The episode that the recorded actions make in `env`, with everything about the agent as it was recorded.

    Where the environment ends earlier than it did, the actions behind are left out; where it does not end, the episode
    is cut off behind the last action, as `max_turns` of a rollout does.
    """
    observation, info = env.reset(
        seed=trajectory.seed, options={"task": trajectory.task_id, "split": trajectory.split}
    )
    now = copy.copy(trajectory)
    now.turns, now.reference = [], env.reference()
    ended = False
    for turn in trajectory.turns:
        state_key = info["state_key"]
        again = copy.copy(turn)
        again.observation = observation
        again.state_key = state_key if isinstance(state_key, str) else repr(state_key)
        observation, reward, terminated, truncated, info = env.step(turn.action)
        call = info["call"]
        again.tool, again.invalid = info["tool"], info["invalid"]
        again.arguments = None if call is None else to_jsonable_python(call.arguments, fallback=repr)
        _pay(again, reward)
        now.turns.append(again)
        if terminated or truncated:
            now.status = "terminated" if terminated else "truncated"
            now.score, now.success = info["score"], info["success"]
            ended = True
            break
    if not ended:
        now.status, now.success = "truncated", False
        now.score, owed = env.cut_off()
        if now.turns:
            _pay(now.turns[-1], now.turns[-1].reward + owed)
    now.final_observation = observation
    return now


def differences(recorded: Trajectory, now: Trajectory) -> list[Change]:
    """What differs between two episodes with the same actions: the first turn that does, and the end."""
    found: list[Change] = []
    for k, (old, new) in enumerate(zip(recorded.turns, now.turns, strict=False)):
        found = [
            Change(recorded.id, k, name, getattr(old, name), getattr(new, name))
            for name in _FIELDS
            if getattr(old, name) != getattr(new, name)
        ]
        if found:
            break
    if len(recorded.turns) != len(now.turns):
        found.append(Change(recorded.id, None, "turns", len(recorded.turns), len(now.turns)))
    found += [
        Change(recorded.id, None, name, getattr(recorded, name), getattr(now, name))
        for name in _ENDS
        if getattr(recorded, name) != getattr(now, name)
    ]
    return found


def _pay(turn: Turn, reward: float) -> None:
    turn.reward = reward
    turn.rewards = {**turn.rewards, "env": reward}
