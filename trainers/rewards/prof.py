"""PROF: which trajectories of a group to learn from, chosen by how well process and outcome agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

Select: TypeAlias = Literal["none", "prof", "prof_both"]


def consistency(
    rewards: Sequence[float | None],
    success: bool,
    *,
    turns: int,
    penalty: float = 0.0,
    limit: int | None = None,
) -> float:
    """How well the process rewards of a trajectory agree with its end: (mean - penalty * odd length) * (1 or -1).

    Args:
        rewards: of the turns; None is left out, and a trajectory without any number has the mean 0.
        success: whether the episode succeeded.
        turns: its length; one turn, or `limit` and more, is odd.
        penalty: subtracted from the mean of a trajectory of odd length.
        limit: see `turns`; None for no such limit.
    """
    known = [r for r in rewards if r is not None]
    mean = sum(known) / len(known) if known else 0.0
    odd = turns == 1 or (limit is not None and turns >= limit)
    return (mean - penalty * odd) * (1.0 if success else -1.0)


def kept_counts(correct: int, incorrect: int, keep: int) -> tuple[int, int]:
    """How many correct and how many incorrect ones to keep, as near to half and half as there are.

    They sum to `keep`, or to everything where the group is smaller; their product is the largest possible.
    """
    keep = min(keep, correct + incorrect)
    half = keep // 2 if correct <= incorrect else keep - keep // 2
    plus = max(keep - incorrect, min(correct, half))
    return plus, keep - plus


def prof(
    consistencies: Sequence[float],
    success: Sequence[bool],
    *,
    keep: int,
    both: bool = False,
    rng: np.random.Generator,
) -> list[bool]:
    """Which trajectories of one group to keep.

    Of the correct ones those with the highest consistency stay; of the incorrect ones a random choice (PROF-POS), or
    with `both` those of the highest consistency too, that is those whose steps were rated worst (PROF-BOTH). Ties go to the
    earlier trajectory. How many are kept does not depend on the process rewards.

    Source: arXiv 2509.03403. For the incorrect ones of PROF-BOTH we follow the aim its abstract states; a public note
    writes the opposite order.
    """
    right = [i for i, s in enumerate(success) if s]
    wrong = [i for i, s in enumerate(success) if not s]
    plus, minus = kept_counts(len(right), len(wrong), keep)
    chosen = set(sorted(right, key=lambda i: -consistencies[i])[:plus])
    if both:
        chosen |= set(sorted(wrong, key=lambda i: -consistencies[i])[:minus])
    else:
        chosen |= {wrong[int(i)] for i in rng.permutation(len(wrong))[:minus]}
    return [i in chosen for i in range(len(success))]
