"""Trajectories with known errors: successful episodes in which one turn is replaced by a wrong one, and labels for all turns.

A turn is right where it brings success one turn nearer, for the environment's expert that plays on from there, and wrong
where it does not. So the labels are the environment's own and no annotator's. A wrong turn is planted only where it is
well formed and can be executed: nothing but its consequences tells it from a right one. Behind it the rest of the plan is
carried out as if nothing had happened.

The patterns are the six of Socratic-PRMBench (Li et al., arXiv 2505.23474), by what they come to in a turn of an episode:

| pattern          | in a chain of reasoning                  | here                                                         |
|------------------|------------------------------------------|--------------------------------------------------------------|
| transformation   | the problem is turned into another one   | the action of an episode with another task                   |
| decomposition    | a step of the plan is left out           | an action of a later turn, taken too early                   |
| regather         | what is known is gathered again          | an action of an earlier turn, taken once more                |
| deduction        | a wrong conclusion from right premises   | the right tool with wrong arguments                          |
| verification     | an error is not noticed                  | wrong arguments, and the same again after what came of them  |
| integration      | the parts are put together wrongly       | wrong arguments in the turn that ends the episode            |

A pattern that an environment has no room for (a last turn that cannot go wrong) has no trajectories there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..agents.evaluate.rescore import replay
from ..envs import Trajectory, Turn, TurnEnv
from ..envs.errors import UsageError
from ..envs.rollout import agent_seed
from ..envs.tools import Call

Pattern = Literal["transformation", "decomposition", "regather", "deduction", "verification", "integration"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)

_TRIES = 12
_PLACES = 3


@dataclass(frozen=True)
class Labelled:
    """A trajectory with what is known of its turns.

    Attributes:
        trajectory: its `group` is that of the episode that it was made of.
        right: per turn, whether it brought success nearer; None where success was out of reach already.
        error: the first wrong turn, from 0; None where there is none.
        pattern: of the planted error; None where none was planted.
    """

    trajectory: Trajectory
    right: list[bool | None]
    error: int | None
    pattern: Pattern | None


def planted(env: TurnEnv, episodes: Sequence[Trajectory], *, seed: int = 0) -> list[Labelled]:
    """The episodes with their labels and, of each that succeeded, one copy per pattern with an error planted.

    Args:
        env: must have an expert and exact snapshots.
        episodes: played in such an environment; failed ones are left out.
        seed: of what is planted where.

    Raises:
        UsageError: the environment has no expert, or no episode succeeded.
    """
    if type(env).expert is TurnEnv.expert:
        raise UsageError(
            f"{env.env_id} has no expert, so nobody can say which turns are right; define expert() in {type(env).__name__}"
        )
    played = [t for t in episodes if t.status != "failed" and t.turns]
    successes = [t for t in played if t.success]
    if not successes:
        raise UsageError(
            f"none of the {len(episodes)} episodes succeeded, and errors are planted in successes; play more, or another agent"
        )
    found = []
    for t in played:
        found.append(labelled(env, t, None))
        if not t.success:
            continue
        for pattern in PATTERNS:
            rng = np.random.Generator(np.random.PCG64([agent_seed(seed, t.id, pattern)]))
            wrong = _plant(env, t, pattern, successes, rng)
            if wrong is not None:
                found.append(wrong)
    return found


def labelled(env: TurnEnv, trajectory: Trajectory, pattern: Pattern | None) -> Labelled:
    """The labels of an episode, by its actions in `env`."""
    clone = env.clone()
    right: list[bool | None] = []
    clone.reset(seed=trajectory.seed, options={"task": trajectory.task_id, "split": trajectory.split})
    before = _turns_to_success(clone)
    for turn in trajectory.turns:
        _, _, terminated, truncated, info = clone.step(turn.action)
        after = _after(clone, terminated or truncated, info)
        right.append(None if before is None else after is not None and after < before)
        before = after
    clone.close()
    error = next((k for k, said in enumerate(right) if said is False), None)
    return Labelled(trajectory, right, error, pattern)


def _plant(
    env: TurnEnv,
    base: Trajectory,
    pattern: Pattern,
    successes: Sequence[Trajectory],
    rng: np.random.Generator,
) -> Labelled | None:
    """A copy of a successful episode with an error of this pattern; None where there is no room for one."""
    last = len(base.turns) - 1
    places = [last] if pattern == "integration" else rng.permutation(last + 1)[:_PLACES].tolist()
    for k in places:
        for action in _candidates(env, base, k, pattern, successes, rng):
            if _is_wrong(env, base, k, action, must_end=pattern == "integration"):
                twice = 2 if pattern == "verification" else 1
                actions = [turn.action for turn in base.turns]
                return labelled(
                    env, _played(env, base, [*actions[:k], *[action] * twice, *actions[k + twice :]]), pattern
                )
    return None


def _candidates(
    env: TurnEnv,
    base: Trajectory,
    k: int,
    pattern: Pattern,
    successes: Sequence[Trajectory],
    rng: np.random.Generator,
) -> Iterator[str]:
    """Actions to put in place of the one of turn k, none of them the same."""
    actions = [turn.action for turn in base.turns]
    if pattern == "transformation":
        others = [t for t in successes if t.task_id != base.task_id]
        drawn = rng.permutation(len(others))[:_TRIES].tolist()
        found = [others[i].turns[min(k, len(others[i].turns) - 1)].action for i in drawn]
    elif pattern == "decomposition":
        found = [actions[i] for i in (k + 1 + rng.permutation(len(actions) - k - 1)).tolist()]
    elif pattern == "regather":
        found = [actions[i] for i in rng.permutation(k).tolist()]
    else:
        found = list(_other_arguments(env, base, k, rng))
    yield from (action for action in dict.fromkeys(found) if action != actions[k])


def _other_arguments(env: TurnEnv, base: Trajectory, k: int, rng: np.random.Generator) -> Iterator[str]:
    """Calls of the tool of turn k with other arguments: those of the environment's own random player, then any."""
    tool = base.turns[k].tool
    if tool is None or tool not in env.tools:
        return
    clone = _at(env, base, k)
    for _ in range(_TRIES):
        action = clone.sample_action(rng)
        _, _, _, _, info = _copy_of(clone).step(action)
        if info["tool"] == tool:
            yield action
    for _ in range(_TRIES):
        yield clone.write(Call(tool, env.tools[tool].sample(rng)))


def _is_wrong(env: TurnEnv, base: Trajectory, k: int, action: str, *, must_end: bool) -> bool:
    """Whether the action can be executed in turn k, and does not bring success nearer."""
    clone = _at(env, base, k)
    before = _turns_to_success(clone)
    _, _, terminated, truncated, info = clone.step(action)
    if info["invalid"] or before is None or (must_end and not terminated):
        return False
    after = _after(clone, terminated or truncated, info)
    return after is None or after >= before


def _played(env: TurnEnv, base: Trajectory, actions: Sequence[str]) -> Trajectory:
    """The episode that these actions make, ended where the environment ends it or the actions do."""
    script = copy.copy(base)
    script.turns = [Turn(observation="", action=action) for action in actions]
    script.agent = f"{base.agent}, an error planted"
    return replay(script, env.clone())


def _at(env: TurnEnv, base: Trajectory, k: int) -> TurnEnv:
    """A copy of the environment before turn k."""
    clone = env.clone()
    clone.reset(seed=base.seed, options={"task": base.task_id, "split": base.split})
    for turn in base.turns[:k]:
        clone.step(turn.action)
    return clone


def _copy_of(env: TurnEnv) -> TurnEnv:
    clone = env.clone()
    clone.restore(env.snapshot())
    return clone


def _after(env: TurnEnv, over: bool, info: dict[str, object]) -> int | None:
    """Turns to success behind a step: 0 where it has come, None where it is out of reach."""
    if over:
        return 0 if info["success"] else None
    return _turns_to_success(env)


def _turns_to_success(env: TurnEnv) -> int | None:
    """How many turns the expert takes from here; None where it does not succeed. The environment is left as it was."""
    state = env.snapshot()
    turns = 0
    try:
        while (call := env.expert()) is not None:
            _, _, terminated, truncated, info = env.step(env.write(call))
            turns += 1
            if terminated or truncated:
                return turns if info["success"] else None
        return None
    finally:
        env.restore(state)
