"""Progress by a learned value: how much a turn changed the score that a small head expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from torch.nn import functional as F

from ...envs import Trajectory
from ..batch import TurnBatch
from ..collate import collate
from ..credit.registry import Interval, Positive
from .linear_head import LinearHead, hidden_at_turns
from .registry import Learns, Models, Need, RewardSource, Scores, register_reward


@register_reward("value_progress")
class ValueProgress(RewardSource):
    """The expected score after the turn minus the expected score before it; at the end it is the score itself.

        V(s_t) = sigmoid(w . h_t + b),   L = mean over all turns of the cross-entropy of V(s_t) and R
        r_t = V(s_{t+1}) - V(s_t),       V(s_{T+1}) = R

    h_t is the policy's normalised hidden state at the last token before the turn's action, without a gradient: V has not seen
    the action. The rewards of a trajectory sum to R - V(s_1). It costs two forward passes of the policy where `progress`
    plays thousands of episodes, and is as good as the head.

    Args:
        update: learn from a step's trajectories "before" or "after" they are scored.
        lr: learning rate of Adam.
        epochs: optimizer steps per step of training, each on the whole batch.

    Counters: without_tokens (turns without an action token: no number for them and the turn before).

    Metrics: loss before the first optimizer step, loss_after the last.

    Source: the definition of progress is that of Setlur et al. (arXiv 2410.08146); that a head on the policy learns it online
    is ours.
    """

    needs: frozenset[Need] = frozenset({"tokens", "policy"})

    def __init__(
        self,
        *,
        update: Literal["before", "after"] = "after",
        lr: Positive = 3e-2,
        epochs: Annotated[int, Interval(1)] = 8,
    ) -> None:
        super().__init__()
        self.learns: Learns = update
        self._head = LinearHead(lr=lr, epochs=epochs)

    async def score(self, trajectories: Sequence[Trajectory], models: Models) -> Scores:
        """The progress of every turn."""
        batch = collate(trajectories)
        hidden, cells = hidden_at_turns(batch, models, before=True)
        values = torch.full((batch.turn_mask.numel(),), torch.nan)
        with torch.no_grad():
            values[cells] = torch.sigmoid(self._head(hidden))
        scores: Scores = []
        for t, row in zip(trajectories, values.view(batch.turn_mask.shape).tolist(), strict=True):
            path = [*row[: len(t.turns)], t.score]
            gains = [after - before for before, after in pairwise(path)]
            scores.append([gain if gain == gain else None for gain in gains])
            self.counters["without_tokens"] += sum(value != value for value in path)
        return scores

    def update(
        self, trajectories: Sequence[Trajectory], batch: TurnBatch, models: Models
    ) -> dict[str, float]:
        """Fit the values of all states to the scores that their trajectories came to."""
        hidden, cells = hidden_at_turns(batch, models, before=True)
        wanted = batch.outcome.float()[cells // batch.turn_mask.shape[1]]
        return self._head.fit(hidden, lambda v: F.binary_cross_entropy_with_logits(v, wanted))

    def state_dict(self) -> dict[str, Any]:
        """The head."""
        return self._head.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._head.load_state_dict(state)
