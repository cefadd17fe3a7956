"""`Trajectory` of `Turn`s: the single currency of the system, and its JSON-lines file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from .errors import InvalidTrajectory

SCHEMA_VERSION = 2
"""Version of the file format. A reader of version N reads every earlier one."""

_CONFIG = ConfigDict(extra="forbid", ser_json_inf_nan="constants", val_json_bytes="utf8")


@dataclass(slots=True, config=_CONFIG)
class Turn:
    """One assistant message and what became of it.

    Attributes:
        observation: what the agent saw before it acted.
        action: the assistant message's text.
        tool: the tool that was called, None when the action named none.
        arguments: the tool's arguments after validation, None when the action was invalid.
        reward: what the environment paid for this turn, in units of reward.
        rewards: the number each reward source gave this turn, by source; sources that train add theirs.
        advantage: the credit that training gave this turn, None before training.
        state_key: key of the true state before the turn; equal keys are equal states of the same task.
        invalid: the action could not be executed (malformed, unknown tool, wrong arguments, or illegal).
        agent_seconds: wall time the agent took.
        env_seconds: wall time the environment took.
        prompt_ids: token ids added to the context before the action in this turn.
        action_ids: token ids of the action, as sampled.
        action_log_probs: nats, as sampled; one per id of `action_ids`, or empty.
        input_tokens: tokens that the model read for the action, 0 where unknown (also the two below).
        output_tokens: tokens that it wrote.
        cached_tokens: those of `input_tokens` that came from a cache.
    """

    observation: str
    action: str
    tool: str | None = None
    arguments: dict[str, Any] | None = None
    reward: float = 0.0
    rewards: dict[str, float] = field(default_factory=dict)
    advantage: float | None = None
    state_key: str = ""
    invalid: bool = False
    agent_seconds: float = 0.0
    env_seconds: float = 0.0
    prompt_ids: list[int] = field(default_factory=list)
    action_ids: list[int] = field(default_factory=list)
    action_log_probs: list[float] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0


@dataclass(slots=True, config=_CONFIG)
class Trajectory:
    """One episode.

    Attributes:
        env_id: registered id, without the namespace.
        env_kwargs: the parameters that the environment was made with.
        task_id: the task; with `seed` it fixes the episode up to the agent's choices.
        split: train, val, test or the environment's own.
        seed: the environment's seed.
        group: number of the group of episodes that share task and seed; credit compares within it.
        sample: number within the group.
        family: the task's kind, empty where the environment has one kind.
        difficulty: name of the task's level, empty where tasks are not graded.
        role: the seat in a game of several, empty in an environment for one.
        agent: name of the agent.
        agent_seed: seed of what the agent drew.
        status: `terminated` (the episode ended), `truncated` (a limit ended it), `failed` (the infrastructure broke).
        score: in [0, 1], how well the task was done; 0 where the episode failed.
        success: whether the task was done.
        reference: the accepted answers, None where the environment has none.
        error: `Type: message` of what broke, None unless failed.
        attempts: how often the episode was started (2 after a retry).
        system: the system prompt.
        turns: in order.
        final_observation: what the environment said last.
        version: of the schema.
    """

    env_id: str
    task_id: str
    split: str
    seed: int
    status: Literal["terminated", "truncated", "failed"]
    score: float
    success: bool
    turns: list[Turn]
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    group: int = 0
    sample: int = 0
    family: str = ""
    difficulty: str = ""
    role: str = ""
    agent: str = ""
    agent_seed: int = 0
    reference: list[str] | None = None
    error: str | None = None
    attempts: int = 1
    system: str = ""
    final_observation: str = ""
    version: int = SCHEMA_VERSION

    @property
    def id(self) -> str:
        """Task, seed and agent seed in one string, for messages about this trajectory."""
        return f"{self.env_id}:{self.task_id}:{self.seed}:{self.agent_seed}"

    @property
    def total_reward(self) -> float:
        """Sum of the environment's rewards over the turns."""
        return sum(turn.reward for turn in self.turns)

    def to_json(self) -> str:
        """One line of JSON, without the line end."""
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def from_json(cls, line: str | bytes) -> Trajectory:
        """Read one line of JSON of this schema version or an earlier one.

        Raises:
            InvalidTrajectory: the line is not JSON, lacks a field, has one too many, or is of a later version.
        """
        try:
            trajectory = _ADAPTER.validate_json(line)
        except ValidationError as error:
            raise InvalidTrajectory(_why(line, error)) from error
        if trajectory.version > SCHEMA_VERSION:
            raise InvalidTrajectory(_too_late(trajectory.version))
        trajectory.version = SCHEMA_VERSION  # what it is written as from now on
        return trajectory


_ADAPTER = TypeAdapter(Trajectory)


def _why(line: str | bytes, error: ValidationError) -> str:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as not_json:
        return f"not a line of JSON: {not_json}"
    if isinstance(data, dict) and isinstance(data.get("version"), int) and data["version"] > SCHEMA_VERSION:
        return _too_late(data["version"])
    first = error.errors()[0]
    return f"field {'.'.join(map(str, first['loc'])) or '(line)'}: {first['msg']}"


def _too_late(version: int) -> str:
    return f"schema version {version} is later than {SCHEMA_VERSION}, the latest known here; upgrade turnwise"


def write_trajectories(path: str | Path, trajectories: Iterable[Trajectory], *, append: bool = False) -> int:
    """Write trajectories as JSON lines and return how many; makes the parent folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("a" if append else "w", encoding="utf-8") as file:
        for trajectory in trajectories:
            file.write(trajectory.to_json() + "\n")
            count += 1
    return count


def read_trajectories(path: str | Path) -> Iterator[Trajectory]:
    """Yield the trajectories of a JSON-lines file.

    Raises:
        InvalidTrajectory: a line cannot be read; the message names file and line. A last line without a line end is
            a write that was cut off: it is an episode owed, and is left out.
    """
    path = Path(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield Trajectory.from_json(line)
            except InvalidTrajectory as error:
                raise InvalidTrajectory(f"{path}, line {number}: {error}") from error
