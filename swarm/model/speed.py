"""How fast a stage is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from swarm.model.stage import Slice, Stage

_REPEATS = 7
MANY = 17
"""Tokens of the larger trial round."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for one token through the whole span, and for each further token of a round."""

    step_seconds: float
    token_seconds: float


def measure(stage: Stage) -> Speed:
    """Time decode steps of one and of several tokens, on an empty cache."""
    one, many = _seconds(stage, 1), _seconds(stage, MANY)
    return Speed(one, max(many - one, 0.0) / (MANY - 1))


def round_seconds(stage: Stage, tokens: int) -> float:
    """What one round of so many tokens takes, on an empty cache."""
    if stage.is_first:
        inputs = torch.zeros(tokens, dtype=torch.long)
    else:
        inputs = torch.zeros(tokens, stage.info.hidden_size, dtype=stage.dtype)
    trial = Slice(stage.new_cache(), 0, inputs, num_logits=tokens)
    started = time.perf_counter()
    stage.forward([trial])[0].cpu()
    return time.perf_counter() - started


def _seconds(stage: Stage, tokens: int) -> float:
    """The same of some rounds, the median."""
    return median(round_seconds(stage, tokens) for _ in range(_REPEATS))
