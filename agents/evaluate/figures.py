"""From episodes to figures: success and score with intervals, behaviour, tokens, money, time, failures by type.

Failed episodes are counted by the type of what broke and enter no other figure: a server that was down says nothing of
the agent. Where more of them failed than is allowed, what is left may be the easy part, and the score is marked.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...envs.trajectory import Trajectory, Turn
from .statistics import (
    Estimate,
    best_of_k,
    mean_over_tasks,
    pass_at_k,
    pass_hat_k,
    proportion,
    visible_difference,
)

Stage = Callable[[Trajectory], bool | None]

PERCENTILES = (50, 90, 99)


class Prices(NamedTuple):
    """What a million tokens cost.

    Attributes:
        input: of those that the model reads and that no cache serves.
        output: of those that it writes.
        cached: of those that a cache serves; None for the price of `input`.
        currency: what the prices are in.
    """

    input: float
    output: float
    cached: float | None = None
    currency: str = "USD"

    def of(self, turns: Iterable[Turn]) -> float:
        """What the tokens of the turns cost, by their own account of them."""
        cached = self.input if self.cached is None else self.cached
        return (
            sum(
                (t.input_tokens - t.cached_tokens) * self.input
                + t.cached_tokens * cached
                + t.output_tokens * self.output
                for t in turns
            )
            / 1_000_000
        )


@dataclass(frozen=True)
class Figures:
    """What a set of episodes came to. Every figure is over the episodes that were played, that is did not fail.

    Attributes:
        episodes: number of episodes, failed ones included.
        tasks: number of different tasks among them.
        attempts: most attempts at one task.
        failures: number of failed episodes by type of error.
        success: rate over the tasks; with k attempts at each it is avg@k.
        score: mean over the tasks, in [0, 1].
        pass_at: by k, the chance that one of k attempts succeeds; empty with one attempt per task.
        pass_all: by k, the chance that all of k attempts succeed (pass^k).
        best_of: by k, the expected best score of k attempts.
        reward: mean summed reward of an episode.
        turns: mean number of turns.
        invalid: share of turns whose action could not be executed.
        repeated: share of turns whose action had been taken in the same state before, in the same episode.
        truncated: share of episodes that a limit ended.
        tools: number of turns by tool; "" for those that named none.
        tokens: `input`, `output` and `cached`, summed over all turns; zeros where the agent knows none.
        cost: of the tokens of all episodes, failed ones included; None without prices or where the agent knows no tokens.
        currency: of the cost.
        agent_seconds, env_seconds: of a turn, percentiles 50, 90 and 99, and the longest as 100.
        stages: by name, the share of episodes that passed the stage, of those it applies to.
        by_difficulty, by_family: the same of the tasks of one level or kind, where the environment names any.
        visible: the smallest difference in success that this many tasks let a paired comparison see, in four of five
            cases, if two agents of about this success failed on tasks independently of each other.
    """

    episodes: int
    tasks: int
    attempts: int
    failures: Mapping[str, int]
    success: Estimate
    score: Estimate
    pass_at: Mapping[int, Estimate]
    pass_all: Mapping[int, Estimate]
    best_of: Mapping[int, Estimate]
    reward: float
    turns: float
    invalid: float
    repeated: float
    truncated: float
    tools: Mapping[str, int]
    tokens: Mapping[str, int]
    cost: float | None
    currency: str
    agent_seconds: Mapping[int, float]
    env_seconds: Mapping[int, float]
    stages: Mapping[str, Estimate]
    by_difficulty: Mapping[str, Figures] = field(default_factory=dict)
    by_family: Mapping[str, Figures] = field(default_factory=dict)
    visible: float = 1.0

    @property
    def failed(self) -> int:
        """Number of failed episodes."""
        return sum(self.failures.values())

    @property
    def failure_share(self) -> float:
        """Share of all episodes that failed; 0 without episodes."""
        return self.failed / self.episodes if self.episodes else 0.0

    def as_json(self) -> dict[str, Any]:
        """The figures as a dictionary that JSON takes; what is not known is null."""
        data: dict[str, Any] = {
            "episodes": self.episodes,
            "tasks": self.tasks,
            "attempts": self.attempts,
            "failed": self.failed,
            "failures": dict(self.failures),
            "failure_share": self.failure_share,
            **_spread("success", self.success),
            **_spread("score", self.score),
            "reward": self.reward,
            "turns": self.turns,
            "invalid_share": self.invalid,
            "repeated_share": self.repeated,
            "truncated_share": self.truncated,
            "tools": dict(self.tools),
            "tokens": dict(self.tokens),
            "cost": self.cost,
            "currency": self.currency if self.cost is not None else None,
            "agent_seconds": _percentiles(self.agent_seconds),
            "env_seconds": _percentiles(self.env_seconds),
            "visible_difference": self.visible,
        }
        for name in ("pass_at", "pass_all", "best_of", "stages"):
            if found := getattr(self, name):
                data[name] = {
                    str(k): dict(zip(("value", "low", "high", "tasks"), e, strict=True))
                    for k, e in found.items()
                }
        for name in ("by_difficulty", "by_family"):
            if parts := getattr(self, name):
                data[name] = {k: part.as_json() for k, part in parts.items()}
        plain: dict[str, Any] = no_nan(data)
        return plain


def figures(
    trajectories: Sequence[Trajectory],
    *,
    stages: Mapping[str, Stage] | None = None,
    prices: Prices | None = None,
    split: bool = True,
) -> Figures:
    """The figures of episodes of one environment.

    Args:
        trajectories: episodes with the same task are attempts at it.
        stages: what the environment declares.
        prices: of tokens.
        split: also give the figures of each difficulty and family, where there are several.
    """
    played = [t for t in trajectories if t.status != "failed"]
    by_task: defaultdict[str, list[Trajectory]] = defaultdict(list)
    for t in played:
        by_task[t.task_id].append(t)
    groups = list(by_task.values())
    # An episode that failed before it was reset does not know its task.
    known = {t.group: t.task_id for t in trajectories if t.task_id}
    attempts_at = Counter(known.get(t.group, t.group) for t in trajectories)
    attempts = [len(g) for g in groups]
    wins = [sum(t.success for t in g) for g in groups]
    scores = [[t.score for t in g] for g in groups]
    most = max(attempts_at.values(), default=0)
    success = proportion(wins, attempts)
    turns = [turn for t in played for turn in t.turns]
    several = _attempt_numbers(max(attempts, default=0))
    failures = Counter((t.error or "").split(":")[0] for t in trajectories if t.status == "failed")
    both = list(zip(wins, attempts, strict=True))
    return Figures(
        episodes=len(trajectories),
        tasks=len(attempts_at),
        attempts=most,
        failures=dict(sorted(failures.items())),
        success=success,
        score=mean_over_tasks([sum(s) / len(s) for s in scores]),
        pass_at={k: mean_over_tasks([pass_at_k(c, n, k) for c, n in both if n >= k]) for k in several},
        pass_all={k: mean_over_tasks([pass_hat_k(c, n, k) for c, n in both if n >= k]) for k in several},
        best_of={k: mean_over_tasks([best_of_k(s, k) for s in scores if len(s) >= k]) for k in several},
        reward=_mean([t.total_reward for t in played]),
        turns=_mean([len(t.turns) for t in played]),
        invalid=_mean([turn.invalid for turn in turns]),
        repeated=_mean([again for t in played for again in repeats(t)]),
        truncated=_mean([t.status == "truncated" for t in played]),
        tools=dict(Counter(turn.tool or "" for turn in turns).most_common()),
        tokens={
            "input": sum(turn.input_tokens for turn in turns),
            "output": sum(turn.output_tokens for turn in turns),
            "cached": sum(turn.cached_tokens for turn in turns),
        },
        cost=None if prices is None or not _counted(trajectories) else prices.of(_turns(trajectories)),
        currency="" if prices is None else prices.currency,
        agent_seconds=_latency([turn.agent_seconds for turn in turns]),
        env_seconds=_latency([turn.env_seconds for turn in turns]),
        stages={name: _passed(stage, groups) for name, stage in (stages or {}).items()},
        by_difficulty=_parts(trajectories, "difficulty", stages, prices) if split else {},
        by_family=_parts(trajectories, "family", stages, prices) if split else {},
        visible=_visible(success),
    )


def _turns(trajectories: Iterable[Trajectory]) -> Iterator[Turn]:
    return (turn for t in trajectories for turn in t.turns)


def _counted(trajectories: Iterable[Trajectory]) -> bool:
    """Whether the agent said how many tokens it used."""
    return any(turn.input_tokens or turn.output_tokens for turn in _turns(trajectories))


def repeats(trajectory: Trajectory) -> list[bool]:
    """Per turn, whether the same action had been taken in the same state before in the episode."""
    seen: set[tuple[str, str]] = set()
    found = []
    for turn in trajectory.turns:
        key = (turn.state_key, turn.action)
        found.append(key in seen)
        seen.add(key)
    return found


def no_nan(data: Any) -> Any:
    """Plain data in which every NaN is None, since JSON has none."""
    if isinstance(data, dict):
        return {k: no_nan(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [no_nan(v) for v in data]
    return None if isinstance(data, float) and data != data else data


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, each counting alike, with an interval made of theirs.

    Source: Zou and Donner, Statistics in Medicine 27 (2008), 1693-1702: the distances from the estimates to the ends of
    their intervals add up like standard deviations, each side for itself.
    """
    known = [e for e in estimates if e.tasks]
    if not known:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    n = len(known)
    value = sum(e.value for e in known) / n
    below = sum((e.value - e.low) ** 2 for e in known) ** 0.5 / n
    above = sum((e.high - e.value) ** 2 for e in known) ** 0.5 / n
    return Estimate(value, max(0.0, value - below), min(1.0, value + above), sum(e.tasks for e in known))


def _attempt_numbers(most: int) -> list[int]:
    """1, 2, 4, .. and the number of attempts itself; none where each task was tried once."""
    if most < 2:
        return []
    return sorted({most, *(2**i for i in range(most.bit_length()) if 2**i <= most)})


def _visible(success: Estimate) -> float:
    """The difference that so many tasks show, if two agents of this success fail independently of each other."""
    if not success.tasks:
        return 1.0
    # Not even a panel that was done to the last task proves that its agent never fails.
    p = min(max(success.value, 1 / (success.tasks + 2)), 1 - 1 / (success.tasks + 2))
    return visible_difference(success.tasks, 2 * p * (1 - p))


def _passed(stage: Stage, groups: Iterable[Sequence[Trajectory]]) -> Estimate:
    """The share of episodes that passed a stage; a task counts by those of its episodes to which the stage applies."""
    passed = [[bool(said) for t in group if (said := stage(t)) is not None] for group in groups]
    passed = [said for said in passed if said]
    return proportion([sum(said) for said in passed], [len(said) for said in passed])


def _parts(
    trajectories: Sequence[Trajectory],
    name: str,
    stages: Mapping[str, Stage] | None,
    prices: Prices | None,
) -> dict[str, Figures]:
    parts: defaultdict[str, list[Trajectory]] = defaultdict(list)
    for t in trajectories:
        parts[getattr(t, name)].append(t)
    if set(parts) <= {""}:
        return {}
    return {k: figures(parts[k], stages=stages, prices=prices, split=False) for k in sorted(parts)}


def _latency(seconds: Sequence[float]) -> dict[int, float]:
    if not seconds:
        return {}
    found = np.percentile(seconds, [*PERCENTILES, 100])
    return dict(zip((*PERCENTILES, 100), map(float, found), strict=True))


def _percentiles(found: Mapping[int, float]) -> dict[str, float]:
    return {f"p{p}" if p < 100 else "max": v for p, v in found.items()}


def _spread(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
