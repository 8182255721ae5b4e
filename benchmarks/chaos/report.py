"""The failure lab's table: a line for each kind of scenario."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from rich.table import Table

from benchmarks.chaos.director import Run


def one_line(number: int, run: Run) -> str:
    """Progress, after a run."""
    verdict = "exact" if run.exact else f"NOT EXACT {run.error}"
    return f"{number}: {run.name}, T {run.temperature:g}: {verdict}, stall {run.stall_seconds:.2f} s"


def table(runs: Sequence[Run]) -> Table:
    """All runs, by kind: how many were exact, and how long the text stood still."""
    made = Table(title=f"{len(runs)} runs, {sum(run.exact for run in runs)} exact; 25 ms links, embedded pair")
    for heading in ("part", "what happens", "runs", "exact", "stall, median s", "worst s", "reroutes"):
        made.add_column(heading, justify="left" if heading == "what happens" else "right")
    for name in dict.fromkeys(run.name for run in runs):
        of_kind = [run for run in runs if run.name == name]
        made.add_row(*_row(name, of_kind))
    kills = [run for run in runs if run.name.startswith("kill: hop ")]
    if kills:
        made.add_section()
        made.add_row(*_row("every kill of one hop", kills))
    return made


def _row(name: str, runs: Sequence[Run]) -> Iterable[str]:
    stalls = [run.stall_seconds for run in runs]
    exact = sum(run.exact for run in runs)
    reroutes = sum(run.reroutes for run in runs)
    return (
        str(runs[0].part),
        name,
        str(len(runs)),
        str(exact),
        f"{median(stalls):.2f}",
        f"{max(stalls):.2f}",
        str(reroutes),
    )
