"""Part 5 of `make chaos`: peers that lie, beside honest ones, and a client that audits every round. Needs root.

One liar at a time says that it is the fastest of all, so that the client uses it: it passes on noise, says other
tokens, answers late or never, or announces layers that it does not have. Prints a table and the bars, writes JSON; the
exit code is 1 if a bar was missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import prompts
from benchmarks.bar import Bar, check, conclude
from benchmarks.chaos import bars
from benchmarks.chaos.director import LINK_MS
from benchmarks.chaos.fleet import DRAFT, MODEL, READY_SECONDS, Fleet, Node
from benchmarks.chaos.runs import share
from benchmarks.chaos.scenarios import TOKENS
from benchmarks.deployment import Client, start_client
from benchmarks.lab import Lab, LabUnavailable

SPANS = ("0:2", "2:4", "4:6", "6:8") * 2
"""Two honest peers for each: one in the chain, and one that audits it."""
DECEITS = (("noise", "2:4"), ("token", "6:8"), ("late", "4:6"), ("silence", "0:2"), ("record", "2:4"))
"""What a liar does, and which layers it has."""
WRONG = ("noise", "token")
"""What makes a text wrong."""
LATE = "late"
TEMPERATURES = (0.0, 0.8)
_CLIENTS = 12  # of which at least one has the liar in its chain: each as if by a coin
CLIENT = len(SPANS) + len(DECEITS) + 1  # its host, after the bootstrap node, the peers and the liars


@dataclass(frozen=True)
class Trial:
    """One generation while somebody lies."""

    deceit: str
    temperature: float
    exact: bool
    error: str
    was_used: bool
    """Whether the liar was in the chain at first."""
    is_reported: bool
    is_left_out: bool
    """Of the chain for the next text."""
    accused: int
    """Honest peers that were left out."""
    audits: int
    audits_skipped: int
    reroutes: int
    seconds: float
    tokens_per_second: float
    next_tokens_per_second: float
    """Of the next text of the same client."""
    honest_tokens_per_second: float
    """Of such a text without a liar."""


def figures(trials: Sequence[Trial], ended: int) -> dict[Bar, float]:
    """What the trials say of the bars."""
    wrong = [trial for trial in trials if trial.deceit in WRONG]
    spoilt = [trial for trial in trials if not trial.exact]
    found: dict[Bar, float] = {
        bars.DECEIT_USED: share(trial.was_used for trial in trials),
        bars.DECEIT_LEFT_OUT: share(trial.is_left_out for trial in wrong),
        bars.DECEIT_EXACT: share(trial.exact for trial in trials if trial.deceit not in WRONG),
        bars.DECEIT_ACCUSED: sum(trial.accused for trial in trials),
        bars.DECEIT_DEATHS: ended,
    }
    if late := [trial for trial in trials if trial.deceit == LATE]:
        found[bars.DECEIT_LATE] = 100 * median(
            trial.next_tokens_per_second / trial.honest_tokens_per_second for trial in late
        )
    if spoilt:
        found[bars.DECEIT_NOTICED] = share(trial.is_reported for trial in spoilt)
    return found


def main() -> int:
    """Run all; the exit code."""
    options = _options()
    console = Console(width=150)
    trials: list[Trial] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="specswarm-deceit-") as folder,
            Lab(hosts=CLIENT + 1, delay_ms=LINK_MS, seed=options.seed) as lab,
        ):
            fleet = Fleet(lab, Path(folder), SPANS, tuple(span for _, span in DECEITS))
            with fleet.running():
                expected = _honest(fleet)
                for liar, (deceit, _) in zip(fleet.spare_nodes, DECEITS, strict=True):
                    liar.deceit = deceit
                    trials += _deceived(fleet, liar, expected, options.runs)
                    console.print(
                        f"{deceit}: {[trial.exact for trial in trials[-options.runs :]]}", highlight=False
                    )
                ended = sum(not node.is_up for node in fleet.nodes)
    except LabUnavailable as error:
        print(f"deceit: {error}", file=sys.stderr)
        return 1
    console.print(_table(trials))
    record = {"seed": options.seed, "started": options.started, "trials": [asdict(trial) for trial in trials]}
    return conclude(console, check(bars.DECEIT, figures(trials, ended)), record, options.out)


def _honest(fleet: Fleet) -> dict[float, dict[str, Any]]:
    """The right results, by temperature, of a client's second texts."""
    with closing(_client(fleet, 0)) as client:
        for _ in range(2):
            found = {t: client.generate(prompts.long_code(), **_generation(t)) for t in TEMPERATURES}
    return found


def _deceived(fleet: Fleet, liar: Node, expected: dict[float, dict[str, Any]], runs: int) -> list[Trial]:
    """Generations of clients that do not know the liar yet."""
    fleet.begin(liar)
    liar.hear(READY_SECONDS)
    trials = []
    try:
        for run in range(runs):
            temperature = TEMPERATURES[run % len(TEMPERATURES)]
            for _ in range(_CLIENTS):  # each has preferences of its own among peers that are about as good
                with closing(_client(fleet, 1)) as client:
                    started = time.monotonic()
                    lines = list(client.watch(prompts.long_code(), **_generation(temperature)))
                    seconds = time.monotonic() - started
                    after = list(client.watch(prompts.long_code(), **_generation(temperature)))
                if liar.peer_id in _planned(lines):
                    break
            trials.append(_trial(liar, temperature, lines, after, expected[temperature], seconds))
    finally:
        fleet.end(liar)
    return trials


def _trial(
    liar: Node,
    temperature: float,
    lines: Sequence[dict[str, Any]],
    after: Sequence[dict[str, Any]],
    expected: dict[str, Any],
    seconds: float,
) -> Trial:
    result = lines[-1]
    suspects = {suspect["peer_id"] for suspect in result.get("suspects", [])}
    return Trial(
        deceit=liar.deceit,
        temperature=temperature,
        exact=result.get("token_ids") == expected["token_ids"],
        error=result.get("error", ""),
        was_used=liar.peer_id in _planned(lines),
        is_reported=liar.peer_id in suspects,
        is_left_out=liar.peer_id not in _planned(after),
        accused=len(suspects - {liar.peer_id}),
        audits=result.get("audits", 0),
        audits_skipped=result.get("audits_skipped", 0),
        reroutes=result.get("reroutes", 0),
        seconds=seconds,
        tokens_per_second=result.get("tokens_per_second", 0.0),
        next_tokens_per_second=after[-1].get("tokens_per_second", 0.0),
        honest_tokens_per_second=expected["tokens_per_second"],
    )


def _planned(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The peers that a generation meant to use."""
    return next(line["peers"] for line in lines if line.get("event") == "chain")


def _client(fleet: Fleet, liars: int) -> Client:
    """One that knows nobody yet, and audits every round."""
    client = start_client(partial(fleet.lab.popen, CLIENT))
    client.connect(model=MODEL, initial_peers=fleet.initial_peers, draft=DRAFT, threads=1, audit=1.0)
    client.await_peers(len(SPANS) + liars)
    return client


def _generation(temperature: float) -> dict[str, Any]:
    return {"max_new_tokens": TOKENS, "temperature": temperature, "seed": 1}


def _table(trials: Sequence[Trial]) -> Table:
    made = Table(title=f"{len(trials)} generations beside a liar, every round audited; 25 ms links, embedded pair")
    headings = (
        "deceit",
        "T",
        "exact",
        "used",
        "reported",
        "left out",
        "accused",
        "audits",
        "skipped",
        "reroutes",
        "s",
        "t/s",
        "next t/s",
        "honest t/s",
    )
    for heading in headings:
        made.add_column(heading, justify="left" if heading == "deceit" else "right")
    for trial in trials:
        answers = (trial.exact, trial.was_used, trial.is_reported, trial.is_left_out)
        numbers = (trial.accused, trial.audits, trial.audits_skipped, trial.reroutes)
        made.add_row(
            trial.deceit,
            f"{trial.temperature:g}",
            *("yes" if answer else "no" for answer in answers),
            *map(str, numbers),
            f"{trial.seconds:.1f}",
            f"{trial.tokens_per_second:.1f}",
            f"{trial.next_tokens_per_second:.1f}",
            f"{trial.honest_tokens_per_second:.1f}",
        )
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4, help="generations beside each liar")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/chaos_deceit.json"))
    parser.set_defaults(started=time.strftime("%Y-%m-%d %H:%M:%S"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
