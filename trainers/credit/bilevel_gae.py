"""Bi-level GAE: advantages over turns first, then over the tokens inside each turn."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch import TurnBatch
from .registry import Discount, Epsilon, MissingInput, register_credit
from .spreading import only_inside
from .turn_gae import GAE, last_values

BLOCK = 64
"""Width of the matrix that does a block of the token recursion at once."""


def _targets(
    batch: TurnBatch, *, gamma_turn: float = 0.95, gamma_token: float = 1.0, lam: float = 1.0
) -> Tensor:
    return bilevel_gae_returns(batch, gamma_turn=gamma_turn, gamma_token=gamma_token, lam=lam).returns


@register_credit(
    "bilevel_gae", needs=("token_values",), level="token", scope="batch", baseline="critic", targets=_targets
)
def bilevel_gae(
    batch: TurnBatch,
    *,
    gamma_turn: Discount = 0.95,
    gamma_token: Discount = 1.0,
    lam: Discount = 1.0,
    whitened: bool = True,
    eps: Epsilon = 1e-8,
    ragen_nonzero_turns: bool = False,
) -> Tensor:
    """GAE over the ends of the turns gives each turn a return; GAE inside the turn shares it out over the tokens.

        turns:  A_k = r_k + gamma_turn V_{k+1} - V_k + gamma_turn lam A_{k+1},   G_k = A_k + V_k
        tokens: A_e = G_k - V_e at the turn's last action token e, before it
                A_m = gamma_token V_next - V_m + gamma_token lam A_next,   next = the next action token of the turn

    V_k is the critic's value at the turn's last action token. After the last turn V is 0 where the episode terminated
    and `last_value` where a limit cut it. The result is whitened over the action tokens of the batch. A turn without
    action tokens hands its reward to the next turn that has some, or to the last one.

    Args:
        batch: reads `rewards`, `terminated`, `token_values`, the token side and, for truncated trajectories,
            `last_value`.
        gamma_turn: discount per turn, `high_level_gamma` in RAGEN.
        gamma_token: discount per action token inside a turn.
        lam: of both passes.
        whitened: whether to whiten.
        eps: added to the variance when whitening.
        ragen_nonzero_turns: find the ends of turns as the released code does, by rewards that are not 0: the tokens of
            a turn paid exactly 0 are chained to the next turn.

    Returns:
        [R, L], in standard deviations of the batch (units of reward when not whitened).

    Raises:
        MissingInput: a trajectory is truncated and there is no `last_value`; or, with `ragen_nonzero_turns`, the last
            turn of a trajectory is paid 0, where the released code raises IndexError.

    Source: Wang et al., RAGEN (arXiv 2504.20073) and its code; the defaults are those of its `config/base.yaml`.
    """
    returns, values = _returns(batch, gamma_turn, gamma_token, lam, ragen_nonzero_turns)
    assert batch.action_mask is not None
    # In place from here: memory for all tokens is what this scheme costs.
    advantage = only_inside(returns.sub_(values), batch.action_mask)
    return whitened_tokens(advantage, batch, eps) if whitened else advantage


def bilevel_gae_returns(
    batch: TurnBatch,
    *,
    gamma_turn: float = 0.95,
    gamma_token: float = 1.0,
    lam: float = 1.0,
    ragen_nonzero_turns: bool = False,
) -> GAE:
    """The advantages of `bilevel_gae` before whitening, [R, L], and the critic's targets A + V, [R, L].

    Both are 0 on tokens that the agent did not sample. The arguments and errors are those of `bilevel_gae`; the batch
    must hold valid trajectories only.
    """
    returns, values = _returns(batch, gamma_turn, gamma_token, lam, ragen_nonzero_turns)
    assert batch.action_mask is not None
    inside = batch.action_mask
    return GAE(torch.where(inside, returns - values, 0.0), only_inside(returns, inside))


def _returns(
    batch: TurnBatch, gamma_turn: float, gamma_token: float, lam: float, ragen_nonzero_turns: bool
) -> tuple[Tensor, Tensor]:
    """The critic's targets [R, L], anything on tokens that were not sampled, and the values [R, L] as they are."""
    if batch.token_values is None:
        raise MissingInput("bilevel_gae", "token_values")
    assert batch.turn_end is not None
    values = batch.token_values
    ends = batch.turn_end >= 0
    if ragen_nonzero_turns:
        ends = ends & (batch.rewards != 0)
        _check_last_turn(ends, batch)
    target = _next_end(ends)
    at_end = torch.where(ends, values.flatten()[batch.turn_end.clamp(min=0)], 0.0).to(batch.rewards.dtype)
    turn_returns = _turn_pass(batch, at_end, ends, target, gamma_turn, lam).gather(1, target)
    if gamma_token == 1 and lam == 1:
        return _on_tokens(turn_returns.to(values.dtype), batch), values
    return _token_pass(batch, values, turn_returns.to(values.dtype), target, gamma_token, lam), values


def _on_tokens(returns: Tensor, batch: TurnBatch) -> Tensor:
    """[R, L]: the return of each token's turn. `spread` without its last pass over all tokens, the mask's."""
    assert batch.turn_of_token is not None and batch.row_to_trajectory is not None
    return returns[batch.row_to_trajectory].gather(1, batch.turn_of_token.clamp(min=0))


def _check_last_turn(ends: Tensor, batch: TurnBatch) -> None:
    last = ends.gather(1, batch.turns[:, None] - 1)[:, 0]
    if not bool(last.all()):
        raise MissingInput(
            "bilevel_gae",
            "a reward in the last turn",
            f"trajectory {batch.ids[int((~last).nonzero()[0])]!r} is paid 0 there, which `ragen_nonzero_turns` cannot"
            " see as a turn; leave that flag off.",
        )


def _next_end(ends: Tensor) -> Tensor:
    """[B, K] int64: the first turn from each one on that is an end; the last end for the turns after it."""
    turns = ends.shape[1]
    index = torch.arange(turns, device=ends.device).expand_as(ends)
    later = index.masked_fill(~ends, turns).flip(1).cummin(1).values.flip(1)
    last = index.masked_fill(~ends, 0).amax(1, keepdim=True)
    return torch.where(later < turns, later, last)


def _turn_pass(
    batch: TurnBatch, values: Tensor, ends: Tensor, target: Tensor, gamma: float, lam: float
) -> Tensor:
    """[B, K]: G_k at the ends of turns."""
    rewards = torch.zeros_like(batch.rewards).scatter_add_(
        1, target, batch.rewards.masked_fill(~batch.turn_mask, 0.0)
    )
    returns = torch.zeros_like(rewards)
    next_value = last_values(batch, "bilevel_gae").to(rewards.dtype)
    next_advantage = torch.zeros_like(next_value)
    for turn in range(rewards.shape[1] - 1, -1, -1):
        value, end = values[:, turn], ends[:, turn]
        advantage = rewards[:, turn] + gamma * next_value - value + gamma * lam * next_advantage
        returns[:, turn] = advantage + value
        next_value = torch.where(end, value, next_value)
        next_advantage = torch.where(end, advantage, next_advantage)
    return returns


def _token_pass(
    batch: TurnBatch, values: Tensor, turn_returns: Tensor, target: Tensor, gamma: float, lam: float
) -> Tensor:
    """[R, L]: the return of every action token, G_k at the end of its turn k and discounted back from there.

    R_m = gamma * ((1 - lam) * V_next + lam * R_next) before the end
    """
    assert batch.action_mask is not None and batch.turn_of_token is not None
    assert batch.row_to_trajectory is not None
    position = batch.action_mask.flatten().nonzero()[:, 0]
    trajectory = batch.row_to_trajectory[position // batch.action_mask.shape[1]]
    turn = batch.turn_of_token.flatten()[position]
    segment = trajectory * target.shape[1] + target[trajectory, turn]
    is_end = torch.ones_like(segment, dtype=torch.bool)
    is_end[:-1] = segment[1:] != segment[:-1]
    last = is_end.nonzero()[:, 0]
    lengths = last.diff(prepend=last.new_tensor([-1]))
    distance = torch.repeat_interleave(last, lengths) - torch.arange(len(segment), device=segment.device)
    flat = values.flatten()[position]
    goal = turn_returns[trajectory, turn]
    decay = gamma * lam
    # Distances are small whole numbers, so powers come from a table: pow on every token is several times slower.
    longest = int(lengths.max()) if len(lengths) else 0
    powers = decay ** torch.arange(longest + 1, device=flat.device, dtype=flat.dtype)
    returns = powers[distance] * goal
    if lam < 1:
        earned = torch.zeros_like(flat)
        earned[:-1] = gamma * (1 - lam) * flat[1:]
        earned = earned.masked_fill(is_end, 0.0)
        returns = returns + segment_suffix_sums(earned, torch.repeat_interleave(last, lengths), decay)
    return torch.zeros_like(values.flatten()).index_copy_(0, position, returns).view_as(values)


def decayed_suffix_sums(x: Tensor, decay: float) -> Tensor:
    """[n]: S_m = sum over k >= m of decay**(k - m) * x_k.

    A linear recurrence without a loop over entries: blocks are summed by one matrix product, and the sums of blocks are
    carried by the same function on n / 64 entries.
    """
    count = len(x)
    if count == 0:
        return x
    blocks = torch.nn.functional.pad(x, (0, -count % BLOCK)).view(-1, BLOCK)
    steps = torch.arange(BLOCK, device=x.device)
    gap = steps[:, None] - steps
    weights = torch.where(gap >= 0, decay ** gap.clamp(min=0).to(x.dtype), 0.0)
    local = blocks @ weights
    if len(blocks) > 1:
        starts = decayed_suffix_sums(local[:, 0].contiguous(), decay**BLOCK)
        local[:-1] += starts[1:, None] * decay ** (BLOCK - steps).to(x.dtype)
    return local.flatten()[:count]


def segment_suffix_sums(x: Tensor, last: Tensor, decay: float) -> Tensor:
    """[n]: S_m = sum of decay**(k - m) * x_k over k from m to the end of its segment.

    Args:
        x: [n], segments one after the other.
        last: [n] int64, the place of the last entry of each entry's segment.
        decay: per entry.
    """
    if len(x) == 0:
        return x
    sums = decayed_suffix_sums(x, decay)
    beyond = torch.cat([sums[1:], sums.new_zeros(1)])[last]
    distance = last - torch.arange(len(x), device=x.device)
    # Distances are small whole numbers, so powers come from a table: pow on every token is several times slower.
    powers = decay ** torch.arange(int(distance.max()) + 2, device=x.device, dtype=x.dtype)
    return sums - powers[distance + 1] * beyond


def whitened_tokens(advantage: Tensor, batch: TurnBatch, eps: float) -> Tensor:
    """[R, L], in place: (x - mean) * rsqrt(var + eps) over the action tokens; exactly 0 where all are the same."""
    assert batch.action_mask is not None and batch.turn_tokens is not None
    mask, count = batch.action_mask, int(batch.turn_tokens.sum())
    if count == 0:
        return advantage
    mean = advantage.sum() / count
    centred = only_inside(advantage.sub_(mean), mask)
    flat = centred.view(-1)
    variance = torch.dot(flat, flat) / max(count - 1, 1)
    if float(variance) <= 1e-8 * float(mean.square()):
        low, high = centred[mask].aminmax()
        if bool(low == high):
            return torch.zeros_like(advantage)
    return centred.mul_((variance + eps).rsqrt())
