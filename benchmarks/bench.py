"""`make bench`: what the swarm does over links of chosen delay, on a wide-area lab of this machine.

Peers, a bootstrap node and a client on hosts of their own. The parts: the embedded pair in every setting over a grid of
swarms, links and temperatures (`grid`); the same pair, traced, for the time in which nobody computes (`idle`); a random
model that is its own draft, in the setting in which Petals was measured (`petals`); loopback, for what a hop costs
beyond its compute; how much evidence pays under the rule `rejection`, over which uplinks (`evidence`), and that rule
beside `match` (`rules`); how often draft and target agree by shared noise alone (`agreement`, without a network).
Prints tables and bars, writes JSON and plots. Needs root.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import agreement, evidence, grid, idle, petals, plots, prompts, report, rules
from benchmarks.bar import Outcome, check, conclude
from benchmarks.deployment import Client, deployed, start_client
from benchmarks.figures import Trips, trips
from benchmarks.grid import Cell, Place
from benchmarks.lab import Lab, LabUnavailable
from specswarm.processes import running_swarm

LAYERS = 8  # of the embedded target
SPANS = ("0:2", "2:4", "4:6", "6:8")
SEED = 7
PARTS = ("grid", "idle", "petals", "loopback", "evidence", "rules", "agreement")


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
            if "evidence" in options.parts:
                measured = _evidence(options, folder / "evidence", console)
                record["evidence"] = evidence.as_record(measured)
                console.print(report.evidence_table(measured))
                plots.draw_evidence(measured, options.out.parent)
                outcomes += check((evidence.WITHIN,), evidence.figures(measured))
            if "rules" in options.parts:
                cells = _rules(options, folder / "rules")
                record["rules"] = [asdict(one) for one in cells]
                console.print(*map(report.one_line, cells), sep="\n", highlight=False)
            if "agreement" in options.parts:
                kinds = _kinds(options, agreement.PROMPTS)
                agreed = agreement.run(kinds)
                record["agreement"] = [asdict(row) for row in agreed]
                console.print(report.agreement_table(agreed))
                outcomes += check((agreement.GAP,), agreement.figures(agreed))
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


def _evidence(options: argparse.Namespace, folder: Path, console: Console) -> list[evidence.Cell]:
    """The cells asked for, among those of the files that are to be completed."""
    older = [
        one for file in options.cells_of for one in evidence.from_record(json.loads(file.read_text())["evidence"])
    ]
    sizes = [evidence.FULL if size == "full" else int(size) for size in options.evidence_k]

    def tell(cell: evidence.Cell) -> None:
        console.print(report.evidence_line(cell), highlight=False)

    texts = prompts.code(evidence.TEXTS * options.num_prompts, options.prompts)
    return evidence.merged(
        older, evidence.run(sizes, options.uplinks, texts, options.tokens, options.cell_seconds, folder, tell)
    )


def _rules(options: argparse.Namespace, folder: Path) -> list[Cell]:
    """Both rules of acceptance at one place."""
    folder.mkdir()
    place = rules.PLACE
    with (
        Lab(hosts=len(SPANS) + 2, delay_ms=place.delay_ms) as lab,
        deployed(lab, "embedded", SPANS, folder) as (initial_peers, client),
    ):
        client.connect(model="embedded", initial_peers=initial_peers, draft="embedded-draft", threads=1)
        return _at(place, lab, client, _texts(options), options.tokens, rules.SETTINGS)


def _texts(options: argparse.Namespace) -> list[str]:
    """As many prompts of each kind."""
    return [text for texts in _kinds(options, options.num_prompts).values() for text in texts]


def _kinds(options: argparse.Namespace, count: int) -> dict[str, list[str]]:
    """So many prompts of each kind."""
    kinds = {
        "code": prompts.code(count, options.prompts),
        "questions": prompts.questions(count, options.questions),
        "arithmetic": prompts.arithmetic(count),
    }
    return {kind: texts for kind, texts in kinds.items() if texts}


def _at(
    place: Place,
    lab: Lab,
    client: Client,
    texts: list[str],
    tokens: int,
    settings: dict[str, dict[str, Any]] = grid.SETTINGS,
) -> list[Cell]:
    """All settings, in turn for each prompt."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    carried = dict.fromkeys(settings, 0)
    for text in texts:
        for name, setting in settings.items():
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
    parser.add_argument("--evidence-k", nargs="*", default=["3", "32", "320", "full"], help="of the part evidence")
    parser.add_argument(
        "--uplinks", type=float, nargs="*", default=[*evidence.UPLINKS], help="of its client, Mbit/s"
    )
    parser.add_argument("--cell-seconds", type=float, default=80.0, help="after which one of its cells ends")
    parser.add_argument(
        "--cells-of", type=Path, nargs="*", default=[], help="results of that part, whose other cells are kept"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="which to run")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
