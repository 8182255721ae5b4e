"""The soak of `make chaos`: four clients generate without a pause while peers are killed and restarted. Needs root.

`python -m benchmarks.chaos.soak --minutes 30`. Every 20 s a peer is killed or told to stop, never the last one of its
span, and comes back. Two peers are spared: what they and the clients take of the machine is looked at after a warm-up
and at the end. Prints the bars, writes JSON; the exit code is 1 if a bar was missed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from benchmarks import prompts
from benchmarks.bar import Bar, check, conclude
from benchmarks.chaos import bars
from benchmarks.chaos.director import LINK_MS
from benchmarks.chaos.fleet import DRAFT, MODEL, Fleet, Node
from benchmarks.chaos.resources import Usage
from benchmarks.chaos.runs import share
from benchmarks.chaos.scenarios import SEEDS, TOKENS
from benchmarks.deployment import Client, start_client
from benchmarks.lab import Lab, LabUnavailable

SPANS = ("0:2", "2:4", "4:6", "6:8") * 2 + ("2:4",)
SPARED = (1, 4)
"""Hosts of the peers that are never killed: the first and the last span's."""
NUM_CLIENTS = 4
PERIOD_SECONDS = 20.0
WARM_UP_SECONDS = 120.0
TEXTS = ((0.0, 0), *((0.8, seed) for seed in SEEDS[:2]))
"""Temperature and seed."""


@dataclass(frozen=True)
class Text:
    """What became of one generation."""

    client: int
    temperature: float
    seed: int
    exact: bool
    error: str
    reroutes: int
    stall_seconds: float
    seconds: float


@dataclass(frozen=True)
class Death:
    """One peer was killed, or told to stop."""

    seconds: float
    """Since the beginning."""
    host: int
    is_sudden: bool


@dataclass
class Soak:
    """Clients that go on and on, and peers that come and go."""

    fleet: Fleet
    clients: Sequence[Client]
    random: Random
    minutes: float
    expected: dict[tuple[float, int], list[int]] = field(default_factory=dict)
    texts: list[Text] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    before: dict[str, Usage] = field(default_factory=dict)
    """By program, after the warm-up, ..."""
    after: dict[str, Usage] = field(default_factory=dict)
    """... and at the end."""
    _leaving: set[int] = field(default_factory=set)
    """Hosts of peers that were told to stop, and have not been started again."""
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self, console: Console) -> None:
        """The whole of it."""
        for temperature, seed in TEXTS:
            self.expected[temperature, seed] = self._generate(self.clients[0], temperature, seed)["token_ids"]
        threads = [threading.Thread(target=self._go_on, args=(i,)) for i in range(len(self.clients))]
        for thread in threads:
            thread.start()
        try:
            self._disturb(console)
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        self.after = self._usage()

    def _disturb(self, console: Console) -> None:
        """Every so often start again who is down, and have somebody die, until time is up."""
        started = time.monotonic()
        warm = min(WARM_UP_SECONDS, 30 * self.minutes)
        while (seconds := time.monotonic() - started) < 60 * self.minutes:
            if not self.before and seconds >= warm:
                self.before = self._usage()
            for node in self.fleet.peers:
                if not node.is_up:
                    self.fleet.begin(node)
                    self._leaving.discard(node.host)
            self.fleet.hear()
            serving = [node for node in self.fleet.peers if node.is_ready and node.host not in self._leaving]
            if mortal := may_die(serving):
                self._kill(self.random.choice(mortal), seconds, console)
            self._over.wait(min(PERIOD_SECONDS, 60 * self.minutes - seconds))

    def _kill(self, node: Node, seconds: float, console: Console) -> None:
        """Kill a peer and start it again at once, or tell it to stop."""
        is_sudden = self.random.random() < 0.5
        self.fleet.signal(node, signal.SIGKILL if is_sudden else signal.SIGTERM)
        if is_sudden:
            self.fleet.begin(node)
        else:
            self._leaving.add(node.host)
        self.deaths.append(Death(seconds, node.host, is_sudden))
        exact = sum(text.exact for text in self.texts)
        console.print(
            f"{seconds:.0f} s: peer {node.host} {'killed' if is_sudden else 'told to stop'};"
            f" {exact} of {len(self.texts)} texts exact",
            highlight=False,
        )

    def _go_on(self, number: int) -> None:
        """One client, one text after the other."""
        turn = number
        while not self._over.is_set():
            temperature, seed = TEXTS[turn % len(TEXTS)]
            turn += 1
            started = time.monotonic()
            result = self._generate(self.clients[number], temperature, seed)
            self.texts.append(
                Text(
                    client=number,
                    temperature=temperature,
                    seed=seed,
                    exact=result.get("token_ids") == self.expected[temperature, seed],
                    error=result.get("error", ""),
                    reroutes=result.get("reroutes", 0),
                    stall_seconds=result.get("stall_seconds", 0.0),
                    seconds=time.monotonic() - started,
                )
            )

    def _generate(self, client: Client, temperature: float, seed: int) -> dict[str, Any]:
        return client.generate(prompts.long_code(), max_new_tokens=TOKENS, temperature=temperature, seed=seed)

    def _usage(self) -> dict[str, Usage]:
        peers = {
            f"peer {node.host}": node.program.process.pid
            for node in self.fleet.peers
            if node.host in SPARED and node.program is not None
        }
        clients = {f"client {i}": client.pid for i, client in enumerate(self.clients)}
        return {name: Usage.of(pid) for name, pid in {**peers, **clients}.items()}


def may_die(serving: Sequence[Node]) -> list[Node]:
    """Those that are not spared, and not the last of their span."""
    return [
        node
        for node in serving
        if node.host not in SPARED and sum(other.span == node.span for other in serving) > 1
    ]


def figures(soak: Soak) -> dict[Bar, float]:
    """What the soak says of the bars."""
    pairs = [(before, soak.after[name]) for name, before in soak.before.items()]
    return {
        bars.SOAK_EXACT: share(text.exact for text in soak.texts),
        bars.SOAK_DEATHS: len(soak.deaths) / soak.minutes,
        bars.SOAK_MEMORY: max(100 * (after.memory / before.memory - 1) for before, after in pairs),
        bars.SOAK_DESCRIPTORS: max(after.descriptors - before.descriptors for before, after in pairs),
        bars.SOAK_THREADS: max(after.threads - before.threads for before, after in pairs),
    }


def main() -> int:
    """Run the soak; the exit code."""
    options = _options()
    console = Console(width=150)
    first = len(SPANS) + 1  # the first client's host
    try:
        with (
            tempfile.TemporaryDirectory(prefix="specswarm-soak-") as folder,
            Lab(hosts=first + NUM_CLIENTS, delay_ms=LINK_MS, seed=options.seed) as lab,
            ExitStack() as stack,
        ):
            fleet = Fleet(lab, Path(folder), SPANS)
            stack.enter_context(fleet.running())
            clients = [
                stack.enter_context(closing(start_client(partial(lab.popen, first + i))))
                for i in range(NUM_CLIENTS)
            ]
            for client in clients:
                client.connect(model=MODEL, initial_peers=fleet.initial_peers, draft=DRAFT, threads=1)
                client.await_peers(len(SPANS))
            random = Random(options.seed)  # noqa: S311 - draws victims, not secrets
            soak = Soak(fleet, clients, random, options.minutes)
            soak.run(console)
    except LabUnavailable as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    _print(soak, console)
    record = {
        "seed": options.seed,
        "started": options.started,
        "minutes": options.minutes,
        "texts": [asdict(text) for text in soak.texts],
        "deaths": [asdict(death) for death in soak.deaths],
        "after_warm_up": {name: asdict(usage) for name, usage in soak.before.items()},
        "at_the_end": {name: asdict(usage) for name, usage in soak.after.items()},
    }
    return conclude(console, check(bars.SOAK, figures(soak)), record, options.out)


def _print(soak: Soak, console: Console) -> None:
    for name, before in soak.before.items():
        after = soak.after[name]
        console.print(
            f"{name}: memory {before.memory >> 20} to {after.memory >> 20} MiB,"
            f" descriptors {before.descriptors} to {after.descriptors},"
            f" threads {before.threads} to {after.threads}",
            highlight=False,
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/chaos_soak.json"))
    parser.set_defaults(started=time.strftime("%Y-%m-%d %H:%M:%S"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
