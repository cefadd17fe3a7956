"""Group statistics that keep the house rules, and the other arithmetic that credit schemes share.

Everything works on flat tensors: one number per trajectory, or one per turn after `x[turn_mask]`. The house rules are
kept here, once: a group of one gets 0, a group without variance gets exactly 0 (and not the rounding error of a mean),
eps is added outside the root, nothing is NaN for finite input, and grouping is a sort, never quadratic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import TurnBatch
from .registry import Ddof, Singleton


@dataclass(frozen=True)
class Grouping:
    """Which of n entries belong together.

    Args:
        index: [n] int64 in [0, size); the group of each entry.
        size: number of groups.
    """

    index: Tensor
    size: int

    def total(self, x: Tensor) -> Tensor:
        """[size]: the sum of [n] numbers over each group."""
        return x.new_zeros(self.size).index_add_(0, self.index, x)

    def count(self) -> Tensor:
        """[size] int64: the number of entries of each group."""
        return torch.bincount(self.index, minlength=self.size)

    def mean(self, x: Tensor) -> Tensor:
        """[size]: the mean of [n] numbers over each group."""
        return self.total(x) / self.count()

    def constant(self, x: Tensor) -> Tensor:
        """[size] bool: whether all numbers of a group are the same."""
        low = x.new_full((self.size,), torch.inf).scatter_reduce_(0, self.index, x, "amin")
        high = x.new_full((self.size,), -torch.inf).scatter_reduce_(0, self.index, x, "amax")
        return low == high


def grouping(*keys: Tensor) -> Grouping:
    """Entries belong together when all their keys, [n] int64 each, are equal."""
    packed, span = _from_zero(keys[0])
    for key in keys[1:]:
        packed, span = _numbered(packed, span) if span >= _WIDE else (packed, span)
        shifted, width = _from_zero(key)
        shifted, width = _numbered(shifted, width) if width >= _WIDE else (shifted, width)
        packed, span = packed * width + shifted, span * width
    return Grouping(*_numbered(packed, span))


_WIDE = 2**31
"""Keys that span less than this can be packed two in an int64."""


def _from_zero(key: Tensor) -> tuple[Tensor, int]:
    """A key moved to start at 0, and how many values it spans."""
    if len(key) == 0:
        return key, 0
    low, high = (int(end) for end in key.aminmax())
    return key - low, high - low + 1


def _numbered(key: Tensor, span: int) -> tuple[Tensor, int]:
    """A key in [0, span) renumbered without gaps in its order, and how many values it has."""
    if span <= 16 * len(key) + 1024:  # counting beats sorting
        present = torch.zeros(span, dtype=torch.int64, device=key.device)
        present[key] = 1
        return (present.cumsum(0) - 1)[key], int(present.sum())
    values, index = torch.unique(key, return_inverse=True)
    return index, len(values)


def single_group(n: int, device: torch.device) -> Grouping:
    """All n entries in one group: statistics of the batch."""
    return Grouping(torch.zeros(n, dtype=torch.int64, device=device), 1)


def centre(x: Tensor, groups: Grouping, *, singleton: Singleton = "zero") -> Tensor:
    """[n]: each number minus the mean of its group, exactly 0 where the group is constant.

    A group of one gives 0, or with singleton="raw" the number itself, as verl does.
    """
    centred = (x - groups.mean(x)[groups.index]).masked_fill(groups.constant(x)[groups.index], 0.0)
    if singleton == "raw":
        centred = torch.where(groups.count()[groups.index] == 1, x, centred)
    return centred


def leave_one_out(x: Tensor, groups: Grouping, *, singleton: Singleton = "zero") -> Tensor:
    """[n]: each number minus the mean of the others of its group; a group of one as in `centre`."""
    count = groups.count()[groups.index].to(x.dtype)
    return centre(x, groups, singleton=singleton) * (count / (count - 1).clamp(min=1))


def deviation(x: Tensor, groups: Grouping, *, ddof: Ddof = 1) -> Tensor:
    """[size]: the standard deviation of each group, 0 for a group of one."""
    return _deviation(centre(x, groups), groups, ddof)


def _deviation(centred: Tensor, groups: Grouping, ddof: Ddof) -> Tensor:
    return (groups.total(centred.square()) / (groups.count() - ddof).clamp(min=1)).sqrt()


def standardise(
    x: Tensor, groups: Grouping, *, ddof: Ddof = 1, eps: float = 1e-6, singleton: Singleton = "zero"
) -> Tensor:
    """[n]: (x - mean) / (std + eps) in each group; a group of one as in `centre`, then divided by 1 + eps."""
    centred = centre(x, groups)
    spread = _deviation(centred, groups, ddof)
    if singleton == "raw":
        lone = groups.count() == 1
        centred, spread = torch.where(lone[groups.index], x, centred), torch.where(lone, 1.0, spread)
    return centred / (spread + eps)[groups.index]


def whiten(x: Tensor, weight: Tensor | None = None, *, eps: float = 1e-8) -> Tensor:
    """[n]: (x - mean) * rsqrt(var + eps) over the batch, the variance unbiased; exactly 0 where x is constant.

    With `weight` [n], entry i counts weight[i] times: turns weighted by their tokens give the statistics over tokens.
    """
    counts = torch.ones_like(x) if weight is None else weight.to(x.dtype)
    total = counts.sum()
    counted = x[counts > 0]
    if len(counted) == 0 or bool(counted.min() == counted.max()):
        return torch.zeros_like(x)
    centred = x - (x * counts).sum() / total
    variance = (centred.square() * counts).sum() / (total - 1).clamp(min=1)
    return centred * (variance + eps).rsqrt()


def discounted(rewards: Tensor, gamma: float) -> Tensor:
    """[B, K]: G_t = sum over k >= t of gamma**(k - t) * r_k; gamma counts turns, padding holds zeros."""
    returns = rewards.clone()
    for turn in range(rewards.shape[1] - 2, -1, -1):
        returns[:, turn] += gamma * returns[:, turn + 1]
    return returns


def without_lone(advantage: Tensor, batch: TurnBatch) -> Tensor:
    """[B, K]: 0 for trajectories alone in their group, which schemes that pool turns would compare with themselves."""
    groups = grouping(batch.group)
    return advantage.masked_fill((groups.count() == 1)[groups.index, None], 0.0)


def onto_turns(per_trajectory: Tensor, batch: TurnBatch) -> Tensor:
    """[B, K]: a number per trajectory on each of its turns, 0 in padding."""
    return per_trajectory[:, None] * batch.turn_mask


def scattered(per_cell: Tensor, batch: TurnBatch) -> Tensor:
    """[B, K]: the inverse of `x[batch.turn_mask]`, 0 in padding."""
    full = per_cell.new_zeros(batch.turn_mask.shape)
    full[batch.turn_mask] = per_cell
    return full


def group_of_turns(batch: TurnBatch) -> Tensor:
    """[number of turns]: the group of each turn, in the order of `x[batch.turn_mask]`."""
    return batch.group[:, None].expand_as(batch.turn_mask)[batch.turn_mask]


def index_of_turns(batch: TurnBatch) -> Tensor:
    """[number of turns]: the 0-based index of each turn in its trajectory, in the order of `x[batch.turn_mask]`."""
    return index_grid(batch).expand_as(batch.turn_mask)[batch.turn_mask]


def index_grid(batch: TurnBatch) -> Tensor:
    """[1, K] int64: 0, 1, ..., K - 1."""
    return torch.arange(batch.turn_mask.shape[1], device=batch.turn_mask.device)[None]
