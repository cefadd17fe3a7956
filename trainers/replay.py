"""Self-imitation: replaying what went well, with a baseline that moves on, and the schedules that go with it.

    J = J_on_policy + w(step) * J_replayed

Source: Qin et al., SPEAR (arXiv 2509.22601) and its code (TencentYoutuResearch/SPEAR), whose values are the defaults.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Replayed(Generic[Item]):
    """A trajectory from the buffer.

    Args:
        item: the trajectory as it was stored.
        advantage: its outcome minus the present baseline; positive.
        age: how many steps ago it was collected.
    """

    item: Item
    advantage: float
    age: int


class ReplayBuffer(Generic[Item]):
    """Keeps trajectories with a positive advantage and replays those that are still better than the baseline.

    Two first-in-first-out stores: trajectories whose advantage was positive when they were collected, and the outcomes of
    all trajectories. A trajectory is replayed with the advantage A~ = R - percentile of the outcomes, without a standard
    deviation, and only while A~ is positive and it is at most `max_age` steps old: what was good against an early policy is
    not imitated for ever.

    Args:
        capacity: how many trajectories are kept.
        max_age: in steps of the trainer.
        outcomes: how many outcomes the baseline looks back on.
        percentile: of the outcomes, in [0, 100]; 50 is the median.

    Raises:
        ValueError: `capacity` or `outcomes` is below 1, `max_age` is negative, or `percentile` outside [0, 100].
    """

    def __init__(
        self, *, capacity: int = 2048, max_age: int = 10, outcomes: int = 10_240, percentile: float = 50.0
    ):
        for name, value, least in (
            ("capacity", capacity, 1),
            ("outcomes", outcomes, 1),
            ("max_age", max_age, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}.")
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile is {percentile}; it must lie in [0, 100].")
        self.max_age = max_age
        self.percentile = percentile
        self._kept: deque[_Kept[Item]] = deque(maxlen=capacity)
        self._outcomes: deque[float] = deque(maxlen=outcomes)

    def __len__(self) -> int:
        """How many trajectories are stored, replayable or not."""
        return len(self._kept)

    @property
    def baseline(self) -> float | None:
        """The percentile of the outcomes seen, interpolated linearly; None before the first."""
        if not self._outcomes:
            return None
        ordered = sorted(self._outcomes)
        place = self.percentile / 100 * (len(ordered) - 1)
        below = math.floor(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    def add(
        self, step: int, items: Iterable[Item], outcomes: Iterable[float], advantages: Iterable[float]
    ) -> None:
        """Take in the trajectories of a step, after its replayed ones have been drawn.

        Args:
            step: of the trainer; never smaller than before.
            items: whatever the trainer needs to train on them again.
            outcomes: one score each; all of them move the baseline.
            advantages: one each; for a turn-level scheme the mean over the trajectory's turns (ours). Only
                trajectories above 0 are stored.
        """
        for item, outcome, advantage in zip(items, outcomes, advantages, strict=True):
            self._outcomes.append(outcome)
            if advantage > 0:
                self._kept.append(_Kept(item, outcome, step))

    def replayable(self, step: int) -> list[Replayed[Item]]:
        """All trajectories that may be replayed at this step, oldest first."""
        baseline = self.baseline
        if baseline is None:
            return []
        return [
            Replayed(kept.item, kept.outcome - baseline, step - kept.step)
            for kept in self._kept
            if step - kept.step <= self.max_age and kept.outcome > baseline
        ]

    def sample(self, step: int, count: int, random: Random) -> list[Replayed[Item]]:
        """At most `count` different trajectories, drawn uniformly from those that may be replayed."""
        found = self.replayable(step)
        return random.sample(found, min(count, len(found)))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold; the items as they are."""
        return {
            "kept": [(kept.item, kept.outcome, kept.step) for kept in self._kept],
            "outcomes": list(self._outcomes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; what is beyond this buffer's sizes is forgotten, oldest first."""
        self._kept.clear()
        self._kept.extend(_Kept(item, outcome, step) for item, outcome, step in state["kept"])
        self._outcomes.clear()
        self._outcomes.extend(state["outcomes"])


@dataclass(frozen=True, slots=True)
class _Kept(Generic[Item]):
    item: Item
    outcome: float
    step: int


def imitation_weight(step: int, *, warmup: int = 200, coefficient: float = 1.0) -> float:
    """The weight of the replayed loss: 0 at step 0, rising along a cosine to `coefficient` after `warmup` steps.

        w = coefficient * (1 - cos(pi * step / warmup)) / 2

    The paper warms up over 200 steps, on ALFWorld over 100.

    Raises:
        ValueError: `warmup` is below 1.
    """
    return coefficient * (1 - _cosine(step, warmup, "warmup")) / 2


def tool_reward_weight(step: int, *, decay: int = 200, start: float = 1.0) -> float:
    """The weight of a reward for calling tools: `start` at step 0, falling along a cosine to 0 after `decay` steps.

    Early on the reward makes the agent use its tools at all; later the outcome alone should speak. The paper decays
    over 100 to 200 steps.

    Raises:
        ValueError: `decay` is below 1.
    """
    return start * (1 + _cosine(step, decay, "decay")) / 2


def _cosine(step: int, steps: int, name: str) -> float:
    """cos(pi * step / steps), held at -1 after `steps`."""
    if steps < 1:
        raise ValueError(f"{name} is {steps}; it must be at least 1 step.")
    return math.cos(math.pi * min(max(step, 0), steps) / steps)
