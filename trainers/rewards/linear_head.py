"""A linear head that learns beside the policy, on what its last layer holds at the turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...envs.errors import UsageError
from ..batch import TurnBatch
from ..local.update import micro_batches
from .registry import Models


class LinearHead:
    """A linear function of features, fitted by ridge regression to all that it has seen, the latest counting most.

    Solved exactly from the moments of the features, so there is no learning rate, and a step cannot overshoot. Says 0 until
    it is fitted.

    Args:
        ridge: penalty on the squared weights, as a share of the power of the features: directions that hold less of it are
            mostly ignored. The last feature, the constant, is not penalised.
        memory: what each earlier batch counts for beside the next, in [0, 1].
    """

    def __init__(self, *, ridge: float, memory: float) -> None:
        self._ridge, self._memory = ridge, memory
        self._moments: Tensor | None = None  # (D + 1, D + 1), of features and target together
        self._weights: Tensor | None = None

    def __call__(self, features: Tensor) -> Tensor:
        """[n] from [n, D]."""
        if self._weights is None:
            return features.new_zeros(len(features))
        return features @ self._weights

    def fit(self, features: Tensor, target: Tensor) -> dict[str, float]:
        """Learn a batch; returns the mean squared error before as `loss` and after as `loss_after`."""
        before = (self(features) - target).square().mean().item()
        both = torch.cat([features, target[:, None]], 1)
        moments = both.T @ both
        self._moments = moments if self._moments is None else self._memory * self._moments + moments
        self._solve()
        return {"loss": before, "loss_after": (self(features) - target).square().mean().item()}

    def state_dict(self) -> dict[str, Any]:
        """The moments, which are all that it has learned."""
        return {} if self._moments is None else {"moments": self._moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._moments = state.get("moments")
        self._weights = None
        if self._moments is not None:
            self._solve()

    def _solve(self) -> None:
        assert self._moments is not None
        power, target = self._moments[:-1, :-1], self._moments[:-1, -1]
        penalty = torch.full_like(target, self._ridge * power.diagonal()[:-1].sum().item())
        penalty[-1] = 0.0
        self._weights = torch.linalg.solve(power + penalty.diag(), target)


def with_constant(hidden: Tensor) -> Tensor:
    """[n, H + 1] features of hidden states [n, H]: scaled to length 1, and a 1."""
    scaled = hidden.double() / hidden.shape[1] ** 0.5
    return torch.cat([scaled, scaled.new_ones(len(scaled), 1)], 1)


def hidden_at_turns(batch: TurnBatch, models: Models, *, before: bool) -> tuple[Tensor, Tensor]:
    """What the policy's last layer holds at the turns that have tokens.

    Args:
        batch: with its token side.
        models: the policy is read.
        before: at the last token before the turn's action, which has not seen it, instead of the action's last token.

    Returns:
        Features [n, H + 1] float64 of the hidden states (see `with_constant`), and the cells [n] of the flattened [B * K] that they belong to.
    """
    assert batch.tokens is not None and batch.turn_end is not None and batch.turn_tokens is not None
    cells = (batch.turn_end.view(-1) >= 0).nonzero()[:, 0]
    places = batch.turn_end.view(-1)[cells]
    if before:
        places = places - batch.turn_tokens.view(-1)[cells]  # the action of a turn is in one piece
    order = places.argsort()
    where = torch.zeros(batch.tokens.numel(), dtype=torch.bool)
    where[places] = True
    hidden = hidden_states(
        models.policy, batch.tokens, where.view(batch.tokens.shape), token_budget=models.token_budget
    )
    return with_constant(hidden), cells[order]


def hidden_states(model: Any, tokens: Tensor, where: Tensor, *, token_budget: int) -> Tensor:
    """The hidden states that the output layer reads, without a gradient.

    Args:
        model: a causal language model of transformers, bare or wrapped by peft.
        tokens: [R, L] int64; rows padded on the right.
        where: [R, L] bool; at which tokens.
        token_budget: padded tokens per forward.

    Returns:
        [n, H] float32 on the CPU, normalised per vector to mean 0 and variance 1, in the order of `where.nonzero()`.

    Raises:
        UsageError: the model has no output layer of its own.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise UsageError(f"{type(model).__name__} has no output layer to read hidden states from")
    device = next(model.parameters()).device
    found: dict[int, Tensor] = {}
    caught: list[Tensor] = []

    def catch(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = arguments
        caught.append(hidden)
        return (hidden[:, :1], *others)  # the logits are not needed

    hook = head.register_forward_pre_hook(catch)
    try:
        with torch.no_grad():
            for rows, width in micro_batches(where, where.any(1), token_budget):
                model(input_ids=tokens[rows, :width].to(device), use_cache=False)
                hidden = caught.pop().float().cpu()
                for row, values in zip(rows.tolist(), hidden, strict=True):
                    found[row] = values[where[row, :width]]
    finally:
        hook.remove()
    size = head.weight.shape[-1]
    picked = torch.cat([torch.zeros(0, size), *(found[row] for row in sorted(found))])
    return nn.functional.layer_norm(picked, (size,))
