"""What a revision costs an undisturbed generation, against another one: by turns, in pairs, on this machine.

    make overhead ARGS="--against FOLDER"

FOLDER is a checkout of the other revision. Both swarms (a bootstrap node, four peers and a client on loopback) make the
same texts, one each by turns, so that only one of them works at a time. One start of a swarm is faster than another by
some percent: for each pair both are started anew, several times. Peers start one after the other, for clients draft by
the speeds that peers measure at their start: those of a busy moment make another number of drafts, not another cost.
"""

from __future__ import annotations

import argparse
import math
import operator
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial, reduce
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from benchmarks.bar import Bar, check, conclude
from benchmarks.deployment import Client, start_client
from benchmarks.machine import await_calm, describe
from benchmarks.prompts import CODE
from specswarm.processes import LOOPBACK, Place, running_swarm

SPANS = ("0:2", "2:4", "4:6", "6:8")
HERE = Path(__file__).resolve().parents[1]
SLOWER = Bar("time of a generation against the other revision's, upper limit of 95 %", 1.03, "x")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one text or more."""

    tokens: int
    seconds: float
    computed: float
    """Seconds of those in which the peers' stages computed: what differs here is the machine's, or the model code's."""
    cpu_seconds: float
    """Of all programs of the swarm together."""
    bytes: float
    """That the client sent and received."""
    rounds: int
    drafted: int

    def __add__(self, other: Cost) -> Cost:
        """Of all texts together."""
        return Cost(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def of(self, name: str) -> float:
        """One of the figures, for each token."""
        return float(getattr(self, name) / self.tokens)


class Side:
    """One revision's swarm and its client."""

    def __init__(self, client: Client, processes: Sequence[psutil.Process]) -> None:
        self._client = client
        self._processes = processes

    def generate(self, prompt: str, tokens: int, window: int | None = None) -> tuple[Cost, list[int]]:
        """What a greedy text costs, and its token ids; `window`: as many drafts in each round, and one in flight."""
        before = self._cpu_seconds()
        options = {} if window is None else {"window": window, "in_flight": 1}
        result = self._client.generate(prompt, max_new_tokens=tokens, **options)
        cost = Cost(
            len(result["token_ids"]),
            result["seconds"],
            sum(result["compute_seconds"]),
            self._cpu_seconds() - before,
            result["bytes_sent"] + result["bytes_received"],
            result["rounds"],
            result["drafted"],
        )
        return cost, result["token_ids"]

    def _cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self._processes]
        return sum(time.user + time.system for time in times)


@contextmanager
def swarm(checkout: Path, draft: str, folder: Path) -> Iterator[Side]:
    """The programs of a checkout, up and waiting."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    popen = partial(subprocess.Popen, cwd=checkout, env=environment)

    def place(_: int) -> Place:
        return LOOPBACK, popen

    options = ["--threads", "1"]
    with running_swarm("embedded", SPANS, folder, options=options, place=place, one_by_one=True) as running:
        peers, programs = running
        client = start_client(popen)
        try:
            client.connect(model="embedded", initial_peers=peers, draft=draft, threads=1)
            client.await_peers(len(SPANS))
            parents = [psutil.Process(pid) for pid in (client.pid, *(program.process.pid for program in programs))]
            yield Side(client, [one for parent in parents for one in (parent, *parent.children(recursive=True))])
        finally:
            client.close()


def ratio_of(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The first figure of each pair against its second: the geometric mean of all pairs, and the upper end of its
    one-sided confidence interval of 95 % (Student's t on the logarithms)."""
    logs = [math.log(one / other) for one, other in pairs]
    margin = float(student.ppf(0.95, len(logs) - 1)) * stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean(logs)), math.exp(mean(logs) + margin)


def run(
    against: Path, draft: str, num_pairs: int, starts: int, tokens: int, window: int | None
) -> list[tuple[Cost, Cost]]:
    """The costs of this revision and of the other one. Raises ValueError if their texts differ."""
    pairs = []
    for first in range(0, num_pairs * starts, starts):
        found = [_started((HERE, against), draft, first + i, tokens, window) for i in range(starts)]
        here, there = map(_sum, zip(*found, strict=True))
        print(f"{here.of('seconds') / there.of('seconds'):.3f} x the seconds", flush=True)
        pairs.append((here, there))
    return pairs


def _started(
    checkouts: Sequence[Path], draft: str, number: int, tokens: int, window: int | None
) -> tuple[Cost, Cost]:
    """All texts by both, started anew; which is first with a text is second with the next, and in the next start."""
    costs: list[list[Cost]] = [[], []]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        sides = {
            i: stack.enter_context(swarm(checkouts[i], draft, Path(scratch) / str(i))) for i in _by_turns(number)
        }
        for side in [*sides.values()] * 2:  # the first texts also pay for what is made once
            side.generate(CODE[number % len(CODE)], tokens, window)
        await_calm()
        for text, prompt in enumerate(CODE):
            order = _by_turns(number + text)
            made = {i: sides[i].generate(prompt, tokens, window) for i in order}
            if made[0][1] != made[1][1]:
                raise ValueError(f"the two revisions go on differently with {prompt!r}")
            for i in order:
                costs[i].append(made[i][0])
    return _sum(costs[0]), _sum(costs[1])


def _sum(costs: Iterable[Cost]) -> Cost:
    return reduce(operator.add, costs)


def _by_turns(number: int) -> tuple[int, int]:
    """Both sides, in the other order each time."""
    return (0, 1) if number % 2 == 0 else (1, 0)


def revision(checkout: Path) -> str:
    """The commit that a checkout is at."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def main() -> int:
    """Measure, print a table and the bar, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="a checkout of the other revision")
    parser.add_argument("--draft", default="embedded-draft", help="ngram and none are others")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--starts", type=int, default=3, help="in each pair")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument(
        "--window", type=int, help="drafts in each round, and one round in flight; else by the cost"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/overhead.json"))
    args = parser.parse_args()
    revisions = {"here": revision(HERE), "there": revision(args.against)}
    pairs = run(args.against.resolve(), args.draft, args.pairs, args.starts, args.tokens, args.window)

    console = Console()
    drafts = f"draft {args.draft}" + ("" if args.window is None else f", window {args.window}")
    texts = f"{args.starts} x {len(CODE)} texts of {args.tokens} tokens"
    table = Table(title=f"{args.pairs} pairs of {texts}, {drafts}, {describe()}")
    for heading in ("", "here", "there", "ratio", "upper limit"):
        table.add_column(heading)
    record: dict[str, Any] = {"machine": describe(), "draft": args.draft, "tokens": args.tokens, "figures": {}}
    record |= {"window": args.window, **revisions}
    units = {
        "seconds": "s/token",
        "computed": "s/token",
        "cpu_seconds": "s/token",
        "bytes": "/token",
        "rounds": "/token",
        "drafted": "/token",
    }
    for name, unit in units.items():
        figures = [(here.of(name), there.of(name)) for here, there in pairs]
        if not all(map(all, figures)):  # nothing was drafted
            continue
        ratio, upper = ratio_of(figures)
        here, there = (mean(side) for side in zip(*figures, strict=True))
        table.add_row(f"{name}, {unit}", f"{here:.4g}", f"{there:.4g}", f"{ratio:.3f}", f"{upper:.3f}")
        record["figures"][name] = {"pairs": figures, "ratio": ratio, "upper": upper}
    console.print(table)
    outcomes = check((SLOWER,), {SLOWER: record["figures"]["seconds"]["upper"]})
    return conclude(console, outcomes, record, args.out)


if __name__ == "__main__":
    sys.exit(main())
