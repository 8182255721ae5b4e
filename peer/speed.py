"""How fast a stage is, and how many layers fit into memory: measured once, at the start."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import psutil
import torch

from swarm.model.loading import build_on_meta, check_device
from swarm.model.source import ModelSource
from swarm.model.stage import Slice, Stage

_REPEATS = 7
_MANY = 17  # tokens of the larger trial round
_BYTES_PER_WEIGHT = {"int8": 1.1, "nf4": 0.6}  # quantized values with their scales
_SHARE_OF_MEMORY = 0.7  # of what is available; the rest is for activations and for others


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for one token through the whole span, and for each further token of a round."""

    step_seconds: float
    token_seconds: float


def measure(stage: Stage) -> Speed:
    """Time decode steps of one and of several tokens, on an empty cache."""
    one, many = _seconds(stage, 1), _seconds(stage, _MANY)
    return Speed(one, max(many - one, 0.0) / (_MANY - 1))


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


def _seconds(stage: Stage, tokens: int) -> float:
    if stage.is_first:
        inputs = torch.zeros(tokens, dtype=torch.long)
    else:
        inputs = torch.zeros(tokens, stage.info.hidden_size, dtype=stage.dtype)
    times = []
    for _ in range(_REPEATS):
        trial = Slice(stage.new_cache(), 0, inputs, num_logits=tokens)
        started = time.perf_counter()
        stage.forward([trial])[0].cpu()
        times.append(time.perf_counter() - started)
    return median(times)
