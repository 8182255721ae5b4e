"""`make bench`: what the swarm does over links of chosen delay, on a wide-area lab of this machine.

Peers, a bootstrap node and a client on hosts of their own. Five parts: the embedded pair in every setting over a grid
of swarms, links and temperatures (`grid`); the same pair, traced, for the time in which nobody computes (`idle`); a
random model that is its own draft, in the setting in which Petals was measured (`petals`); one of hidden size 8,192 and
next to no compute, for what the bytes of hidden states cost (`wire`); and loopback, for what a hop costs beyond its
compute. Prints tables and bars, writes JSON and plots. Needs root.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import grid, idle, petals, plots, prompts, report, wire
from benchmarks.bar import Outcome, check, conclude
from benchmarks.deployment import Client, deployed, start_client
from benchmarks.figures import Trips, trips
from benchmarks.grid import Cell, Place
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
            if "idle" in options.parts:
                shares = idle.run(SPANS, _texts(options), options.tokens, folder / "idle")
                record["idle"] = shares
                console.print(f"share of the time in which nobody computes, 25 ms: {shares}")
                outcomes += check((idle.IDLE,), {idle.IDLE: shares["auto"] / shares["one in flight"]})
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
    texts, cells = _texts(options), []
    for peers in options.peers:
        spans = [f"{LAYERS * i // peers}:{LAYERS * (i + 1) // peers}" for i in range(peers)]
        place = folder / str(peers)
        place.mkdir(parents=True)
        with Lab(hosts=peers + 2) as lab, deployed(lab, "embedded", spans, place) as (initial_peers, client):
            client.connect(model="embedded", initial_peers=initial_peers, draft="embedded-draft", threads=1)
            for rate, delay, temperature in itertools.product(options.rates, options.delays, options.temperatures):
                lab.set_rate(rate or None)
                lab.set_delay(delay)
                for one in _at(Place(peers, delay, rate or None, temperature), lab, client, texts, options.tokens):
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


def _at(place: Place, lab: Lab, client: Client, texts: list[str], tokens: int) -> list[Cell]:
    """All settings, in turn for each prompt."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in grid.SETTINGS}
    carried = dict.fromkeys(grid.SETTINGS, 0)
    for text in texts:
        for name, setting in grid.SETTINGS.items():
            lab.reset_traffic()
            results[name].append(
                client.generate(text, temperature=place.temperature, max_new_tokens=tokens, seed=SEED, **setting)
            )
            carried[name] += sum(count.bytes for count in lab.traffic().values())
    return [grid.cell(place, name, made, results["plain"], carried[name]) for name, made in results.items()]


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
    parser.add_argument(
        "--parts", nargs="+", default=["grid", "idle", "petals", "wire", "loopback"], help="which to run"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
