"""How the weight of a reward moves over training, and with how much the policy can do already."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Schedule: TypeAlias = Literal["constant", "linear", "cosine", "atr"]


def scheduled_weight(
    schedule: Schedule, *, weight: float, final_weight: float, step: int, steps: int
) -> float:
    """The weight of a source at a step.

    With p = min(1, (step - 1) / steps), the share of the schedule that is over:

        constant  weight
        linear    weight + (final_weight - weight) * p
        cosine    final_weight + (weight - final_weight) * (1 + cos(pi * p)) / 2
        atr       weight * (1 - p); what the environment pays is weighted by one minus this (`outcome_share`)

    Args:
        schedule: its form.
        weight: at the first step.
        final_weight: from step `steps + 1` on; only linear and cosine read it.
        step: of the training, from 1.
        steps: over which the weight moves, at least 1.

    Source: atr is the curriculum from process to outcome of Atom-Searcher (arXiv 2508.12800), which starts at a weight
    of 0.5.
    """
    p = min(1.0, (step - 1) / steps)
    if schedule == "constant":
        return weight
    if schedule == "linear":
        return weight + (final_weight - weight) * p
    if schedule == "cosine":
        return final_weight + (weight - final_weight) * (1.0 + math.cos(math.pi * p)) / 2.0
    return weight * (1.0 - p)


def outcome_share(atr_weights: list[float]) -> float:
    """What is left for the outcome beside process rewards that are mixed in by "atr": all weights sum to 1."""
    return 1.0 - sum(atr_weights)


def adaptive_weight(success: Tensor, group: Tensor) -> Tensor:
    """[B]: one minus the success rate of the trajectory's group: where a task is solved, the process matters less.

    Args:
        success: [B] 0 or 1.
        group: [B] int64.

    Source: ours; TP-GRPO lowers its process reward in the same situation by a formula that is not public.
    """
    numbers, index = group.unique(return_inverse=True)
    total = success.new_zeros(len(numbers)).index_add_(0, index, success)
    count = torch.bincount(index, minlength=len(numbers))
    return 1.0 - (total / count)[index]
