"""Low-rank adapters beside a model, so that a second model shares the backbone of the first.

peft changes the tree of modules that it adapts: names of parameters, which of them require a gradient, which adapter is
active. The policy must not notice that a reward model lives on it, so these adapters stay outside: hooks add their
output while the reward model computes, and no trace is left behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D


class LowRankAdapters(nn.Module):
    """LoRA on every linear layer of a model but its output layer, active only while asked for.

    Each adapter adds `alpha / rank * B A x` to what its layer gives. B starts at 0, so that the adapted model starts as
    the model itself. Where the model has adapters of its own (peft), they are off while these are on: these are adapters
    of the backbone.

    Args:
        model: the backbone; it is not changed.
        rank: of A and B.
        alpha: scale of the sum, as in LoRA.
        seed: of the A matrices.

    Source: Hu et al., LoRA (arXiv 2106.09685).
    """

    def __init__(self, model: Any, *, rank: int, alpha: float, seed: int) -> None:
        super().__init__()
        self._scale = alpha / rank
        # In a list, so that the backbone is no submodule: its weights are none of ours.
        self._backbone = [model]
        self._layers: list[nn.Module] = []
        self.down = nn.ParameterList()
        self.up = nn.ParameterList()
        random = torch.Generator().manual_seed(seed)
        head = model.get_output_embeddings()
        own = {id(m) for name, m in model.named_modules() if ".lora_" in name}
        for layer in model.modules():
            if not isinstance(layer, nn.Linear | Conv1D) or layer is head or id(layer) in own:
                continue
            weight = layer.weight
            outputs, inputs = weight.shape if isinstance(layer, nn.Linear) else reversed(weight.shape)
            bound = 1 / math.sqrt(inputs)
            start = (2 * torch.rand(rank, inputs, generator=random, dtype=torch.float64) - 1) * bound
            dtype = weight.dtype if weight.dtype == torch.float64 else torch.float32
            self._layers.append(layer)
            self.down.append(nn.Parameter(start.to(weight.device, dtype)))
            # [rank, outputs], the transpose of B: the backward pass multiplies by it, and with tall thin matrices in
            # this order it takes a third of the time.
            self.up.append(nn.Parameter(torch.zeros(rank, outputs, device=weight.device, dtype=dtype)))

    @contextmanager
    def active(self) -> Iterator[Any]:
        """While this lasts, the model given here computes with the adapters; make the backward pass inside too."""
        model = self._backbone[0]
        with backbone_alone(model):
            hooks = [
                layer.register_forward_hook(self._adding(down, up))
                for layer, down, up in zip(self._layers, self.down, self.up, strict=True)
            ]
            try:
                yield model
            finally:
                for hook in hooks:
                    hook.remove()

    def _adding(self, down: Tensor, up: Tensor) -> Any:
        def add(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            low = F.linear(arguments[0].to(down.dtype), down)
            if (
                not output.dtype == low.dtype == up.dtype
            ):  # under autocast, or beside a backbone of half precision
                return output + ((self._scale * low) @ up).to(output.dtype)
            # In one product, so that nothing of the size of the output is made on the way.
            flat, low = output.flatten(0, -2), low.flatten(0, -2)
            if torch.is_grad_enabled():
                return torch.addmm(flat, low, up, alpha=self._scale).view(output.shape)
            return flat.addmm_(low, up, alpha=self._scale).view(output.shape)

        return add


@contextmanager
def backbone_alone(model: Any) -> Iterator[Any]:
    """While this lasts, the adapters that peft put on the model are off; it is left exactly as it was."""
    if not hasattr(model, "disable_adapter"):
        yield model
        return
    required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield model
    finally:
        # peft asks for gradients of every adapter that it switches on again.
        for parameter, value in required:
            parameter.requires_grad_(value)
