"""SALT: steps that successful and failed trajectories share become neutral."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from ..batch import TurnBatch
from .registry import Interval, register_credit
from .statistics import Grouping, group_of_turns, grouping, leave_one_out, onto_turns, scattered, standardise

END = -1
"""Stands for the state after the last turn, and for what lies before the first."""


@register_credit("salt", needs=("state", "action"), shift_invariant=True)
def salt(
    batch: TurnBatch,
    *,
    base: Literal["grpo", "rloo"] = "grpo",
    history: Annotated[int, Interval(0)] = 1,
    next_state: bool = True,
    count: Literal["occurrence", "rollout"] = "occurrence",
) -> Tensor:
    """A step that several trajectories of the group took gets the mean of their advantages; others keep their own.

    Each turn is an edge s_t -a_t-> s_{t+1} of the group's graph. Equal edges are merged, and a merged edge carries the
    mean of the trajectory advantages A_i over its occurrences. What success and failure have in common cancels.

    The paper's text on when two edges are equal could not be read and no code is public, so the test is ours: the
    state, the action, the last `history` (state, action) pairs before them and, with `next_state`, the state that
    followed. How a loop counts is ours too.

    Args:
        batch: reads `outcome`, `group`, `state` and `action`.
        base: the trajectory advantage, GRPO's (ddof 1, eps 1e-6) or RLOO's.
        history: how many earlier turns must be equal as well; at least the number of turns makes the graph a prefix
            tree.
        next_state: whether the following state must be equal. All last turns are followed by the same end.
        count: whether an edge that a trajectory takes twice counts twice or once in the mean.

    Returns:
        [B, K], in the units of the base; never larger than the largest |A_i|. With count "occurrence" the sum over the
        group's turns is that of the base.

    Source: Li et al., SALT (arXiv 2510.20022).
    """
    groups = grouping(batch.group)
    base_advantage = (
        standardise(batch.outcome, groups) if base == "grpo" else leave_one_out(batch.outcome, groups)
    )
    own = onto_turns(base_advantage, batch)[batch.turn_mask]
    edges = _edges(batch, history, next_state)
    return scattered(_mean(own, edges, batch, count)[edges.index], batch)


def _mean(own: Tensor, edges: Grouping, batch: TurnBatch, count: str) -> Tensor:
    """[edges]: the mean advantage of each edge, exactly the own one where all agree."""
    if count == "occurrence":
        mean = edges.mean(own)
    else:
        rows = torch.arange(len(batch.turn_mask), device=own.device)[:, None].expand_as(batch.turn_mask)
        visits = grouping(edges.index, rows[batch.turn_mask])
        once = visits.count()[visits.index].to(own.dtype).reciprocal()
        mean = edges.total(own * once) / edges.total(once)
    high = own.new_full((edges.size,), -torch.inf).scatter_reduce_(0, edges.index, own, "amax")
    return torch.where(edges.constant(own), high, mean)


def _edges(batch: TurnBatch, history: int, next_state: bool) -> Grouping:
    """Which turns, in the order of `x[batch.turn_mask]`, are the same edge of their group's graph."""
    assert batch.state is not None and batch.action is not None
    mask = batch.turn_mask
    step = torch.full(mask.shape, END, device=mask.device)
    step[mask] = grouping(group_of_turns(batch), batch.state[mask], batch.action[mask]).index
    keys = [step[mask]]
    if next_state:
        keys.append(following_state(batch)[mask])
    edges = grouping(*keys)
    for back in range(1, min(history, mask.shape[1] - 1) + 1):
        before = torch.full_like(step, END)
        before[:, back:] = step[:, :-back]
        edges = grouping(edges.index, before[mask])
    return edges


def following_state(batch: TurnBatch) -> Tensor:
    """[B, K] int64: the dense number of (group, state) after each turn, `END` after the last."""
    assert batch.state is not None
    mask = batch.turn_mask
    state = torch.full(mask.shape, END, device=mask.device)
    state[mask] = grouping(group_of_turns(batch), batch.state[mask]).index
    after = torch.full_like(state, END)
    after[:, :-1] = state[:, 1:]
    return after
