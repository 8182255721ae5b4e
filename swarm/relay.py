"""Relaying for peers that accept no inbound connection.

A peer behind NAT keeps a connection to the relay and reserves a place there. Whoever wants to reach it asks the relay
for a circuit: the relay opens a stream to the peer, and from then on copies bytes both ways. The two ends run libp2p's
own encryption over it, so that the relay can neither read nor change what it copies; their side of all this is in the
daemon.

The daemon has a relay, too, but one that ends each circuit after 128 KiB or two minutes, whatever its options say.
A node that is to relay has this one serve the protocol instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from typing import Any

from hivemind.p2p import PeerID

from swarm.circuits import STOP_PROTOCOL, Hop, HopType, Status, Stop, StopType, receive, send
from swarm.complaints import Complaints
from swarm.incoming import Guest, IncomingStreams
from swarm.sockets import check_open
from swarm.tasks import end, owned

RESERVED_SECONDS = 60.0  # a peer renews its reservation with each greeting, four times as often
MAX_RESERVED = 1024  # peers
MAX_CIRCUITS = 256  # open at once; each takes two sockets
MAX_CIRCUITS_OF_ONE = 64  # asked for by one node, and to one peer
_SETUP_SECONDS = 10.0  # until a circuit stands
_CHUNK = 1 << 16  # bytes copied at a time
_NO_CIPHERTEXT = bytes(16)
_GOODBYE = b"\0"  # from a peer that has its reservation: the relay may close the stream

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
OpenStream = Callable[[PeerID, str], Awaitable[Streams]]
"""A raw stream of that protocol to a node that is connected; whatever it raises means that there is none."""


async def reserve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Ask a node, on a stream of HOP_PROTOCOL, to relay for this one; whether it does, without limit to a circuit.

    Raises ValueError, EOFError or OSError if it does not answer in order.
    """
    await send(writer, Hop(type=HopType.RESERVE))
    answer = await receive(reader, Hop)
    check_open(writer)
    writer.write(_GOODBYE)
    await reader.read(1)  # the end that accepted a stream closes it first
    return answer.status == Status.OK and not answer.HasField("limit")


class Relay:
    """Who has reserved a place, and how many circuits are open."""

    def __init__(
        self,
        open_stream: OpenStream,
        may_reserve: Callable[[PeerID], bool] = lambda _: True,
        clock: Callable[[], float] = time.monotonic,
        complaints: Complaints | None = None,
    ) -> None:
        """`may_reserve`: for whom to relay at all; `complaints` hears who had to be refused."""
        self._open_stream = open_stream
        self._may_reserve = may_reserve
        self._clock = clock
        self._reserved: dict[PeerID, float] = {}  # until when
        self._complaints = complaints or Complaints(clock)
        self._from = IncomingStreams(MAX_CIRCUITS, MAX_CIRCUITS_OF_ONE, complaints=self._complaints)
        self._to = IncomingStreams(MAX_CIRCUITS, MAX_CIRCUITS_OF_ONE, complaints=self._complaints, is_shared=True)

    async def serve(
        self, source: PeerID, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str = ""
    ) -> None:
        """Serve a node's stream of HOP_PROTOCOL, from an address, to its end."""
        streams = (reader, writer)
        asking = self._from.taken_by(str(source), host, close=writer.transport.abort)
        with closing(writer), contextlib.suppress(EOFError, OSError), asking as guest:
            if guest is None:
                await _answer(streams, Status.RESOURCE_LIMIT_EXCEEDED)
                return
            try:
                async with asyncio.timeout(_SETUP_SECONDS):
                    request = await receive(reader, Hop)
                kind = HopType(request.type)
            except ValueError:
                kind = HopType.STATUS
            match kind:
                case HopType.RESERVE:
                    await self._reserve(source, streams)
                case HopType.CONNECT:
                    await self._connect(source, PeerID(request.peer.id), streams, guest)
                case HopType.STATUS:  # there was no question
                    await _answer(streams, Status.MALFORMED_MESSAGE)

    async def _reserve(self, peer: PeerID, streams: Streams) -> None:
        now = self._clock()
        self._reserved = {other: until for other, until in self._reserved.items() if until > now}
        has_room = len(self._reserved) < MAX_RESERVED or peer in self._reserved
        if not has_room or not self._may_reserve(peer):
            self._complaints.about("relay", str(peer), "a place to be relayed to is refused")
            await _answer(streams, Status.RESERVATION_REFUSED)
        else:
            self._reserved[peer] = now + RESERVED_SECONDS
            await _answer(streams, Status.OK, reservation={"expire": int(time.time() + RESERVED_SECONDS)})

    async def _connect(self, source: PeerID, peer: PeerID, here: Streams, asking: Guest) -> None:
        """A circuit from `source` to the peer, until one of them ends it, or others need its place."""
        if self._reserved.get(peer, 0.0) <= self._clock():
            await _answer(here, Status.NO_RESERVATION)
            return
        with self._to.taken_by(str(peer), asking.host, close=here[1].transport.abort, asker=str(source)) as reached:
            if reached is None:
                await _answer(here, Status.RESOURCE_LIMIT_EXCEEDED)
            elif (there := await self._reach(peer, source)) is None:
                await _answer(here, Status.CONNECTION_FAILED)
            else:
                with closing(there[1]):
                    await send(here[1], Hop(type=HopType.STATUS, status=Status.OK))
                    await self._copy_both_ways(here, there, (asking, reached))
                    await _have_it_closed(there)

    async def _reach(self, peer: PeerID, source: PeerID) -> Streams | None:
        """A stream to the peer, which takes what comes next on it for a connection of `source`; None if it does not."""
        with contextlib.ExitStack() as opened:
            try:
                async with asyncio.timeout(_SETUP_SECONDS):
                    reader, writer = await self._open_stream(peer, STOP_PROTOCOL)
                    opened.callback(writer.close)
                    await send(writer, Stop(type=StopType.CONNECT, peer={"id": source.to_bytes()}))
                    if (await receive(reader, Stop)).status != Status.OK:
                        return None
            except Exception:  # whatever the daemon says of a peer that is gone
                return None
            opened.pop_all()
            return reader, writer

    async def _copy_both_ways(self, one: Streams, other: Streams, guests: Sequence[Guest]) -> None:
        """Until one of them ends. What is copied keeps the circuit's place: those on which nothing comes go first."""

        def note_use() -> None:
            for places, guest in zip((self._from, self._to), guests, strict=True):
                places.note_use(guest)

        ways = ((one[0], other[1]), (other[0], one[1]))
        copying = [
            owned(_copy(*way, note_use), "copying on a circuit", outcomes=(EOFError, OSError)) for way in ways
        ]
        try:
            await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(*copying)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note_use: Callable[[], None]) -> None:
    while data := await reader.read(_CHUNK):
        check_open(writer)
        writer.write(data)
        await writer.drain()
        note_use()


async def _answer(streams: Streams, status: Status, **fields: Any) -> None:
    """The last word on a stream. Waits until it is read: of a stream that is closed the daemon drops what is left."""
    reader, writer = streams
    await send(writer, Hop(type=HopType.STATUS, status=status, **fields))
    async with asyncio.timeout(_SETUP_SECONDS):
        await reader.read(1)


async def _have_it_closed(there: Streams) -> None:
    """Have the peer close its end first, by bytes that no encryption takes.

    A QUIC stream that is closed from the end that opened it may stay counted as open; after some 400 circuits the
    relay's connection to the peer would open no more.
    """
    reader, writer = there
    check_open(writer)
    writer.write(_NO_CIPHERTEXT)
    async with asyncio.timeout(_SETUP_SECONDS):
        while await reader.read(_CHUNK):
            pass
