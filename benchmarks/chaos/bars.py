"""What the failure lab holds the product to: each bar is a bound on one figure. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """A bound on one figure: it may not be above the limit, or, where `is_floor`, not below it."""

    name: str
    limit: float
    unit: str
    is_floor: bool = False


EXACT = Bar("generations with the tokens of an undisturbed one", 100, "%", is_floor=True)
DISTURBED = Bar("runs in which what was planned was done", 100, "%", is_floor=True)
KILL_MEDIAN = Bar("a hop is killed: text stands still, median", 1.0, "s")
KILL_WORST = Bar("a hop is killed: text stands still, worst", 3.0, "s")
HUNG_WORST = Bar("a hop hangs: text stands still, worst", 5.0, "s")
DRAIN_WORST = Bar("a hop leaves: text stands still, worst, in ordinary trips", 1.0, "trips")
MEND_BYTES = Bar("a hop is killed: more bytes sent and received by the client, worst", 8.0, "KiB")
RECOVERY = (EXACT, DISTURBED, KILL_MEDIAN, KILL_WORST, HUNG_WORST, DRAIN_WORST, MEND_BYTES)
"""Of parts 1 to 3."""

ATTACK_MESSAGES = Bar("messages to the handler that got the fewest", 10_000, "", is_floor=True)
ATTACK_EXACT = Bar("the honest client's generations with the right tokens", 100, "%", is_floor=True)
ATTACK_SPEED = Bar("its speed under attack, of that without", 80, "%", is_floor=True)
ATTACK_DEATHS = Bar("nodes that ended", 0, "")
ATTACK_MEMORY = Bar("the largest peer's memory, of what it may take", 100, "%")
ATTACK = (ATTACK_MESSAGES, ATTACK_EXACT, ATTACK_SPEED, ATTACK_DEATHS, ATTACK_MEMORY)
"""Of part 4."""

SOAK_EXACT = Bar("generations with the right tokens", 100, "%", is_floor=True)
SOAK_DEATHS = Bar("peers killed or told to stop, a minute", 2.0, "", is_floor=True)
SOAK_MEMORY = Bar("growth of memory, the program with the most", 10, "%")
SOAK_DESCRIPTORS = Bar("growth of descriptors, the program with the most", 20, "")
SOAK_THREADS = Bar("growth of threads, the program with the most", 10, "")
SOAK = (SOAK_EXACT, SOAK_DEATHS, SOAK_MEMORY, SOAK_DESCRIPTORS, SOAK_THREADS)
"""Of the soak."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A bar and what was measured; None if nothing was run that it speaks of."""

    bar: Bar
    measured: float | None

    @property
    def is_missed(self) -> bool:
        """Whether the figure is out of bounds; one that is no number is."""
        if self.measured is None:
            return False
        if self.bar.is_floor:
            return not self.measured >= self.bar.limit
        return not self.measured <= self.bar.limit

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        bar = self.bar
        bound = "at least" if bar.is_floor else "at most"
        return {"bar": bar.name, bound: bar.limit, "unit": bar.unit, "measured": self.measured, "met": self._met}

    def __str__(self) -> str:
        bar = self.bar
        unit = f" {bar.unit}" if bar.unit else ""
        figure = "not measured" if self.measured is None else f"{self.measured:.4g}{unit}"
        word = {True: "met", False: "MISSED", None: "-"}[self._met]
        return f"{word:7}{bar.name}: {figure} ({'at least' if bar.is_floor else 'at most'} {bar.limit:g}{unit})"

    @property
    def _met(self) -> bool | None:
        return None if self.measured is None else not self.is_missed


def check(bars: tuple[Bar, ...], figures: Mapping[Bar, float]) -> list[Outcome]:
    """What became of each bar."""
    return [Outcome(bar, figures.get(bar)) for bar in bars]
