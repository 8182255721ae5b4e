"""What the failure lab prints and writes: a line for each kind of scenario, and one for each bar."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from rich.table import Table

from benchmarks.chaos.runs import KILLED_HOP, Run


def one_line(number: int, run: Run) -> str:
    """Progress, after a run."""
    verdict = "exact" if run.exact else f"NOT EXACT {run.error}"
    return (
        f"{number}: {run.name}, T {run.temperature:g}: {verdict}, stall {run.stall_seconds:.2f} s,"
        f" {run.more_bytes_client} bytes more, took {run.seconds:.1f} s"
    )


def table(runs: Sequence[Run]) -> Table:
    """All runs, by kind: how many were exact, and how long the text stood still."""
    made = Table(title=f"{len(runs)} runs, {sum(run.exact for run in runs)} exact; 25 ms links, embedded pair")
    for heading in (
        "part",
        "what happens",
        "runs",
        "exact",
        "stall, median s",
        "worst s",
        "reroutes",
        "mend, client KiB",
        "peers KiB",
    ):
        made.add_column(heading, justify="left" if heading == "what happens" else "right")
    for name in dict.fromkeys(run.name for run in runs):
        of_kind = [run for run in runs if run.name == name]
        made.add_row(*_row(name, of_kind))
    kills = [run for run in runs if run.name.startswith(KILLED_HOP)]
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
        _kib(run.mend_bytes_client for run in runs),
        _kib(run.mend_bytes_peers for run in runs),
    )


def _kib(sizes: Iterable[int | None]) -> str:
    """The median of those that are known."""
    known = [size for size in sizes if size is not None]
    return f"{median(known) / 1024:.0f}" if known else "-"
