"""Parts 1 to 3 of `make chaos`: generations while peers die, hang and leave and links break. Needs root.

Prints a table and the bars, writes JSON; the exit code is 1 if a bar was missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks import prompts
from benchmarks.bar import check, conclude
from benchmarks.chaos import bars, report, runs
from benchmarks.chaos.director import LINK_MS, Director
from benchmarks.chaos.fleet import DRAFT, MODEL, Fleet
from benchmarks.chaos.scenarios import schedule
from benchmarks.deployment import start_client
from benchmarks.lab import Lab, LabUnavailable

SPANS = ("0:2", "2:4", "4:6", "6:8") * 2 + ("2:4",)
"""Two peers for each span, and a third for the second one: substitutes may die too."""
BETTER = "0:8"
"""What the peer serves that appears in one of the scenarios."""
CLIENT = len(SPANS) + 2  # its host, after the bootstrap node, the peers and the better one


def main() -> int:
    """Run what the command line asks for; the exit code."""
    options = _options()
    console = Console(width=170)
    chosen = [
        one
        for one in schedule(options.seed, options.runs)
        if one.part in options.parts and any(part in one.name for part in options.only)
    ]
    done: list[runs.Run] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="specswarm-chaos-") as folder,
            Lab(hosts=CLIENT + 1, delay_ms=LINK_MS, seed=options.seed) as lab,
        ):
            fleet = Fleet(lab, Path(folder), SPANS, (BETTER,), is_forked=True)
            with fleet.running(), closing(start_client(partial(lab.popen, CLIENT), "--log")) as client:
                client.connect(model=MODEL, initial_peers=fleet.initial_peers, draft=DRAFT, threads=1)
                client.await_peers(len(SPANS))
                director = Director(fleet, client, CLIENT, prompts.long_code())
                director.warm_up()
                for number, scenario in enumerate(chosen, start=1):
                    done.append(director.run(scenario))
                    console.print(report.one_line(number, done[-1]), highlight=False)
    except LabUnavailable as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 1
    console.print(report.table(done))
    outcomes = check(bars.RECOVERY, runs.figures(done))
    record = {
        "seed": options.seed,
        "started": options.started,
        "cost_of_a_kill": runs.cost(done),
        "runs": [asdict(run) for run in done],
    }
    return conclude(console, outcomes, record, options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 3], help="of these, the ones of these parts")
    parser.add_argument("--only", nargs="+", default=[""], help="and whose name contains any of this")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/chaos.json"))
    parser.set_defaults(started=time.strftime("%Y-%m-%d %H:%M:%S"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
