"""What others' streams may take of a node: places, and memory for what is on its way in."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hivemind.utils.multiaddr import Multiaddr

from swarm import incoming as limits
from swarm.circuits import site_of
from swarm.codec import encode
from swarm.errors import PeerLost
from swarm.incoming import HOST_BYTES, NODE_BYTES, Guest, IncomingStreams, nobody
from swarm.streams import Libp2pStream
from swarm.wire import MAX_MESSAGE, NO_SESSION, Hidden, Ping, Round


class Streams:
    """Those that are open, and which were closed to make room."""

    def __init__(self, max_streams: int = 1024, max_client_streams: int = 64) -> None:
        self.now = 0.0
        self.known: Counter[str] = Counter()
        self.closed: list[str] = []
        self.limits = IncomingStreams(max_streams, max_client_streams, lambda: self.now)
        self.opened = ExitStack()

    def open(self, peer_id: str, host: str = "host") -> Guest | None:
        """One more, used a second later than the one before."""
        self.now += 1
        taken = self.limits.taken_by(peer_id, host, self.uses, lambda: self.closed.append(peer_id))
        return self.opened.enter_context(taken)

    def uses(self) -> Counter[str]:
        return self.known

    def guest(self, peer_id: str, host: str = "host") -> Guest:
        found = self.open(peer_id, host)
        assert found is not None
        return found

    def takes(self, guest: Guest, size: int) -> bool:
        """Whether a message of that size is taken, which then does not end."""
        return self.opened.enter_context(self.limits.room_for(guest, size))


@contextmanager
def open_streams(max_streams: int = 1024, max_client_streams: int = 64) -> Iterator[Streams]:
    streams = Streams(max_streams, max_client_streams)
    with streams.opened:
        yield streams


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("/ip4/192.0.2.1/tcp/4001", "ip4/192.0.2.1"),
        ("/ip6/2001:db8:1:2:3:4:5:6/tcp/4001", "2001:db8:1:2::/64"),
        ("/ip6/2001:db8:1:2::9/udp/4001/quic-v1", "2001:db8:1:2::/64"),
        ("/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWQhUesA5R5gKgJq4kNcHyK9C2KsYjoz8SBnp26gWzYcBD", "ip4/192.0.2.1"),
    ],
)
def test_of_ipv6_the_first_half_of_an_address_tells_one_site_from_another(address: str, site: str) -> None:
    assert site_of(Multiaddr(address).to_bytes()) == site


def test_one_node_has_so_many_streams() -> None:
    with open_streams(max_client_streams=3) as streams:
        assert [streams.open("eve") is not None for _ in range(5)] == [True] * 3 + [False] * 2
        assert streams.open("other")
    assert not streams.limits._guests  # nobody is remembered


def test_when_places_run_out_the_oldest_stranger_of_the_busiest_node_and_address_goes() -> None:
    with open_streams(max_streams=6) as streams:
        streams.guest("honest", "elsewhere")
        streams.guest("early", "crowded")
        for _ in range(3):
            streams.guest("eve", "crowded")
        streams.guest("mallory", "crowded")
        for i in range(3):
            streams.guest(f"late {i}", f"another {i}")
        assert streams.closed == ["eve", "eve", "early"]


def test_those_who_are_known_keep_their_places() -> None:
    with open_streams(max_streams=3) as streams:
        streams.known = Counter(("client", "peer"))
        streams.guest("client")
        streams.guest("peer")
        streams.guest("eve")
        streams.guest("mallory")
        assert streams.closed == ["eve"]
        streams.known["mallory"] = 1
        assert streams.open("late") is None


def test_who_is_known_keeps_a_place_for_each_use_and_no_more() -> None:
    """One lawful session must not hold all the places that a node may have."""
    with open_streams(max_streams=6) as streams:
        streams.known = Counter(eve=2, client=1)
        for _ in range(4):
            streams.guest("eve")
        for name in ("client", "one", "two", "three"):
            streams.guest(name, f"host of {name}")
        assert streams.closed == ["eve", "eve"]
        assert streams.open("four", "host of four")
        assert streams.closed == ["eve", "eve", "one"]


def test_of_several_streams_of_one_node_those_stay_that_were_used_last() -> None:
    with open_streams(max_streams=3) as streams:
        streams.known = Counter(client=1, other=1)
        streams.guest("other")
        first, second = streams.guest("client"), streams.guest("client")
        streams.now += 1
        streams.limits.note_use(first)
        assert streams.open("late")
        assert first in streams.limits._guests
        assert second not in streams.limits._guests


def test_what_cannot_be_closed_keeps_its_place() -> None:
    streams = IncomingStreams(max_streams=2)
    with ExitStack() as opened:
        assert all(opened.enter_context(streams.taken_by(f"{i}")) for i in range(2))
        assert opened.enter_context(streams.taken_by("late")) is None
        assert len(streams._guests) == 2


def test_a_stream_that_ends_in_an_error_gives_its_place_back() -> None:
    streams = IncomingStreams(max_streams=1)
    with pytest.raises(ConnectionError), streams.taken_by("one"):
        raise ConnectionError
    with streams.taken_by("two") as guest:
        assert guest


def test_one_stranger_sends_two_messages_at_a_time_and_an_address_some() -> None:
    with open_streams() as streams:
        assert streams.takes(streams.guest("eve"), NODE_BYTES)
        assert not streams.takes(streams.guest("eve"), NODE_BYTES // 2)
        assert not streams.takes(streams.guest("mallory"), NODE_BYTES + 1)
        taken = [streams.takes(streams.guest(f"eve {i}"), NODE_BYTES) for i in range(10)]
        assert sum(taken) == HOST_BYTES // NODE_BYTES - 1
        assert streams.takes(streams.guest("honest", "elsewhere"), NODE_BYTES)


def test_those_who_are_known_send_the_longest_messages_whatever_strangers_send() -> None:
    with open_streams() as streams:
        streams.known = Counter(("peer",))
        for i in range(40):
            streams.takes(streams.guest(f"eve {i}", f"host {i % 10}"), NODE_BYTES)
        assert streams.takes(streams.guest("peer"), MAX_MESSAGE)
        assert streams.takes(streams.guest("peer"), MAX_MESSAGE)
        assert not streams.takes(streams.guest("peer"), MAX_MESSAGE)
        assert sum(guest.coming for guest in streams.limits._guests) <= limits.ALL_BYTES
        assert set(streams.closed) <= {f"eve {i}" for i in range(40)}
        assert streams.closed


def test_of_those_who_are_known_the_one_who_sends_most_makes_room() -> None:
    with open_streams() as streams:
        count = limits.ALL_BYTES // MAX_MESSAGE
        streams.known = Counter(f"peer {i}" for i in range(count + 2))
        for i in range(count):
            assert streams.takes(streams.guest(f"peer {i}"), MAX_MESSAGE - i)
        assert streams.takes(streams.guest(f"peer {count}"), 1 << 20)
        assert streams.closed == ["peer 0"]
        assert not streams.takes(streams.guest(f"peer {count + 1}"), MAX_MESSAGE)


def test_what_there_is_no_room_for_is_thrown_away_and_the_stream_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NODE_BYTES", 1 << 20)
    large = Hidden(Round(NO_SESSION, 0, 0, (1,), 0, True), 1, "float32", bytes((1 << 20) + 1), ())

    async def run() -> int:
        received = asyncio.Queue[object]()
        streams = IncomingStreams()
        with streams.taken_by("eve", "host") as guest:
            assert guest

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                stream = Libp2pStream("eve", reader, writer, max_message=MAX_MESSAGE, is_own=False)
                stream.limit(streams, guest)
                received.put_nowait(await stream.receive())
                received.put_nowait(await stream.receive())
                stream.close()

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            there = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            sender = Libp2pStream("here", *there, max_message=1, is_own=True)
            await sender.send(Ping(1), large, Ping(2))
            assert [await asyncio.wait_for(received.get(), 10) for _ in range(2)] == [Ping(1), Ping(2)]
            sender.close()
            server.close()
            await server.wait_closed()
            return guest.coming

    assert asyncio.run(run()) == 0


def test_strangers_at_one_address_have_a_pace_together_and_known_nodes_none() -> None:
    with open_streams() as streams:
        eve, mallory, other = streams.guest("eve"), streams.guest("mallory"), streams.guest("other", "elsewhere")
        dues = [streams.limits.due(one, 1 << 19) for one in (eve, mallory, eve, other)]
        assert [due - streams.now for due in dues] == [0.5, 1.0, 1.5, 0.5]
        assert streams.limits.pause(eve, dues[2]) == 1.5
        streams.known["eve"] += 1
        assert streams.limits.pause(eve, dues[2]) == 0.0
        assert streams.limits.due(eve, 1 << 19) == streams.now
        streams.now += 1.25
        assert streams.limits.due(mallory, 1 << 18) - streams.now == 0.5
        streams.now += 10
        assert streams.limits.due(mallory, 1 << 19) - streams.now == 0.5
        assert len(streams.limits._due) == 1  # nobody else is remembered


def test_large_messages_that_are_announced_and_do_not_come_cost_their_address_nothing() -> None:
    async def run() -> None:
        streams = IncomingStreams()
        with ExitStack() as opened:
            guests = [opened.enter_context(streams.taken_by(name, "host")) for name in ("eve", "honest")]
            readers = [asyncio.StreamReader() for _ in guests]
            for reader, guest in zip(readers, guests, strict=True):
                assert guest
                stream = Libp2pStream("eve", reader, None, max_message=MAX_MESSAGE, is_own=False)  # type: ignore[arg-type]
                stream.limit(streams, guest)
                reader.feed_data(MAX_MESSAGE.to_bytes(4, "big"))
                opened.callback(asyncio.create_task(stream.receive()).cancel)
            await asyncio.sleep(0.1)
            assert not streams._due
            readers[0].feed_data(bytes(1 << 16))
            await asyncio.sleep(0.1)
            assert list(streams._due) == ["host"]

    asyncio.run(run())


def test_who_has_most_circuits_to_a_node_makes_room_for_those_of_other_addresses() -> None:
    with open_streams(max_client_streams=3) as streams:
        streams.limits._is_shared = True
        for host in ("crowded", "crowded", "elsewhere"):
            streams.guest("peer", host)
        assert streams.open("peer", "crowded") is None
        streams.guest("peer", "another")
        assert streams.closed == ["peer"]
        assert [guest.host for guest in streams.limits._guests] == ["crowded", "elsewhere", "another"]
        assert streams.open("peer", "another") is None


def test_of_a_stream_that_another_wanted_that_one_hears() -> None:
    streams = IncomingStreams(max_client_streams=1)
    with streams.taken_by("peer", asker="eve"), streams.taken_by("peer", asker="mallory") as refused:
        assert refused is None
        assert [one.peer_id for one in streams._complaints.recent] == ["mallory"]


@pytest.mark.parametrize("is_known", [False, True])
def test_a_large_message_comes_whole_at_a_strangers_pace_or_at_once(is_known: bool) -> None:
    large = Hidden(Round(NO_SESSION, 0, 0, (1,), 0, True), 1, "float32", bytes(range(256)) * 1000, ())

    async def run() -> None:
        reader = asyncio.StreamReader()
        streams, loop = IncomingStreams(), asyncio.get_running_loop()
        with streams.taken_by("eve", "host", lambda: {"eve": 1} if is_known else {}) as guest:
            assert guest
            stream = Libp2pStream("eve", reader, None, max_message=MAX_MESSAGE, is_own=False)  # type: ignore[arg-type]
            stream.limit(streams, guest)
            data, started = encode(large), loop.time()
            reader.feed_data(len(data).to_bytes(4, "big") + data)
            assert await asyncio.wait_for(stream.receive(), 10) == large
            assert is_known or loop.time() - started >= 3 * (1 << 16) / (1 << 20)
            assert not (is_known and streams._due)

    asyncio.run(run())


def test_a_large_message_that_does_not_come_ends_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_PATIENCE", 0.2)
    monkeypatch.setattr(limits, "_RATE", 1 << 30)

    async def run() -> None:
        reader = asyncio.StreamReader()
        streams = IncomingStreams()
        with streams.taken_by("eve", "host", nobody) as guest:
            assert guest
            stream = Libp2pStream("eve", reader, None, max_message=MAX_MESSAGE, is_own=False)  # type: ignore[arg-type]
            stream.limit(streams, guest)
            reader.feed_data((1 << 20).to_bytes(4, "big") + encode(Ping(1)))
            with pytest.raises(PeerLost):
                await asyncio.wait_for(stream.receive(), 10)
            assert guest.coming == 0

    asyncio.run(run())
