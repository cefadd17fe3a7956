"""A linear head that learns beside the policy, on what its last layer holds at chosen tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...envs.errors import UsageError
from ..batch import TurnBatch
from ..local.update import micro_batches
from .registry import Models


class LinearHead:
    """One number from each hidden state, w . h / H + b; starts at 0 and learns by Adam.

    Adam moves every weight by about its learning rate, so without the 1 / H a step would move the number H times as far.

    Args:
        lr: learning rate.
        epochs: optimizer steps per call of `fit`.
    """

    def __init__(self, *, lr: float, epochs: int) -> None:
        self._lr, self._epochs = lr, epochs
        self._layer: nn.Linear | None = None
        self._optimizer: torch.optim.Adam | None = None
        self._saved: Mapping[str, Any] | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """[n] from [n, H]."""
        layer, _ = self._made(hidden.shape[1])
        # A caller's autocast would round, and go on with the weights of before an optimizer step.
        with torch.autocast(hidden.device.type, enabled=False):
            number: Tensor = layer(hidden / hidden.shape[1])
        return number[:, 0]

    def fit(self, hidden: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Lower a loss of the numbers [n]; returns it before the first step as `loss` and after the last as `loss_after`."""
        _, optimizer = self._made(hidden.shape[1])
        losses = []
        for _ in range(self._epochs):
            value = loss(self(hidden))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
        with torch.no_grad():
            return {"loss": losses[0], "loss_after": loss(self(hidden)).item()}

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer."""
        if self._layer is None or self._optimizer is None:
            return dict(self._saved or {})
        return {"layer": self._layer.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; the layer is made at the next use."""
        self._saved, self._layer, self._optimizer = state, None, None

    def _made(self, size: int) -> tuple[nn.Linear, torch.optim.Adam]:
        if self._layer is None or self._optimizer is None:
            self._layer = nn.utils.skip_init(nn.Linear, size, 1)
            nn.init.zeros_(self._layer.weight)
            nn.init.zeros_(self._layer.bias)
            self._optimizer = torch.optim.Adam(self._layer.parameters(), lr=self._lr)
            if self._saved:
                self._layer.load_state_dict(self._saved["layer"])
                self._optimizer.load_state_dict(self._saved["optimizer"])
        return self._layer, self._optimizer


def hidden_at_turns(batch: TurnBatch, models: Models, *, before: bool) -> tuple[Tensor, Tensor]:
    """What the policy's last layer holds at the turns that have tokens.

    Args:
        batch: with its token side.
        models: the policy is read.
        before: at the last token before the turn's action, which has not seen it, instead of the action's last token.

    Returns:
        Normalised hidden states [n, H], and the cells [n] of the flattened [B * K] that they belong to.
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
    return hidden, cells[order]


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
