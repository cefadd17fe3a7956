"""The update of the local trainer: from advantages on tokens to optimizer steps.

Rows are cut into minibatches, one optimizer step each, and a minibatch into micro-batches that fit in memory. The
weights of all tokens are fixed for the minibatch before it is cut (see `losses.weights`), so the gradient is that of
the minibatch, however it was cut.

Shapes: R rows of L tokens.
"""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...configs.schema import LossSection
from ..losses import importance_ratio, kl_penalty, policy_loss, weights
from .policy import token_log_probs


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """What an update reads: rows of tokens, padded on the right, on one device.

    Where `action_mask` is false the float fields may hold anything.

    Args:
        tokens: [R, L] int64; token ids.
        action_mask: [R, L] bool; the tokens that the agent sampled.
        turn_of_token: [R, L] int64; turn of each action token, anything elsewhere.
        old_log_probs: [R, L] float, nats; of the policy that sampled, at the temperature of sampling.
        advantages: [R, L] float.
        ref_log_probs: [R, L] float, nats; of the reference policy. Needed when the loss has a KL term.
        row_mask: [R] bool; false for rows that stay out of the loss. None trains on all.
        row_to_trajectory: [R] int64; None when every row is a trajectory.
    """

    tokens: Tensor
    action_mask: Tensor
    turn_of_token: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    ref_log_probs: Tensor | None = None
    row_mask: Tensor | None = None
    row_to_trajectory: Tensor | None = None

    def to(self, device: torch.device) -> TokenBatch:
        """The batch on a device."""
        return TokenBatch(**{k: v if v is None else v.to(device) for k, v in vars(self).items()})


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: TokenBatch,
    loss: LossSection,
    *,
    temperature: float = 1.0,
    token_budget: int = 16384,
    minibatches: int = 1,
    epochs: int = 1,
    max_grad_norm: float = 1.0,
    generator: torch.Generator | None = None,
    autocast: torch.dtype | None = None,
    length: int | None = None,
) -> dict[str, float]:
    """Make the optimizer steps of one batch.

    A minibatch in which nothing can be learned (every advantage 0, no KL, no entropy bonus) makes no step. A step
    whose gradient norm is not finite is skipped and counted. Rows without signal are not run when no term of the loss
    could give them a gradient.

    Args:
        model: runs in the mode it is in; with dropout on, ratios differ from 1 before the first step.
        optimizer: over the model's parameters; its learning rates are the caller's.
        batch: moved to the device of the model.
        loss: clipping, aggregation, KL and entropy terms.
        temperature: of sampling; the log-probs are of the distribution that was sampled from.
        token_budget: padded tokens per micro-batch. Changes speed and memory, never the gradient. A row longer than
            that runs alone.
        minibatches: optimizer steps per pass; each takes an equal share of the rows, in random order.
        epochs: passes over the batch.
        max_grad_norm: the 2-norm to which a longer gradient is shortened.
        generator: on the CPU; draws the order of rows. Needed when there is more than one minibatch.
        autocast: dtype of the arithmetic, bfloat16 say; None leaves that of the weights.
        length: tokens a sequence may have at most; needed by "seq-mean-token-sum-norm" alone.

    Returns:
        Metrics over the tokens that were run, in all steps:
        loss, policy_loss, kl (to the reference; 0 without), entropy (nats), ratio_mean, ratio_max,
        clip_low, clip_high, clip_dual (shares of tokens whose gradient the clip took),
        kl_old_new (k3 estimate of the divergence since sampling), gap_mean, gap_max (absolute difference between old
        log-probs and the model's own, before the first step), gradient_norm (mean, before clipping),
        optimizer_steps, skipped_steps, trained_tokens, and zero_advantage (share of the batch's action tokens).
        NaN where nothing was run.

    Raises:
        ValueError: a KL term without reference log-probs, several minibatches without a generator, or what
            `token_log_probs` and `weights` raise.
    """
    if loss.kl_coefficient and batch.ref_log_probs is None:
        raise ValueError(
            f"loss.kl_coefficient is {loss.kl_coefficient}, but the batch has no reference log-probs; compute them"
            " with the model as it was before training, or set the coefficient to 0."
        )
    if minibatches > 1 and generator is None:
        raise ValueError(f"{minibatches} minibatches need a generator that draws the order of rows; none was given.")
    device = next(model.parameters()).device
    batch = batch.to(device)
    mask = batch.action_mask if batch.row_mask is None else batch.action_mask & batch.row_mask[:, None]
    rows = mask.any(1).nonzero()[:, 0]
    tally = _Tally()
    norms: list[float] = []
    skipped = 0
    for _ in range(epochs):
        order = rows if minibatches == 1 else rows[torch.randperm(len(rows), generator=generator).to(device)]
        for chosen in order.tensor_split(minibatches):
            before_first_step = not norms and not skipped
            optimizer.zero_grad(set_to_none=True)
            if not _backward(
                model, batch, mask, chosen, loss, temperature, token_budget, autocast, length, tally, before_first_step
            ):
                continue
            norm = nn.utils.clip_grad_norm_(
                [p for group in optimizer.param_groups for p in group["params"]], max_grad_norm
            ).item()
            if math.isfinite(norm):
                optimizer.step()
                norms.append(norm)
            else:
                skipped += 1
    optimizer.zero_grad(set_to_none=True)
    zero = (batch.advantages[mask] == 0).float().mean().item() if len(rows) else math.nan
    return tally.metrics() | {
        "gradient_norm": sum(norms) / len(norms) if norms else math.nan,
        "optimizer_steps": float(len(norms)),
        "skipped_steps": float(skipped),
        "zero_advantage": zero,
    }


def _backward(
    model: nn.Module,
    batch: TokenBatch,
    mask: Tensor,
    chosen: Tensor,
    loss: LossSection,
    temperature: float,
    token_budget: int,
    autocast: torch.dtype | None,
    length: int | None,
    tally: _Tally,
    before_first_step: bool,
) -> bool:
    """Add the gradient of a minibatch, the rows `chosen`, to the parameters; false if no row has any."""
    owner = batch.row_to_trajectory
    share = weights(
        mask[chosen],
        batch.turn_of_token[chosen],
        loss.aggregation,
        row_to_trajectory=None if owner is None else owner[chosen],
        length=length,
        dtype=batch.advantages.dtype,
    )
    live = mask[chosen]
    advantages = torch.where(live, batch.advantages[chosen], 0.0)
    signal = live if loss.kl_coefficient or loss.entropy_coefficient else advantages != 0
    parts = micro_batches(live, signal.any(1), token_budget)
    for part, width in parts:
        row = chosen[part]
        m, w, a = live[part, :width], share[part, :width], advantages[part, :width]
        old = batch.old_log_probs[row, :width]
        with _autocast(row.device, autocast):
            log_probs, entropy = token_log_probs(
                model, batch.tokens[row, :width], m, temperature=temperature, entropy=True
            )
        assert entropy is not None
        ratio = importance_ratio(log_probs, old, m, batch.turn_of_token[row, :width], loss.ratio)
        policy = policy_loss(
            ratio, a, clip_low=loss.clip_low, clip_high=loss.clip_high, dual_clip=loss.dual_clip
        )
        total = policy.loss
        if loss.kl_coefficient:
            assert batch.ref_log_probs is not None
            kl = torch.where(m, kl_penalty(log_probs, batch.ref_log_probs[row, :width], loss.kl), 0.0)
            total = total + loss.kl_coefficient * kl
        if loss.entropy_coefficient:
            total = total - loss.entropy_coefficient * entropy
        summed = (w * total).sum()
        summed.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            tally.add("loss", summed)
    return bool(parts)


def log_probs_of(
    model: nn.Module,
    tokens: Tensor,
    action_mask: Tensor,
    *,
    temperature: float = 1.0,
    token_budget: int = 16384,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """[R, L] log-probability of each action token under the model, 0 elsewhere, without a gradient.

    For the old and the reference policy, and to compare the sampler with the trainer. Arguments as in `update`; the
    result is where `tokens` are.
    """
    device = next(model.parameters()).device
    moved, mask = tokens.to(device), action_mask.to(device)
    result: Tensor | None = None
    with torch.no_grad(), _autocast(device, autocast):
        for part, width in micro_batches(mask, mask.any(1), token_budget):
            log_probs, _ = token_log_probs(
                model, moved[part, :width], mask[part, :width], temperature=temperature
            )
            if result is None:
                result = log_probs.new_zeros(tokens.shape)
            result[part, :width] = log_probs
    return torch.zeros(tokens.shape, device=tokens.device) if result is None else result.to(tokens.device)


def micro_batches(mask: Tensor, rows: Tensor, token_budget: int) -> list[tuple[Tensor, int]]:
    """Cut rows into micro-batches of like length.

    A row is as long as its last token under the mask says: what follows has no influence. Rows are sorted by length,
    and a micro-batch is cut in two where that saves more padding than starting another one costs.

    Args:
        mask: [R, L] bool; the tokens whose log-probs are needed.
        rows: [R] bool; the rows to run, each with at least one such token.
        token_budget: rows times width of a micro-batch is at most this, or the micro-batch is one row.

    Returns:
        Row numbers [r] int64 and width of each micro-batch, longest rows first; every row exactly once.
    """
    length = mask.shape[1]
    ends = torch.where(mask.any(1) & rows, length - mask.flip(1).int().argmax(1), 0)
    widths, order = ends.sort(descending=True, stable=True)
    width = widths[: int(rows.sum())].cpu().numpy()
    cuts: list[tuple[int, int]] = []
    start = 0
    while start < len(width):
        stop = min(len(width), start + max(1, token_budget // int(width[start])))
        cuts += _cut(width, start, stop, token_budget // 16)
        start = stop
    return [(order[i:j], int(width[i])) for i, j in cuts]
