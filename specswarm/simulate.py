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
from simulator.fit import as_toml, fit, read
from simulator.plots import draw
from simulator.scenario import load
from specswarm.console import clean_up_on_signals, print_json, say
from specswarm.tables import standard_output

_NAMES, _COLUMN = 26, 20  # characters


def simulate(file: Path, sweeps: Sequence[str], seeds: int, plots: Path | None, *, is_json: bool) -> None:
    """Run all combinations of the sweeps, each with `seeds` seeds; pictures go into the folder `plots`. Raises
    UsageError."""
    clean_up_on_signals()
    scenarios = [(change, load(file, change)) for change in combinations(sweeps)]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating", total=seeds * len(scenarios))
        points = list(sweep(scenarios, seeds, lambda: progress.advance(task)))
    if is_json:
        for point in points:
            print_json(change=dict(point.change), runs=[asdict(run) for run in point.runs])
    else:
        console = standard_output()
        at_once = max((console.width - _NAMES) // _COLUMN, 1)
        for first in range(0, len(points), at_once):
            console.print(table(points[first : first + at_once], file.stem))
    if plots is not None:
        say(f"drawn: {draw(points, file.stem, plots)}")


def calibrate(file: Path, *, is_json: bool) -> None:
    """Print the tables of a scenario that fit a lab run. Raises UsageError."""
    tables = fit(read(file))
    if is_json:
        print_json(**tables)
    else:
        print(as_toml(tables))


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
