"""The swarm's processes on the lab's hosts: started, killed, stopped, and brought back under the same identity."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.chaos.nursery import Forked
from benchmarks.lab import Lab
from specswarm.processes import Program, ProgramFailed

MODEL, DRAFT = "embedded", "embedded-draft"
READY_SECONDS = 240.0
LEAVE_SECONDS = 40.0  # for a peer that was told to stop
PORT = 31330


@dataclass(slots=True, eq=False)
class Node:
    """One program on one host: the bootstrap node, or a peer."""

    host: int
    arguments: tuple[str, ...]
    span: str = ""
    deceit: str = ""
    """A lie of `liar.py` that the peer tells; it is honest without one."""
    starts: int = 0
    program: Program | None = None

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self.program is not None and self.program.process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it runs and has said that it serves."""
        return self.is_up and bool(self.program and self.program.ready)

    @property
    def peer_id(self) -> str:
        """As it said when it got ready."""
        return str(self.program.ready["peer_id"]) if self.program and self.program.ready else ""

    def hear(self, seconds: float) -> None:
        """Take note if it says within `seconds` that it serves. Raises ProgramFailed if it does not."""
        if self.program is not None and not self.program.ready:
            self.program.ready = self.program.next(seconds)


@dataclass(slots=True)
class Fleet:
    """All nodes: number 0 is the bootstrap node, the others peers of `spans`; each has the host of its number.

    The hosts after these are for `spares`: peers that are not up unless begun.
    """

    lab: Lab
    folder: Path
    spans: Sequence[str]
    spares: Sequence[str] = ()
    options: Sequence[str] = ("--threads", "1")
    """Of all peers."""
    is_forked: bool = False
    """Whether the programs are forked rather than started: they are up sooner, and share memory."""
    nodes: list[Node] = field(default_factory=list)
    spare_nodes: list[Node] = field(default_factory=list)
    initial_peers: list[str] = field(default_factory=list)

    @property
    def peers(self) -> list[Node]:
        """All but the bootstrap node and the spares."""
        return self.nodes[1:]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Everything is up; and is ended at the end."""
        try:
            self._start()
            yield
        finally:
            self._stop()

    def begin(self, node: Node) -> None:
        """Start a node that is down, without waiting for it."""
        address = self.lab.address(node.host)
        listen = (f"/ip4/{address}/udp/{PORT}/quic-v1", f"/ip4/{address}/tcp/{PORT}")
        arguments = [*node.arguments, "--identity", str(self.folder / f"{node.host}.key")]
        arguments += [part for maddr in listen for part in ("--host-maddr", maddr)]
        if node.host:
            arguments += [part for maddr in self.initial_peers for part in ("--initial-peer", maddr)]
        popen: Any = partial(self.lab.popen, node.host)
        if self.is_forked:
            popen = partial(Forked, namespace=self.lab.namespace(node.host))
        if node.deceit:
            popen = partial(start_liar, popen, node.deceit)
        node.program = Program(arguments, self.folder / f"{node.host}.{node.starts}.log", popen)
        node.starts += 1

    def restore(self) -> None:
        """Start what is down, and wait until all serve."""
        for node in self.nodes:
            if not node.is_up:
                self.begin(node)
        for node in self.nodes:
            node.hear(READY_SECONDS)

    def hear(self) -> None:
        """Take note of who serves by now, without waiting."""
        for node in self.nodes:
            with contextlib.suppress(ProgramFailed):
                node.hear(0)

    def end(self, node: Node) -> None:
        """Stop a node, if it is up."""
        if node.program is not None and node.is_up:
            node.program.process.terminate()
            node.program.finish(LEAVE_SECONDS)

    def await_end(self, node: Node) -> None:
        """Wait for a node that was told to stop."""
        if node.program is not None:
            node.program.finish(LEAVE_SECONDS)

    def signal(self, node: Node, number: signal.Signals) -> None:
        """Send a node's process a signal; one that kills is waited for."""
        if node.program is None or not node.is_up:
            return
        node.program.process.send_signal(number)
        if number is signal.SIGKILL:
            node.program.finish(10)

    def log(self, node: Node) -> str:
        """What a node has logged since it was started last."""
        return (self.folder / f"{node.host}.{node.starts - 1}.log").read_text()

    def serving(self, peer_id: str) -> Node | None:
        """The node of that peer id."""
        return next((node for node in self.nodes if node.is_ready and node.peer_id == peer_id), None)

    def _start(self) -> None:
        self.nodes = [Node(0, ("bootstrap",))]
        self.restore()
        self.initial_peers = list(self.nodes[0].program.ready["maddrs"]) if self.nodes[0].program else []
        made = [self._peer(host, span) for host, span in enumerate((*self.spans, *self.spares), start=1)]
        self.nodes += made[: len(self.spans)]
        self.spare_nodes = made[len(self.spans) :]
        self.restore()

    def _peer(self, host: int, span: str) -> Node:
        return Node(host, ("join", MODEL, "--layers", span, *self.options), span)

    def _stop(self) -> None:
        up = [node.program for node in (*self.nodes, *self.spare_nodes) if node.program is not None and node.is_up]
        for program in up:
            program.process.send_signal(signal.SIGCONT)
            program.process.terminate()
        for program in up:
            program.finish(LEAVE_SECONDS)


def start_liar(popen: Any, deceit: str, argv: Sequence[str], **options: Any) -> Any:
    """In place of `specswarm join`."""
    program, rest = argv.index("specswarm"), argv.index("join") + 1
    return popen([*argv[:program], "benchmarks.chaos.liar", deceit, *argv[rest:]], **options)
