"""Part 6 of `make chaos`: a stranger who asks for a lot, lawfully, beside an honest client. Needs root.

Each kind of wish alone, then all together. An honest client generates by turns while nobody is attacked, and while the
stranger attacks the peers that it uses. Each host has a share of this machine's processors to itself, as if it were a
machine of its own, a slow one: what one peer computes for the stranger makes that peer slower, and no other. Prints a
table and the bars, writes JSON; the exit code is 1 if a bar was missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
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
from benchmarks.chaos.fleet import DRAFT, MODEL, Fleet
from benchmarks.chaos.resources import Usage
from benchmarks.chaos.runs import share
from benchmarks.chaos.scenarios import TOKENS
from benchmarks.chaos.stranger import KINDS
from benchmarks.deployment import Client, start_client
from benchmarks.jsonlines import JsonProcess
from benchmarks.lab import Lab, LabUnavailable
from benchmarks.lab.machines import machines
from swarm.model.source import ModelSource

SPANS = ("0:2", "2:4", "4:6", "6:8")
"""Of the peers."""
CLIENT, STRANGER = len(SPANS) + 1, len(SPANS) + 2  # their hosts
ALL = "all together"
UPLINK_MBIT = 200.0  # of each host
SHARE = 0.3  # of a processor, that each host has
CACHE_MIB, REPLAY_MIB, MAX_STREAMS = 64, 32, 128
MARGIN_MIB = 64 + 260
"""For results that come too early, and for messages that are on their way in."""
METRICS_PORT = 9100
GAUGES = ("specswarm_tasks", "specswarm_incoming_streams", "specswarm_peer_links")
READ = f"import urllib.request as web; print(web.urlopen('http://127.0.0.1:{METRICS_PORT}').read().decode())"
REST_SECONDS = 60.0  # after which everything is as before
OPTIONS: dict[str, Any] = {"max_new_tokens": TOKENS, "temperature": 0, "seed": 0}


@dataclass(frozen=True)
class Trial:
    """One generation of the honest client."""

    attack: str
    """Beside which it ran, or by turns with which."""
    is_attacked: bool
    exact: bool
    error: str
    reroutes: int
    suspects: int
    tokens_per_second: float


@dataclass(frozen=True)
class Siege:
    """What came of all."""

    trials: Sequence[Trial]
    before: dict[int, Usage]
    """By host, ..."""
    after: dict[int, Usage]
    """... a while after the last attack, ..."""
    held_before: dict[int, dict[str, float]]
    """By host and gauge, of peers, ..."""
    held_after: dict[int, dict[str, float]]
    """... and the least within that while, ..."""
    peak: dict[int, int]
    """... and most resident bytes."""
    ended: int
    """Nodes that were not there any more."""
    seen: dict[str, str]
    """By kind: a line in which the log of an attacked node tells of the stranger; empty if none does."""
    asked: dict[str, int]
    """By kind: how often the stranger asked for something."""


def figures(siege: Siege) -> dict[Bar, float]:
    """What the siege says of the bars."""
    allowed = (CACHE_MIB + REPLAY_MIB + MARGIN_MIB) << 20
    speeds = {attack: _speed(siege.trials, attack) for attack in dict.fromkeys(one.attack for one in siege.trials)}
    found: dict[Bar, float] = {
        bars.STRANGERS_EXACT: share(trial.exact for trial in siege.trials),
        bars.STRANGERS_BLAMED: sum(trial.reroutes + trial.suspects for trial in siege.trials),
        bars.STRANGERS_DEATHS: siege.ended,
        bars.STRANGERS_MEMORY: 100
        * max(most / (siege.before[host].memory + allowed) for host, most in siege.peak.items()),
        bars.STRANGERS_DESCRIPTORS: max(
            usage.descriptors - siege.before[host].descriptors for host, usage in siege.after.items()
        ),
        bars.STRANGERS_HELD: max(
            (
                now - siege.held_before[host][gauge]
                for host, held in siege.held_after.items()
                for gauge, now in held.items()
            ),
            default=0.0,
        ),
    }
    if alone := [speed for attack, speed in speeds.items() if attack != ALL]:
        found[bars.STRANGERS_SPEED] = 100 * min(alone)
    if siege.seen:
        found[bars.STRANGERS_SEEN] = share(line != "" for line in siege.seen.values())
    if ALL in speeds:
        found[bars.STRANGERS_SPEED_ALL] = 100 * speeds[ALL]
    return found


def _speed(trials: Sequence[Trial], attack: str) -> float:
    """Of generations beside the attack, as a share of the undisturbed speed."""
    return _tokens_per_second(trials, attack, True) / _tokens_per_second(trials, attack, False)


def _tokens_per_second(trials: Sequence[Trial], attack: str, is_attacked: bool) -> float:
    return median(one.tokens_per_second for one in trials if (one.attack, one.is_attacked) == (attack, is_attacked))


class Course:
    """What the honest client and the stranger do, one after the other."""

    def __init__(self, lab: Lab, fleet: Fleet, client: Client, stranger: JsonProcess, names: Sequence[str]) -> None:
        """`names`: the stranger's peer ids."""
        self._lab = lab
        self._fleet = fleet
        self._names = names
        self._seen = dict[str, str]()
        self._client = client
        self._stranger = stranger
        self._prompt = prompts.long_code()
        self._trials = list[Trial]()
        self._asked = dict[str, int]()
        for _ in range(2):  # the first one of all takes longer
            self._expected = client.generate(self._prompt, **OPTIONS)["token_ids"]
        self._before, self._held_before = self.usage(), self.held()
        self._peak = {host: usage.memory for host, usage in self._before.items()}

    def attack(
        self, name: str, kinds: Sequence[str], console: Console, *, turns: int = 0, seconds: float = 0.0
    ) -> None:
        """Generate undisturbed and attacked by turns: so many, and for so long attacked."""
        begun, attacked = [len(log) for log in self._logs()], 0.0
        while turns > 0 or attacked < seconds:
            turns -= 1
            for _ in range(2):
                self._generate(name, is_attacked=False)
            started = time.monotonic()
            with self._attacked(kinds):
                for _ in range(2):
                    self._generate(name, is_attacked=True)
                for host, usage in self.usage().items():
                    self._peak[host] = max(self._peak[host], usage.memory)
            attacked += time.monotonic() - started
        console.print(f"{name}: {100 * _speed(self._trials, name):.0f} % of the speed", highlight=False)
        if name != ALL:
            lines = [
                line for log, start in zip(self._logs(), begun, strict=True) for line in log[start:].splitlines()
            ]
            told = (line for line in lines if any(f"peer {one}: " in line for one in self._names))
            self._seen[name] = next(told, "")
            console.print(f"  {self._seen[name] or 'no log tells of it'}", highlight=False, markup=False)

    def conclude(self) -> Siege:
        """Wait until everything is as before, REST_SECONDS at most."""
        deadline = time.monotonic() + REST_SECONDS
        held = self.held()
        while time.monotonic() < deadline and not self._is_as_before(held):
            time.sleep(1)  # between looks at what has no event of its own
            held = {
                host: {gauge: min(held[host][gauge], now) for gauge, now in new.items()}
                for host, new in self.held().items()
            }
        ended = sum(not node.is_up for node in self._fleet.nodes)
        return Siege(
            self._trials,
            self._before,
            self.usage(),
            self._held_before,
            held,
            self._peak,
            ended,
            self._seen,
            self._asked,
        )

    def _is_as_before(self, held: dict[int, dict[str, float]]) -> bool:
        return all(
            usage.descriptors <= self._before[host].descriptors for host, usage in self.usage().items()
        ) and all(
            now <= self._held_before[host][gauge] for host, gauges in held.items() for gauge, now in gauges.items()
        )

    def held(self) -> dict[int, dict[str, float]]:
        """What each peer that is up says of GAUGES, by host."""
        asked = {
            node.host: self._lab.popen(node.host, [sys.executable, "-c", READ], stdout=subprocess.PIPE, text=True)
            for node in self._fleet.peers
            if node.is_up
        }
        return {host: _gauges(program.communicate()[0]) for host, program in asked.items()}

    def _logs(self) -> list[str]:
        """What the peers have logged so far."""
        return [self._fleet.log(node) for node in self._fleet.peers]

    def usage(self) -> dict[int, Usage]:
        """Of each node that is up, by host."""
        return {
            node.host: Usage.of(node.program.process.pid)
            for node in self._fleet.nodes
            if node.program is not None and node.is_up
        }

    @contextmanager
    def _attacked(self, kinds: Sequence[str]) -> Iterator[None]:
        self._stranger.write({"attack": list(kinds)})
        self._stranger.read()
        yield
        self._stranger.write({"attack": []})
        self._asked = self._stranger.read()["done"]

    def _generate(self, attack: str, *, is_attacked: bool) -> None:
        *_, line = self._client.watch(self._prompt, **OPTIONS)
        self._trials.append(
            Trial(
                attack=attack,
                is_attacked=is_attacked,
                exact=line.get("token_ids") == self._expected,
                error=line.get("error", ""),
                reroutes=line.get("reroutes", 0),
                suspects=len(line.get("suspects", [])),
                tokens_per_second=line.get("tokens_per_second", 0.0),
            )
        )


def main() -> int:
    """Run all; the exit code."""
    options = _options()
    console = Console(width=150)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="specswarm-strangers-") as folder,
            machines(STRANGER + 1, SHARE) as shares,
            Lab(hosts=STRANGER + 1, delay_ms=LINK_MS, rate_mbit=UPLINK_MBIT, seed=options.seed) as lab,
        ):
            apart: Any = shares.of(lab)
            fleet = Fleet(apart, Path(folder), SPANS, options=("--config", str(_config(Path(folder)))))
            with (
                closing(JsonProcess("benchmarks.chaos.stranger", popen=partial(apart.popen, STRANGER))) as stranger,
                fleet.running(),
                closing(start_client(partial(apart.popen, CLIENT))) as client,
            ):
                client.connect(model=MODEL, initial_peers=fleet.initial_peers, draft=DRAFT, threads=1)
                client.await_peers(len(SPANS))
                stranger.write(
                    {
                        "initial_peers": fleet.initial_peers,
                        "fingerprint": ModelSource.resolve(MODEL).fingerprint(),
                        "address": lab.address(STRANGER),
                    }
                )
                course = Course(lab, fleet, client, stranger, stranger.read()["peer_ids"])
                for kind in options.kinds:
                    course.attack(kind, [kind], console, turns=options.turns)
                if len(options.kinds) > 1:
                    course.attack(ALL, options.kinds, console, turns=1, seconds=60 * options.all_minutes)
                siege = course.conclude()
                for node in fleet.nodes if options.logs else ():
                    console.print(fleet.log(node), highlight=False, markup=False)
    except LabUnavailable as error:
        print(f"strangers: {error}", file=sys.stderr)
        return 1
    console.print(_table(siege))
    record = {"seed": options.seed, "started": options.started, **asdict(siege)}
    return conclude(console, check(bars.STRANGERS, figures(siege)), record, options.out)


def _config(folder: Path) -> Path:
    """The peers' options: little room, so that who takes more is seen."""
    file = folder / "peers.toml"
    file.write_text(
        f"[join]\nthreads = 1\ncache_mib = {CACHE_MIB}\nreplay_mib = {REPLAY_MIB}\nmax_streams = {MAX_STREAMS}\n"
        f"metrics_port = {METRICS_PORT}\n"
    )
    return file


def _gauges(text: str) -> dict[str, float]:
    """Those of GAUGES in what a peer tells Prometheus."""
    pairs = [line.split(" ") for line in text.splitlines()]
    return {name: float(value) for name, value, *_ in (pair for pair in pairs if pair[0] in GAUGES)}


def _table(siege: Siege) -> Table:
    made = Table(title=f"{len(siege.trials)} generations beside a stranger; {LINK_MS} ms links, embedded pair")
    headings = (
        "what the stranger does",
        "undisturbed, t/s",
        "beside it",
        "share",
        "exact",
        "reroutes",
        "errors",
    )
    for heading in headings:
        made.add_column(heading, justify="left" if heading.startswith("what") else "right")
    for attack in dict.fromkeys(one.attack for one in siege.trials):
        own = [one for one in siege.trials if one.attack == attack]
        made.add_row(
            attack,
            *(f"{_tokens_per_second(own, attack, is_attacked):.1f}" for is_attacked in (False, True)),
            f"{_speed(own, attack):.2f}",
            f"{sum(one.exact for one in own)}/{len(own)}",
            str(sum(one.reroutes for one in own)),
            str(sum(bool(one.error) for one in own)),
        )
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--turns", type=int, default=5, help="of each kind alone")
    parser.add_argument("--all-minutes", type=float, default=10, help="of all kinds together at the client's peers")
    parser.add_argument("--logs", action="store_true", help="print what the nodes have logged")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/chaos_strangers.json"))
    parser.set_defaults(started=time.strftime("%Y-%m-%d %H:%M:%S"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
