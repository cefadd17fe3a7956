"""EMPG: confident turns carry more of the advantage, and turns that lead to clarity get a bonus."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from ..batch import TurnBatch
from .registry import Epsilon, Interval, Weight, register_credit
from .statistics import centre, grouping, index_grid, onto_turns, scattered, standardise, without_lone


@register_credit("empg", needs=("entropy",), scope="batch", shift_invariant=True)
def empg(
    batch: TurnBatch,
    *,
    k: Weight = 1.0,
    k_next: Weight = 1.0,
    zeta: Weight = 0.1,
    clip_quantile: Annotated[float, Interval(0.5, 1)] = 1.0,
    std: bool = True,
    eps: Epsilon = 1e-8,
) -> Tensor:
    """GRPO's advantage, scaled by each turn's confidence, plus a bonus for a confident next turn, centred.

        H^ = (H - min H) / (max H - min H + eps)         over the turns of the batch
        g(H_t) = exp(-k H^_t) / mean exp(-k H^),         f(H_{t+1}) = exp(-k' H^_{t+1}), 0 after the last turn
        A_mod = A_i g(H_t) + zeta f(H_{t+1}),            A = A_mod - mean A_mod

    The bonus is paid to failures as well and then centred, so it rewards clarity whatever the outcome. One turn of
    extreme entropy flattens all others, because the scale is min to max: `clip_quantile` cuts it.

    Args:
        batch: reads `outcome`, `group` and `entropy`: nats, over the full softmax of the rollout policy at the sampling
            temperature.
        k: how strongly confidence scales the advantage; 0 leaves it alone.
        k_next: the same for the bonus, k' above.
        zeta: weight of the bonus.
        clip_quantile: entropies above this quantile of the batch count as the quantile; 1 clips nothing.
        std: whether A_i is divided by the group's standard deviation (GRPO) or only centred.
        eps: added to the range of the entropy.

    Returns:
        [B, K]; the mean over the turns of the batch is 0, before a group of one is set to 0.

    Source: Wang et al., Harnessing Uncertainty (arXiv 2509.09265), known from two notes that agree. The values of k,
    k', zeta and eps and the missing bonus of the last turn are ours.
    """
    mask = batch.turn_mask
    groups = grouping(batch.group)
    own = standardise(batch.outcome, groups) if std else centre(batch.outcome, groups)
    assert batch.entropy is not None
    entropy = batch.entropy[mask]
    if clip_quantile < 1:
        entropy = entropy.clamp(max=float(torch.quantile(entropy, clip_quantile)))
    scaled = scattered((entropy - entropy.min()) / (entropy.max() - entropy.min() + eps), batch)
    confidence = (-k * scaled).exp()
    confidence = confidence / confidence[mask].mean()
    clarity = torch.zeros_like(scaled)
    clarity[:, :-1] = (-k_next * scaled[:, 1:]).exp()
    clarity = clarity * (index_grid(batch) < batch.turns[:, None] - 1)
    modulated = (onto_turns(own, batch) * confidence + zeta * clarity)[mask]
    return without_lone(scattered(modulated - modulated.mean(), batch), batch)
