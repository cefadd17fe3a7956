"""The numbers of an evaluation: estimators over several attempts at a task, and intervals that know what repeats.

Attempts at one task are alike, so the task is the unit of every interval here: many attempts at few tasks do not make
an interval narrow. All intervals are of 95 % unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...envs.rollout import wilson

RESAMPLES = 2000
"""Of a bootstrap. The end of an interval then moves by about 3 % of its width from one set of draws to another."""

_DRAWS_AT_ONCE = 4_000_000


class Estimate(NamedTuple):
    """A figure with its 95 % interval.

    Attributes:
        value: the estimate; NaN without data.
        low, high: the interval; the whole of what is possible, or NaN, without data.
        tasks: how many tasks it rests on.
    """

    value: float
    low: float
    high: float
    tasks: int


def pass_at_k(successes: int, attempts: int, k: int) -> float:
    """The chance that at least one of k attempts at a task succeeds, estimated without bias.

        pass@k = 1 - C(n - c, k) / C(n, k)     of n attempts, c of which succeeded

    Source: Chen et al., Evaluating Large Language Models Trained on Code (arXiv 2107.03374). `1 - (1 - c/n)^k` would
    be too low.
    """
    assert 0 <= successes <= attempts and 1 <= k <= attempts
    return 1.0 - math.comb(attempts - successes, k) / math.comb(attempts, k)


def pass_hat_k(successes: int, attempts: int, k: int) -> float:
    """The chance that all of k attempts at a task succeed, estimated without bias.

        pass^k = C(c, k) / C(n, k)             of n attempts, c of which succeeded

    Source: Yao et al., tau-bench (arXiv 2406.12045).
    """
    assert 0 <= successes <= attempts and 1 <= k <= attempts
    return math.comb(successes, k) / math.comb(attempts, k)


def best_of_k(scores: Sequence[float], k: int) -> float:
    """The expected best score of k attempts at a task, estimated without bias.

        best@k = sum over i = k .. n of s_(i) C(i - 1, k - 1) / C(n, k)      s_(1) <= .. <= s_(n)

    which is the mean of the maximum over all subsets of k of the n scores. For scores of 0 and 1 it is pass@k, of which
    it is the extension to graded scores.
    """
    n = len(scores)
    assert 1 <= k <= n
    ways = math.comb(n, k)
    return math.fsum(s * (math.comb(i - 1, k - 1) / ways) for i, s in enumerate(sorted(scores), 1) if i >= k)


def proportion(successes: Sequence[int], attempts: Sequence[int]) -> Estimate:
    """A rate of successes over tasks that were tried several times each: every task counts alike.

    The interval is Wilson's (1927) at the effective number of attempts: as many independent ones as would leave the
    estimate as uncertain as the spread between the tasks does (Kish's design effect, 1965). With one attempt per task
    that is the number of tasks. It lies between the number of tasks (attempts at a task always end alike) and the
    number of attempts (they have nothing in common), so that a rate of 0 or 1 still has an interval.

    Args:
        successes: per task.
        attempts: per task, at least 1.
    """
    tasks = len(attempts)
    if not tasks:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    rates = np.asarray(successes, dtype=float) / np.asarray(attempts, dtype=float)
    p = float(rates.mean())
    total = sum(attempts)
    effective = float(tasks)
    if total > tasks > 1:
        variance = float(rates.var(ddof=1)) / tasks
        effective = min(max(p * (1 - p) / variance, tasks), total) if variance > 0 else tasks
        if variance == 0 and 0 < p < 1:
            effective = (
                total  # every task was solved as often as every other: more alike than chance would have it
            )
    low, high = wilson(p * effective, effective)
    return Estimate(p, low, high, tasks)


def mean_over_tasks(values: Sequence[float], *, bounded: bool = True, seed: int = 0) -> Estimate:
    """The mean of one number per task, with a percentile bootstrap over the tasks (Efron, 1979).

    Where all values are equal the bootstrap knows nothing; numbers in [0, 1] then get the interval of a coin of the same
    mean, which varies more than any of them.

    Args:
        values: one per task.
        bounded: the values are in [0, 1].
        seed: of the resampling.
    """
    if not len(values):
        return Estimate(float("nan"), *((0.0, 1.0) if bounded else (float("nan"),) * 2), 0)
    x = np.asarray(values, dtype=float)
    mean = float(x.mean())
    if bounded and x.min() == x.max():
        return Estimate(mean, *wilson(mean * len(x), len(x)), len(x))
    low, high = np.percentile(resampled_means(x[:, None], seed=seed)[:, 0], [2.5, 97.5])
    return Estimate(mean, float(low), float(high), len(x))


def resampled_means(values: NDArray[Any], *, seed: int = 0, resamples: int = RESAMPLES) -> NDArray[Any]:
    """Means of `resamples` samples of the rows, drawn with replacement.

    Args:
        values: [tasks, figures]; the figures of a task are drawn together.

    Returns:
        [resamples, figures].
    """
    rng = np.random.Generator(np.random.PCG64([seed, len(values)]))
    n = len(values)
    at_once = max(1, _DRAWS_AT_ONCE // n)
    found = [
        values[rng.integers(n, size=(min(at_once, resamples - done), n))].mean(1)
        for done in range(0, resamples, at_once)
    ]
    return np.concatenate(found)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value that two agents succeed on a task equally often, from the tasks that they do not agree on.

    Exact: under the hypothesis each of those tasks is as likely to be one agent's as the other's, and the p-value is
    that of a fair coin, 2 P(X <= min(b, c)) for X binomial of b + c throws, at most 1.

    Args:
        only_first: b, tasks that the first agent alone did.
        only_second: c, tasks that the second agent alone did.

    Source: McNemar, Psychometrika 12 (1947), 153-157, in the exact form.
    """
    n = only_first + only_second
    tail = sum(math.comb(n, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**n))


def paired_difference(only_first: int, only_second: int, tasks: int) -> tuple[float, float]:
    """95 % interval of the second agent's success rate minus the first's, on the same tasks.

    Wald's interval with half a task added to each of the four cells, which keeps its level where the agents seldom
    disagree: Agresti and Min, Statistics in Medicine 24 (2005), 729-740.
    """
    n, b, c = tasks + 2, only_first + 0.5, only_second + 0.5
    difference = (c - b) / n
    half = 1.959964 * math.sqrt((b + c) - (c - b) ** 2 / n) / n
    return max(-1.0, difference - half), min(1.0, difference + half)


def tasks_needed(difference: float, disagree: float, *, power: float = 0.8, level: float = 0.05) -> int:
    """How many tasks it takes to see a difference of two success rates on the same panel.

        n = (z_(1 - level/2) sqrt(psi) + z_power sqrt(psi - d^2))^2 / d^2

    Args:
        difference: d, between the success rates, in (0, 1].
        disagree: psi, share of tasks that one agent does and the other does not; at least `difference`.
        power: chance that the test sees the difference.
        level: chance that it sees one where there is none.

    Source: Connor, Biometrics 43 (1987), 207-211, for McNemar's test.
    """
    d, psi = difference, max(disagree, difference)
    z = NormalDist().inv_cdf
    root = z(1 - level / 2) * math.sqrt(psi) + z(power) * math.sqrt(psi - d * d)
    return math.ceil((root / d) ** 2 - 1e-9)


def visible_difference(tasks: int, disagree: float, *, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest difference of success rates that so many tasks let a paired test see; 1 where they see none.

    The inverse of `tasks_needed` in its first argument.
    """
    if not tasks or tasks_needed(1.0, disagree, power=power, level=level) > tasks:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (
            (low, middle)
            if tasks_needed(middle, disagree, power=power, level=level) <= tasks
            else (middle, high)
        )
    return high
