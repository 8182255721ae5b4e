"""How long what strangers send holds up a node's event loop.

    make bench-loop

A peer of a model of hidden size 8,192, the real one on the real network, is sent what is dear to take: long hidden
states, small ones that unpack to long ones, crowds of small messages, results that come too early; and a look-up gets
answers full of forged records. Measured is the processor time of the loop's thread in its longest callback: what
others do on the machine does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from rich.console import Console
from rich.table import Table

from benchmarks.bar import Bar, check, conclude
from benchmarks.eclipse import announcement, fresh
from benchmarks.machine import describe
from benchmarks.wire import wide_llama
from peer.compute import Engine
from peer.introductions import Introductions
from peer.service import PeerService
from peer.table import SessionTable
from peer.worker import NICENESS
from swarm import records
from swarm.calls import Answer, DhtNode
from swarm.directory import INDEX_KEY, Directory
from swarm.identity import Identity
from swarm.libp2p import Libp2pNetwork
from swarm.lifetime import torch_thread
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.packing import pack
from swarm.rows import most_rows
from swarm.shelf import MAX_SUBKEYS
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.transport import Stream
from swarm.wire import PUSH_PROTOCOL, SESSION_PROTOCOL, Contact, Hidden, Open, Ping, Pong, Round, new_session_id

HIDDEN, LAYERS, SPAN = 8192, 3, Span(1, 2)
FINGERPRINT = "f" * 64
LOCAL = ("/ip4/127.0.0.1/tcp/0",)
ROUNDS = 8  # of long states
CROWD = 2_000  # small messages: ten seconds of what a node without a session may bring
ANSWERS = 20
LONGEST = Bar("processor time of the loop's thread in one callback, longest", 20.0, "ms")

Attack = Callable[["Stranger"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one attack."""

    attack: str
    longest_ms: float
    callbacks: int
    seconds: float


class Stopwatch:
    """Times each callback of asyncio's loops in this thread."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._longest, self._count = 0.0, 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Meanwhile."""
        handles: Any = asyncio.Handle
        run = handles._run

        def timed(handle: asyncio.Handle) -> None:
            if threading.get_ident() != self._thread:
                run(handle)
                return
            started = time.thread_time()
            run(handle)
            self._longest, self._count = max(self._longest, time.thread_time() - started), self._count + 1

        handles._run = timed
        try:
            yield
        finally:
            handles._run = run

    def lap(self) -> tuple[float, int]:
        """The longest since the last lap, in seconds, and how many there were."""
        lap, self._longest, self._count = (self._longest, self._count), 0.0, 0
        return lap


class Stranger:
    """A client that also pushes: it is the hop before in its own session."""

    def __init__(self, network: Libp2pNetwork, peer: Contact) -> None:
        self._network = network
        self._peer = peer
        self._rows = most_rows("float32", HIDDEN)

    async def push(self, states: bytes, *, is_packed: bool) -> None:
        """Long states, round after round, for a session of its own."""
        async with self._session() as (session, client, push):
            for number in range(ROUNDS):
                round = Round(session, number, 0, (1,) * self._rows, 0, False)
                await push.send(Hidden(round, SPAN.start, "float32", states, (), packed=is_packed))
            await self._await_answer(client)

    async def long_states(self) -> None:
        """As long as they may be, and no pack of zeros."""
        await self.push(torch.randn(self._rows, HIDDEN).numpy().tobytes(), is_packed=False)

    async def bombs(self) -> None:
        """A few KiB that unpack to as much."""
        await self.push(pack(bytes(4 * self._rows * HIDDEN), 4), is_packed=True)

    async def spoilt_states(self) -> None:
        """Packed, and not finite."""
        await self.push(pack(b"\xff" * (4 * self._rows * HIDDEN), 4), is_packed=True)

    async def small_messages(self) -> None:
        """All at once."""
        with closing(await self._network.open(self._peer, SESSION_PROTOCOL)) as client:
            reading = asyncio.create_task(_read(client))
            for _ in range(CROWD // 1000):
                await client.send(*[Ping(7)] * 1000)
            reading.cancel()
            await self._await_answer(client)

    async def early_results(self) -> None:
        """For a session that is opened afterwards."""
        session = new_session_id(self._network.peer_id)
        with closing(await self._network.open(self._peer, PUSH_PROTOCOL)) as push:
            small = Hidden(Round(session, 0, 0, (1,), 0, False), SPAN.start, "float32", bytes(4 * HIDDEN), ())
            for _ in range(CROWD // 10):
                await push.send(*[small] * 4)
            with closing(await self._network.open(self._peer, SESSION_PROTOCOL)) as client:
                await client.send(self._open(session))
                await self._await_answer(client)

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[tuple[bytes, Stream, Stream]]:
        session = new_session_id(self._network.peer_id)
        with (
            closing(await self._network.open(self._peer, SESSION_PROTOCOL)) as client,
            closing(await self._network.open(self._peer, PUSH_PROTOCOL)) as push,
        ):
            await client.send(self._open(session))
            yield session, client, push

    def _open(self, session: bytes) -> Open:
        own = self._network.peer_id
        return Open(session, FINGERPRINT, SPAN.start, SPAN.end, own, None, 0, self._rows, Sampling())

    async def _await_answer(self, client: Stream) -> None:
        """Until the peer has come so far as to answer a ping, and a while more: other streams may be behind."""
        for _ in range(3):
            await client.send(Ping(9))
            while (await client.receive()) != Pong(9):
                pass
            await asyncio.sleep(0.5)


async def _read(stream: Stream) -> None:
    while True:
        await stream.receive()


ATTACKS: dict[str, Attack] = {
    "long states": Stranger.long_states,
    "states that unpack to long ones": Stranger.bombs,
    "the same, not finite": Stranger.spoilt_states,
    "small messages": Stranger.small_messages,
    "results that come too early": Stranger.early_results,
}


def main() -> int:
    """Measure all; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loop.json"))
    out: Path = parser.parse_args().out
    console = Console(width=110)
    with tempfile.TemporaryDirectory(prefix="specswarm-loop-") as folder:
        rows = asyncio.run(_measure(Path(folder)))
    table = Table(title=f"the event loop of a peer, hidden size {HIDDEN}; {describe()}")
    for heading in ("what a stranger sends", "longest callback, ms", "callbacks", "s"):
        table.add_column(heading, justify="left" if heading.startswith("what") else "right")
    for row in rows:
        table.add_row(row.attack, f"{row.longest_ms:.1f}", str(row.callbacks), f"{row.seconds:.1f}")
    console.print(table)
    outcomes = check((LONGEST,), {LONGEST: max(row.longest_ms for row in rows)})
    return conclude(console, outcomes, {"machine": describe(), "rows": [asdict(row) for row in rows]}, out)


async def _measure(folder: Path) -> list[Row]:
    stage = load_stage(ModelSource.resolve(str(wide_llama(folder / "model", HIDDEN, LAYERS))), SPAN)
    watch, rows = Stopwatch(), list[Row]()
    with watch.running():
        async with _peer(folder, stage) as contact:
            gc.freeze()  # as `join` does
            for name, attack in ATTACKS.items():
                watch.lap()
                started = time.monotonic()
                await asyncio.to_thread(_attack, folder, contact, attack)
                rows.append(_row(name, watch, started))
        for signed, kind in ((False, "forged"), (True, "signed")):
            answers = _answers(signed=signed)
            gc.freeze()
            async with Libp2pNetwork.join(None, host_maddrs=LOCAL) as network:
                with _answering(network, answers):
                    watch.lap()
                    started = time.monotonic()
                    await Directory(network, network.swarm).look()
                    rows.append(_row(f"{ANSWERS} answers of {MAX_SUBKEYS} {kind} records", watch, started))
    return rows


def _row(name: str, watch: Stopwatch, started: float) -> Row:
    longest, count = watch.lap()
    return Row(name, 1e3 * longest, count, time.monotonic() - started)


@contextlib.asynccontextmanager
async def _peer(folder: Path, stage: Any) -> AsyncIterator[Contact]:
    """The real one, without a record: only who knows its address finds it."""
    with Identity.hold(folder / "peer.key") as identity, torch_thread(NICENESS) as thread:
        async with Libp2pNetwork.join(identity, host_maddrs=LOCAL) as network:
            rows = most_rows("float32", HIDDEN)
            table = SessionTable(stage, FINGERPRINT, max_cache_bytes=1 << 30, max_sessions=64, max_round=rows)
            introduced = Introductions(FINGERPRINT).neighbour
            service = PeerService(network, stage, table, Engine(stage), thread, 512, introduced)
            await service.start()
            running = asyncio.create_task(service.run(300.0))
            try:
                yield Contact(network.peer_id, tuple(_addresses(await network.maddrs())))
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running


def _addresses(maddrs: list[str]) -> list[str]:
    return [maddr.split("/p2p/")[0] for maddr in maddrs]


def _attack(folder: Path, peer: Contact, attack: Attack) -> None:
    """On a loop of its own."""

    async def run() -> None:
        with Identity.hold(folder / "stranger.key") as identity:
            async with Libp2pNetwork.join(identity) as network:
                await attack(Stranger(network, peer))

    asyncio.run(run())


def _answers(*, signed: bool) -> list[Answer]:
    """Of a crowd, each with as many records as a key may have; in order but for their signatures, or altogether."""
    found = list[Answer]()
    for _ in range(ANSWERS):
        made = [fresh() for _ in range(MAX_SUBKEYS)]
        signatures = {one.peer_id: records.sign(announcement(one.peer_id), one) for one in made}
        if not signed:
            signatures = {peer_id: os.urandom(64) + record[64:] for peer_id, record in signatures.items()}
        named = frozenset({PeerID(os.urandom(34))})
        found.append(Answer({peer_id: (record, 1.0) for peer_id, record in signatures.items()}, named))
    return found


@contextlib.contextmanager
def _answering(network: Libp2pNetwork, answers: list[Answer]) -> Iterator[None]:
    """Whoever is asked answers so."""
    find, left = DhtNode.find, list(answers)

    async def forged(node: DhtNode, peer: PeerID, place: Any) -> Answer | None:
        return left.pop() if left else None

    network._dht._node._table.add_or_update_node(DHTID.generate(INDEX_KEY), PeerID(os.urandom(34)))
    DhtNode.find = forged  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        DhtNode.find = find  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
