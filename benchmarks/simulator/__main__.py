"""Runs all of it, or the parts named: `python -m benchmarks.simulator --parts accuracy speed questions`.

Accuracy needs root, for the wide-area lab.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import machine, prompts
from benchmarks.bar import Outcome, check, conclude
from benchmarks.lab import LabUnavailable
from benchmarks.simulator import accuracy, speed
from benchmarks.simulator.questions import QUESTIONS
from simulator.fit import as_toml
from specswarm.simulate import table

LAB_RUN = "lab-run.json"
"""What the simulator was calibrated by; `specswarm simulate calibrate` reads it."""

Part = Callable[[Namespace, Console], tuple[Any, list[Outcome]]]


def main() -> int:
    """Run what the command line asks for; the exit code."""
    options = _options()
    console = Console(width=150)
    outcomes: list[Outcome] = []
    record: dict[str, Any] = {
        "machine": machine.describe(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    try:
        for name in options.parts:
            record[name], became = PARTS[name](options, console)
            outcomes += became
    except LabUnavailable as error:
        print(f"bench-simulator: {error}", file=sys.stderr)
        return 1
    return conclude(console, outcomes, record, options.out)


def _accuracy(options: Namespace, console: Console) -> tuple[Any, list[Outcome]]:
    texts = [*prompts.code(options.num_prompts, options.prompts), *prompts.arithmetic(options.num_prompts)]
    with tempfile.TemporaryDirectory(prefix="specswarm-bench-") as scratch:
        calibration, tables, cells = accuracy.run(
            texts, options.tokens, Path(scratch), lambda *seen: console.print(_line(*seen), highlight=False)
        )
    console.print(as_toml(tables), markup=False)
    console.print(_accuracy_table(cells))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_name(LAB_RUN).write_bytes(msgspec.json.encode(calibration) + b"\n")
    return accuracy.as_record(tables, cells), check(accuracy.BARS, accuracy.figures(cells))


def _speed(options: Namespace, console: Console) -> tuple[Any, list[Outcome]]:
    hour = speed.hour()  # first, for the most memory that a process took is told
    alone, found, route = speed.simpy_alone(), speed.events(), speed.route()
    console.print(f"SimPy with nothing to do: {alone:,.0f} events/s")
    for one in found:
        console.print(f"{one.mode}: {one.events_per_second:,.0f} events/s, {one.ms_per_request:.1f} ms a request")
    console.print({key: round(value, 2) for key, value in hour.items()})
    chains = next(one.events_per_second for one in found if one.mode == "chain of 6")
    figures = {speed.EVENTS: chains, speed.HOUR: hour["seconds"], speed.ROUTE: route}
    record = {
        "simpy_alone": alone,
        "events": [asdict(one) for one in found],
        "hour": hour,
        "route_ms": route,
    }
    return record, check(speed.BARS, figures)


def _questions(options: Namespace, console: Console) -> tuple[Any, list[Outcome]]:
    found = []
    for question in QUESTIONS:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(question.name, total=None)
            points, picture = question.ask(lambda: progress.advance(task))  # noqa: B023 - called before the next one
        console.print(question.command, markup=False)
        for first in range(0, len(points), 6):
            console.print(table(points[first : first + 6], question.name))
        runs = [{"change": point.change, "runs": [asdict(run) for run in point.runs]} for point in points]
        found.append(
            {"question": question.name, "command": question.command, "picture": str(picture), "points": runs}
        )
    return found, []


PARTS: dict[str, Part] = {"accuracy": _accuracy, "speed": _speed, "questions": _questions}


def _line(place: accuracy.Place, setting: str, speed: float) -> str:
    return f"{place.peers} peers, {place.delay_ms:g} ms, {place.clients} clients, {setting}: {speed:.1f} tokens/s"


def _accuracy_table(cells: list[accuracy.Cell]) -> Table:
    made = Table(
        "peers", "delay ms", "clients", "setting", "measured", "predicted", "off", title="tokens/s of a client"
    )
    for cell in cells:
        place, off = cell.place, cell.predicted / cell.measured - 1
        where = (str(place.peers), f"{place.delay_ms:g}", str(place.clients), cell.setting)
        made.add_row(*where, f"{cell.measured:.1f}", f"{cell.predicted:.1f}", f"{off:+.1%}")
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="which to run")
    parser.add_argument("--prompts", type=Path, help="code prompts: JSON lines with `prompt`, such as HumanEval")
    parser.add_argument("--num-prompts", type=int, default=3, help="of each kind")
    parser.add_argument("--tokens", type=int, default=48, help="most new tokens of a generation")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/simulator.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
