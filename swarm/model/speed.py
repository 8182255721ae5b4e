"""How fast a stage is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from swarm.model.stage import Slice, Stage
from swarm.progress import Progress

_REPEATS = 7
_ENOUGH_SECONDS = 0.5
"""Rounds of a slow stage differ less, and are repeated only until they have taken so long."""
MANY = 17
"""Tokens of the larger trial round."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for one token through the whole span, and for each further token of a round."""

    step_seconds: float
    token_seconds: float


def measure(stage: Stage) -> Speed:
    """Time decode steps of one and of several tokens, on an empty cache."""
    progress = Progress()
    one, many = _seconds(stage, 1, progress), _seconds(stage, MANY, progress)
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


def _seconds(stage: Stage, tokens: int, progress: Progress) -> float:
    """The same of some rounds, the median."""
    times: list[float] = []
    while len(times) < _REPEATS and sum(times) < _ENOUGH_SECONDS:
        progress.at(f"timing {tokens} at a time", len(times), _REPEATS, "rounds")
        times.append(round_seconds(stage, tokens))
    return median(times)
