"""`make bench`: what the swarm does over links of chosen delay, on a wide-area lab of this machine.

Its parts are listed in `benchmarks.parts`, and each runs alone, too. Prints tables and bars, writes JSON and plots.
Needs root.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import evidence, machine
from benchmarks.bar import Outcome, conclude
from benchmarks.lab import LabUnavailable
from benchmarks.parts import PARTS


def main() -> int:
    """Run what the command line asks for; the exit code."""
    options = _options()
    console = Console(width=150)
    outcomes: list[Outcome] = []
    record: dict[str, Any] = {
        "machine": machine.describe(),
        "options": {key: getattr(value, "name", str(value)) for key, value in vars(options).items()},
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with tempfile.TemporaryDirectory(prefix="specswarm-bench-") as scratch:
        try:
            for name in options.parts:
                record[name], became = PARTS[name](options, Path(scratch) / name, console)
                outcomes += became
        except LabUnavailable as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    return conclude(console, outcomes, record, options.out)


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
    parser.add_argument("--evidence-k", nargs="*", default=["3", "32", "320", "full"], help="of the part evidence")
    parser.add_argument(
        "--uplinks", type=float, nargs="*", default=[*evidence.UPLINKS], help="of its client, Mbit/s"
    )
    parser.add_argument("--cell-seconds", type=float, default=80.0, help="after which one of its cells ends")
    parser.add_argument(
        "--cells-of", type=Path, nargs="*", default=[], help="results of that part, whose other cells are kept"
    )
    parser.add_argument(
        "--add", action="store_true", help="keep, of `windows`, what --out has from other delays and temperatures"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="which to run")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
