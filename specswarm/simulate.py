"""`specswarm simulate`: a scenario, or many of its like, in virtual time; a table or JSON of what they came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from simulator.experiments import Point, combinations, sweep
from simulator.figures import SHOWN, interval
from simulator.scenario import load
from specswarm.console import print_json


def simulate(file: Path, sweeps: Sequence[str], seeds: int, *, is_json: bool) -> None:
    """Run all combinations of the sweeps, each with `seeds` seeds. Raises UsageError."""
    scenarios = [(change, load(file, change)) for change in combinations(sweeps)]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating", total=seeds * len(scenarios))
        points = list(sweep(scenarios, seeds, lambda: progress.advance(task)))
    if is_json:
        for point in points:
            print_json(change=dict(point.change), runs=[asdict(run) for run in point.runs])
    else:
        Console().print(table(points, file.stem))


def table(points: Sequence[Point], title: str) -> Table:
    """A column for each combination: means over the seeds, and half the width of the 95 % interval."""
    seeds = len(points[0].runs)
    made = Table(title=f"{title}: {seeds} seeds" if seeds > 1 else title)
    made.add_column("")
    for point in points:
        named = [f"{key.rpartition('.')[2]} {value}" for key, value in point.change.items()]
        made.add_column("\n".join(named), justify="right")
    for name, value in SHOWN.items():
        cells = [_cell(*interval([value(run) for run in point.runs])) for point in points]
        made.add_row(name, *cells)
    return made


def _cell(mean: float, half: float) -> str:
    return f"{mean:.4g}" + (f" ± {half:.2g}" if half else "")
