"""Planted errors: executable, wrong by the environment's own measure, of the pattern that they are called."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

import turnwise as tw
from turnwise.envs.errors import UsageError
from turnwise.trainers.planted_errors import PATTERNS, Labelled, labelled, planted

ENVS: dict[str, dict[str, Any]] = {
    "FrozenLake-v1": {},
    "Sokoban-v1": {},
    "HigherLower-v1": {"high": 30},
    "Search-v1": {"documents": 200},
    "WebShop-v1": {"products": 50, "detail": "short"},
}


def env_of(env_id: str) -> tw.TurnEnv:
    return tw.make(env_id, format="bracket", system_prompt=False, **ENVS[env_id])


@pytest.fixture(scope="module", params=ENVS)
def data(request: Any) -> tuple[tw.TurnEnv, list[Labelled]]:
    env = env_of(request.param)
    episodes = env.rollout(tw.agents.ExpertAgent(), 5, split="test").trajectories
    return env, planted(env, episodes)


def test_successes_of_the_expert_are_right_in_every_turn(data: tuple[tw.TurnEnv, list[Labelled]]) -> None:
    _, found = data
    whole = [d for d in found if d.pattern is None]
    assert len(whole) == 5
    assert all(all(d.right) and d.error is None and d.trajectory.success for d in whole)


def test_every_error_can_be_executed_and_stands_behind_an_unchanged_beginning(
    data: tuple[tw.TurnEnv, list[Labelled]],
) -> None:
    _, found = data
    whole = {d.trajectory.group: d.trajectory for d in found if d.pattern is None}
    wrong = [d for d in found if d.pattern is not None]
    assert len({d.pattern for d in wrong}) >= 4
    for d in wrong:
        base, k = whole[d.trajectory.group], d.error
        assert k is not None
        assert d.right[k] is False
        assert not d.trajectory.turns[k].invalid
        assert [t.action for t in d.trajectory.turns[:k]] == [t.action for t in base.turns[:k]]
        assert d.trajectory.turns[k].action != base.turns[k].action
        assert d.trajectory.turns[k].state_key == base.turns[k].state_key
        assert (d.trajectory.task_id, d.trajectory.seed) == (base.task_id, base.seed)


def test_an_error_is_what_its_pattern_says(data: tuple[tw.TurnEnv, list[Labelled]]) -> None:
    _, found = data
    whole = {d.trajectory.group: d.trajectory for d in found if d.pattern is None}
    for d in found:
        if d.pattern is None:
            continue
        assert d.error is not None
        k, base = d.error, [t.action for t in whole[d.trajectory.group].turns]
        action, tool = d.trajectory.turns[k].action, d.trajectory.turns[k].tool
        if d.pattern == "regather":
            assert action in base[:k]
        elif d.pattern == "decomposition":
            assert action in base[k + 1 :]
        elif d.pattern == "transformation":
            assert any(
                action in [t.action for t in other.turns]
                for g, other in whole.items()
                if g != d.trajectory.group
            )
        else:
            assert tool == whole[d.trajectory.group].turns[k].tool
        if d.pattern == "verification" and k + 1 < len(d.trajectory.turns):
            assert d.trajectory.turns[k + 1].action == action
        if d.pattern == "integration":
            assert k == len(d.trajectory.turns) - 1
            assert d.trajectory.status == "terminated"
            assert not d.trajectory.success


def test_the_same_seed_plants_the_same_errors_and_leaves_the_episodes_alone() -> None:
    env = env_of("FrozenLake-v1")
    episodes = env.rollout(tw.agents.ExpertAgent(), 4, split="test").trajectories
    before = [t.to_json() for t in episodes]
    first, again, other = (planted(env, episodes, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first != other
    assert [t.to_json() for t in episodes] == before


def test_the_labels_of_a_lake_are_those_of_a_breadth_first_search() -> None:
    env = env_of("FrozenLake-v1")
    episodes = env.rollout(tw.agents.ExpertAgent(0.5), 12, split="test").trajectories
    judged = 0
    for t in episodes:
        found = labelled(env, t, None)
        distances = [_distance(env, t, k) for k in range(len(t.turns))]
        distances.append(0 if t.success else None)
        for k, said in enumerate(found.right[:-1]):
            before, after = distances[k], distances[k + 1]
            if before is None:
                continue
            # The turns must also suffice, which the search does not know; noise uses few of them up.
            if env.max_turns - k >= before and (after is None or env.max_turns - k - 1 >= after):
                assert said is (after is not None and after < before)
                judged += 1
    assert judged > 30


def _distance(env: tw.TurnEnv, t: tw.Trajectory, k: int) -> int | None:
    """Fewest moves to the goal before turn k, by trying all."""
    start = env.clone()
    start.reset(seed=t.seed, options={"task": t.task_id, "split": t.split})
    for turn in t.turns[:k]:
        start.step(turn.action)
    queue, seen = deque([(start.snapshot(), 0)]), {start.state_key()}
    probe = env.clone()
    while queue:
        state, moves = queue.popleft()
        for direction in ("up", "down", "left", "right"):
            probe.restore(state)
            _, _, terminated, truncated, info = probe.step(f"move[{direction}]")
            if terminated and info["success"]:
                return moves + 1
            if not terminated and not truncated and probe.state_key() not in seen:
                seen.add(probe.state_key())
                queue.append((probe.snapshot(), moves + 1))
    return None


def test_episodes_without_a_success_and_environments_without_an_expert_are_refused(register: Any) -> None:
    env = env_of("FrozenLake-v1")
    lost = [t for t in env.rollout(tw.agents.RandomAgent(), 20, split="test").trajectories if not t.success]
    with pytest.raises(UsageError, match="none of the"):
        planted(env, lost)

    class Blind(tw.TurnEnv):
        """No expert."""

        def start(self, task: tw.Task, rng: Any) -> str:
            return "Go."

        @tw.tool
        def go(self) -> tw.Outcome:
            """Go."""
            return tw.Outcome("Gone.", success=True)

    with pytest.raises(UsageError, match="has no expert"):
        planted(tw.make(register(Blind)), lost)
    assert len(PATTERNS) == 6
