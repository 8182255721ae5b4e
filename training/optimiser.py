"""Muon for the matrices inside the layers, AdamW for the embedding and the norms, on one schedule."""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import LlamaForCausalLM

from training.parallel import average_gradients

MATRIX_RATE = 0.02
OTHER_RATE = 0.004


class PairOptimiser:
    """Owns both optimisers; `step(scale)` applies the gradients at `scale` times the peak rates and clears them."""

    def __init__(self, model: LlamaForCausalLM, rate: float = 1.0) -> None:
        """`rate` scales both peak rates, e.g. 0.1 for a gentle last phase."""
        matrices, others = _partition(model)
        self._parameters = [*matrices, *others]
        self._peaks = (MATRIX_RATE * rate, OTHER_RATE * rate)
        self._optimisers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.01, momentum=0.95, nesterov=True),
            torch.optim.AdamW(others, lr=OTHER_RATE, weight_decay=0.0, betas=(0.9, 0.95), fused=True),
        )

    def step(self, scale: float) -> None:
        """One update at `scale` (0..1) of the peak rates, after clipping the gradient's norm to 1."""
        average_gradients(self._parameters)
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimiser, peak in zip(self._optimisers, self._peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * scale
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)


def _partition(model: LlamaForCausalLM) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    matrices = [p for p in _layer_parameters(model) if p.ndim == 2]
    inside = {id(p) for p in matrices}
    return matrices, [p for p in model.parameters() if id(p) not in inside]


def _layer_parameters(model: LlamaForCausalLM) -> Iterator[nn.Parameter]:
    yield from model.model.layers.parameters()
