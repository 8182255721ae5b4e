"""What 200 free identities can hide of a model: made until they lie near its key on the DHT, and run on one host.

    make bench-eclipse

Honest nodes of many networks announce themselves under the key, and find and ask each other by the real rules:
look-ups, routing tables, shelves, signatures. Calls are made within this process, each from an address of its own. The
crowd takes all records, keeps none, and names nobody but itself; or it keeps all, and has filled the key with records
of its own before honest peers come. Measured is how many of these a client finds that knows one bootstrap node.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from rich.console import Console
from rich.table import Table

from benchmarks.bar import Bar, check, conclude
from swarm import records
from swarm.calls import DhtNode, place_of
from swarm.complaints import Complaints
from swarm.dht import Dht
from swarm.directory import model_key
from swarm.errors import LookupFailed
from swarm.identity import Identity
from swarm.membership import PUBLIC
from swarm.ranges import range_of
from swarm.records import Announcement
from swarm.shelf import Shelf

FINGERPRINT = "f" * 64
HONEST, NETWORKS = 40, 20  # nodes, and the networks in which they are
CROWD, GROUND = 200, 20_000  # identities, chosen of so many keys
HIDDEN = Bar("honest peers that 200 identities on one host hide from a client", 5.0, "%")
FILLED = Bar("honest peers that find no room under a key that these have filled", 5.0, "%")

SPREAD = f"keeps nothing, in {NETWORKS} networks"
"""For comparison: what addresses would buy."""

Wire = dict[PeerID, "Node"]
"""By id, who is there."""


class Node(DhtNode):
    """A node whose calls go straight to the others."""

    def __init__(self, wire: Wire, identity: Identity, address: bytes, *, is_server: bool = True) -> None:
        daemon = SimpleNamespace(
            peer_id=PeerID.from_base58(identity.peer_id), _client=SimpleNamespace(control=SimpleNamespace())
        )
        super().__init__(daemon, is_server=is_server, swarm=PUBLIC)
        self.identity = identity
        self.address = address
        self._calls._most_at_once = 1 << 30  # what takes minutes elsewhere is done in a second here
        self.shelf = Shelf(partial(next, itertools.count(0.0, 1e-6)))  # nothing ends while a crowd comes together
        self._wire = wire
        wire[self.peer] = self

    async def _call(self, peer: PeerID, name: str, request: Any, seconds: float = 3.0) -> Any:
        response = await getattr(self._wire[peer], name)(request, SimpleNamespace(remote_id=self.peer))
        self._meet(peer, response.peer)
        return response

    async def _learn_ranges(self) -> None:
        for peer, node in self._wire.items():
            self.ranges.note(peer, range_of(node.address))

    @property
    def dht(self) -> Dht:
        """The look-ups of this node."""
        made = Dht.__new__(Dht)
        made._node, made._is_server, made._complaints = self, True, Complaints()
        return made

    async def publish(self, identity: Identity) -> bool:
        """Announce a peer; whether anybody took the record."""
        record = records.sign(announcement(identity.peer_id), identity)
        return await self.dht.put([model_key(FINGERPRINT)], identity.peer_id, record, lambda _: None)


class Sybil(Node):
    """One of the crowd: it keeps records or says that it does, and names none but the crowd."""

    crowd: Sequence[PeerID] = ()
    keeps = False

    def keep(self, *arguments: Any) -> bool:
        """As told."""
        return super().keep(*arguments) if self.keeps else True

    def nearest(self, place: DHTID) -> list[PeerID]:
        """Of the crowd."""
        return random.sample(self.crowd, 20)


@dataclass(frozen=True)
class Row:
    """What a client found."""

    crowd: str
    honest: int
    found: int
    seconds: float


def main() -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/eclipse.json"))
    options = parser.parse_args()
    random.seed(options.seed)
    ground = _ground()
    crowds = ("is not there", "keeps nothing", "fills the key", SPREAD)
    rows = [asyncio.run(_run(crowd, ground)) for crowd in crowds]
    table = Table(title=f"{HONEST} honest peers in {NETWORKS} networks, {CROWD} identities of {GROUND} on one host")
    for heading in ("the crowd", "honest peers", "found", "s"):
        table.add_column(heading, justify="left" if heading == "the crowd" else "right")
    for row in rows:
        table.add_row(row.crowd, str(row.honest), str(row.found), f"{row.seconds:.1f}")
    console = Console(width=110)
    console.print(table)
    figures = {
        bar: 100 * (1 - row.found / row.honest) for bar, row in zip((HIDDEN, FILLED), rows[1:3], strict=True)
    }
    record = {"seed": options.seed, "rows": [asdict(row) for row in rows]}
    return conclude(console, check((HIDDEN, FILLED), figures), record, options.out)


def fresh() -> Identity:
    """A node's, without a file."""
    return Identity(Path(os.devnull), Ed25519PrivateKey.generate())


def _ground() -> list[Identity]:
    """Identities near the model's key."""
    place = DHTID.generate(model_key(FINGERPRINT))
    made = [fresh() for _ in range(GROUND)]
    return sorted(made, key=lambda one: place.xor_distance(place_of(PeerID.from_base58(one.peer_id))))[:CROWD]


async def _run(crowd: str, ground: Sequence[Identity]) -> Row:
    wire: Wire = {}
    nodes = [Node(wire, fresh(), bytes([4, 100 + i % NETWORKS, 1, i, 1])) for i in range(HONEST)]
    bootstrap = nodes[0]
    for node in nodes[1:]:
        await node.ping(bootstrap.peer)
    for node in nodes:
        await node.dht.look_around()
    if crowd != "is not there":
        await _join(wire, nodes, ground, keeps=crowd == "fills the key", is_spread=crowd == SPREAD)
    started = time.monotonic()
    for node in nodes:
        await node.publish(node.identity)
    client = Node(wire, fresh(), bytes([4, 77, 1, 1, 1]), is_server=False)
    await client.ping(bootstrap.peer)
    found = set[str]()
    with contextlib.suppress(LookupFailed):
        found = {subkey for subkey, _, _ in await client.dht.get(model_key(FINGERPRINT))}
    honest = {node.identity.peer_id for node in nodes}
    return Row(crowd, len(honest), len(honest & found), time.monotonic() - started)


async def _join(
    wire: Wire, nodes: Sequence[Node], ground: Sequence[Identity], *, keeps: bool, is_spread: bool
) -> None:
    """The crowd gets to know everybody; where it keeps records, it fills the key before anybody else."""
    sybils = [
        Sybil(wire, one, bytes([4, 200 + i % NETWORKS if is_spread else 66, 6, 6, 6]))
        for i, one in enumerate(ground)
    ]
    for sybil in sybils:
        sybil.crowd, sybil.keeps = [other.peer for other in sybils], keeps
        for node in nodes:
            await sybil.ping(node.peer)
    if keeps:
        for identity in [*ground, *(fresh() for _ in range(2 * CROWD))]:  # 600 records: more than a key holds
            await random.choice(sybils).publish(identity)  # noqa: S311  # no secret


def announcement(peer_id: str) -> Announcement:
    """Of a peer of that model."""
    now = time.time()
    return Announcement(
        peer_id=peer_id,
        maddrs=("/ip4/192.0.2.1/tcp/1",),
        model="m",
        fingerprint=FINGERPRINT,
        config_hash="c" * 64,
        num_layers=8,
        start=0,
        end=8,
        dtype="float32",
        quantize=None,
        draft_seconds=None,
        step_seconds=0.01,
        token_seconds=0.001,
        load=0.0,
        free_tokens=1,
        max_round=1,
        links={},
        version="0",
        started=now,
        expires=now + 60,
    )


if __name__ == "__main__":
    sys.exit(main())
