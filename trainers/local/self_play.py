"""Self-play: the policy that is trained in every seat of a game, or an earlier one opposite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...agents import LocalAgent
from ...envs import Job, Trajectory, TurnEnv
from ...envs.errors import UsageError
from ...envs.games.game import Game
from ...envs.games.match import play_matches


def checked(mode: str, env: TurnEnv) -> frozenset[str]:
    """What the batches hold because of the seats of a game: `role`, or nothing in an environment for one.

    Raises:
        UsageError: self-play in an environment for one.
    """
    if isinstance(env, Game):
        return frozenset({"role"})
    if mode != "none":
        raise UsageError(
            f"trainer.self_play={mode} needs a game for several seats; {env.env_id} is for one agent"
        )
    return frozenset()


def tasks_of_step(mode: str, env: TurnEnv, tasks: int) -> int:
    """Games to play for so many groups of episodes: in every seat the policy gives a group for each."""
    return tasks // len(env.roles) if mode == "current" and isinstance(env, Game) else tasks


async def play(
    env: TurnEnv, agent: LocalAgent, rival: LocalAgent | None, jobs: Sequence[Job], **options: Any
) -> list[Trajectory]:
    """Play the jobs and return the trajectories to learn from, group by group.

    Args:
        env: a game.
        agent: the policy that is trained.
        rival: sits in the other seats, and the agent's seat changes from group to group; None for the agent itself, in all
            seats, where every job gives a trajectory for each.
        jobs: games to play.
        options: those of `play_matches`.
    """
    assert isinstance(env, Game)
    found: list[Trajectory] = []
    if rival is None:
        found += (await play_matches(env, dict.fromkeys(env.roles, agent), jobs, **options)).trajectories
    else:
        for seat, role in enumerate(env.roles):
            own = [job for job in jobs if job.group % len(env.roles) == seat]
            agents = {**dict.fromkeys(env.roles, rival), role: agent}
            found += [
                t for t in (await play_matches(env, agents, own, **options)).trajectories if t.role == role
            ]
    return sorted(found, key=lambda t: (t.group, t.sample))
