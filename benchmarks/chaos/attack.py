"""Part 4 of `make chaos`: a hostile client on a host of its own beside an honest one. Needs root.

It sends every handler of every node thousands of messages that are malformed, out of place, too long, old, or for the
session of the honest client, whose id it has found out. The honest client generates with and without it by turns.
Prints the bars, writes JSON; the exit code is 1 if a bar was missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks import prompts
from benchmarks.bar import Bar, check, conclude
from benchmarks.chaos import bars
from benchmarks.chaos.director import LINK_MS
from benchmarks.chaos.fleet import DRAFT, MODEL, Fleet, Node
from benchmarks.chaos.resources import Usage
from benchmarks.chaos.runs import share
from benchmarks.chaos.scenarios import TOKENS
from benchmarks.deployment import Client, start_client
from benchmarks.jsonlines import JsonProcess
from benchmarks.lab import Lab, LabUnavailable

SPANS = ("0:2", "2:4", "4:6", "6:8")
"""One peer for each: the honest client has nowhere else to go."""
CLIENT, ATTACKER = len(SPANS) + 1, len(SPANS) + 2  # their hosts
CACHE_MIB, REPLAY_MIB = 64, 32
MARGIN_MIB = 96
"""For results that come too early, 64 MiB, and for what is on its way."""
ATTACKED_EACH = 3  # generations under attack for each one without
PATIENCE = 3.0  # times as long as the messages take at their rate, after which the attack counts as failed
OPTIONS: dict[str, Any] = {"max_new_tokens": TOKENS, "temperature": 0, "seed": 0}


@dataclass(frozen=True)
class Trial:
    """One generation of the honest client."""

    is_attacked: bool
    exact: bool
    error: str
    reroutes: int
    tokens_per_second: float
    trip_seconds: float
    """Median, ..."""
    compute_seconds: float
    """... and of it what the stages computed."""


@dataclass
class Phase:
    """All the time with attack, or all without, in seconds."""

    seconds: float = 0.0
    processor: float = 0.0
    """What all nodes together computed in it."""

    @property
    def load(self) -> float:
        """Processors that the nodes kept busy."""
        return self.processor / self.seconds


@dataclass
class Siege:
    """The attack's course."""

    fleet: Fleet
    client: Client
    attacker: JsonProcess
    prompt: str
    messages: int
    rate: float
    expected: list[int] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    """By handler."""
    quiet: Phase = field(default_factory=Phase)
    attacked: Phase = field(default_factory=Phase)
    before: dict[int, Usage] = field(default_factory=dict)
    """By host, ..."""
    after: dict[int, Usage] = field(default_factory=dict)
    peak: dict[int, int] = field(default_factory=dict)
    """... and most resident bytes."""

    def run(self, console: Console) -> None:
        """Generate with and without attack by turns, until all messages have been sent, or time is up."""
        for _ in range(2):  # the first one of all takes longer
            self.expected = self.client.generate(self.prompt, **OPTIONS)["token_ids"]
        self.before = self._usage()
        self.peak = {host: usage.memory for host, usage in self.before.items()}
        while not self._is_done and self.seconds < PATIENCE * self.messages / self.rate and not self.ended:
            with self._timed(self.quiet):
                self._generate(is_attacked=False)
            with self._timed(self.attacked):
                self.attacker.write({"go": True})
                for _ in range(ATTACKED_EACH):
                    self._generate(is_attacked=True)
                self.attacker.write({"go": False})
                self.sent = self.attacker.read()["sent"]
            self.after = self._usage()
            self.peak = {host: max(self.peak[host], usage.memory) for host, usage in self.after.items()}
            console.print(f"{sum(self.sent.values())} messages in {self.seconds:.0f} s", highlight=False)
        self._generate(is_attacked=False)

    @property
    def seconds(self) -> float:
        """Of attack."""
        return self.attacked.seconds

    @property
    def ended(self) -> list[Node]:
        """Nodes that are not there any more."""
        return [node for node in self.fleet.nodes if not node.is_up]

    @property
    def _is_done(self) -> bool:
        return bool(self.sent) and min(self.sent.values()) >= self.messages

    def _generate(self, *, is_attacked: bool) -> None:
        line: dict[str, Any] = {}
        session = ""
        for line in self.client.watch(self.prompt, **OPTIONS):
            if is_attacked and line.get("session", session) != session:
                session = line["session"]
                self.attacker.write({"victim": session})
        self.trials.append(
            Trial(
                is_attacked=is_attacked,
                exact=line.get("token_ids") == self.expected,
                error=line.get("error", ""),
                reroutes=line.get("reroutes", 0),
                tokens_per_second=line.get("tokens_per_second", 0.0),
                trip_seconds=median(line.get("trip_seconds") or [0.0]),
                compute_seconds=median(line.get("compute_seconds") or [0.0]),
            )
        )

    @contextmanager
    def _timed(self, phase: Phase) -> Iterator[None]:
        """Add what passes meanwhile, and what the nodes compute."""
        started, before = time.monotonic(), self._processor()
        yield
        phase.seconds += time.monotonic() - started
        phase.processor += self._processor() - before

    def _processor(self) -> float:
        return sum(usage.processor for usage in self._usage().values())

    def _usage(self) -> dict[int, Usage]:
        return {
            node.host: Usage.of(node.program.process.pid)
            for node in self.fleet.nodes
            if node.program is not None and node.is_up
        }


def figures(siege: Siege) -> dict[Bar, float]:
    """What the attack says of the bars."""
    allowed = (CACHE_MIB + REPLAY_MIB + MARGIN_MIB) << 20
    quiet = _speeds(siege.trials, is_attacked=False)
    attacked = _speeds(siege.trials, is_attacked=True)
    return {
        bars.ATTACK_MESSAGES: min(siege.sent.values()),
        bars.ATTACK_EXACT: share(trial.exact for trial in siege.trials),
        bars.ATTACK_SPEED: 100 * median(attacked) / median(quiet),
        bars.ATTACK_DEATHS: len(siege.ended),
        bars.ATTACK_MEMORY: 100
        * max(most / (siege.before[host].memory + allowed) for host, most in siege.peak.items()),
    }


def main() -> int:
    """Run the attack; the exit code."""
    options = _options()
    console = Console(width=150)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="specswarm-attack-") as folder,
            Lab(hosts=ATTACKER + 1, delay_ms=LINK_MS, seed=options.seed) as lab,
        ):
            fleet = Fleet(lab, Path(folder), SPANS, options=("--config", str(_config(Path(folder)))))
            attacking = JsonProcess("benchmarks.chaos.attacker", popen=partial(lab.popen, ATTACKER))
            with (
                closing(attacking) as attacker,
                fleet.running(),
                closing(start_client(partial(lab.popen, CLIENT))) as client,
            ):
                client.connect(model=MODEL, initial_peers=fleet.initial_peers, draft=DRAFT, threads=1)
                client.await_peers(len(SPANS))
                attacker.write(_job(fleet, options))
                attacker.read()
                siege = Siege(fleet, client, attacker, prompts.long_code(), options.messages, options.rate)
                siege.run(console)
                found = figures(siege)
    except LabUnavailable as error:
        print(f"attack: {error}", file=sys.stderr)
        return 1
    _print(siege, console)
    limits = tuple(
        replace(bar, limit=options.messages) if bar is bars.ATTACK_MESSAGES else bar for bar in bars.ATTACK
    )
    found[limits[0]] = found[bars.ATTACK_MESSAGES]
    return conclude(console, check(limits, found), _record(siege, options), options.out)


def _config(folder: Path) -> Path:
    """The peers' options: little room, so that who takes more is seen."""
    file = folder / "peers.toml"
    file.write_text(f"[join]\nthreads = 1\ncache_mib = {CACHE_MIB}\nreplay_mib = {REPLAY_MIB}\n")
    return file


def _job(fleet: Fleet, options: argparse.Namespace) -> dict[str, Any]:
    nodes = [(node, node.program.ready) for node in fleet.nodes if node.program is not None]
    return {
        "model": MODEL,
        "initial_peers": fleet.initial_peers,
        "nodes": [
            {"peer_id": ready["peer_id"], "maddrs": ready["maddrs"], "span": node.span} for node, ready in nodes
        ],
        "rate": options.rate,
        "seed": options.seed,
    }


def _print(siege: Siege, console: Console) -> None:
    total = sum(siege.sent.values())
    console.print(
        f"{total} messages to {len(siege.sent)} handlers in {siege.seconds:.0f} s:"
        f" {total / siege.seconds:.0f} a second",
        highlight=False,
    )
    for is_attacked, name, phase in ((False, "without", siege.quiet), (True, "under", siege.attacked)):
        trials = [trial for trial in siege.trials if trial.is_attacked == is_attacked]
        speeds = [trial.tokens_per_second for trial in trials]
        console.print(
            f"{len(speeds)} generations {name} attack: median {median(speeds):.1f} tokens/s,"
            f" trips {1e3 * median(trial.trip_seconds for trial in trials):.0f} ms,"
            f" of these computed {1e3 * median(trial.compute_seconds for trial in trials):.0f} ms;"
            f" the nodes keep {phase.load:.2f} processors busy",
            highlight=False,
        )
    for host, usage in siege.after.items():
        mib = [size >> 20 for size in (siege.before[host].memory, usage.memory, siege.peak[host])]
        console.print(f"node {host}: memory before {mib[0]}, after {mib[1]}, most {mib[2]} MiB", highlight=False)


def _record(siege: Siege, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "seed": options.seed,
        "started": options.started,
        "rate_per_handler": options.rate,
        "sent": siege.sent,
        "attacked": asdict(siege.attacked),
        "quiet": asdict(siege.quiet),
        "budget_mib": {"cache": CACHE_MIB, "replay": REPLAY_MIB, "margin": MARGIN_MIB},
        "trials": [asdict(trial) for trial in siege.trials],
        "before": {host: asdict(usage) for host, usage in siege.before.items()},
        "after": {host: asdict(usage) for host, usage in siege.after.items()},
        "peak_memory": siege.peak,
    }


def _speeds(trials: Sequence[Trial], *, is_attacked: bool) -> list[float]:
    return [trial.tokens_per_second for trial in trials if trial.is_attacked == is_attacked]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=int(bars.ATTACK_MESSAGES.limit), help="to each handler")
    parser.add_argument("--rate", type=float, default=10.0, help="messages a second to each handler")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/chaos_attack.json"))
    parser.set_defaults(started=time.strftime("%Y-%m-%d %H:%M:%S"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
