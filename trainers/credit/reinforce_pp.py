"""REINFORCE++: discounted returns, whitened over the batch."""

from __future__ import annotations

from torch import Tensor

from ..batch import TurnBatch
from .registry import Discount, Epsilon, register_credit
from .statistics import discounted, scattered, whiten


@register_credit("reinforce_pp", scope="batch", baseline="batch")
def reinforce_pp(batch: TurnBatch, *, gamma: Discount = 1.0, eps: Epsilon = 1e-8) -> Tensor:
    """Every turn gets its discounted return, whitened over all action tokens of the batch.

        G_t = r_t + gamma * G_{t+1},   A_t = (G_t - mean) * rsqrt(var + eps)

    The mean and the unbiased variance run over action tokens where the batch has a token side, each of which carries
    the return of its turn, and over turns where it has not. There are no groups.

    In the original the return is per token and holds the KL penalty of each token; here gamma counts turns, and the
    penalty is the trainer's matter. With gamma 1 and no penalty both are the same.

    Args:
        batch: reads `rewards` and, if present, the token side.
        gamma: discount per turn.
        eps: added to the variance.

    Returns:
        [B, K], in standard deviations of the batch.

    Source: Hu, REINFORCE++ (arXiv 2501.03262); the whitening is verl's.
    """
    returns = discounted(batch.rewards, gamma)[batch.turn_mask]
    tokens = None if batch.turn_tokens is None else batch.turn_tokens[batch.turn_mask]
    return scattered(whiten(returns, tokens, eps=eps), batch)
