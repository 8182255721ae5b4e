"""How many layers fit into memory."""

from __future__ import annotations

import psutil
import torch

from swarm.model.loading import build_on_meta, check_device
from swarm.model.source import ModelSource

_BYTES_PER_WEIGHT = {"int8": 1.1, "nf4": 0.6}  # quantized values with their scales
_SHARE_OF_MEMORY = 0.7  # of what is available; the rest is for activations and for others


def layers_that_fit(
    source: ModelSource, *, device: str, dtype: torch.dtype, quantize: str | None, cache_bytes: int
) -> int:
    """How many layers of the model the device can hold beside the caches; at least one. Raises UsageError."""
    parameters = sum(p.numel() for p in build_on_meta(source.config, dtype).parameters())
    per_layer = parameters / source.info.num_layers * _BYTES_PER_WEIGHT.get(quantize or "", dtype.itemsize)
    check_device(device)
    on_gpu = device.startswith("cuda")
    available = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    return max(1, min(source.info.num_layers, int((available * _SHARE_OF_MEMORY - cache_bytes) / per_layer)))
