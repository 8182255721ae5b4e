"""`make bench`: what the swarm does over links of chosen delay, on a wide-area lab of this machine.

Four peers, a bootstrap node and a client on hosts of their own. Three parts: the embedded pair with every window and
temperature over real prompts; a random model that is its own draft, in the setting in which Petals was measured; and
loopback, for what a hop costs beyond its compute. Prints tables and writes JSON. Needs root.
"""

from __future__ import annotations

import argparse
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

from benchmarks import petals, prompts, report
from benchmarks.deployment import Client, deployed, start_client
from benchmarks.figures import Cell, cell
from benchmarks.lab import Lab, LabUnavailable
from specswarm.processes import running_swarm
from swarm import VERSION

SPANS = ("0:2", "2:4", "4:6", "6:8")
CLIENT = len(SPANS) + 1  # its host; the bootstrap node has 0
SEED = 7


def main() -> int:
    """Run what the command line asks for; the exit code."""
    options = _options()
    console = Console(width=150)
    record: dict[str, Any] = {
        "version": VERSION,
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "options": {key: getattr(value, "name", str(value)) for key, value in vars(options).items()},
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with tempfile.TemporaryDirectory(prefix="specswarm-bench-") as scratch:
        folder = Path(scratch)
        try:
            if "embedded" in options.parts:
                cells = _embedded(options, folder / "embedded", console)
                record["embedded"] = [asdict(one) for one in cells]
                console.print(*report.embedded(cells), sep="\n")
            if "petals" in options.parts:
                rows = petals.run(options.delays, folder / "petals", console)
                record["petals"] = [asdict(row) for row in rows]
                console.print(report.against_petals(rows))
            if "loopback" in options.parts:
                loopback = _loopback(options, folder / "loopback")
                record["loopback"] = asdict(loopback)
                console.print(report.loopback(loopback, len(SPANS)))
        except LabUnavailable as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    console.print(f"written to {options.out}")
    return 0


def _embedded(options: argparse.Namespace, folder: Path, console: Console) -> list[Cell]:
    """The embedded pair: every delay, temperature and window over all prompts."""
    folder.mkdir()
    texts = prompts.code(options.num_prompts, options.prompts) + prompts.arithmetic(options.num_prompts)
    cells = []
    with Lab(hosts=CLIENT + 1) as lab, deployed(lab, "embedded", SPANS, folder) as (initial_peers, client):
        client.connect(model="embedded", initial_peers=initial_peers, draft="embedded-draft", threads=1)
        for delay in options.delays:
            lab.set_delay(delay)
            for temperature in options.temperatures:
                for window in options.windows:
                    lab.reset_traffic()
                    results = _generate(client, texts, window, temperature, options.tokens)
                    traffic = {
                        f"{_name(source)} to {_name(target)}": count.bytes
                        for (source, target), count in lab.traffic().items()
                    }
                    cells.append(
                        cell(
                            results,
                            hops=len(SPANS),
                            delay_ms=delay,
                            temperature=temperature,
                            window=window,
                            traffic=traffic,
                        )
                    )
                    console.print(report.one_line(cells[-1]))
    return cells


def _loopback(options: argparse.Namespace, folder: Path) -> Cell:
    """Plain decoding over the loopback interface, without the lab's router."""
    folder.mkdir()
    texts = prompts.code(options.num_prompts, options.prompts)
    with running_swarm("embedded", SPANS, folder, options=["--threads", "1"]) as (initial_peers, _):
        client = start_client()
        try:
            client.connect(model="embedded", initial_peers=initial_peers, draft="none", threads=1)
            results = _generate(client, texts, 0, 0.0, options.tokens)
        finally:
            client.close()
    return cell(results, hops=len(SPANS), delay_ms=0, temperature=0, window=0, traffic={})


def _generate(
    client: Client, texts: list[str], window: int, temperature: float, tokens: int
) -> list[dict[str, Any]]:
    return [
        client.generate(text, window=window, temperature=temperature, max_new_tokens=tokens, seed=SEED)
        for text in texts
    ]


def _name(host: int) -> str:
    if host == CLIENT:
        return "client"
    return f"peer {host}" if host else "bootstrap"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delays", type=float, nargs="+", default=[0.0, 10.0, 25.0, 50.0], help="one way, ms")
    parser.add_argument("--windows", type=int, nargs="+", default=[0, 2, 4, 8])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--tokens", type=int, default=48, help="most new tokens of a generation")
    parser.add_argument("--num-prompts", type=int, default=8, help="of code, and as many of arithmetic")
    parser.add_argument("--prompts", type=Path, help="code prompts: JSON lines with `prompt`, such as HumanEval")
    parser.add_argument("--parts", nargs="+", default=["embedded", "petals", "loopback"], help="which to run")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
