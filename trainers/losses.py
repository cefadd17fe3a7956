"""The policy loss: importance ratios, clipping, the KL penalty, and how tokens are summed up.

Every function takes matrices over tokens, [R, L], and returns one; nothing is summed here. The loss of a batch is
`(weights(...) * loss).sum()`, and the weights of a whole batch are computed before it is cut into micro-batches.
The sum over the pieces is then the sum over the batch, so the memory at hand never changes the gradient.

Shapes: R rows of L tokens; a segment is what one ratio covers: a token, a turn of a row, or a row.
Sources: PPO (Schulman et al. 2017, Eq. 7), dual clip (Ye et al. 2020), asymmetric clip (DAPO, Yu et al. 2025), one
ratio per sequence and its token form (GSPO, Zheng et al. 2025), sums over a constant (Dr. GRPO, Liu et al. 2025),
KL estimators (Schulman, "Approximating KL Divergence", 2020).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Level: TypeAlias = Literal["token", "turn", "sequence"]
Aggregation: TypeAlias = Literal[
    "token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "turn-mean"
]
Estimator: TypeAlias = Literal["k1", "k2", "k3"]

_MOST = {"token": 20.0, "turn": 10.0, "sequence": 10.0}
"""Largest size of a log-ratio, so that its exponential stays finite; beyond it there is no gradient."""


def importance_ratio(
    log_probs: Tensor, old_log_probs: Tensor, mask: Tensor, turn_of_token: Tensor, level: Level = "token"
) -> Tensor:
    """How much likelier the current policy makes each segment than the policy that sampled it.

    A token's ratio is `exp(lp - lp_old)`. A turn's or a sequence's is the exponential of the MEAN of `lp - lp_old`
    over its action tokens (a sum would explode with the length), written on each of them so that the gradient of
    token m's cell reaches `lp_m` alone: `sg[s] * exp(lp_m - sg[lp_m])`. Where all tokens of a segment have one
    advantage and one weight, that is the gradient of the segment's own ratio; where they differ, as turn advantages
    do within a sequence, each token keeps its own.

    Args:
        log_probs: [R, L], nats; of the current policy, differentiable.
        old_log_probs: [R, L], nats; of the policy that sampled.
        mask: [R, L] bool; the action tokens.
        turn_of_token: [R, L] int64; turn of each action token.
        level: what one ratio covers. A "sequence" is a row; a trajectory of several rows has one for each.

    Returns:
        [R, L]; 1 where the mask is false. Log-ratios are clamped to [-20, 20] for tokens, [-10, 10] for segments.
    """
    log_ratio = torch.where(mask, log_probs - old_log_probs, 0.0)
    if level != "token":
        with torch.no_grad():
            segment, count = _segments(turn_of_token, level)
            mean = _mean_by_segment(log_ratio.detach(), mask, segment, count)
        log_ratio = torch.where(mask, mean + log_probs - log_probs.detach(), 0.0)
    return log_ratio.clamp(-_MOST[level], _MOST[level]).exp()


class PolicyLoss(NamedTuple):
    """The clipped loss of each token, and where the clip took the gradient away."""

    loss: Tensor
    """[R, L]; to be minimised."""
    clipped_low: Tensor
    """[R, L] bool; negative advantage and a ratio below `1 - clip_low`."""
    clipped_high: Tensor
    """[R, L] bool; positive advantage and a ratio above `1 + clip_high`."""
    clipped_dual: Tensor
    """[R, L] bool; negative advantage and a ratio above `dual_clip`."""


def policy_loss(
    ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """PPO's pessimistic loss, `max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high))`.

    Args:
        ratio: [R, L], positive; from `importance_ratio`.
        advantages: [R, L]; 0 where there is nothing to learn, the padding included.
        clip_low: at least 0; how far the ratio of a discouraged token may fall.
        clip_high: at least 0; how far the ratio of an encouraged token may rise.
        dual_clip: above 1; where the advantage is negative, the loss is at most `-A dual_clip`, so that one token
            which the policy has made much likelier cannot dominate the batch. None for no bound.
    """
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    falling, rising = advantages < 0, advantages > 0
    dual = torch.zeros_like(falling)
    if dual_clip is not None:
        dual = falling & (ratio > dual_clip)
        loss = torch.where(falling, torch.minimum(loss, -advantages * dual_clip), loss)
    return PolicyLoss(loss, falling & (ratio < 1 - clip_low), rising & (ratio > 1 + clip_high), dual)


def kl_penalty(log_probs: Tensor, ref_log_probs: Tensor, kind: Estimator = "k2") -> Tensor:
    """Estimate, token by token, of the divergence KL(policy || reference) from tokens of the policy.

    With d = lp - ref, in nats: k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d. The VALUES of k1 and k3 average to
    KL(policy || reference); k3 is never negative and varies less; k2 is biased, by little while d is small.
    Differentiated, as a term of the loss, they turn around (expectations over tokens of the current policy):

        k1  has gradient 0: it teaches nothing and adds noise. It belongs into a reward.
        k2  has the gradient of KL(policy || reference): the right one.
        k3  has the gradient of KL(reference || policy): the other direction, equal only to first order in d.

    Args:
        log_probs: [R, L], nats; of the current policy, differentiable.
        ref_log_probs: [R, L], nats; of the reference.
        kind: the estimator.

    Returns:
        [R, L]; of any finite value where the caller's mask is false. The exponent of k3 is at most 20.
    """
    difference = log_probs - ref_log_probs
    if kind == "k1":
        return difference
    if kind == "k2":
        return 0.5 * difference.square()
    return torch.expm1((-difference).clamp(max=20.0)) + difference


def weights(
    mask: Tensor,
    turn_of_token: Tensor,
    how: Aggregation = "token-mean",
    *,
    row_to_trajectory: Tensor | None = None,
    length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The weight of each token in the loss, so that the loss of the batch is `(weights * loss).sum()`.

    A sequence is a trajectory: all rows with the same `row_to_trajectory`. Sequences and turns without an action
    token under the mask do not count.

        token-mean               1 / tokens of the batch
        seq-mean-token-mean      1 / sequences / tokens of the token's sequence    (GRPO)
        seq-mean-token-sum       1 / sequences
        seq-mean-token-sum-norm  1 / sequences / length                            (Dr. GRPO)
        turn-mean                1 / turns of the batch / tokens of the token's turn

    Args:
        mask: [R, L] bool; the action tokens that are trained on.
        turn_of_token: [R, L] int64; turn of each action token.
        how: the aggregation.
        row_to_trajectory: [R] int64; None when every row is a trajectory.
        length: the constant of "seq-mean-token-sum-norm", in tokens: the most a sequence may have, say. Never the
            width of the batch, which depends on what else was sampled.
        dtype: of the result.

    Returns:
        [R, L]; 0 where the mask is false.

    Raises:
        ValueError: "seq-mean-token-sum-norm" without a length.
    """
    if how == "token-mean":
        return mask.to(dtype) / mask.sum().clamp(min=1)
    segment, count = _segments(turn_of_token, "turn" if how == "turn-mean" else "sequence", row_to_trajectory)
    tokens = torch.bincount(segment[mask], minlength=count)
    share = mask.to(dtype) / (tokens > 0).sum().clamp(min=1)
    if how == "seq-mean-token-sum":
        return share
    if how == "seq-mean-token-sum-norm":
        if length is None or length < 1:
            raise ValueError(
                f"seq-mean-token-sum-norm divides by a constant number of tokens, at least 1, but length is {length};"
                " give the most tokens that a sequence may have."
            )
        return share / length
    return share / tokens.clamp(min=1)[segment]


def _segments(
    turn_of_token: Tensor, level: Literal["turn", "sequence"], row_to_trajectory: Tensor | None = None
) -> tuple[Tensor, int]:
    """[R, L] int64 number of each token's segment, and a bound on the numbers. Tokens without a turn get turn 0."""
    rows = len(turn_of_token)
    if level == "sequence":
        if row_to_trajectory is None:
            owner, count = torch.arange(rows, device=turn_of_token.device), rows
        else:
            owner, count = row_to_trajectory, int(row_to_trajectory.max()) + 1 if rows else 0
        return owner[:, None].expand_as(turn_of_token), count
    turns = int(turn_of_token.max()) + 1 if turn_of_token.numel() else 0
    turns = max(turns, 1)
    first = torch.arange(rows, device=turn_of_token.device)[:, None] * turns
    return first + turn_of_token.clamp(min=0), rows * turns


def _mean_by_segment(values: Tensor, mask: Tensor, segment: Tensor, count: int) -> Tensor:
    """[R, L] mean of the values (0 where the mask is false) over the masked tokens of each token's segment."""
    flat = segment.flatten()
    sums = values.new_zeros(count).index_add(0, flat, values.flatten())
    tokens = values.new_zeros(count).index_add(0, flat, mask.flatten().to(values.dtype))
    return (sums / tokens.clamp(min=1))[segment]
