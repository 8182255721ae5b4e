"""Streams between neighbours: a lost one is noticed when it ends, not when it is needed."""

from __future__ import annotations

import asyncio
from contextlib import closing

from peer.links import MAX_QUEUED, WRITE_BYTES, Links, Outbox
from swarm.codec import encode
from swarm.errors import PeerLost
from swarm.memory import MemoryNetwork, MemoryTransport
from swarm.streams import Libp2pStream
from swarm.transport import Handler, Stream
from swarm.wire import NO_SESSION, PUSH_PROTOCOL, AnyMessage, Contact, Hidden, Ping, Round

NEXT = Contact("next")


class Neighbour:
    """The next peer: keeps what it is sent, and can end the stream."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[AnyMessage] = asyncio.Queue()
        self.streams: list[Stream] = []

    async def serve(self, stream: Stream) -> None:
        self.streams.append(stream)
        while True:
            self.received.put_nowait(await stream.receive())


async def start() -> tuple[Links, Neighbour, MemoryTransport, asyncio.Queue[PeerLost]]:
    network, neighbour, lost = MemoryNetwork(), Neighbour(), asyncio.Queue[PeerLost]()
    place = network.join(NEXT.peer_id)
    await place.serve(PUSH_PROTOCOL, neighbour.serve)
    links = Links(network.join("own"), lambda _contact, _before, error: lost.put_nowait(error))
    return links, neighbour, place, lost


def test_what_is_pushed_arrives_in_order_on_one_stream() -> None:
    async def run() -> None:
        links, neighbour, _, lost = await start()
        for nonce in range(3):
            links.push(NEXT, Ping(nonce))
        assert [await neighbour.received.get() for _ in range(3)] == [Ping(0), Ping(1), Ping(2)]
        assert len(neighbour.streams) == 1
        await links.close()
        assert lost.empty()

    asyncio.run(run())


def test_the_end_of_a_stream_is_told_at_once_and_the_next_push_opens_another() -> None:
    async def run() -> None:
        links, neighbour, _, lost = await start()
        links.push(NEXT, Ping(0))
        await neighbour.received.get()
        neighbour.streams[0].close()
        error = await asyncio.wait_for(lost.get(), 5)
        assert (error.peer_id, error.reason) == (NEXT.peer_id, "its stream has ended")
        links.push(NEXT, Ping(1))
        assert await asyncio.wait_for(neighbour.received.get(), 5) == Ping(1)
        await links.close()
        assert lost.empty()

    asyncio.run(run())


def test_a_neighbour_that_answers_is_dropped() -> None:
    async def run() -> None:
        links, _, place, lost = await start()

        async def answer(stream: Stream) -> None:
            await stream.send(await stream.receive())
            await stream.receive()

        await place.serve(PUSH_PROTOCOL, answer)
        links.push(NEXT, Ping(0))
        assert "answer" in (await asyncio.wait_for(lost.get(), 5)).reason
        await links.close()

    asyncio.run(run())


def test_what_waits_for_one_stream_is_bounded_in_bytes_and_in_number() -> None:
    def posted(states: int) -> int:
        outbox, message = Outbox(), Hidden(Round(NO_SESSION, 0, 0, (1,), 0, True), 1, "float32", bytes(states), ())
        return next(count for count in range(5000) if not outbox.post(message))

    assert posted(0) == MAX_QUEUED
    assert posted(32 << 20) == 3  # each takes a little more than its states


def test_what_was_sent_makes_room_for_more() -> None:
    async def run() -> None:
        links, neighbour, _, lost = await start()
        large = Hidden(Round(NO_SESSION, 0, 0, (1,), 0, True), 1, "float32", bytes(48 << 20), ())
        for _ in range(4):
            links.push(NEXT, large)
            assert await asyncio.wait_for(neighbour.received.get(), 5) == large
        await links.close()
        assert lost.empty()

    asyncio.run(run())


class Writes:
    """A stream to which nothing is written before `open` is set."""

    peer_id = NEXT.peer_id

    def __init__(self) -> None:
        self.writes: list[tuple[AnyMessage, ...]] = []
        self.is_open = asyncio.Event()

    async def send(self, *messages: AnyMessage) -> None:
        self.writes.append(messages)
        await self.is_open.wait()


def large(size: int) -> Hidden:
    return Hidden(Round(NO_SESSION, 0, 0, (1,), 0, True), 1, "float32", bytes(size), ())


def test_what_waits_for_one_neighbour_goes_out_in_one_write_in_order_and_bounded() -> None:
    async def run() -> None:
        stream, outbox = Writes(), Outbox()
        sending = asyncio.create_task(outbox.run(stream))  # type: ignore[arg-type]
        posted: list[AnyMessage] = [Ping(0), Ping(1), large(WRITE_BYTES), Ping(2), large(WRITE_BYTES // 2), Ping(3)]
        posted += [large(WRITE_BYTES // 2), Ping(4)]
        for message in posted:
            assert outbox.post(message)
        stream.is_open.set()
        while sum(map(len, stream.writes)) < len(posted):  # noqa: ASYNC110  # a turn of the loop each
            await asyncio.sleep(0)
        sending.cancel()
        assert [message for write in stream.writes for message in write] == posted
        assert [len(write) for write in stream.writes] == [3, 4, 1]
        assert outbox._bytes == 0

    asyncio.run(run())


def test_messages_of_one_write_arrive_whole_and_in_order_over_a_real_stream() -> None:
    async def run() -> None:
        received: asyncio.Queue[AnyMessage] = asyncio.Queue()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stream = Libp2pStream("other", reader, writer, max_message=1 << 20, is_own=False)
            with closing(stream):
                for _ in range(4):
                    received.put_nowait(await stream.receive())

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        stream = Libp2pStream(
            "other", *await asyncio.open_connection(host, port), max_message=1 << 20, is_own=False
        )
        sent = [Ping(1), large(300_000), Ping(2), Ping(3)]
        await stream.send(*sent)
        assert [await asyncio.wait_for(received.get(), 5) for _ in sent] == sent
        assert stream.bytes_sent == sum(4 + len(encode(message)) for message in sent)
        stream.close()
        server.close()
        await server.wait_closed()

    asyncio.run(run())


def test_a_neighbour_that_cannot_be_reached_is_told_once() -> None:
    async def run() -> None:
        links, _, _, lost = await start()
        links.push(Contact("nobody"), Ping(0))
        assert (await asyncio.wait_for(lost.get(), 5)).peer_id == "nobody"
        await links.close()
        assert lost.empty()

    asyncio.run(run())


def test_a_dial_that_fails_says_nothing_to_who_asked_after_it_had_begun() -> None:
    """A dial to a dead host takes long to fail; the peer may be back by then, and is dialled once more."""

    class Slow:
        """A network whose first dial fails when it is told to."""

        peer_id = "own"

        def __init__(self, there: MemoryTransport) -> None:
            self.there = there
            self.dialled = asyncio.Event()
            self.fails = asyncio.Event()

        async def open(self, contact: Contact, protocol: str) -> Stream:
            if self.fails.is_set():
                return await self.there.open(contact, protocol)
            self.dialled.set()
            await self.fails.wait()
            raise PeerLost(contact.peer_id, "no answer")

        async def serve(self, protocol: str, handler: Handler) -> None:
            await self.there.serve(protocol, handler)

    async def run() -> None:
        network, neighbour, told = MemoryNetwork(), Neighbour(), list[float]()
        await network.join(NEXT.peer_id).serve(PUSH_PROTOCOL, neighbour.serve)
        slow = Slow(network.join("own"))
        links = Links(slow, lambda _contact, before, _error: told.append(before))
        first = links.prepare(NEXT)
        await slow.dialled.wait()
        second = links.prepare(NEXT)
        links.push(NEXT, Ping(0))
        slow.fails.set()
        assert await asyncio.wait_for(neighbour.received.get(), 5) == Ping(0)
        (before,) = told
        assert first <= before < second
        await links.close()

    asyncio.run(run())
