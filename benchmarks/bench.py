"""`make bench`: what the swarm does over links of chosen delay, on a wide-area lab of this machine.

Peers, a bootstrap node and a client on hosts of their own. Its parts: the embedded pair in every setting over a grid
of swarms, links and temperatures (`grid`); AWC's network beside the model of cost (`windows`); the same pair, traced,
for the time in which nobody computes (`idle`), drafted at the client and at a peer (`places`), and its accuracy and
speed under the lossy rule `semantic`; a random model that is its own draft, in the setting in which Petals was measured
(`petals`); one of hidden size 8,192 and next to no compute, for what the bytes of hidden states cost (`wire`); and
loopback, for what a hop costs beyond its compute. Prints tables and bars, writes JSON and plots. Needs root.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import grid, idle, petals, places, plots, prompts, report, semantic, windows, wire
from benchmarks.bar import Outcome, check, conclude
from benchmarks.deployment import Client, deployed, start_client
from benchmarks.figures import Trips, trips
from benchmarks.grid import Cell, Place, Settings
from benchmarks.lab import Lab, LabUnavailable
from specswarm.processes import running_swarm

LAYERS = 8  # of the embedded target
SPANS = ("0:2", "2:4", "4:6", "6:8")
SEED = 7


def main() -> int:
    """Run what the command line asks for; the exit code."""
    options = _options()
    console = Console(width=150)
    outcomes: list[Outcome] = []
    record: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "options": {key: getattr(value, "name", str(value)) for key, value in vars(options).items()},
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with tempfile.TemporaryDirectory(prefix="specswarm-bench-") as scratch:
        folder = Path(scratch)
        try:
            if "grid" in options.parts:
                cells = _grid(options, folder / "grid", console)
                record["grid"] = [asdict(one) for one in cells]
                console.print(*report.grid_tables(cells), sep="\n")
                plots.draw(cells, options.out.parent)
                outcomes += check(grid.BARS, grid.figures(cells))
            if "windows" in options.parts:
                cells = _windows(options, folder / "windows", console)
                record["windows"] = [asdict(one) for one in cells]
                console.print(report.of_windows(cells))
                outcomes += check(windows.BARS, windows.figures(cells))
            if "idle" in options.parts:
                shares = idle.run(SPANS, _texts(options), options.tokens, folder / "idle")
                record["idle"] = shares
                console.print(f"share of the time in which nobody computes, 25 ms: {shares}")
                outcomes += check((idle.IDLE,), {idle.IDLE: shares["auto"] / shares["one in flight"]})
            if "places" in options.parts:
                record["places"] = places.run(SPANS, _texts(options), options.tokens, folder / "places")
                console.print(report.places(record["places"]))
            if "semantic" in options.parts:
                found, record["semantic"] = semantic.run(
                    SPANS, options.validation, options.problems, folder / "semantic", console
                )
                outcomes += check(semantic.BARS, found)
            if "petals" in options.parts:
                rows = petals.run(options.delays, folder / "petals", console)
                record["petals"] = [asdict(row) for row in rows]
                console.print(report.against_petals(rows))
            if "wire" in options.parts:
                hops, losses = wire.run(_texts(options), options.tokens, folder / "wire", console)
                record["wire"] = wire.as_dict(hops, losses)
                outcomes += check(wire.BARS, wire.figures(hops))
            if "loopback" in options.parts:
                loopback = _loopback(options, folder / "loopback")
                record["loopback"] = asdict(loopback)
                console.print(report.loopback(loopback, len(SPANS)))
        except LabUnavailable as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    return conclude(console, outcomes, record, options.out)


def _grid(options: argparse.Namespace, folder: Path, console: Console) -> list[Cell]:
    """Every setting at every place."""
    return [
        one
        for peers in options.peers
        for one in _swarm(peers, options.rates, grid.SETTINGS, options, folder / str(peers), console)
    ]


def _windows(options: argparse.Namespace, folder: Path, console: Console) -> list[Cell]:
    """Chains, and who chooses their length, over unlimited links of every delay."""
    cells = _swarm(len(SPANS), [0.0], windows.SETTINGS, options, folder, console)
    return windows.added(cells, options.out) if options.add else cells


def _swarm(
    peers: int,
    rates: Sequence[float],
    settings: Settings,
    options: argparse.Namespace,
    folder: Path,
    console: Console,
) -> list[Cell]:
    """These settings over all links and temperatures of one swarm."""
    texts, cells = _texts(options), list[Cell]()
    spans = [f"{LAYERS * i // peers}:{LAYERS * (i + 1) // peers}" for i in range(peers)]
    folder.mkdir(parents=True)
    with Lab(hosts=peers + 2) as lab, deployed(lab, "embedded", spans, folder) as (initial_peers, client):
        client.connect(model="embedded", initial_peers=initial_peers, draft="embedded-draft", threads=1)
        for rate, delay, temperature in itertools.product(rates, options.delays, options.temperatures):
            lab.set_rate(rate or None)
            lab.set_delay(delay)
            place = Place(peers, delay, rate or None, temperature)
            for one in _at(place, lab, client, settings, texts, options.tokens):
                console.print(report.one_line(one), highlight=False)
                cells.append(one)
    return cells


def _texts(options: argparse.Namespace) -> list[str]:
    """As many prompts of each kind."""
    return [
        *prompts.code(options.num_prompts, options.prompts),
        *prompts.questions(options.num_prompts, options.questions),
        *prompts.arithmetic(options.num_prompts),
    ]


def _at(place: Place, lab: Lab, client: Client, settings: Settings, texts: list[str], tokens: int) -> list[Cell]:
    """All settings, in turn for each prompt; their texts beside those of the first."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    carried = dict.fromkeys(settings, 0)
    for text in texts:
        for name, setting in settings.items():
            lab.reset_traffic()
            results[name].append(
                client.generate(text, temperature=place.temperature, max_new_tokens=tokens, seed=SEED, **setting)
            )
            carried[name] += sum(count.bytes for count in lab.traffic().values())
    first = next(iter(results.values()))
    return [grid.cell(place, name, made, first, carried[name]) for name, made in results.items()]


def _loopback(options: argparse.Namespace, folder: Path) -> Trips:
    """Plain decoding over the loopback interface, without the lab's router."""
    folder.mkdir()
    texts = prompts.code(options.num_prompts, options.prompts)
    with running_swarm("embedded", SPANS, folder, options=["--threads", "1"]) as (initial_peers, _):
        client = start_client()
        try:
            client.connect(model="embedded", initial_peers=initial_peers, draft="none", threads=1)
            results = [client.generate(text, window=0, max_new_tokens=options.tokens) for text in texts]
        finally:
            client.close()
    return trips(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, nargs="+", default=[2, 4, 8], help="of the grid's swarms")
    parser.add_argument(
        "--delays", type=float, nargs="+", default=[0.0, 10.0, 25.0, 50.0, 100.0], help="one way, ms"
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 50.0], help="Mbit/s; 0: unlimited")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--tokens", type=int, default=48, help="most new tokens of a generation")
    parser.add_argument("--num-prompts", type=int, default=4, help="of each kind")
    parser.add_argument("--prompts", type=Path, help="code prompts: JSON lines with `prompt`, such as HumanEval")
    parser.add_argument("--questions", type=Path, help="JSON lines with `question`, such as GSM8K")
    parser.add_argument("--validation", type=int, default=50, help="problems on which semantic is calibrated")
    parser.add_argument("--problems", type=int, default=200, help="others, on which it is measured")
    parser.add_argument(
        "--parts",
        nargs="+",
        default=["grid", "windows", "idle", "places", "semantic", "petals", "wire", "loopback"],
        help="which to run",
    )
    parser.add_argument(
        "--add", action="store_true", help="keep, of `windows`, what --out has from other delays and temperatures"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
