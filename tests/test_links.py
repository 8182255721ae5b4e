"""Streams between neighbours: shared by all sessions, in turns, and no session waits for another's neighbour."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
import weakref
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest

from peer.dials import PER_HOST, Dials
from peer.links import FLOW_BYTES, LINGER_SECONDS, MAX_BYTES, MAX_DIALS, WRITE_BYTES, Link, Links
from peer.sent import Sent
from peer.session import Refusal, Session
from swarm.codec import encode
from swarm.errors import PeerLost
from swarm.memory import MemoryNetwork, MemoryStream, MemoryTransport
from swarm.model.cache import KVCache
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.streams import Libp2pStream
from swarm.transport import Stream
from swarm.wire import MAX_STATES, NO_SESSION, PUSH_PROTOCOL, AnyMessage, Contact, Hidden, Ping, Round
from tests import faulty

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


class Lost:
    """What was told of links that broke, and how often there was room."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[list[Session], PeerLost]] = asyncio.Queue()
        self.room = 0

    def note_room(self) -> None:
        self.room += 1


async def start() -> tuple[Links, Neighbour, MemoryTransport, Lost]:
    network, neighbour, lost = MemoryNetwork(), Neighbour(), Lost()
    place = network.join(NEXT.peer_id)
    await place.serve(PUSH_PROTOCOL, neighbour.serve)
    links = Links(
        network.join("own"), lambda sessions, error: lost.told.put_nowait((list(sessions), error)), lost.note_room
    )
    return links, neighbour, place, lost


def session(number: int = 1, client: str = "client", to: Contact | None = NEXT) -> Session:
    return Session(bytes([number]) * 16, client, Span(0, 1), client, to, Sampling(), KVCache(Span(0, 1)))


def large(size: int, number: int = 0) -> Hidden:
    return Hidden(Round(NO_SESSION, number, 0, (1,), 0, True), 1, "float32", bytes(size), ())


def test_what_is_pushed_arrives_in_order_on_one_stream() -> None:
    async def run() -> None:
        links, neighbour, _, lost = await start()
        for nonce in range(3):
            links.push(session(nonce), Ping(nonce))
        assert [await neighbour.received.get() for _ in range(3)] == [Ping(0), Ping(1), Ping(2)]
        assert len(neighbour.streams) == 1
        await links.close()
        assert lost.told.empty()

    asyncio.run(run())


def test_the_end_of_a_stream_is_told_at_once_to_who_uses_it_and_the_next_push_opens_another() -> None:
    async def run() -> None:
        links, neighbour, _, lost = await start()
        one, other, elsewhere = session(1), session(2), session(3, to=Contact("elsewhere"))
        links.push(one, Ping(0))
        links.lead(other)
        links.copy(elsewhere, NEXT, iter([Ping(1)]))
        await neighbour.received.get()
        neighbour.streams[0].close()
        sessions, error = await asyncio.wait_for(lost.told.get(), 5)
        assert (sessions, error.peer_id, error.reason) == ([one, other], NEXT.peer_id, "its stream has ended")
        links.push(one, Ping(2))
        while await asyncio.wait_for(neighbour.received.get(), 5) != Ping(2):
            pass
        await links.close()
        assert lost.told.empty()

    asyncio.run(run())


def test_a_neighbour_that_answers_is_dropped() -> None:
    async def run() -> None:
        links, _, place, lost = await start()

        async def answer(stream: Stream) -> None:
            await stream.send(await stream.receive())
            await stream.receive()

        await place.serve(PUSH_PROTOCOL, answer)
        links.push(session(), Ping(0))
        assert "answer" in (await asyncio.wait_for(lost.told.get(), 5))[1].reason
        await links.close()

    asyncio.run(run())


def test_a_neighbour_that_cannot_be_reached_is_told_once() -> None:
    async def run() -> None:
        links, _, _, lost = await start()
        links.push(session(to=Contact("nobody")), Ping(0))
        assert (await asyncio.wait_for(lost.told.get(), 5))[1].peer_id == "nobody"
        await links.close()
        assert lost.told.empty()

    asyncio.run(run())


def test_a_link_that_nobody_uses_is_closed_after_a_while_and_one_that_is_used_again_is_not() -> None:
    async def run() -> None:
        network = faulty.FaultyNetwork(1)
        place, own, lost = network.join(NEXT.peer_id), network.join("own"), Lost()
        await place.serve(PUSH_PROTOCOL, Neighbour().serve)
        links = Links(own, lambda *what: lost.told.put_nowait(what), lost.note_room)  # type: ignore[arg-type]
        one = session()
        links.push(one, Ping(0))
        links.copy(one, NEXT, iter([]))
        await asyncio.sleep(1)
        links.leave(one.id)
        await asyncio.sleep(LINGER_SECONDS / 2)
        links.lead(one)
        await asyncio.sleep(10 * LINGER_SECONDS)
        assert not place.streams[0]._ended
        links.leave(one.id)
        await asyncio.sleep(2 * LINGER_SECONDS)
        assert place.streams[0]._ended
        assert not links._links
        assert len(place.streams) == 1
        assert lost.told.empty()

    faulty.run(run())


def test_one_client_has_so_many_dialled_at_once_and_nobody_else_is_kept_from_it() -> None:
    async def run() -> None:
        links, _, _, _ = await start()
        for number in range(MAX_DIALS):
            to = Contact(f"silent {number}")
            links.check("client", to)
            links.lead(session(number, to=to))
        with pytest.raises(Refusal, match="still being opened"):
            links.check("client", Contact("another"))
        links.check("client", Contact("silent 0"))
        links.check("another client", Contact("another"))
        await links.close()

    asyncio.run(run())


def test_dials_of_one_host_wait_for_each_other_and_not_those_of_others() -> None:
    async def run() -> None:
        dials, begun, go_on = Dials(lambda client: True), list[str](), asyncio.Event()

        async def dial(host: str) -> None:
            contact = Contact("peer", (f"/ip4/{host}/tcp/1", f"/ip4/{host}/udp/1/quic-v1"))
            async with dials.turn(contact, lambda: ["client"]):
                begun.append(host)
                await go_on.wait()

        async with asyncio.TaskGroup() as group:
            for host in ["1.1.1.1"] * (PER_HOST + 2) + ["2.2.2.2"]:
                group.create_task(dial(host))
            await asyncio.sleep(0)
            assert begun == ["1.1.1.1"] * PER_HOST + ["2.2.2.2"]
            go_on.set()
        assert len(begun) == PER_HOST + 3
        assert not dials._under_way

    asyncio.run(run())


def test_of_those_who_wait_the_client_with_fewest_dials_under_way_goes_first() -> None:
    """A few who have silent hosts dialled do not keep the others of such a host waiting for long."""
    waiting = dict[str, list[str]]()  # by dial: whose it is besides, meanwhile

    async def run() -> None:
        dials, begun, ended = (
            Dials(lambda client: client.startswith("new")),
            list[str](),
            dict[str, asyncio.Event](),
        )

        async def dial(client: str, number: int, contact: Contact) -> None:
            name = f"{client} {number}"
            ended[name] = asyncio.Event()
            async with dials.turn(contact, lambda: waiting.get(name, [client])):
                begun.append(name)
                await ended[name].wait()

        async def end(name: str) -> None:
            ended[name].set()
            for _ in range(3):
                await asyncio.sleep(0)

        silent, reached = Contact("peer", ("/ip4/1.1.1.1/tcp/1",)), Contact("other", ("/ip4/1.1.1.1/tcp/2",))
        dials.note_reached(reached)
        async with asyncio.TaskGroup() as group:
            for client, number in [("eve", i) for i in range(PER_HOST + 4)] + [
                ("new 1", 0),
                ("new 2", 0),
                ("honest", 0),
            ]:
                group.create_task(dial(client, number, silent))
            group.create_task(dial("another", 0, reached))
            group.create_task(dial("own", 0, Contact("here", ("/ip4/127.0.0.1/tcp/1",))))
            await asyncio.sleep(0)
            assert begun == [f"eve {i}" for i in range(PER_HOST)] + ["another 0", "own 0"]
            await end("eve 3")
            assert begun[-1] == "new 1 0"
            await end("eve 4")
            assert begun[-1] == "honest 0"  # before another newcomer
            waiting["eve 11"] = ["eve", "other"]  # who joins the dial of one who has many under way
            await end("eve 5")
            assert begun[-1] == "eve 11"
            for event in ended.values():
                event.set()

    asyncio.run(run())


def taken(link: Link) -> list[AnyMessage]:
    return link._take()


def flows(links: Links) -> Link:
    """The only link, whose stream takes nothing yet."""
    [link] = links._links.values()
    return link


def test_clients_take_turns_and_a_short_result_goes_before_others_long_ones() -> None:
    async def run() -> None:
        links, _, _, _ = await start()
        for one in [session(number, "greedy") for number in range(1, 9)] * 4:  # one client, for all its sessions
            links.push(one, large(WRITE_BYTES))
        link = flows(links)
        for _ in range(3):
            taken(link)
        for one in [session(9, "modest")] * 2:
            links.push(one, Ping(7))
        turns = [taken(link) for _ in range(2)]
        assert turns[0][:2] == [Ping(7), Ping(7)]
        assert [len(turn) for turn in turns] == [3, 1]
        await links.close()

    asyncio.run(run())


def test_sessions_of_one_client_take_turns_beside_another_client_that_never_ends() -> None:
    async def run() -> None:
        links, _, _, _ = await start()
        one, other, stranger = session(1), session(2), session(3, "stranger")
        links.push_again(stranger, iter(large(WRITE_BYTES, 3) for _ in count()))
        for which, number in ((one, 1), (other, 2)):
            links.push_again(which, iter([large(WRITE_BYTES, number)] * 6))
        turns = [message.round.number for _ in range(16) for message in taken(flows(links))]  # type: ignore[union-attr]
        assert turns.count(1) == turns.count(2) == 4
        await links.close()

    asyncio.run(run())


def test_a_session_that_ended_is_not_held_by_its_link() -> None:
    async def run() -> None:
        links, neighbour, _, _ = await start()
        ended = session(1)
        links.push(ended, Ping(1))
        await asyncio.wait_for(neighbour.received.get(), 5)
        links.push(session(2, "another"), Ping(2))
        await asyncio.wait_for(neighbour.received.get(), 5)
        links.leave(ended.id)
        gone = weakref.ref(ended.cache)
        del ended
        gc.collect()
        assert gone() is None
        await links.close()

    asyncio.run(run())


def test_a_copy_is_given_up_when_the_next_peer_is_given_what_it_lacks() -> None:
    async def run() -> None:
        links, _, _, _ = await start()
        one = session()
        links.copy(one, NEXT, iter(large(WRITE_BYTES, 1) for _ in count()))
        links.push_again(one, iter([large(WRITE_BYTES, 2)] * 2))
        link = flows(links)
        turns = [message.round.number for _ in range(3) for message in taken(link)]  # type: ignore[union-attr]
        assert turns == [2, 2]
        assert len(link.flows) == 1
        await links.close()

    asyncio.run(run())


def test_sessions_of_one_client_take_turns() -> None:
    async def run() -> None:
        links, _, _, _ = await start()
        for number, one in ((1, session(1)), (2, session(2))):
            for _ in range(3):
                links.push(one, large(WRITE_BYTES, number))
        turns = [message for _ in range(6) for message in taken(flows(links))]
        assert [turn.round.number for turn in turns if isinstance(turn, Hidden)] == [1, 2, 1, 2, 1, 2]
        await links.close()

    asyncio.run(run())


def test_what_is_passed_on_again_is_made_as_the_link_takes_it_and_stands_in_for_what_waited() -> None:
    async def run() -> None:
        links, _, _, _ = await start()
        made = count()

        def again() -> Iterator[AnyMessage]:
            while True:
                yield large(WRITE_BYTES, next(made))

        one = session()
        links.push(one, Ping(1))
        links.push_again(one, again())
        links.push(one, Ping(2))
        assert links._results[one.id].num_bytes < 2000
        for turn in range(5):
            assert [m.round.number for m in taken(flows(links)) if isinstance(m, Hidden)] == [turn]
        links.push_again(
            one, iter([Ping(3)])
        )  # once more, from elsewhere: what was left of the first is not wanted
        links.push(one, Ping(4))
        assert taken(flows(links)) == [Ping(3), Ping(4)]
        assert next(made) == 5
        await links.close()

    asyncio.run(run())


def test_one_session_is_copied_to_one_peer_at_a_time() -> None:
    async def run() -> None:
        links, neighbour, place, lost = await start()
        await place._network.join("other").serve(PUSH_PROTOCOL, Neighbour().serve)
        one = session(to=None)
        links.copy(one, Contact("other"), iter(Ping(nonce) for nonce in count()))
        links.copy(one, NEXT, iter([Ping(1)]))
        links.copy(one, NEXT, iter([Ping(2)]))
        assert await asyncio.wait_for(neighbour.received.get(), 5) == Ping(2)
        assert [len(link.flows) for link in links._links.values()] == [0, 1]
        await links.close()
        assert lost.told.empty()

    asyncio.run(run())


def test_sessions_are_full_whose_results_wait_and_all_that_have_any_where_too_much_does() -> None:
    async def run() -> None:
        links, _, _, _ = await start()
        slow, quick = session(1), session(2)
        links.push(slow, large(FLOW_BYTES))
        links.push(quick, large(FLOW_BYTES // 2))
        assert links.full == {slow.id}
        modest = session(99, "another client")
        links.push(modest, large(1000))
        for number in range(4, 4 + MAX_BYTES // FLOW_BYTES):
            links.push(session(number), large(FLOW_BYTES - 2000))
        assert quick.id in links.full
        assert modest.id not in links.full  # it is not that client who takes the room
        for _ in range(2):
            taken(flows(links))
        links.leave(slow.id)
        assert slow.id not in links.full
        await links.close()

    asyncio.run(run())


def test_who_waits_for_room_is_told_when_there_is_some() -> None:
    async def run() -> None:
        links, neighbour, _, lost = await start()
        for one in [session()] * 4:
            links.push(one, large(MAX_STATES))
            assert (await asyncio.wait_for(neighbour.received.get(), 5)) == large(MAX_STATES)
        while lost.room < 4:  # noqa: ASYNC110  # a turn of the loop each
            await asyncio.sleep(0)
        assert not links.full
        await links.close()

    asyncio.run(run())


HIDDEN_BYTES, LENGTH = 4 * 8192, 4096
"""Of a row of a large model in float32; tokens of the text that a substitute lacks."""


@pytest.mark.parametrize("sessions", [1, 6])
def test_a_mend_of_a_large_model_takes_no_memory_here_and_loses_no_link(sessions: int) -> None:
    longest = MAX_STATES // HIDDEN_BYTES
    rows = bytes(longest * HIDDEN_BYTES)

    def log_of(number: int) -> Sent:
        log = Sent()
        for start in range(0, LENGTH, longest):  # the pieces are the same bytes: it is the way that is tried
            round = Round(bytes([number]) * 16, 1, start, (7,) * longest, 0, judged=False)
            log.keep(round, rows, ())
        return log

    async def run() -> int:
        network, lost, arrived = MemoryNetwork(), Lost(), asyncio.Queue[int]()

        async def serve(stream: Stream) -> None:
            while True:
                message = await stream.receive()
                assert isinstance(message, Hidden)
                arrived.put_nowait(len(message.states))

        await network.join(NEXT.peer_id).serve(PUSH_PROTOCOL, serve)
        links = Links(
            network.join("own"), lambda sessions, _: lost.told.put_nowait((list(sessions), _)), lost.note_room
        )
        tracemalloc.start()
        for number in range(sessions):
            again = log_of(number).since(0, 512)
            links.push_again(session(number), (Hidden(round, 1, "float32", data, ()) for round, data, _ in again))
        total = 0
        while total < sessions * LENGTH * HIDDEN_BYTES:
            total += await asyncio.wait_for(arrived.get(), 30)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        await links.close()
        assert lost.told.empty()
        return most

    most = asyncio.run(run())
    assert most < 100 << 20, most


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


class Slow(MemoryTransport):
    """One end of a network, whose first dial fails when it is told to."""

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__(network, "own")
        self.dialled = asyncio.Event()
        self.fails = asyncio.Event()

    async def open(self, contact: Contact, protocol: str) -> MemoryStream:
        if self.fails.is_set():
            return await super().open(contact, protocol)
        self.dialled.set()
        await self.fails.wait()
        raise PeerLost(contact.peer_id, "no answer")


def test_a_dial_that_fails_says_nothing_to_sessions_that_joined_after_it_had_begun() -> None:
    """A dial to a dead host takes long to fail; the peer may be back by then, and is dialled once more."""

    async def run() -> None:
        network, neighbour, lost = MemoryNetwork(), Neighbour(), Lost()
        await network.join(NEXT.peer_id).serve(PUSH_PROTOCOL, neighbour.serve)
        slow = Slow(network)
        links = Links(slow, lambda sessions, error: lost.told.put_nowait((list(sessions), error)), lost.note_room)
        early, late = session(1), session(2)
        links.push(early, Ping(0))
        await slow.dialled.wait()
        links.push(late, Ping(1))
        slow.fails.set()
        assert await asyncio.wait_for(neighbour.received.get(), 5) == Ping(1)
        told, error = lost.told.get_nowait()
        assert told == [early]
        assert error.reason == "no answer"
        assert lost.told.empty()
        await links.close()

    asyncio.run(run())
