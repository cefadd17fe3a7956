"""RAE: in self-play, compare a player's result with its own past results in that role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..batch import TurnBatch
from .registry import Discount, MissingInput, register_credit
from .statistics import index_grid, onto_turns

EXTRA = "rae_baseline"


class RoleBaselines:
    """The running mean result of every (game, role), which RAE compares with; what the trainer keeps between batches.

        b <- decay * b + (1 - decay) * R

    Args:
        decay: in [0, 1); how slowly the mean moves. 0.95 as in the paper.
        bias_correction: divide by 1 - decay**n after n results, so that the first episodes are not compared with the
            initial 0; ours. The released code starts at 0 and needs about 60 episodes to forget it.
    """

    gives: ClassVar[frozenset[str]] = frozenset({f"extra.{EXTRA}"})

    def __init__(self, *, decay: Discount = 0.95, bias_correction: bool = True):
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; it must lie in [0, 1).")
        self.decay = decay
        self.bias_correction = bias_correction
        self._means: dict[tuple[int, int], _RunningMean] = {}

    def value(self, game: int, role: int) -> float:
        """The baseline of a role; 0 before its first result."""
        mean = self._means.get((game, role), _RunningMean(0.0, 0))
        if self.bias_correction and mean.count:
            return mean.value / (1 - self.decay**mean.count)
        return mean.value

    def attach(self, batch: TurnBatch) -> TurnBatch:
        """The batch with each trajectory's baseline, as it stands before the batch, in `extra["rae_baseline"]`."""
        baseline = torch.tensor([self.value(*key) for key in _keys(batch)], dtype=batch.rewards.dtype)
        per_turn = baseline.to(batch.rewards.device)[:, None].expand_as(batch.rewards)
        return batch.unchecked(extra=MappingProxyType({**batch.extra, EXTRA: per_turn}))

    def update(self, batch: TurnBatch) -> None:
        """Take in the outcomes of the valid trajectories, in their order."""
        for key, outcome, valid in zip(
            _keys(batch), batch.outcome.tolist(), batch.valid.tolist(), strict=True
        ):
            if valid:
                old = self._means.get(key, _RunningMean(0.0, 0))
                value = self.decay * old.value + (1 - self.decay) * outcome
                self._means[key] = _RunningMean(value, old.count + 1)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, as plain numbers."""
        means = [[*key, mean.value, mean.count] for key, mean in self._means.items()]
        return {"decay": self.decay, "bias_correction": self.bias_correction, "means": means}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.decay, self.bias_correction = state["decay"], state["bias_correction"]
        self._means = {
            (game, role): _RunningMean(value, count) for game, role, value, count in state["means"]
        }


@dataclass(frozen=True, slots=True)
class _RunningMean:
    value: float
    count: int


@register_credit("rae", needs=("role", f"extra.{EXTRA}"), baseline="memory", memory=RoleBaselines)
def rae(batch: TurnBatch, *, gamma: Discount = 1.0) -> Tensor:
    """Every turn of a player gets the player's outcome minus the baseline of its role in its game.

        A_t = gamma**(T - t) * (R_p - b_{game, role})

    The baselines outlive the batch, so they are not computed here: `RoleBaselines` holds them and puts them into
    `extra["rae_baseline"]` before they are updated, which keeps them independent of the batch's own results.

    Args:
        batch: reads `outcome` and `extra["rae_baseline"]`; one trajectory is one player's view of a game.
        gamma: discount by the turns left; 1 in the paper.

    Its memory takes two parameters more:
        decay: how slowly the baselines move; 0.95 in the paper.
        bias_correction: whether they forget their initial 0 at once; ours.

    Returns:
        [B, K], in units of reward. With equal baselines the players of a zero-sum game get opposite numbers; a constant
        outcome decays to 0.

    Source: Liu et al., SPIRAL (arXiv 2506.24119), role-conditioned advantage estimation. The released code keys the
    baseline by the player alone.
    """
    advantage = onto_turns(batch.outcome, batch) - batch.extra[EXTRA]
    left = (batch.turns[:, None] - 1 - index_grid(batch)).clamp(min=0)
    return advantage * gamma ** left.to(advantage.dtype)


def _keys(batch: TurnBatch) -> list[tuple[int, int]]:
    if batch.role is None:
        raise MissingInput("rae", "role")
    games = [0] * len(batch.role) if batch.game is None else batch.game.tolist()
    return list(zip(games, batch.role.tolist(), strict=True))
