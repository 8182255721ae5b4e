"""Linear layers in 8 or 4 bits, by bitsandbytes.

Only the linear layers within the span's layers are quantized, as they arrive; embeddings, head and norms keep the
stage's dtype, and so do experts that the model holds fused in one tensor. int8 keeps activations above 6 in 16 bits
(LLM.int8, arXiv 2208.07339).
"""

from __future__ import annotations

import logging
from typing import Literal

from torch import nn

Quantization = Literal["int8", "nf4"]


def quantize_linears(module: nn.Module, quantization: Quantization) -> None:
    """Replace, below `module`, every linear layer that has its weights by its quantized counterpart."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and child.weight.device.type != "meta":
                setattr(parent, name, _quantized(child, quantization))


def _quantized(linear: nn.Linear, quantization: Quantization) -> nn.Module:
    """The linear layer with its weights in few bits, on the same device."""
    import bitsandbytes as bnb  # slow to import, and needed by few

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of every cast in every call
    weight, shape = linear.weight.data, (linear.in_features, linear.out_features)
    small: nn.Module
    if quantization == "int8":
        small = bnb.nn.Linear8bitLt(*shape, bias=False, has_fp16_weights=False, threshold=6.0, device="meta")
        small.weight = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    else:
        small = bnb.nn.Linear4bit(*shape, bias=False, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
        small.weight = bnb.nn.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4", module=small)
    small.bias = linear.bias
    return small.to(weight.device)
