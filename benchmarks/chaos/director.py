"""One run: a generation is watched, and what its scenario sets down is done when it is due."""

from __future__ import annotations

import queue
import signal
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.chaos.fleet import Fleet, Node
from benchmarks.chaos.scenarios import TOKENS, Act, Deed, Scenario
from benchmarks.deployment import Client

PATIENCE_SECONDS = 180.0
LINK_MS = 25.0
_SIGNALS: dict[Deed, signal.Signals] = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "continue": signal.SIGCONT,
    "terminate": signal.SIGTERM,
}


@dataclass(frozen=True)
class Run:
    """What came of a scenario; times in seconds."""

    name: str
    part: int
    temperature: float
    seed: int
    exact: bool
    """Whether it ended with the very tokens of the undisturbed generation."""
    error: str
    reroutes: int
    stall_seconds: float
    seconds: float
    tokens_per_second: float
    bytes_client: int
    """Sent and received by the client."""


@dataclass
class Director:
    """Carries scenarios out, one after the other, on a fleet that is whole at the start of each."""

    fleet: Fleet
    client: Client
    prompt: str
    references: dict[tuple[float, int], list[int]] = field(default_factory=dict)
    _leaving: list[Node] = field(default_factory=list)

    def reference(self, temperature: float, seed: int) -> list[int]:
        """The tokens of an undisturbed generation; greedy ones depend on no seed."""
        key = (temperature, seed if temperature else 0)
        if key not in self.references:
            result = self.client.generate(
                self.prompt, max_new_tokens=TOKENS, temperature=temperature, seed=seed, window=4
            )
            self.references[key] = result["token_ids"]
        return self.references[key]

    def run(self, scenario: Scenario) -> Run:
        """Carry one out."""
        expected = self.reference(scenario.temperature, scenario.seed)
        peers = self._first_chain()
        lines: queue.Queue[dict[str, Any]] = queue.Queue()
        watcher = threading.Thread(target=self._generate, args=(scenario, lines), daemon=True)
        started = time.monotonic()
        watcher.start()
        result = self._direct(scenario, lines, peers)
        watcher.join(10)
        self._put_right()
        tokens = result.get("token_ids", [])
        return Run(
            scenario.name,
            scenario.part,
            scenario.temperature,
            scenario.seed,
            exact=tokens == expected,
            error=result.get("error", ""),
            reroutes=result.get("reroutes", 0),
            stall_seconds=result.get("stall_seconds", 0.0),
            seconds=time.monotonic() - started,
            tokens_per_second=result.get("tokens_per_second", 0.0),
            bytes_client=result.get("bytes_sent", 0) + result.get("bytes_received", 0),
        )

    def _generate(self, scenario: Scenario, lines: queue.Queue[dict[str, Any]]) -> None:
        options = {
            "max_new_tokens": TOKENS,
            "temperature": scenario.temperature,
            "seed": scenario.seed,
            "window": 4,
        }
        for line in self.client.watch(self.prompt, **options):
            lines.put(line)

    def _direct(self, scenario: Scenario, lines: queue.Queue[dict[str, Any]], peers: list[str]) -> dict[str, Any]:
        """Do each act when it is due, until the generation ends; its result."""
        waiting = [act for act in scenario.acts if act.deed != "kill substitute"]
        for_the_mend = [act for act in scenario.acts if act.deed == "kill substitute"]
        due: list[tuple[float, Act]] = []
        tokens, was_rejected, now = 0, False, time.monotonic()
        end = now + PATIENCE_SECONDS
        while True:
            for act in [act for act in waiting if tokens >= act.moment.tokens]:
                if was_rejected or not act.moment.rejected:
                    waiting.remove(act)
                    due.append((now + act.moment.seconds, act))
            for when, act in sorted(due, key=lambda item: item[0]):
                if when <= time.monotonic():
                    due.remove((when, act))
                    self._do(act, peers)
            next_due = min((when for when, _ in due), default=end)
            try:
                line = lines.get(timeout=max(min(next_due, end) - time.monotonic(), 0.0))
            except queue.Empty:
                now = time.monotonic()
                if now >= end:
                    return {"error": f"no end after {PATIENCE_SECONDS:.0f} s"}
                continue
            now = time.monotonic()
            match line.get("event"):
                case "verdict":
                    tokens, was_rejected, peers = line["tokens"], line["rejected"], line["peers"] or peers
                case "log":
                    if line["text"].startswith("mending by ") and for_the_mend:
                        act = for_the_mend.pop()
                        due.append((now + act.moment.seconds, replace(act, deed="kill", hops=(0,))))
                        peers = line["text"].removeprefix("mending by ").split(", ")
                case _:
                    return line

    def _do(self, act: Act, peers: list[str]) -> None:
        nodes = [node for hop in act.hops if hop < len(peers) and (node := self._node(peers[hop])) is not None]
        lab = self.fleet.lab
        for node in self.fleet.nodes if act.deed == "continue" else nodes:
            if act.deed in _SIGNALS:
                self.fleet.signal(node, _SIGNALS[act.deed])
        match act.deed:
            case "terminate":
                self._leaving += nodes
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
            case "bootstrap":
                self.fleet.signal(self.fleet.nodes[0], signal.SIGKILL)
                self.fleet.begin(self.fleet.nodes[0])
            case "better":
                self.fleet.begin(self.fleet.better)

    def _node(self, peer_id: str) -> Node | None:
        return self.fleet.serving(peer_id)

    def _first_chain(self) -> list[str]:
        """The chain that a generation takes at first: that of the last one, for nothing has changed since."""
        return list(self.client.generate(self.prompt, max_new_tokens=1)["peers"])

    def _put_right(self) -> None:
        """Links as they were, everything up, and the client knows."""
        lab = self.fleet.lab
        lab.set_loss(0)
        lab.set_delay(LINK_MS)
        for node in self.fleet.nodes:
            lab.heal(node.host)
            self.fleet.signal(node, signal.SIGCONT)
        for node in self._leaving:
            self.fleet.await_end(node)
        self._leaving.clear()
        self.fleet.end(self.fleet.better)
        self.fleet.restore()
        self.client.await_peers(len(self.fleet.nodes) - 1)
