"""Bounds and gates: what becomes of a source's numbers before they are normalised.

All functions take `x` [B, K] and `known` [B, K] bool, true where a turn has a number, and read nothing elsewhere; what
they leave there is 0. [B, K] as in `trainers.batch`: turns are left-aligned, but a known turn may follow one that is
not.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Bound: TypeAlias = Literal["none", "clip", "delta", "par"]
Gate: TypeAlias = Literal["none", "posterior"]


def clip(x: Tensor, known: Tensor, eta: float = 0.0) -> Tensor:
    """[B, K]: min(x - eta, 0): bad turns cost, good ones earn nothing, so that repeating them does not pay.

    Source: arXiv 2410.15115, "Clip".
    """
    return torch.where(known, (x - eta).clamp(max=0.0), 0.0)


def delta(x: Tensor, known: Tensor) -> Tensor:
    """[B, K]: x_t - x_{t+1}, and the last x as it is: what is earned from any turn on sums to that turn's number.

    Turns without a number are passed over, so that the sums stay what they are.

    Source: arXiv 2410.15115, "Delta".
    """
    out = torch.where(known, x, 0.0)
    after = torch.zeros_like(x[:, 0]) if x.shape[1] else x.sum(1)
    for turn in range(x.shape[1] - 1, -1, -1):
        here, now = known[:, turn], out[:, turn].clone()
        out[:, turn] = torch.where(here, now - after, 0.0)
        after = torch.where(here, now, after)
    return out


def par(x: Tensor, known: Tensor, group: Tensor) -> Tensor:
    """[B, K] in (0, 1): the mean of sigmoid(x - reference) over the reference numbers.

    PAR takes the rewards of separate reference answers; here the references of a turn are the turns of the other
    trajectories of its group (our choice: they are there, and of the same policy). A trajectory alone in its group has
    none and gets 0.5, as if it were its own reference.

    Args:
        x: [B, K].
        known: [B, K] bool.
        group: [B] int64.

    Source: Fu et al., Reward Shaping to Mitigate Reward Hacking in RLHF (arXiv 2502.18770).
    """
    out = torch.zeros_like(x)
    for number in group.unique().tolist():
        rows = (group == number).nonzero()[:, 0]
        mine = known[rows]
        row, _ = mine.nonzero(as_tuple=True)
        values = x[rows][mine]  # (n,)
        others = row[:, None] != row[None, :]  # (n, n)
        preferred = torch.sigmoid(values[:, None] - values[None, :])
        count = others.sum(1)
        mean = (preferred * others).sum(1) / count.clamp(min=1)
        block = torch.zeros_like(x[rows])
        block[mine] = torch.where(count > 0, mean, 0.5)
        out[rows] = block
    return out


def posterior(x: Tensor, success: Tensor) -> Tensor:
    """[B, K]: x where the episode succeeded, 0 where it failed: good steps to a wrong end earn nothing.

    Args:
        x: [B, K].
        success: [B] 0 or 1.

    Source: Posterior-GRPO (arXiv 2508.05170), whose reward is R_format + R_outcome + R_outcome * R_process.
    """
    return x * success[:, None]
