"""`make chaos`: generations over a swarm in which things go wrong; prints a table and writes JSON. Needs root."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks import prompts
from benchmarks.chaos import report
from benchmarks.chaos.director import LINK_MS, Director, Run
from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.scenarios import schedule
from benchmarks.deployment import start_client
from benchmarks.lab import Lab, LabUnavailable
from swarm import VERSION

SPANS = ("0:2", "2:4", "4:6", "6:8") * 2 + ("2:4",)
"""Two peers for each span, and a third for the second one: substitutes may die too."""
CONTEXT = 500  # tokens of the prompt


def main() -> int:
    """Run what the command line asks for; the exit code is 1 if a text was not the undisturbed one."""
    options = _options()
    console = Console(width=150)
    runs: list[Run] = []
    chosen = [one for one in schedule(options.seed, options.runs) if any(part in one.name for part in options.only)]
    try:
        with tempfile.TemporaryDirectory(prefix="specswarm-chaos-") as folder:
            hosts = len(SPANS) + 3  # the bootstrap node, a better peer, and the client
            with Lab(hosts=hosts, delay_ms=LINK_MS, seed=options.seed) as lab:
                fleet = Fleet(lab, "embedded", SPANS, Path(folder))
                client = start_client(partial(lab.popen, hosts - 1), "--log")
                try:
                    fleet.start()
                    client.connect(
                        model="embedded", initial_peers=fleet.initial_peers, draft="embedded-draft", threads=1
                    )
                    client.await_peers(len(SPANS))
                    director = Director(fleet, client, _prompt())
                    for number, scenario in enumerate(chosen, start=1):
                        runs.append(director.run(scenario))
                        console.print(report.one_line(number, runs[-1]), highlight=False)
                finally:
                    client.close()
                    fleet.stop()
    except LabUnavailable as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 1
    console.print(report.table(runs))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "version": VERSION,
        "seed": options.seed,
        "started": options.started,
        "runs": [asdict(r) for r in runs],
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    console.print(f"written to {options.out}")
    return 0 if all(run.exact for run in runs) else 1


def _prompt() -> str:
    """About CONTEXT tokens of code, built in."""
    text = "".join(prompts.CODE)
    return (text * 9)[: CONTEXT * 3]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only", nargs="+", default=[""], help="of these, the ones whose name contains any of this"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/chaos.json"))
    parser.set_defaults(started=time.strftime("%Y-%m-%d %H:%M:%S"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
