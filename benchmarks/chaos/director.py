"""One run: a generation is watched, and what its scenario sets down is done when it is due."""

from __future__ import annotations

import queue
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.chaos.agenda import Agenda
from benchmarks.chaos.fleet import Fleet, Node
from benchmarks.chaos.runs import Run, stalls, trip_of
from benchmarks.chaos.scenarios import TOKENS, Act, Deed, Scenario
from benchmarks.deployment import Client
from benchmarks.machine import await_calm

PATIENCE_SECONDS = 180.0
LINK_MS = 25.0
SETTLED = 5
"""Verdicts after the last kill, after which the text goes on as before: then the killed peers are started again."""
_MENDING = "mending by "
"""What the client logs then, before the names of those that are new."""
_SIGNALS: dict[Deed, signal.Signals] = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "continue": signal.SIGCONT,
    "terminate": signal.SIGTERM,
}


@dataclass(slots=True)
class Watched:
    """What was seen of one generation."""

    peers: tuple[str, ...] = ()
    """Its chain."""
    times: list[float] = field(default_factory=list)
    """Of the verdicts, in seconds since the start, up to the moment when killed peers are started again."""
    before: int | None = None
    """Verdicts when the first act was done; None: none was."""
    last_act: int = 0
    """Verdicts when the last act was done."""
    killed: list[Node] = field(default_factory=list)
    leaving: list[Node] = field(default_factory=list)
    is_over: bool = False
    """Whether killed peers have been started again."""
    mend_bytes: tuple[int, int] | None = None
    """On the client's links and between the peers, from the first act until then."""
    log: list[tuple[float, str]] = field(default_factory=list)
    """What the client's log said, and when."""
    result: dict[str, Any] = field(default_factory=dict)


@dataclass
class Director:
    """Carries scenarios out, one after the other, on a fleet that is whole at the start of each."""

    fleet: Fleet
    client: Client
    client_host: int
    prompt: str
    references: dict[tuple[float, int], dict[str, Any]] = field(default_factory=dict)

    def warm_up(self) -> None:
        """The first generation of all takes longer than others do."""
        self.client.generate(self.prompt, **_options(0, 0))

    def reference(self, temperature: float, seed: int) -> dict[str, Any]:
        """The result of an undisturbed generation; a greedy one depends on no seed."""
        key = (temperature, seed if temperature else 0)
        if key not in self.references:
            self.references[key] = self.client.generate(self.prompt, **_options(temperature, seed))
        return self.references[key]

    def run(self, scenario: Scenario) -> Run:
        """Carry one out."""
        usual = self.reference(scenario.temperature, scenario.seed)
        lines: queue.Queue[dict[str, Any]] = queue.Queue()
        watcher = threading.Thread(target=self._generate, args=(scenario, lines), daemon=True)
        started = time.monotonic()
        watcher.start()
        watched = self._direct(scenario, lines)
        watcher.join(10)
        self._put_right(watched)
        result = watched.result
        gap, stall = stalls(watched.times, usual["first_token_seconds"], watched.before or 0)
        num_bytes = result.get("bytes_sent", 0) + result.get("bytes_received", 0)
        return Run(
            scenario.name,
            scenario.part,
            scenario.temperature,
            scenario.seed,
            exact=result.get("token_ids") == usual["token_ids"],
            error=result.get("error", ""),
            is_disturbed=watched.before is not None,
            reroutes=result.get("reroutes", 0),
            trip_seconds=trip_of(usual),
            gap_seconds=gap,
            stall_seconds=stall,
            client_stall_seconds=result.get("stall_seconds", 0.0),
            seconds=time.monotonic() - started,
            tokens_per_second=result.get("tokens_per_second", 0.0),
            bytes_client=num_bytes,
            more_bytes_client=num_bytes - usual["bytes_sent"] - usual["bytes_received"],
            more_drafts=result.get("drafted", 0) - usual["drafted"],
            mend_bytes_client=watched.mend_bytes[0] if watched.mend_bytes else None,
            mend_bytes_peers=watched.mend_bytes[1] if watched.mend_bytes else None,
            log=[f"{moment - started:.2f} s: {text}" for moment, text in watched.log],
        )

    def _generate(self, scenario: Scenario, lines: queue.Queue[dict[str, Any]]) -> None:
        for line in self.client.watch(self.prompt, **_options(scenario.temperature, scenario.seed)):
            lines.put(line)

    def _direct(self, scenario: Scenario, lines: queue.Queue[dict[str, Any]]) -> Watched:
        """Do each act when it is due, until the generation ends."""
        watched, agenda = Watched(), Agenda(scenario.acts)
        end = time.monotonic() + PATIENCE_SECONDS
        while not watched.result:
            for due in agenda.take(time.monotonic()):
                self._do(due.act, due.peers or watched.peers, watched)
            if agenda.is_done:
                self._bring_back(watched)
            try:
                line = lines.get(timeout=max(min(agenda.next_due, end) - time.monotonic(), 0.0))
            except queue.Empty:
                if time.monotonic() >= end:
                    watched.result = {"error": f"no end after {PATIENCE_SECONDS:.0f} s"}
                continue
            _note(line, watched, agenda)
        return watched

    def _bring_back(self, watched: Watched) -> None:
        """Once the text has gone on for a while after the last kill, start the killed peers again."""
        if watched.is_over or not watched.killed or len(watched.times) < watched.last_act + SETTLED:
            return
        watched.is_over = True
        watched.mend_bytes = self._traffic()
        for node in watched.killed:
            if not node.is_up:
                self.fleet.begin(node)

    def _traffic(self) -> tuple[int, int]:
        """Bytes carried on the client's links, and between peers."""
        peers = {node.host for node in self.fleet.peers}
        carried = self.fleet.lab.traffic().items()
        ours = sum(
            count.bytes for pair, count in carried if self.client_host in pair and not peers.isdisjoint(pair)
        )
        theirs = sum(count.bytes for pair, count in carried if peers.issuperset(pair))
        return ours, theirs

    def _do(self, act: Act, peers: tuple[str, ...], watched: Watched) -> None:
        """Do one act, to those hops of the chain `peers` that are up; if none is, nothing."""
        nodes = [node for hop in act.hops if hop < len(peers) and (node := self.fleet.serving(peers[hop]))]
        if act.hops and not nodes:
            return
        if watched.before is None:
            watched.before = len(watched.times)
            self.fleet.lab.reset_traffic()
        watched.last_act = len(watched.times)
        for node in self.fleet.nodes if act.deed == "continue" else nodes:
            if act.deed in _SIGNALS:
                self.fleet.signal(node, _SIGNALS[act.deed])
        match act.deed:
            case "kill":
                watched.killed += nodes
            case "terminate":
                watched.leaving += nodes
            case "bootstrap":
                self.fleet.signal(self.fleet.nodes[0], signal.SIGKILL)
                self.fleet.begin(self.fleet.nodes[0])
            case "better":
                self.fleet.begin(self.fleet.spare_nodes[0])
        self._change_links(act, nodes)

    def _change_links(self, act: Act, nodes: list[Node]) -> None:
        lab = self.fleet.lab
        match act.deed:
            case "cut":
                for node in nodes:
                    lab.cut(node.host)
            case "heal":
                for node in self.fleet.nodes:
                    lab.heal(node.host)
            case "loss":
                lab.set_loss(act.value)
            case "delay":
                lab.set_delay(act.value)

    def _put_right(self, watched: Watched) -> None:
        """Links as they were, everything up, and the client knows."""
        lab = self.fleet.lab
        lab.set_loss(0)
        lab.set_delay(LINK_MS)
        for node in self.fleet.nodes:
            lab.heal(node.host)
            self.fleet.signal(node, signal.SIGCONT)
        for node in watched.leaving:
            self.fleet.await_end(node)
        for node in self.fleet.spare_nodes:
            self.fleet.end(node)
        self.fleet.restore()
        self.client.await_peers(len(self.fleet.peers))
        await_calm()


def _options(temperature: float, seed: int) -> dict[str, Any]:
    return {"max_new_tokens": TOKENS, "temperature": temperature, "seed": seed}


def _note(line: dict[str, Any], watched: Watched, agenda: Agenda) -> None:
    """What the client says on its way, and at the end."""
    now = time.monotonic()
    match line.get("event"):
        case "chain":
            watched.peers = tuple(line["peers"])
            agenda.note_text(0, False, now)
        case "verdict":
            watched.peers = tuple(line["peers"])
            if not watched.is_over:
                watched.times.append(line["seconds"])
            agenda.note_text(line["tokens"], line["rejected"], now)
        case "log":
            watched.log.append((now, line["text"]))
            if line["text"].startswith(_MENDING):
                agenda.note_mend(line["text"].removeprefix(_MENDING).split(", "), now)
        case _:
            watched.result = line
