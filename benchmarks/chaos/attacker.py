"""The hostile client: a process on a host of its own that sends every handler of every node what it should not.

One JSON object per line on standard input. First {"model", "initial_peers", "nodes": [{"peer_id", "maddrs", "span"}],
"rate": messages a second to each handler, "seed"}, answered when it has joined. Then {"go": true} and {"go": false};
the latter is answered by what has been sent to each handler so far. {"victim": id} tells it the id of another's
session. A node with an empty span has the DHT's handlers only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from random import Random
from typing import Any, Self

import uvloop
from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, P2PHandlerError
from hivemind.proto import dht_pb2
from hivemind.utils.multiaddr import Multiaddr

from benchmarks.chaos.hostile_messages import CALLS, Aim, any_frame, any_payload, lawful_open
from benchmarks.jsonlines import say, standard_input
from swarm.calls import DhtNode
from swarm.directory import Directory
from swarm.errors import BadMessage, PeerLost
from swarm.libp2p import Libp2pNetwork
from swarm.model.source import ModelSource
from swarm.span import Span
from swarm.streams import Libp2pStream
from swarm.tasks import end
from swarm.wire import PUSH_PROTOCOL, SESSION_PROTOCOL, Contact, Introduction

_PER_STREAM = 40  # messages, then another stream
_UNUSED = 8  # sessions that are opened and left, at each peer: half of what one client may have
_REMEMBERED = 32  # messages that may be sent again
_CALLS_AT_ONCE = 8  # to one handler
_RAW = 256  # one call in so many is no call, but bytes on a stream of its own
_NICE = 10  # a stranger's processor is not one of the swarm's: what he computes must not take time from it
_SECONDS = 10.0  # for a node to read, or to answer
_UNANSWERED = (P2PHandlerError, P2PDaemonError, OSError, EOFError, TimeoutError)


class Pace:
    """When each message is due: so many a second to each handler, none while it is paused."""

    def __init__(self, rate: float) -> None:
        self.sent = Counter[str]()
        """Messages by handler."""
        self.going = asyncio.Event()
        self._period = 1 / rate

    async def turns(self, handler: str) -> AsyncIterator[None]:
        """A turn for each message to this handler, without end: who has sent one counts it."""
        self.sent[handler] = 0
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            await self.going.wait()
            await asyncio.sleep(due - clock())
            due = max(due + self._period, clock() - self._period)
            yield


class Raw(bytes):
    """What hivemind takes for a message of protobuf, and sends as it is."""

    def SerializeToString(self) -> bytes:  # noqa: N802  # protobuf's name
        """The bytes."""
        return self

    @classmethod
    def FromString(cls, data: bytes) -> Self:  # noqa: N802
        """An answer."""
        return cls(data)


@dataclass(slots=True)
class _Attempt:
    """One stream full of messages."""

    session: bytes
    """Of this stranger, open at the peer."""
    stream: Libp2pStream
    reading: asyncio.Task[None]
    sent: int = 0

    @property
    def is_over(self) -> bool:
        """Whether the peer has ended it, or it has been enough."""
        return self.reading.done() or self.sent >= _PER_STREAM


class Attacker:
    """Everything that is sent to one node."""

    def __init__(
        self,
        node: dict[str, Any],
        network: Libp2pNetwork,
        p2p: P2P,
        pace: Pace,
        chance: Random,
        source: ModelSource,
        victims: deque[bytes],
        introductions: Sequence[Introduction],
    ) -> None:
        """`victims`: ids of others' sessions, as they become known; `introductions`: of peers."""
        self._contact = Contact(node["peer_id"], tuple(node["maddrs"]))
        self._span = Span.parse(node["span"]) if node["span"] else None
        self._network = network
        self._p2p = p2p
        self._pace = pace
        self._chance = chance
        self._source = source
        self._victims = victims
        self._introductions = introductions

    async def run(self) -> None:
        """Send it, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name in CALLS:
                group.create_task(self._call_again_and_again(name))
            if self._span is not None:
                aim = self._aim(self._span)
                group.create_task(self._squat(aim))
                for protocol in (SESSION_PROTOCOL, PUSH_PROTOCOL):
                    group.create_task(self._stream(aim, protocol))

    def _aim(self, span: Span) -> Aim:
        info = self._source.info
        return Aim(
            fingerprint=self._source.fingerprint() or "",
            span=span,
            num_layers=info.num_layers,
            hidden_size=info.hidden_size,
            vocab_size=info.vocab_size,
            sender=self._network.peer_id,
            victims=self._victims,
            introductions=self._introductions,
        )

    async def _stream(self, aim: Aim, protocol: str) -> None:
        """Messages on streams of a protocol; a new one as soon as the peer has ended it, or after a while."""
        handler = f"{self._contact.peer_id} {protocol}"
        earlier: deque[bytes] = deque(maxlen=_REMEMBERED)
        attempt: _Attempt | None = None
        async with contextlib.AsyncExitStack() as opened:
            async for _ in self._pace.turns(handler):
                try:
                    if attempt is None or attempt.is_over:
                        await opened.aclose()
                        attempt = await opened.enter_async_context(self._attempt(aim, protocol))
                    data = any_frame(self._chance, protocol, aim, attempt.session, earlier)
                    await write(attempt.stream, data)
                except PeerLost:
                    attempt = None
                    continue
                earlier.append(data)
                attempt.sent += 1
                self._pace.sent[handler] += 1

    @contextlib.asynccontextmanager
    async def _attempt(self, aim: Aim, protocol: str) -> AsyncIterator[_Attempt]:
        """A stream, and a lawful session, so that what is sent has one to harm. Raises PeerLost."""
        session = self._chance.randbytes(16)
        async with self._reading(SESSION_PROTOCOL) as (client, client_ends):
            await client.send(lawful_open(aim, session))
            if protocol == SESSION_PROTOCOL:
                yield _Attempt(session, client, client_ends)
            else:
                async with self._reading(protocol) as (pushing, ends):
                    yield _Attempt(session, pushing, ends)

    @contextlib.asynccontextmanager
    async def _reading(self, protocol: str) -> AsyncIterator[tuple[Libp2pStream, asyncio.Task[None]]]:
        """A stream to the peer, and the task that reads it to its end. Raises PeerLost."""
        with closing(await self._network.dial(self._contact, protocol)) as stream:
            reading = asyncio.create_task(_read_all(stream))
            try:
                yield stream, reading
            finally:
                await end(reading)

    async def _squat(self, aim: Aim) -> None:
        """Sessions that are opened and never used, until cancelled."""
        with (
            contextlib.suppress(PeerLost),
            closing(await self._network.dial(self._contact, SESSION_PROTOCOL)) as stream,
        ):
            for _ in range(_UNUSED):
                await stream.send(lawful_open(aim, self._chance.randbytes(16)))
            await _read_all(stream)

    async def _call_again_and_again(self, name: str) -> None:
        """What is no request, or a senseless one, to a call of the DHT's node."""
        handler = f"{self._contact.peer_id} {name}"
        earlier: deque[bytes] = deque(maxlen=_REMEMBERED)
        gate = asyncio.Semaphore(_CALLS_AT_ONCE)

        async def send(payload: bytes) -> None:
            try:
                await self._call(name, payload)
            finally:
                gate.release()

        async with asyncio.TaskGroup() as group:
            async for _ in self._pace.turns(handler):
                payload = any_payload(self._chance, name, earlier)
                earlier.append(payload)
                await gate.acquire()
                group.create_task(send(payload))
                self._pace.sent[handler] += 1

    async def _call(self, name: str, payload: bytes) -> None:
        peer, handler = PeerID.from_base58(self._contact.peer_id), DhtNode._get_handle_name(None, name)
        with contextlib.suppress(*_UNANSWERED):
            async with asyncio.timeout(_SECONDS):
                if self._chance.randrange(_RAW):
                    await self._p2p.call_protobuf_handler(peer, handler, Raw(payload), Raw)
                    return
                _, _, writer = await self._p2p.call_binary_stream_handler(peer, handler)
                with closing(writer):
                    writer.write(payload)
                    await writer.drain()


async def write(stream: Libp2pStream, data: bytes) -> None:
    """Put bytes on a stream as they are. Raises PeerLost if the peer has ended it, or does not read."""
    writer = stream._writer
    if writer.is_closing():
        raise PeerLost(stream.peer_id, "it has closed the stream")
    try:
        writer.write(data)
        await asyncio.wait_for(writer.drain(), _SECONDS)
    except (OSError, TimeoutError):
        raise PeerLost(stream.peer_id, "it does not read") from None


async def _read_all(stream: Libp2pStream) -> None:
    """Take what comes, to the stream's end."""
    with contextlib.suppress(PeerLost):
        while True:
            with contextlib.suppress(BadMessage):
                await stream.receive()


@contextlib.asynccontextmanager
async def _calling(nodes: list[dict[str, Any]]) -> AsyncIterator[P2P]:
    """Another identity, for the calls: connected to all nodes. RuntimeError if one does not answer a proper call."""
    maddrs = [Multiaddr(maddr) for node in nodes for maddr in node["maddrs"]]
    p2p = await P2P.create(
        initial_peers=maddrs, no_listen=True, dht_mode="client", auto_nat=False, nat_port_map=False
    )
    try:
        for node in nodes:
            peer = PeerID.from_base58(node["peer_id"])
            response = await DhtNode.get_stub(p2p, peer).rpc_ping(dht_pb2.PingRequest())
            if not response.available:
                raise RuntimeError(f"node {node['peer_id']} does not answer a proper call")
        yield p2p
    finally:
        await p2p.shutdown()


async def _obey(orders: asyncio.StreamReader, pace: Pace, victims: deque[bytes]) -> None:
    """Go on, pause and learn as told, until standard input ends."""
    async for line in orders:
        order = json.loads(line)
        if "victim" in order:
            victims.append(bytes.fromhex(order["victim"]))
        elif order["go"]:
            pace.going.set()
        else:
            pace.going.clear()
            say(sent=dict(pace.sent))


async def main() -> None:
    """Join, then attack as told."""
    orders = await standard_input()
    job = json.loads(await orders.readline())
    victims: deque[bytes] = deque(maxlen=4)
    source, pace = ModelSource.resolve(job["model"]), Pace(job["rate"])
    async with (
        Libp2pNetwork.join(None, initial_peers=job["initial_peers"]) as network,
        _calling(job["nodes"]) as p2p,
    ):
        peers = await Directory(network).peers_of(source.fingerprint() or "")
        say(event="ready")
        introductions = [peer.introduction for peer in peers]
        chances = Random(job["seed"])  # noqa: S311 - draws messages, not secrets
        attackers = [
            Attacker(node, network, p2p, pace, Random(chances.random()), source, victims, introductions)  # noqa: S311
            for node in job["nodes"]
        ]
        async with asyncio.TaskGroup() as group:
            attacks = [group.create_task(attacker.run()) for attacker in attackers]
            await _obey(orders, pace, victims)
            for attack in attacks:
                await end(attack)


if __name__ == "__main__":
    os.nice(_NICE)
    uvloop.run(main())
