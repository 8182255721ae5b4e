"""A learning-rate schedule measured in wall-clock time, so that every run ends annealed, however fast the machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

WARMUP = 0.02  # share of the budget spent rising
DECAY = 0.45  # share of the budget spent falling to zero at its end


def scale_at(progress: float) -> float:
    """The factor on the learning rate, 0..1, after `progress` (0..1, more is over time) of the budget.

    Warm-up, stable, then a linear decay to zero (Hu et al. 2024, arXiv 2404.06395).
    """
    rising = progress / WARMUP
    falling = (1.0 - progress) / DECAY
    return max(0.0, min(1.0, rising, falling))


@dataclass(slots=True)
class Budget:
    """A stretch of `minutes` that starts when the object is made; `clock` counts seconds."""

    minutes: float
    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self.clock() - self._began

    @property
    def progress(self) -> float:
        """Share of the budget used; 1 or more when it is over."""
        return self.spent / (60.0 * self.minutes)
