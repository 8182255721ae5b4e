"""The loop that every phase of training runs: a loss, an update, now and then a line of log and a saved model."""

import logging
import time
from collections.abc import Callable

import torch

from training.optimiser import PairOptimiser
from training.parallel import rank
from training.record import Phase, Plan
from training.schedule import scale_at

log = logging.getLogger(__name__)

LOG_EVERY = 20  # steps
SAVE_EVERY = 300  # steps

Measured = dict[str, torch.Tensor]  # scalars by name; "loss" is the one that is lowered
Save = Callable[[Phase], None]


def train_for(
    plan: Plan, optimiser: PairOptimiser, num_tokens: int, measure: Callable[[float], Measured], save: Save
) -> None:
    """Take annealed steps of `num_tokens` each until the plan's tokens have been read.

    `measure(progress)` computes the loss of a new batch, given the share of the tokens that was read;
    `save` gets the phase so far every few minutes, and at the end.
    """
    began, num_steps = time.monotonic(), 0
    while (progress := num_steps * num_tokens / plan.num_tokens) < 1.0:
        measured = measure(progress)
        torch.autograd.backward(measured["loss"])
        optimiser.step(scale_at(progress))
        num_steps += 1
        values = {key: float(value.detach()) for key, value in measured.items()}
        minutes, loss = (time.monotonic() - began) / 60, values["loss"]
        phase = Phase(plan.name, plan.seed, plan.mix, minutes, num_steps, num_steps * num_tokens, loss)
        if num_steps % LOG_EVERY == 0 and rank() == 0:
            _log(phase, progress, values)
        if num_steps % SAVE_EVERY == 0:
            save(phase)
    save(phase)


def _log(phase: Phase, progress: float, values: dict[str, float]) -> None:
    speed = phase.num_tokens / (60 * phase.minutes)
    shown = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
    log.info("%s %3.0f %%  step %d  %s  %.0f tokens/s", phase.name, 100 * progress, phase.num_steps, shown, speed)
