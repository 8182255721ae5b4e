"""Pictures of a sweep: over the values of its first key, a line for each combination of the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulator.experiments import Point
from simulator.figures import SHOWN, interval
from swarm.errors import UsageError

_PANELS = {
    "tokens/s of a request": ("tokens/s of a request",),
    "tokens/s of all": ("tokens/s of all",),
    "time per token, ms (dashed: p95)": ("per token, mean ms", "p95"),
    "first token, s": ("first token, s",),
}
"""By title, the figures that are shown: the first as a line, a second one dashed."""


def draw(points: Sequence[Point], title: str, folder: Path) -> Path:
    """Write one file into the folder; which. Bars are 95 % confidence intervals over the seeds. Raises UsageError where
    there is nothing to draw over, or nothing to draw with."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("pictures need matplotlib: pip install 'specswarm[plot]'") from None
    keys = list(points[0].change)
    if not keys:
        raise UsageError("--plot draws over the values of a --sweep: give one, such as link.delay_ms=5,20,80")
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    figure.suptitle(title)
    for axes, (name, shown) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        _panel(axes, points, keys[0], shown)
        axes.set(title=name, xlabel=keys[0], ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    file = folder / f"{title}-{'-'.join(key.rpartition('.')[2] for key in keys)}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=110)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; choose another folder for --plot") from None
    return file


def _panel(axes: Any, points: Sequence[Point], key: str, shown: Sequence[str]) -> None:
    lines: dict[str, list[Point]] = {}
    for point in points:
        others = [f"{name.rpartition('.')[2]} {value}" for name, value in point.change.items() if name != key]
        lines.setdefault(", ".join(others), []).append(point)
    for name, of_line in lines.items():
        places = [point.change[key] for point in of_line]
        if not all(isinstance(place, int | float) for place in places):
            places = [str(place) for place in places]
        color = None
        for figure, style in zip(shown, ("o-", "x--"), strict=False):
            spreads = [interval([SHOWN[figure](run) for run in point.runs]) for point in of_line]
            means, halves = zip(*spreads, strict=True)
            label = name if color is None else None
            drawn = axes.errorbar(places, means, halves, fmt=style, capsize=3, label=label, color=color)
            color = drawn.lines[0].get_color()
