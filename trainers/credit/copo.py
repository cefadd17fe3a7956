"""COPO: where a group agrees with itself, compare it with the other groups of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ..batch import TurnBatch
from .registry import Ddof, Epsilon, Positive, register_credit
from .statistics import Grouping, grouping, onto_turns, single_group, standardise, without_lone


def _needs(params: Mapping[str, Any]) -> tuple[str, ...]:
    return ("action",) if params["answer"] == "action" else ()


@register_credit("copo", needs_for=_needs, scope="batch")
def copo(
    batch: TurnBatch,
    *,
    answer: Literal["outcome", "action"] = "outcome",
    steepness: Positive = 1.0,
    threshold: float = 0.5,
    forced: bool = True,
    ddof: Ddof = 1,
    eps: Epsilon = 1e-6,
) -> Tensor:
    """GRPO inside the group, blended with a comparison of whole groups by how much the group's answers agree.

        H = entropy, in bits, of the answers in the group
        global reward of a group = mean_g R * (1 - (1 - 1 / N) / log2(N) * H)
        w = sigmoid(steepness * (H - threshold)); with `forced`, w = 0 for groups without variance
        A = w * z(R in the group) + (1 - w) * z(global reward over the groups of the batch)

    A group whose answers scatter learns from the inside; a group that agrees, right or wrong, is pushed up or down as a
    whole. The original blends the two losses and not the advantages, which is the same until the clip acts.

    Args:
        batch: reads `outcome`, `group` and, for answer "action", `action`.
        answer: what has to agree: the outcome, or the last turn's action. The original compares the extracted answers
            of mathematics problems.
        steepness: of the sigmoid, per bit.
        threshold: bits at which both sides weigh the same.
        forced: whether a group without variance, which has nothing inside to learn from, uses the global side alone.
        ddof: 1 for the unbiased standard deviation, 0 for the population's.
        eps: added to the standard deviations.

    Returns:
        [B, K], in standard deviations. Not 0 for groups without variance: that is the point. A group of one gets 0 and
        enters no comparison.

    Source: Han et al., COPO (arXiv 2508.04138), read in the released code (hijih/copo-code, mode "soft with forced",
    whose signature gives steepness 1 and threshold 0.5); the paper's text has not been compared.
    """
    groups = grouping(batch.group)
    size = groups.count().to(batch.outcome.dtype)
    entropy = _entropy(_answers(batch, answer), groups)
    several = size > 1
    weight = torch.where(several, (1 - 1 / size) / size.clamp(min=2).log2(), 0.0)
    reward = groups.mean(batch.outcome) * (1 - weight * entropy)
    between = torch.zeros_like(reward)
    compared = reward[several]
    between[several] = standardise(compared, single_group(len(compared), compared.device), ddof=ddof, eps=eps)
    local = standardise(batch.outcome, groups, ddof=ddof, eps=eps)
    blend = torch.sigmoid(steepness * (entropy - threshold))
    if forced:
        blend = blend.masked_fill(groups.constant(batch.outcome), 0.0)
    advantage = blend[groups.index] * local + (1 - blend[groups.index]) * between[groups.index]
    return without_lone(onto_turns(advantage, batch), batch)


def _answers(batch: TurnBatch, answer: str) -> Tensor:
    """[B] int64: equal numbers for equal answers."""
    if answer == "outcome":
        numbers: Tensor = torch.unique(batch.outcome, return_inverse=True)[1]
        return numbers
    assert batch.action is not None
    return batch.action.gather(1, batch.turns[:, None] - 1)[:, 0]


def _entropy(answers: Tensor, groups: Grouping) -> Tensor:
    """[groups]: entropy of the answers of each group, in bits."""
    distinct = grouping(groups.index, answers)
    share = distinct.count()[distinct.index].double() / groups.count()[groups.index]
    # Each entry adds -log2(p) / N, so that an answer with probability p adds -p log2(p) in all.
    return groups.mean(-share.log2())
