"""The swarm's processes on the lab's hosts: started, killed, stopped, and brought back under the same identity."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.lab import Lab
from specswarm.processes import Program

READY_SECONDS = 240.0
LEAVE_SECONDS = 40.0  # for a peer that was told to stop
PORT = 31330


@dataclass(slots=True)
class Node:
    """One program on one host: the bootstrap node, or a peer."""

    host: int
    arguments: tuple[str, ...]
    starts: int = 0
    program: Program | None = None

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self.program is not None and self.program.process.poll() is None

    @property
    def peer_id(self) -> str:
        """As it said when it got ready."""
        return str(self.program.ready["peer_id"]) if self.program and self.program.ready else ""


@dataclass(slots=True)
class Fleet:
    """All nodes: number 0 is the bootstrap node, the others peers of `spans`; each has the host of its number."""

    lab: Lab
    model: str
    spans: Sequence[str]
    folder: Path
    nodes: list[Node] = field(default_factory=list)
    better: Node = field(init=False)
    """A peer of the whole model, on the last host but one: not up unless begun."""
    initial_peers: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Bring everything up."""
        self.nodes = [Node(0, ("bootstrap",))]
        self.restore()
        bootstrap = self.nodes[0].program
        self.initial_peers = list(bootstrap.ready["maddrs"]) if bootstrap else []
        host = len(self.spans) + 1
        self.better = Node(host, ("join", self.model, "--layers", "0:8", "--threads", "1"))
        for i, span in enumerate(self.spans, start=1):
            self.nodes.append(Node(i, ("join", self.model, "--layers", span, "--threads", "1")))
        self.restore()

    def restore(self) -> int:
        """Start what is down, and wait until it serves; how many that were."""
        down = [node for node in self.nodes if not node.is_up]
        for node in down:
            self._begin(node)
        for node in down:
            if node.program is not None:
                node.program.ready = node.program.next(READY_SECONDS)
        return len(down)

    def await_end(self, node: Node) -> None:
        """Wait for a node that was told to stop."""
        if node.program is not None:
            node.program.finish(LEAVE_SECONDS)

    def end(self, node: Node) -> None:
        """Stop a node, if it is up."""
        if node.program is not None and node.is_up:
            node.program.process.terminate()
            node.program.finish(LEAVE_SECONDS)

    def begin(self, node: Node) -> None:
        """Start a node that is down, without waiting for it."""
        self._begin(node)

    def signal(self, node: Node, number: signal.Signals) -> None:
        """Send a node's process a signal; one that kills is waited for."""
        if node.program is None or not node.is_up:
            return
        node.program.process.send_signal(number)
        if number is signal.SIGKILL:
            node.program.finish(10)

    def serving(self, peer_id: str) -> Node | None:
        """The node of that peer id."""
        return next((node for node in self.nodes if node.is_up and node.peer_id == peer_id), None)

    def stop(self) -> None:
        """End everything."""
        up = [node.program for node in (*self.nodes, self.better) if node.program is not None and node.is_up]
        for program in up:
            program.process.send_signal(signal.SIGCONT)
            program.process.terminate()
        for program in up:
            program.finish(LEAVE_SECONDS)

    def _begin(self, node: Node) -> None:
        address = self.lab.address(node.host)
        listen = (f"/ip4/{address}/udp/{PORT}/quic-v1", f"/ip4/{address}/tcp/{PORT}")
        arguments = [*node.arguments, "--identity", str(self.folder / f"{node.host}.key")]
        arguments += [part for maddr in listen for part in ("--host-maddr", maddr)]
        if node.host:
            arguments += [part for maddr in self.initial_peers for part in ("--initial-peer", maddr)]
        popen: Any = partial(self.lab.popen, node.host)
        node.program = Program(arguments, self.folder / f"{node.host}.{node.starts}.log", popen)
        node.starts += 1
