"""Information gain from beliefs: pure functions on numbers and ragged lists.

A *checkpoint* c = 0 .. T-1 of an episode of T turns is the moment before turn c: everything up to the observation that
turn c answers. The belief at a checkpoint is how likely the policy finds the accepted answer there. A turn gains what it
adds to the belief; the last turn, which answers, is the outcome's.

Source: IGPO (arXiv 2510.14967).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

Definition: TypeAlias = Literal["logprob", "prob"]
Aliases: TypeAlias = Literal["max0", "max", "mean", "logsumexp"]


def belief(log_probs: Sequence[float], definition: Definition = "logprob") -> float:
    """The belief in one answer, from the log-probabilities (nats) of its L >= 1 tokens.

    logprob  (1/L) sum log p             in (-inf, 0], the camera-ready's definition
    prob     exp((1/L) sum log p)        in [0, 1], the preprint's
    """
    mean = math.fsum(log_probs) / len(log_probs)
    return math.exp(mean) if definition == "prob" else mean


def beliefs(
    log_probs: Sequence[Sequence[Sequence[float]] | None],
    definition: Definition = "logprob",
    aliases: Aliases = "max0",
) -> list[float | None]:
    """One belief per checkpoint, from the token log-probabilities of every accepted answer.

        max0       of the answer that is likeliest at the first checkpoint, throughout (the earlier one where tied)
        max        of the likeliest answer at each checkpoint; a change of answer looks like a gain
        mean       over the answers
        logsumexp  of the set: log of the sum of the answers' probabilities, each the product over its tokens
                   ("prob": the sum itself). The answers' lengths count, unlike in the others.

    Args:
        log_probs: for each checkpoint, for each of the A >= 1 answers, in the same order, the log-probabilities of its
            tokens; None for a checkpoint that cannot be had.
        definition: see `belief`.
        aliases: what to make of several answers.
    """
    if aliases == "logsumexp":
        sets = [None if c is None else _logsumexp([math.fsum(answer) for answer in c]) for c in log_probs]
        return [None if s is None else math.exp(s) if definition == "prob" else s for s in sets]
    each = [None if c is None else [belief(answer, definition) for answer in c] for c in log_probs]
    if aliases == "max0":
        first = next((c for c in each if c is not None), None)
        chosen = 0 if first is None else max(range(len(first)), key=lambda a: first[a])
        return [None if c is None else c[chosen] for c in each]
    return [None if c is None else max(c) if aliases == "max" else math.fsum(c) / len(c) for c in each]


def gains(checkpoints: Sequence[float | None]) -> list[float | None]:
    """The gain of each of T turns from the beliefs at the T checkpoints before them.

    Turn t gets belief[t + 1] - belief[t]; the last turn gets None, and so does a turn next to a checkpoint without a
    belief. The gains of an episode sum to its last belief minus its first.

    Example:
        >>> [None if g is None else round(g, 6) for g in gains([0.1, 0.4, 0.3])]
        [0.3, -0.1, None]
    """
    out: list[float | None] = []
    for before, after in pairwise(checkpoints):
        out.append(None if before is None or after is None else after - before)
    return [*out, None] if checkpoints else []


def _logsumexp(values: Sequence[float]) -> float:
    top = max(values)
    return top if top == -math.inf else top + math.log(math.fsum(math.exp(v - top) for v in values))
