"""What the policy says about a finished batch, beside the log-probs that were recorded when it was sampled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..batch import TurnBatch
from .policy import token_log_probs
from .update import micro_batches


@torch.no_grad()
def with_entropy(
    model: nn.Module, batch: TurnBatch, *, temperature: float, token_budget: int, autocast: torch.dtype | None
) -> TurnBatch:
    """Add the mean entropy of each turn's tokens, [B, K] in nats, under the model at the temperature of sampling.

    Called before the update, so the model is the one that sampled. The entropy is of the full softmax.
    """
    assert batch.tokens is not None and batch.action_mask is not None
    assert batch.turn_of_token is not None and batch.row_to_trajectory is not None
    device = next(model.parameters()).device
    total: Tensor = torch.zeros(batch.rewards.shape)
    for part, width in micro_batches(batch.action_mask, batch.action_mask.any(1), token_budget):
        mask = batch.action_mask[part, :width]
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            _, entropy = token_log_probs(
                model,
                batch.tokens[part, :width].to(device),
                mask.to(device),
                temperature=temperature,
                entropy=True,
            )
        assert entropy is not None
        owner = batch.row_to_trajectory[part][:, None].expand_as(mask)[mask]
        turn = batch.turn_of_token[part, :width][mask]
        total.index_put_((owner, turn), entropy.float().cpu()[mask], accumulate=True)
    assert batch.turn_tokens is not None
    return batch.unchecked(entropy=total / batch.turn_tokens.clamp(min=1))
