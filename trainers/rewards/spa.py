"""SPA's progress attribution: a small head learns to split the outcome over the turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ...envs import Trajectory
from ..batch import TurnBatch
from ..collate import collate
from ..credit.registry import Interval, Positive
from .linear_head import LinearHead, hidden_at_turns
from .registry import Learns, Models, Need, RewardSource, Scores, register_reward


def with_residual(contribution: Tensor, known: Tensor, outcome: Tensor) -> Tensor:
    """Contributions c_t + (R - sum c) / T, so that they sum to the outcome exactly.

    Args:
        contribution: [B, K]; 0 where not known.
        known: [B, K] bool; the T turns of each trajectory that share the residual.
        outcome: [B]; R.
    """
    missing = (outcome - contribution.sum(1)) / known.sum(1).clamp(min=1)
    return torch.where(known, contribution + missing[:, None], 0.0)


@register_reward("spa")
class ProgressAttribution(RewardSource):
    """A learned contribution c_t of each turn, such that the contributions of a trajectory sum to its score.

        c_t = w . h_t + b,   L = mean over trajectories of (sum_t c_t - R)^2

    h_t is the policy's normalised hidden state at the last token of the turn, without a gradient. The head starts at 0 and
    learns at every step. The source for `credit=spa`, which can make the sum exact by itself.

    Args:
        residual: add (R - sum c) / T to each c_t, so that the sum is exact; ours.
        update: learn from a step's trajectories "before" or "after" they are scored.
        lr: learning rate of Adam.
        epochs: optimizer steps per step of training, each on the whole batch.

    Counters: without_tokens (turns without an action token: no number).

    Metrics: loss before the first optimizer step, loss_after the last, explained (share of the variance of the scores
    before the first step).

    Source: Wang et al., SPA-RL (arXiv 2505.20732), whose head reads the logits and is trained before the policy is. The
    hidden state holds as much and is smaller; learning online is ours. The released data script overwrites every c_t with
    one number per trajectory.
    """

    needs: frozenset[Need] = frozenset({"tokens", "policy"})

    def __init__(
        self,
        *,
        residual: bool = False,
        update: Literal["before", "after"] = "after",
        lr: Positive = 3e-2,
        epochs: Annotated[int, Interval(1)] = 8,
    ) -> None:
        super().__init__()
        self.learns: Learns = update
        self._residual = residual
        self._head = LinearHead(lr=lr, epochs=epochs)

    async def score(self, trajectories: Sequence[Trajectory], models: Models) -> Scores:
        """The contribution of every turn; None for one without tokens."""
        batch = collate(trajectories)
        hidden, cells = hidden_at_turns(batch, models, before=False)
        with torch.no_grad():
            contribution = _laid_out(self._head(hidden), cells, batch)
        known = torch.zeros_like(batch.turn_mask)
        known.view(-1)[cells] = True
        if self._residual:
            contribution = with_residual(contribution, known, batch.outcome)
        scores: Scores = []
        for t, row, have in zip(trajectories, contribution.tolist(), known.tolist(), strict=True):
            count = len(t.turns)
            scores.append([c if there else None for c, there in zip(row[:count], have, strict=False)])
            self.counters["without_tokens"] += scores[-1].count(None)
        return scores

    def update(
        self, trajectories: Sequence[Trajectory], batch: TurnBatch, models: Models
    ) -> dict[str, float]:
        """Regress the sums of the contributions on the scores."""
        hidden, cells = hidden_at_turns(batch, models, before=False)
        outcome = batch.outcome.float()
        metrics = self._head.fit(hidden, lambda c: F.mse_loss(_laid_out(c, cells, batch).sum(1), outcome))
        variance = outcome.var(correction=0).item()
        return metrics | ({"explained": 1 - metrics["loss"] / variance} if variance > 0 else {})

    def state_dict(self) -> dict[str, Any]:
        """The head."""
        return self._head.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._head.load_state_dict(state)


def _laid_out(numbers: Tensor, cells: Tensor, batch: TurnBatch) -> Tensor:
    """[B, K] of the numbers [n] at their cells, 0 elsewhere."""
    flat = numbers.new_zeros(batch.turn_mask.numel())
    return flat.index_copy(0, cells, numbers).view(batch.turn_mask.shape)
