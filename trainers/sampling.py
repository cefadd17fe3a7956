"""Which groups of rollouts are worth an update: filters, refilling, and the length penalty that goes with them.

Everything here works on plain lists, one entry per trajectory, before a batch is built. The filters answer with one bool
per trajectory, the same for all of a group; a trajectory that is not valid enters no decision.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


def informative(
    outcome: Sequence[float],
    group: Sequence[Hashable],
    valid: Sequence[bool] | None = None,
    *,
    correct: float | None = None,
) -> list[bool]:
    """Keep the groups whose rollouts differ, since only those have a group-relative advantage.

    Args:
        outcome: one score per trajectory.
        group: one key per trajectory.
        valid: default all true.
        correct: None keeps a group when its outcomes are not all the same, which also suits graded scores. A number
            keeps it when some but not all outcomes reach that number, the rule of the paper for right and wrong.

    Returns:
        Whether to keep each trajectory. A group with fewer than two valid rollouts is never kept.

    Source: dynamic sampling of DAPO, Yu et al. (arXiv 2503.14476).
    """

    def differs(scores: list[float]) -> bool:
        if correct is None:
            return min(scores) < max(scores)
        return 0 < sum(score >= correct for score in scores) < len(scores)

    kept = {
        key for key, scores in _scores(outcome, group, valid).items() if len(scores) > 1 and differs(scores)
    }
    return [key in kept for key in group]


def top_p(
    outcome: Sequence[float],
    group: Sequence[Hashable],
    valid: Sequence[bool] | None = None,
    *,
    p: float = 0.9,
) -> list[bool]:
    """Keep the groups with the largest spread of outcomes, until they hold a share p of all spread.

    The spread of a group is the unbiased standard deviation of its valid outcomes, 0 for fewer than two. Groups are taken
    from the largest on, the one that reaches the share included; equal spreads are kept or dropped together, so that
    the order of groups decides nothing. A group without spread is never kept.

    Args:
        outcome: one score per trajectory.
        group: one key per trajectory.
        valid: default all true.
        p: in (0, 1]; 1 keeps every group with any spread. RAGEN's configurations use 0.9 and 0.25.

    Raises:
        ValueError: p is outside (0, 1].

    Source: the rollout filter of RAGEN (`rollout_filter_strategy=top_p`, metric reward variance, linear shares).
    """
    if not 0 < p <= 1:
        raise ValueError(f"p is {p}; it must lie in (0, 1].")
    spread = {key: _deviation(scores) for key, scores in _scores(outcome, group, valid).items()}
    wanted = p * math.fsum(spread.values())
    taken, threshold = 0.0, math.inf
    for size in sorted(spread.values(), reverse=True):
        # Rounding must not let a group slip in after the share is reached.
        if size == 0 or taken >= wanted * (1 - 1e-12):
            break
        taken, threshold = taken + size, size
    return [spread.get(key, 0.0) >= threshold for key in group]


def overlong_penalty(tokens: int, *, limit: int = 20_480, buffer: int = 4_096) -> float:
    """What to add to the outcome of a response of this many tokens: 0, then linearly down to -1 at the limit.

    Args:
        tokens: length of the response.
        limit: the hard limit of the rollout; at it and beyond the penalty is -1.
        buffer: how many tokens before the limit the penalty starts.

    Raises:
        ValueError: `buffer` is not in [1, limit].

    Source: soft overlong punishment of DAPO (arXiv 2503.14476), whose lengths are the defaults.
    """
    if not 1 <= buffer <= limit:
        raise ValueError(f"buffer is {buffer}; it must lie in [1, {limit}], the limit.")
    return -min(1.0, max(0.0, (tokens - (limit - buffer)) / buffer))


class Refill(Generic[Item]):
    """Collects kept groups over several rounds of rollouts until there are enough, or the rounds are used up.

        refill = Refill(groups=16)
        while not refill.done:
            trajectories = ...
            refill.add(trajectories, group, informative(outcome, group))
        batch = refill.items

    Without the cap on rounds a curriculum on which every rollout fails would never return; with it the batch may come out
    smaller than asked for, even empty, and the trainer sees that in `missing`.

    Args:
        groups: how many groups make a batch.
        max_rounds: `max_num_gen_batches` of verl's DAPO recipe, whose default is 10.

    Raises:
        ValueError: `groups` or `max_rounds` is below 1.
    """

    def __init__(self, groups: int, max_rounds: int = 10):
        if groups < 1 or max_rounds < 1:
            raise ValueError(f"groups is {groups} and max_rounds {max_rounds}; both must be at least 1.")
        self.groups = groups
        self.max_rounds = max_rounds
        self.rounds = 0
        self.dropped = 0
        self._kept: dict[Hashable, list[Item]] = {}

    @property
    def items(self) -> list[Item]:
        """The trajectories kept so far, group by group."""
        return [item for items in self._kept.values() for item in items]

    @property
    def missing(self) -> int:
        """How many groups are still wanted."""
        return self.groups - len(self._kept)

    @property
    def done(self) -> bool:
        """Whether the batch is full or the rounds are used up."""
        return self.missing == 0 or self.rounds >= self.max_rounds

    def add(self, items: Iterable[Item], group: Sequence[Hashable], keep: Sequence[bool]) -> None:
        """Take one round in; what is not kept, and groups beyond those wanted, are counted in `dropped`.

        Groups of different rounds stay apart even when their keys are equal.
        """
        self.rounds += 1
        for item, key, kept in zip(items, group, keep, strict=True):
            name = (self.rounds, key)
            if kept and (name in self._kept or self.missing):
                self._kept.setdefault(name, []).append(item)
            else:
                self.dropped += 1


def _scores(
    outcome: Sequence[float], group: Sequence[Hashable], valid: Sequence[bool] | None
) -> dict[Hashable, list[float]]:
    """The outcomes of the valid trajectories of each group."""
    scores: dict[Hashable, list[float]] = {}
    for score, key, counts in zip(outcome, group, valid or [True] * len(group), strict=True):
        if counts:
            scores.setdefault(key, []).append(score)
    return scores


def _deviation(scores: list[float]) -> float:
    if min(scores) == max(scores):
        return 0.0
    mean = math.fsum(scores) / len(scores)
    return math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
