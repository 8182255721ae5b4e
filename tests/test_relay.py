"""Circuits: what a relay answers, and nodes that only a relay can reach, over real libp2p on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hivemind.p2p import PeerID
from hivemind.proto import p2pd_pb2

from specswarm.processes import LOOPBACK
from swarm import daemon, neighbours, relay
from swarm.circuits import STOP_PROTOCOL, Hop, HopType, Status, Stop, StopType, receive, send
from swarm.errors import PeerLost, SwarmUnreachable
from swarm.identity import Identity
from swarm.libp2p import Libp2pNetwork, _contacts
from swarm.ping import round_trip
from swarm.relay import MAX_CIRCUITS_OF_ONE, RESERVED_SECONDS, Relay, Streams, reserve
from swarm.transport import Stream
from swarm.wire import NO_SESSION, PUSH_PROTOCOL, SESSION_PROTOCOL, Contact, Hidden, Ping, Pong, Round

PEER, SOURCE = PeerID(b"peer"), PeerID(b"source")
DAEMONS_LIMIT = 128 << 10  # bytes that a circuit of the daemon's own relay carries


async def pipe() -> tuple[Streams, Streams]:
    """Two ends of a stream."""
    one, other = socket.socketpair()
    return await asyncio.open_connection(sock=one), await asyncio.open_connection(sock=other)


class Place:
    """A relay, in a time of its own, and what the peers behind it do."""

    def __init__(self) -> None:
        self.now = 0.0
        self.answer: Status | None = Status.OK
        """What a peer says to a circuit; None: it cannot be reached."""
        self.there: list[Streams] = []
        """The peers' ends of the circuits."""
        self.relay = Relay(self._open_stream, clock=lambda: self.now)
        self.serving: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def _open_stream(self, peer: PeerID, protocol: str) -> Streams:
        if self.answer is None:
            raise ConnectionRefusedError
        assert (peer, protocol) == (PEER, STOP_PROTOCOL)
        here, there = await pipe()
        self.there.append(there)
        self._writers += [here[1], there[1]]
        await send(there[1], Stop(type=StopType.STATUS, status=self.answer))
        return here

    async def ask(self, source: PeerID = SOURCE) -> Streams:
        """A stream of a node to the relay."""
        here, there = await pipe()
        self._writers += [here[1], there[1]]
        self.serving.append(asyncio.create_task(self.relay.serve(source, *there)))
        return here

    async def reserve(self, peer: PeerID = PEER) -> bool:
        reader, writer = await self.ask(peer)
        with closing(writer):
            return await reserve(reader, writer)

    async def connect(self, peer: PeerID = PEER) -> tuple[Status, Streams]:
        """Ask for a circuit; the answer, and the near end."""
        streams = await self.ask()
        await send(streams[1], Hop(type=HopType.CONNECT, peer={"id": peer.to_bytes()}))
        answer = await receive(streams[0], Hop)
        assert answer.type == HopType.STATUS
        return Status(answer.status), streams

    async def close(self) -> None:
        for task in self.serving:
            task.cancel()
        await asyncio.gather(*self.serving, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()  # what nobody reads any more would keep it open
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)


@contextlib.asynccontextmanager
async def a_place() -> AsyncIterator[Place]:
    place = Place()
    try:
        async with asyncio.timeout(20.0):
            yield place
    finally:
        await place.close()


def test_circuit_carries_bytes_both_ways_until_one_end_closes() -> None:
    async def run() -> None:
        async with a_place() as place:
            assert await place.reserve()
            status, here = await place.connect()
            assert status == Status.OK
            there = place.there[0]
            request = await receive(there[0], Stop)
            assert (request.type, request.peer.id) == (StopType.CONNECT, SOURCE.to_bytes())
            assert not request.HasField("limit")
            data = bytes(range(256)) * 4096
            for one, other in ((here, there), (there, here)):
                one[1].write(data)
                assert await other[0].readexactly(len(data)) == data
            there[1].close()
            assert await here[0].read() == b""

    asyncio.run(run())


def test_peer_closes_its_end_of_a_circuit_before_the_relay_does() -> None:
    async def run() -> None:
        async with a_place() as place:
            assert await place.reserve()
            _, here = await place.connect()
            there = place.there[0]
            await receive(there[0], Stop)
            here[1].close()
            assert await there[0].readexactly(16) == bytes(16)  # no encryption takes that
            assert not there[0].at_eof()
            there[1].close()
            await place.serving[-1]

    asyncio.run(run())


def test_only_who_has_reserved_a_place_is_reached_and_only_as_long() -> None:
    async def run() -> None:
        async with a_place() as place:
            assert (await place.connect())[0] == Status.NO_RESERVATION
            assert await place.reserve()
            place.now += RESERVED_SECONDS / 2
            assert await place.reserve()
            place.now += RESERVED_SECONDS * 0.9
            assert (await place.connect())[0] == Status.OK
            place.now += RESERVED_SECONDS * 0.2
            assert (await place.connect())[0] == Status.NO_RESERVATION

    asyncio.run(run())


@pytest.mark.parametrize("answer", [None, Status.RESOURCE_LIMIT_EXCEEDED])
def test_peer_that_is_gone_or_declines_is_not_connected(answer: Status | None) -> None:
    async def run() -> None:
        async with a_place() as place:
            assert await place.reserve()
            place.answer = answer
            assert (await place.connect())[0] == Status.CONNECTION_FAILED

    asyncio.run(run())


def test_one_node_has_so_many_circuits_and_gets_more_when_it_ends_some() -> None:
    async def run() -> None:
        async with a_place() as place:
            assert await place.reserve()
            circuits = [await place.connect() for _ in range(MAX_CIRCUITS_OF_ONE)]
            assert {status for status, _ in circuits} == {Status.OK}
            assert (await place.connect())[0] == Status.RESOURCE_LIMIT_EXCEEDED
            circuits[0][1][1].close()
            place.there[0][1].close()
            await place.serving[1]
            assert (await place.connect())[0] == Status.OK

    asyncio.run(run())


def test_a_circuit_on_which_nothing_comes_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_CIRCUITS", 2)

    async def run() -> None:
        async with a_place() as place:
            assert await place.reserve()
            idle, busy = [(await place.connect())[1] for _ in range(2)]
            place.now += 1
            busy[1].write(b"x")
            for there in place.there:
                await receive(there[0], Stop)
            assert await place.there[1][0].readexactly(1) == b"x"
            assert (await place.connect())[0] == Status.OK
            assert await idle[0].read() == b""
            busy[1].write(b"y")
            assert await place.there[1][0].readexactly(1) == b"y"

    asyncio.run(run())


def test_a_circuit_that_makes_room_ends_though_nobody_reads_what_is_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_CIRCUITS", 1)

    async def run() -> None:
        async with a_place() as place:
            assert await place.reserve()
            await place.connect()
            serving, flooding, full = place.serving[-1], place.there[0][1], place._writers[-3].transport
            flooding.write(bytes(32 << 20))
            while full.get_write_buffer_size() <= full.get_write_buffer_limits()[1]:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
            assert (await place.connect())[0] == Status.OK
            flooding.transport.abort()
            await serving

    asyncio.run(run())


def test_places_are_limited_but_one_that_is_held_can_be_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_RESERVED", 2)

    async def run() -> None:
        async with a_place() as place:
            peers = [PeerID(bytes([i])) for i in range(3)]
            assert [await place.reserve(peer) for peer in peers] == [True, True, False]
            assert await place.reserve(peers[0])
            place.now += RESERVED_SECONDS * 1.1
            assert await place.reserve(peers[2])

    asyncio.run(run())


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\x02\x08\x07", Status.MALFORMED_MESSAGE),  # a type that does not exist
        (b"\x03\x08\x01\x12", Status.MALFORMED_MESSAGE),  # cut short inside
        (b"\x02\xff\xff", Status.MALFORMED_MESSAGE),
        (b"\xff\xff\xff\xff\x0f", Status.MALFORMED_MESSAGE),  # as long as 4 GiB
        (b"\x02\x08\x01", Status.NO_RESERVATION),  # to nobody
        (b"\x02\x08\x02", Status.MALFORMED_MESSAGE),  # an answer to no question
        (b"\x80", None),  # ends at once
        (b"", None),
    ],
)
def test_nonsense_is_answered_or_dropped(sent: bytes, answer: Status | None) -> None:
    async def run() -> None:
        async with a_place() as place:
            reader, writer = await place.ask()
            writer.write(sent)
            if answer is None:
                writer.write_eof()
                assert await reader.read() == b""
            else:
                assert (await receive(reader, Hop)).status == answer
            writer.close()

    asyncio.run(run())


def test_who_writes_to_an_end_that_is_gone_hears_so_in_the_usual_way() -> None:
    """The daemon resets a stream whenever a stranger does."""

    async def run() -> None:
        (reader, writer), (_, other) = await pipe()
        other.transport.abort()
        with pytest.raises(OSError):
            while True:
                writer.write(bytes(1024))
                await writer.drain()
        more = asyncio.StreamReader()
        more.feed_data(b"x")
        answer = Hop(type=HopType.STATUS, status=Status.OK)
        for writing in (
            send(writer, answer),
            relay._copy(more, writer, lambda: None),
            relay._have_it_closed((reader, writer)),
        ):
            with pytest.raises(OSError):
                await writing

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


class Nodes:
    """Real nodes on loopback."""

    def __init__(self, folder: Path, stack: contextlib.AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack

    async def join(self, name: str, **options: Any) -> Libp2pNetwork:
        identity = self._stack.enter_context(Identity.hold(self._folder / name))
        return await self._stack.enter_async_context(Libp2pNetwork.join(identity, **options))


async def pong(stream: Stream) -> None:
    """Answer pings."""
    while isinstance(ping := await stream.receive(), Ping):
        await stream.send(Pong(ping.nonce))


async def echo(stream: Stream) -> None:
    """Send back what comes."""
    while True:
        await stream.send(await stream.receive())


async def serve(network: Libp2pNetwork) -> Contact:
    await network.serve(SESSION_PROTOCOL, pong)
    await network.serve(PUSH_PROTOCOL, echo)
    return Contact(network.peer_id, tuple(await network.maddrs()))


def test_nodes_that_listen_nowhere_exchange_more_than_the_daemons_own_relay_would_carry(tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(60.0), contextlib.AsyncExitStack() as stack:
            nodes = Nodes(tmp_path, stack)
            middle = await nodes.join("relay", host_maddrs=LOOPBACK, is_relay=True)
            initial = await middle.maddrs()
            hidden_node = await nodes.join("peer", initial_peers=initial, is_behind_nat=True)
            contact = await serve(hidden_node)
            assert contact.is_relayed
            assert len(contact.maddrs) == len(initial)
            client = await nodes.join("client", initial_peers=initial)
            assert await round_trip(client, contact) < 1.0
            message = Hidden(
                Round(NO_SESSION, 1, 0, (1,) * 64, 0, judged=False), 1, "float32", bytes(64 * 4096 * 4), ()
            )
            stream = await client.open(contact, PUSH_PROTOCOL)
            for _ in range(4):
                await stream.send(message)
                assert await stream.receive() == message
            assert stream.bytes_received > 8 * DAEMONS_LIMIT
            stream.close()

    asyncio.run(run())


def test_circuits_can_be_opened_and_ended_without_end(tmp_path: Path) -> None:
    """A QUIC connection has room for a few hundred streams at a time; those of circuits that ended must not count."""

    async def run() -> None:
        async with asyncio.timeout(120.0), contextlib.AsyncExitStack() as stack:
            nodes = Nodes(tmp_path, stack)
            initial = await (await nodes.join("relay", host_maddrs=LOOPBACK, is_relay=True)).maddrs()
            contact = await serve(await nodes.join("peer", initial_peers=initial, is_behind_nat=True))
            client = await nodes.join("client", initial_peers=initial)
            peer = PeerID.from_base58(contact.peer_id).to_bytes()
            disconnect = p2pd_pb2.Request(
                type=p2pd_pb2.Request.DISCONNECT, disconnect=p2pd_pb2.DisconnectRequest(peer=peer)
            )
            for _ in range(500):
                await round_trip(client, contact)
                _, _, writer = await daemon._ask(client._p2p, disconnect)
                writer.close()

    asyncio.run(run())


def test_peer_is_reached_again_after_its_relay_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "PERIOD_SECONDS", 1.0)

    async def run() -> None:
        async with asyncio.timeout(90.0), contextlib.AsyncExitStack() as stack:
            nodes = Nodes(tmp_path, stack)
            async with contextlib.AsyncExitStack() as mortal:
                middle = await Nodes(tmp_path, mortal).join("relay", host_maddrs=LOOPBACK, is_relay=True)
                initial = await middle.maddrs()
                contact = await serve(await nodes.join("peer", initial_peers=initial, is_behind_nat=True))
                client = await nodes.join("client", initial_peers=initial)
                stream = await client.open(contact, SESSION_PROTOCOL)
                await stream.send(Ping(1))
                assert await stream.receive() == Pong(1)
            with closing(stream), pytest.raises(PeerLost):
                await stream.receive()
            listen = [maddr.partition("/p2p/")[0] for maddr in initial]
            await nodes.join("relay", host_maddrs=listen, is_relay=True)
            while True:
                with contextlib.suppress(PeerLost):
                    await round_trip(client, contact)
                    break
                await asyncio.sleep(0.5)

    asyncio.run(run())


def test_peer_is_reached_through_another_relay_when_one_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "PERIOD_SECONDS", 1.0)

    async def run() -> None:
        async with asyncio.timeout(90.0), contextlib.AsyncExitStack() as stack:
            nodes = Nodes(tmp_path, stack)
            lasting = await (await nodes.join("lasting", host_maddrs=LOOPBACK, is_relay=True)).maddrs()
            async with contextlib.AsyncExitStack() as mortal:
                one = await Nodes(tmp_path, mortal).join("mortal", host_maddrs=LOOPBACK, is_relay=True)
                initial = [*await one.maddrs(), *lasting]
                peer = await nodes.join("peer", initial_peers=initial, is_behind_nat=True)
                for relaying in _contacts(initial):
                    assert await peer._greet(relaying)
                contact = await serve(peer)
                client = await nodes.join("client", initial_peers=lasting)
                await round_trip(client, contact)
            while True:
                with contextlib.suppress(PeerLost):
                    await round_trip(client, contact)
                    break

    asyncio.run(run())


def test_initial_peer_that_does_not_relay_is_no_way_in_for_a_peer_behind_nat(tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(60.0), contextlib.AsyncExitStack() as stack:
            nodes = Nodes(tmp_path, stack)
            initial = await (await nodes.join("other", host_maddrs=LOOPBACK)).maddrs()
            with pytest.raises(SwarmUnreachable, match="no initial peer relays"):
                await nodes.join("peer", initial_peers=initial, is_behind_nat=True)

    asyncio.run(run())
