"""GiGPO: compare a trajectory with its group, and a turn with the turns that started from the same state."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ..batch import TurnBatch
from .registry import Ddof, Discount, Epsilon, Interval, Singleton, Weight, register_credit
from .statistics import (
    Grouping,
    centre,
    discounted,
    group_of_turns,
    grouping,
    onto_turns,
    scattered,
    standardise,
    without_lone,
)


def _needs(params: Mapping[str, Any]) -> tuple[str, ...]:
    return ("state",) if params["anchors"] == "exact" else ("observation",)


@register_credit("gigpo", needs_for=_needs, shift_invariant=True)
def gigpo(
    batch: TurnBatch,
    *,
    gamma: Discount = 0.95,
    omega: Weight = 1.0,
    norm: Literal["mean", "std"] = "mean",
    anchors: Literal["exact", "similarity"] = "exact",
    similarity: Annotated[float, Interval(0, 1)] = 0.9,
    ddof: Ddof = 1,
    eps: Epsilon = 1e-6,
    singleton: Singleton = "zero",
    verl_agent_step_statistics: bool = False,
) -> Tensor:
    """An episode advantage for the whole trajectory plus a step advantage inside each anchor group.

        A^E_i = (R_i - mean_g R) / F                   R_i = sum of r_t
        A^S_t = (G_t - mean over the anchor group) / F G_t = sum over k >= t of gamma**(k - t) * r_k
        A_t   = A^E_i + omega * A^S_t

    The anchor group of a turn holds all turns of the group that start from the same state, repeats inside one
    trajectory included, so that a loop is compared with the way out of it.

    Args:
        batch: reads `rewards`, `group` and `state` (`observation` for similarity anchors).
        gamma: discount per turn. With gamma 1 and a reward at the end only, loops are invisible.
        omega: weight of the step advantage; 0 leaves the episode advantage alone.
        norm: F is 1 for "mean" and the standard deviation + eps for "std", in both terms.
        anchors: "exact" compares `state`; "similarity" clusters the observation texts, see `cluster_texts`.
        similarity: least similarity of two texts of a cluster, for similarity anchors.
        ddof: 1 for the unbiased standard deviation, 0 for the population's.
        eps: added to the standard deviation.
        singleton: what a group of one trajectory gets: 0, or with "raw" its own score as A^E and its loops compared
            with each other as A^S, as in verl-agent. An anchor group of one always has A^S 0.
        verl_agent_step_statistics: take the mean and standard deviation of A^E over the turns of the group, so that a
            trajectory of 50 turns counts 50 times; what verl-agent does by default.

    Returns:
        [B, K], in units of reward ("mean") or standard deviations ("std").

    Source: Feng et al., Group-in-Group Policy Optimization (arXiv 2505.10978), Eq. 3-8; gamma and norm="mean" from the
    code of verl-agent (`gigpo/core_gigpo.py`), the similarity of 0.9 from the paper (0.95 in the code).
    """

    def normalised(x: Tensor, groups: Grouping, singleton: Singleton = "zero") -> Tensor:
        if norm == "std":
            return standardise(x, groups, ddof=ddof, eps=eps, singleton=singleton)
        return centre(x, groups, singleton=singleton)

    cells = batch.turn_mask
    scores = batch.rewards.sum(1)
    if verl_agent_step_statistics:
        per_turn = onto_turns(scores, batch)[cells]
        episode = scattered(normalised(per_turn, grouping(group_of_turns(batch)), singleton), batch)
    else:
        episode = onto_turns(normalised(scores, grouping(batch.group), singleton), batch)
    if anchors == "exact":
        assert batch.state is not None
        state = batch.state[cells]
    else:
        state = _clusters(batch, similarity)
    returns = discounted(batch.rewards, gamma)[cells]
    step = scattered(normalised(returns, grouping(group_of_turns(batch), state)), batch)
    if singleton == "zero":
        step = without_lone(step, batch)
    return episode + omega * step


def _clusters(batch: TurnBatch, similarity: float) -> Tensor:
    """[number of turns] int64: the cluster of each turn's observation in its group."""
    assert batch.observation is not None
    by_group: dict[int, Counter[str]] = defaultdict(Counter)
    groups = batch.group.tolist()
    for group, texts in zip(groups, batch.observation, strict=True):
        by_group[group].update(texts)
    clusters = {group: cluster_texts(texts, similarity) for group, texts in by_group.items()}
    numbers = [
        clusters[group][text]
        for group, texts in zip(groups, batch.observation, strict=True)
        for text in texts
    ]
    return torch.tensor(numbers, dtype=torch.int64, device=batch.group.device)


def cluster_texts(texts: Mapping[str, int], similarity: float) -> dict[str, int]:
    """Number clusters of similar texts, given how often each occurs.

    A text joins the first cluster whose first text has a matching-subsequence ratio (difflib) of at least `similarity`
    with it. The released code goes through the texts in the order of the rows, so that shuffling a batch changes its
    clusters; here the most frequent text comes first and ties go alphabetically.

    The cost grows with the square of the number of distinct texts of a group.
    """
    found: dict[str, int] = {}
    matchers: list[SequenceMatcher[str]] = []
    for text in sorted(texts, key=lambda text: (-texts[text], text)):
        for number, matcher in enumerate(matchers):
            matcher.set_seq1(text)
            if (
                matcher.real_quick_ratio() >= similarity
                and matcher.quick_ratio() >= similarity
                and matcher.ratio() >= similarity
            ):
                found[text] = number
                break
        else:
            found[text] = len(matchers)
            matchers.append(SequenceMatcher(None, "", text, autojunk=False))
    return found
