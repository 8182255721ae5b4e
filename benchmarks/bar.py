"""A bound on a measured figure, what became of it, and how a benchmark ends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from swarm import VERSION


@dataclass(frozen=True, slots=True)
class Bar:
    """A bound on one figure: it may not be above the limit, or, where `is_floor`, not below it."""

    name: str
    limit: float
    unit: str
    is_floor: bool = False


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


def conclude(console: Console, outcomes: Sequence[Outcome], record: dict[str, Any], out: Path) -> int:
    """Print the bars, write all to `out`, and say by the exit code whether a bar was missed."""
    for outcome in outcomes:
        console.print(str(outcome), highlight=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    whole = {"version": VERSION, **record, "bars": [outcome.as_dict() for outcome in outcomes]}
    out.write_text(json.dumps(whole, indent=1) + "\n")
    console.print(f"written to {out}")
    return 1 if any(outcome.is_missed for outcome in outcomes) else 0
