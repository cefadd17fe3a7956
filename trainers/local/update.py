"""The update of the local trainer: from advantages on tokens to optimizer steps.

Rows are cut into minibatches, one optimizer step each, and a minibatch into micro-batches that fit in memory. The
weights of all tokens are fixed for the minibatch before it is cut (see `losses.weights`), so the gradient is that of
the minibatch, however it was cut.

Shapes: R rows of L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...configs.schema import LossSection
from ..losses import importance_ratio, kl_penalty, policy_loss, weights
from .policy import token_log_probs


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """What an update reads: rows of tokens, padded on the right.

    Where `action_mask` is false the float fields may hold anything, NaN included.

    Args:
        tokens: [R, L] int64; token ids.
        action_mask: [R, L] bool; the tokens that the agent sampled.
        turn_of_token: [R, L] int64; turn of each action token, -1 or a turn elsewhere.
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

    def on(self, device: torch.device) -> TokenBatch:
        """The batch on a device, `row_mask` merged into `action_mask`, floats 0 where that is false."""
        moved: dict[str, Any] = {
            name: None if field is None else field.to(device) for name, field in vars(self).items()
        }
        mask, keep = moved["action_mask"], moved.pop("row_mask")
        if keep is not None:
            moved["action_mask"] = mask = mask & keep[:, None]
        for name in ("old_log_probs", "advantages", "ref_log_probs"):
            if moved[name] is not None:
                moved[name] = torch.where(mask, moved[name], 0.0)
        return TokenBatch(**moved)

    def rows(self, chosen: Tensor, width: int | None = None) -> TokenBatch:
        """Some rows, by number, without the columns from `width` on."""
        picked: dict[str, Any] = {
            name: None if field is None else field[chosen] if field.ndim == 1 else field[chosen, :width]
            for name, field in vars(self).items()
        }
        return TokenBatch(**picked)


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

    A step whose gradient norm is not finite is skipped and counted. Rows that no term of the loss gives a gradient
    (every advantage 0, no KL, no entropy bonus) are not run, and a minibatch of such rows makes no step.

    Args:
        model: runs in the mode it is in; with dropout on, ratios differ from 1 before the first step.
        optimizer: over the model's parameters; its learning rates are the caller's.
        batch: moved to the device of the model.
        loss: clipping, aggregation, KL and entropy terms.
        temperature: of sampling; the log-probs are of the distribution that was sampled from.
        token_budget: padded tokens per micro-batch. Changes speed and memory, never the gradient.
        minibatches: optimizer steps per pass; each takes an equal share of the rows, in random order.
        epochs: passes over the batch.
        max_grad_norm: the 2-norm to which a longer gradient is shortened.
        generator: on the CPU; draws the order of rows. Needed when there is more than one minibatch.
        autocast: dtype of the arithmetic, bfloat16 say; None leaves that of the weights.
        length: the most tokens a sequence may have; needed by "seq-mean-token-sum-norm" alone.

    Returns:
        Means over the tokens that were run, in all passes: entropy (nats), ratio_mean, clip_low, clip_high, clip_dual
        (shares of tokens whose gradient the clip took), kl (to the reference, k3, if there is one), kl_old_new (k3,
        from the policy that sampled). Means over steps: loss, policy_loss, gradient_norm (before clipping). And
        ratio_max; gap_mean and gap_max, the absolute difference between the old log-probs and the model's own before
        the first step; zero_advantage, the share of the batch's action tokens; optimizer_steps, skipped_steps and
        trained_tokens, counts. A mean over nothing is NaN.

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
        raise ValueError(
            f"{minibatches} minibatches need a generator to draw the order of rows; none was given."
        )
    batch = batch.on(next(model.parameters()).device)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    tally = _Tally()
    norms: list[float] = []
    skipped = 0
    for chosen in _minibatches(batch.action_mask, minibatches, epochs, generator):
        minibatch = batch.rows(chosen)
        share = weights(
            minibatch.action_mask,
            minibatch.turn_of_token,
            loss.aggregation,
            row_to_trajectory=minibatch.row_to_trajectory,
            length=length,
            dtype=minibatch.advantages.dtype,
        )
        everything = bool(loss.kl_coefficient or loss.entropy_coefficient)
        signal = minibatch.action_mask if everything else minibatch.advantages != 0
        parts = micro_batches(minibatch.action_mask, signal.any(1), token_budget)
        if not parts:
            continue
        optimizer.zero_grad(set_to_none=True)
        for rows, width in parts:
            part = minibatch.rows(rows, width)
            with _autocast(part.tokens.device, autocast):
                log_probs, entropy = token_log_probs(
                    model,
                    part.tokens,
                    part.action_mask,
                    temperature=temperature,
                    entropy=True,
                    entropy_gradient=bool(loss.entropy_coefficient),
                )
            assert entropy is not None
            total = _loss(part, share[rows, :width], log_probs, entropy, loss, tally, first=not norms)
            total.backward()
        norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm).item()
        if math.isfinite(norm):
            optimizer.step()
            norms.append(norm)
        else:
            skipped += 1
    optimizer.zero_grad(set_to_none=True)
    steps = len(norms) + skipped
    return tally.metrics(steps) | {
        "gradient_norm": sum(norms) / len(norms) if norms else math.nan,
        "zero_advantage": (batch.advantages[batch.action_mask] == 0).float().mean().item(),
        "optimizer_steps": float(len(norms)),
        "skipped_steps": float(skipped),
    }


def _loss(
    part: TokenBatch,
    share: Tensor,
    log_probs: Tensor,
    entropy: Tensor,
    loss: LossSection,
    tally: _Tally,
    *,
    first: bool,
) -> Tensor:
    """The micro-batch's part of the loss, a scalar; `first` before the weights have changed."""
    mask, old = part.action_mask, part.old_log_probs
    ratio = importance_ratio(log_probs, old, mask, part.turn_of_token, loss.ratio)
    policy = policy_loss(
        ratio, part.advantages, clip_low=loss.clip_low, clip_high=loss.clip_high, dual_clip=loss.dual_clip
    )
    terms = policy.loss
    if loss.kl_coefficient:
        assert part.ref_log_probs is not None
        terms = terms + loss.kl_coefficient * kl_penalty(log_probs, part.ref_log_probs, loss.kl)
    if loss.entropy_coefficient:
        terms = terms - loss.entropy_coefficient * entropy
    total = (share * terms).sum()
    with torch.no_grad():
        tally.add(
            loss=total,
            policy_loss=(share * policy.loss).sum(),
            trained_tokens=mask.sum(),
            entropy=entropy.sum(),
            ratio_mean=(ratio * mask).sum(),
            clip_low=policy.clipped_low.sum(),
            clip_high=policy.clipped_high.sum(),
            clip_dual=policy.clipped_dual.sum(),
            kl_old_new=kl_penalty(old, log_probs, "k3").sum(),
        )
        tally.most("ratio_max", torch.where(mask, ratio, 0.0).max())
        if part.ref_log_probs is not None:
            tally.add(kl=kl_penalty(log_probs, part.ref_log_probs, "k3").sum())
        if first:
            gap = (log_probs - old).abs()
            tally.add(gap_mean=gap.sum(), gap_tokens=mask.sum())
            tally.most("gap_max", gap.max())
    return total


class _Tally:
    """Sums and maxima over micro-batches, kept on the device until the end so that none waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._most: dict[str, Tensor] = {}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            so_far = self._sums.get(name)
            self._sums[name] = value.float() if so_far is None else so_far + value

    def most(self, name: str, value: Tensor) -> None:
        so_far = self._most.get(name)
        self._most[name] = value.float() if so_far is None else torch.maximum(so_far, value.float())

    def metrics(self, steps: int) -> dict[str, float]:
        """Means over tokens, over steps for the losses."""
        if not self._sums:
            return {"trained_tokens": 0.0} | dict.fromkeys(_MEANS, math.nan)
        named = self._sums | self._most
        values = dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True))
        gap_tokens = values.pop("gap_tokens")
        counts = dict.fromkeys(self._sums, values["trained_tokens"])
        counts |= {"loss": steps, "policy_loss": steps, "gap_mean": gap_tokens, "trained_tokens": 1}
        return {name: value / counts.get(name, 1) for name, value in values.items()}


_MEANS = (
    "loss", "policy_loss", "entropy", "ratio_mean", "ratio_max", "clip_low", "clip_high", "clip_dual", "kl_old_new",
    "gap_mean", "gap_max",
)  # fmt: skip


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
    result is on the device of `tokens`.
    """
    device = next(model.parameters()).device
    moved, mask = tokens.to(device), action_mask.to(device)
    result = torch.zeros(tokens.shape, device=device)
    with torch.no_grad(), _autocast(device, autocast):
        for rows, width in micro_batches(mask, mask.any(1), token_budget):
            log_probs, _ = token_log_probs(
                model, moved[rows, :width], mask[rows, :width], temperature=temperature
            )
            result = result.to(log_probs.dtype)
            result[rows, :width] = log_probs
    return result.to(tokens.device)


def micro_batches(mask: Tensor, rows: Tensor, token_budget: int) -> list[tuple[Tensor, int]]:
    """Cut rows into micro-batches of like length.

    A row ends with its last token under the mask, for nothing behind it has an influence. Rows are sorted by length,
    filled into micro-batches up to the budget, and these are cut further where that saves more padding than a pass
    costs to start.

    Args:
        mask: [R, L] bool; the tokens whose log-probs are needed.
        rows: [R] bool; the rows to run, each with such a token.
        token_budget: rows times width of a micro-batch is at most this, or the micro-batch is a single row.

    Returns:
        Row numbers [r] int64 and width of each micro-batch, longest rows first; every row to run exactly once.
    """
    ends = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1) * rows
    widths, order = ends.sort(descending=True, stable=True)
    sizes = widths.cpu().numpy()
    sizes = sizes[sizes > 0]
    cuts: list[tuple[int, int]] = []
    start = 0
    while start < len(sizes):
        stop = min(len(sizes), start + max(1, token_budget // int(sizes[start])))
        cuts += _cut(sizes, start, stop, token_budget // 16)
        start = stop
    return [(order[i:j], int(sizes[i])) for i, j in cuts]


def _cut(sizes: np.ndarray, start: int, stop: int, cost: int) -> Iterator[tuple[int, int]]:
    """Cut [start, stop) of descending sizes where that saves most padded tokens, while it saves more than `cost`."""
    saved = (sizes[start] - sizes[start:stop]) * np.arange(stop - start, 0, -1)
    best = int(saved.argmax())
    if saved[best] <= cost:
        yield start, stop
    else:
        yield from _cut(sizes, start, start + best, cost)
        yield from _cut(sizes, start + best, stop, cost)


def _minibatches(
    mask: Tensor, count: int, epochs: int, generator: torch.Generator | None
) -> Iterator[Tensor]:
    """Numbers of the rows of each minibatch, of every pass in turn. Rows without an action token are in none."""
    rows = mask.any(1).nonzero()[:, 0]
    for _ in range(epochs):
        if count > 1:
            rows = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
        yield from rows.tensor_split(count)


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
