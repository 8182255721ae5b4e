"""Real nodes on loopback, one of them hostile: whatever it answers and stores, the others find each other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.p2p import P2PContext, PeerID
from hivemind.proto import dht_pb2
from hivemind.utils import MSGPackSerializer

from benchmarks.eclipse import fresh
from specswarm.processes import LOOPBACK
from swarm import PROTOCOL, records
from swarm.calls import ANSWER_SECONDS, DhtNode, place_of
from swarm.dht import _MOST_BAD, DEADLINE_SECONDS
from swarm.directory import INDEX_KEY, Directory, keys_of
from swarm.errors import LookupFailed
from swarm.identity import Identity
from swarm.libp2p import Libp2pNetwork
from swarm.records import MAX_LIFETIME, Announcement
from swarm.wire import Contact
from tests.test_records import announcement

Reply = Callable[[dht_pb2.FindRequest], dht_pb2.FindResult]


class Swarm:
    """Nodes that joined one after the other, each by the address of the first."""

    def __init__(self, folder: Path, stack: contextlib.AsyncExitStack) -> None:
        self.initial_peers: list[str] = []
        self._folder = folder
        self._stack = stack

    async def join(self, name: str) -> tuple[Libp2pNetwork, Identity]:
        """A node that keeps records."""
        identity = self._stack.enter_context(Identity.hold(self._folder / name))
        joining = Libp2pNetwork.join(identity, initial_peers=self.initial_peers, host_maddrs=LOOPBACK)
        network = await self._stack.enter_async_context(joining)
        self.initial_peers = self.initial_peers or await network.maddrs()
        return network, identity

    @contextlib.asynccontextmanager
    async def client_knowing(self, other: Libp2pNetwork) -> AsyncIterator[Libp2pNetwork]:
        """A node that only asks, and asks that one too: others may not name it any more, once it has sent nonsense."""
        async with Libp2pNetwork.join(None, initial_peers=self.initial_peers) as network:
            assert await network._greet(Contact(other.peer_id, tuple(await other.maddrs())))
            yield network


def in_a_swarm(folder: Path, test: Callable[[Swarm], Awaitable[None]]) -> None:
    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await test(Swarm(folder, stack))

    asyncio.run(run())


def offer(identity: Identity, seconds: float = 60.0, **changes: Any) -> Announcement:
    return announcement(identity.peer_id, expires=time.time() + seconds, **changes)


def ignore(_: bytes) -> None:
    """What was there before does not matter."""


def distance(place: DHTID, peer: PeerID) -> int:
    return int(place.xor_distance(place_of(peer)))


def hostile(monkeypatch: pytest.MonkeyPatch, network: Libp2pNetwork, reply: Reply) -> None:
    """From now on this node answers as it likes when it is asked for records."""
    honest = DhtNode._result
    node = network._dht._node

    def result(self: DhtNode, place: DHTID, asker: PeerID) -> dht_pb2.FindResult:
        if self is node:
            return reply(dht_pb2.FindRequest(keys=[place.to_bytes()]))
        return honest(self, place, asker)

    monkeypatch.setattr(DhtNode, "_result", result)


def dictionary(*entries: tuple[str, bytes, float], maxsize: Any = None) -> bytes:
    """What plain hivemind nodes send each other."""
    value = DictionaryDHTValue()
    for subkey, record, expires in entries:
        value.store(subkey, record, expires)
    value.maxsize = maxsize
    with value.freeze():
        return bytes(MSGPackSerializer.dumps(value))


def strange_results() -> dict[str, dht_pb2.FindResult]:
    """Answers that must not hide anybody."""
    forever = float("inf")
    entries = [["somebody", b"x", forever], ["somebody", b"x"], 5, [1, 2, 3], ["", b"", float("nan")]]
    return {
        "empty for ever": dht_pb2.FindResult(type=2, value=dictionary(), expiration_time=forever),
        "maxsize": dht_pb2.FindResult(
            type=2, value=dictionary(("a", b"b", 1e12), maxsize="x"), expiration_time=1e12
        ),
        "no type": dht_pb2.FindResult(type=9, value=b"\xc1" * 50),
        "empty array": dht_pb2.FindResult(type=1, value=b"\x90", expiration_time=forever),
        "bad entries": dht_pb2.FindResult(type=1, value=msgspec.msgpack.encode(entries)),
        "half an array": dht_pb2.FindResult(type=1, value=msgspec.msgpack.encode(entries)[:-3]),
        "deep": dht_pb2.FindResult(type=1, value=b"\x91" * 100_000),
        "many": dht_pb2.FindResult(type=1, value=msgspec.msgpack.encode([["a", b"b", 1.0]] * 100_000)),
        "nobody near": dht_pb2.FindResult(nearest_peer_ids=[b"", b"x" * 10_000, b"\x00\x01"]),
    }


def test_strange_answers_hide_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def test(swarm: Swarm) -> None:
        good, identity = await swarm.join("good")
        bad, _ = await swarm.join("bad")
        mine = offer(identity)
        assert await good.put(keys_of(mine), mine.peer_id, records.sign(mine, identity), ignore)
        for kind, result in strange_results().items():

            def reply(_: dht_pb2.FindRequest, result: dht_pb2.FindResult = result) -> dht_pb2.FindResult:
                nonlocal asked
                asked += 1
                return result

            hostile(monkeypatch, bad, reply)
            async with asyncio.timeout(20.0), swarm.client_knowing(bad) as reader:
                assert await Directory(reader).all_peers() == [mine], kind
        assert asked >= len(strange_results())

    in_a_swarm(tmp_path, test)


def test_of_an_answer_full_of_forged_records_few_are_checked_and_nobody_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = Counter[bool]()
    honest = records.verify

    def verify(peer_id: str, payload: bytes, signature: bytes) -> bool:
        is_right = honest(peer_id, payload, signature)
        checked[is_right] += 1
        return is_right

    async def test(swarm: Swarm) -> None:
        good, identity = await swarm.join("good")
        bad, _ = await swarm.join("bad")
        mine = offer(identity)
        signed = records.sign(mine, identity)
        assert await good.put(keys_of(mine), mine.peer_id, signed, ignore)
        forged = [[f"{i}", i.to_bytes(64, "big") + signed[64:], 1.0] for i in range(512)]
        result = dht_pb2.FindResult(type=1, value=msgspec.msgpack.encode(forged))
        hostile(monkeypatch, bad, lambda _: result)
        async with swarm.client_knowing(bad) as reader:
            monkeypatch.setattr(records, "verify", verify)
            assert await Directory(reader).all_peers() == [mine]

    in_a_swarm(tmp_path, test)
    assert 0 < checked[False] <= 2 * (_MOST_BAD + 1)


def test_of_more_records_than_a_client_takes_those_count_that_nodes_of_most_networks_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a crowd could have a client plan with tens of thousands of peers that are not there."""
    monkeypatch.setattr("swarm.dht.MAX_FOUND", 4)

    async def test(swarm: Swarm) -> None:
        one, identity = await swarm.join("one")
        two, _ = await swarm.join("two")
        bad, _ = await swarm.join("bad")
        mine = offer(identity)
        record = records.sign(mine, identity)
        for key in keys_of(mine):
            assert all(node._dht._node.keep(DHTID.generate(key), mine.peer_id, record) for node in (one, two))
        crowd = [fresh() for _ in range(20)]
        made_up = [[other.peer_id, records.sign(offer(other), other), 1.0] for other in crowd]
        result = dht_pb2.FindResult(type=1, value=msgspec.msgpack.encode(made_up))
        hostile(monkeypatch, bad, lambda _: result)
        async with swarm.client_knowing(bad) as reader:
            monkeypatch.setattr(reader._dht._node.ranges, "of", PeerID.to_base58)  # each in a network of its own
            found = [peer.peer_id for peer in await Directory(reader).all_peers()]
        assert len(found) == 4
        assert mine.peer_id in found
        assert set(found) - {mine.peer_id} <= {other.peer_id for other in crowd}

    in_a_swarm(tmp_path, test)


def test_nodes_that_are_not_there_are_no_place_to_hide_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile node names as many as it may, all of them made up to stand nearer to the key than any other."""

    async def test(swarm: Swarm) -> None:
        good, identity = await swarm.join("good")
        bad, _ = await swarm.join("bad")
        mine = offer(identity)
        assert await good.put(keys_of(mine), mine.peer_id, records.sign(mine, identity), ignore)
        place = DHTID.generate(INDEX_KEY)
        made_up = sorted(map(PeerID, (b"made up %d" % i for i in range(2000))), key=lambda p: distance(place, p))
        named = [peer.to_bytes() for peer in made_up]
        hostile(monkeypatch, bad, lambda _: dht_pb2.FindResult(nearest_peer_ids=named))
        async with swarm.client_knowing(bad) as reader:
            async with asyncio.timeout(DEADLINE_SECONDS + 1.0):
                assert await Directory(reader).all_peers() == [mine]

    in_a_swarm(tmp_path, test)


def test_replayed_records_neither_hide_the_newer_nor_outlive_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(swarm: Swarm) -> None:
        good, identity = await swarm.join("good")
        bad, _ = await swarm.join("bad")
        older, newer = offer(identity, 40.0), offer(identity, 60.0, free_tokens=7)
        replayed = records.sign(older, identity)
        assert await good.put(keys_of(newer), newer.peer_id, records.sign(newer, identity), ignore)
        assert not await bad.put([INDEX_KEY], older.peer_id, replayed, ignore)
        entries = [[older.peer_id, replayed, 0.0], [older.peer_id, replayed, 1e9]]
        hostile(monkeypatch, bad, lambda _: dht_pb2.FindResult(value=msgspec.msgpack.encode(entries)))
        async with swarm.client_knowing(bad) as reader:
            assert await Directory(reader).all_peers() == [newer]

    in_a_swarm(tmp_path, test)


def test_who_stores_sees_what_was_there_of_its_own(tmp_path: Path) -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.join("keeps")
        writer, identity = await swarm.join("writer")
        _, other = await swarm.join("other")
        mine, later = offer(identity, 50.0), offer(identity, 60.0)
        seen: list[bytes] = []
        for one, of in ((offer(other), other), (mine, identity)):
            assert await writer.put(keys_of(one), one.peer_id, records.sign(one, of), seen.append)
        assert seen == []
        assert await writer.put(keys_of(later), later.peer_id, records.sign(later, identity), seen.append)
        assert set(seen) == {records.sign(mine, identity)}

    in_a_swarm(tmp_path, test)


def test_nodes_keep_the_records_of_other_versions(tmp_path: Path) -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.join("keeps")
        writer, identity = await swarm.join("writer")
        theirs = offer(identity, protocol=PROTOCOL + 1)
        assert await writer.put(keys_of(theirs), theirs.peer_id, records.sign(theirs, identity), ignore)
        async with Libp2pNetwork.join(None, initial_peers=swarm.initial_peers) as reader:
            directory = Directory(reader)
            assert await directory.all_peers() == []
            assert "1 peer speaks another version" in directory.trouble(theirs.fingerprint)

    in_a_swarm(tmp_path, test)


def test_nodes_learn_what_time_it_is_at_those_that_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = DhtNode._result

    def an_hour_ahead(self: DhtNode, place: DHTID, asker: PeerID) -> dht_pb2.FindResult:
        result = honest(self, place, asker)
        result.expiration_time += 3600.0
        return result

    async def test(swarm: Swarm) -> None:
        for name in ("one", "two", "three"):
            await swarm.join(name)
        async with Libp2pNetwork.join(None, initial_peers=swarm.initial_peers) as reader:
            await Directory(reader).all_peers()
            assert abs(reader.clocks.ahead) < 5.0
            monkeypatch.setattr(DhtNode, "_result", an_hour_ahead)
            await Directory(reader).all_peers()
            assert abs(reader.clocks.ahead + 3600.0) < 5.0
            assert "behind those of 3 other nodes" in reader.clocks.trouble

    in_a_swarm(tmp_path, test)


def test_nodes_keep_only_what_its_peer_has_signed_for_that_key_and_about_this_time(tmp_path: Path) -> None:
    async def test(swarm: Swarm) -> None:
        good, identity = await swarm.join("good")
        writer, _ = await swarm.join("writer")

        async def is_kept(key: str, subkey: str, record: bytes) -> bool:
            return await writer.put([key], subkey, record, ignore)

        mine, lasting = offer(identity), offer(identity).model_copy(update={"lifetime": MAX_LIFETIME + 1})
        record = records.sign(mine, identity)
        assert not await is_kept(INDEX_KEY, mine.peer_id, records.sign(lasting, identity))
        for seconds in (-1_400.0, 1_400.0, 1e300):
            assert not await is_kept(INDEX_KEY, mine.peer_id, records.sign(offer(identity, seconds), identity))
        assert not await is_kept("some other key", mine.peer_id, record)
        assert not await is_kept(INDEX_KEY, writer.peer_id, record)
        assert not await is_kept(INDEX_KEY, mine.peer_id, record[:-1] + b"x")
        assert {(one.peer_id, one.kind) for one in good.complaints.recent} == {(writer.peer_id, "records")}
        assert await is_kept(INDEX_KEY, mine.peer_id, record)

    in_a_swarm(tmp_path, test)


def test_dead_nodes_delay_nothing_once_they_are_known_to_be_dead(tmp_path: Path) -> None:
    async def test(swarm: Swarm) -> None:
        _, identity = await swarm.join("good")
        async with contextlib.AsyncExitStack() as mortal:
            others = Swarm(tmp_path, mortal)
            others.initial_peers = swarm.initial_peers
            for i in range(3):
                await others.join(f"mortal {i}")
            stays, _ = await swarm.join("stays")
        mine = offer(identity)
        record = records.sign(mine, identity)
        assert await stays.put(keys_of(mine), mine.peer_id, record, ignore)  # finds out who is dead
        async with asyncio.timeout(ANSWER_SECONDS):  # so long takes a node that does not answer
            assert await stays.put(keys_of(mine), mine.peer_id, record, ignore)
            assert await Directory(stays).all_peers() == [mine]

    in_a_swarm(tmp_path, test)


def test_a_call_that_is_cancelled_as_its_answer_comes_leaves_the_node_able_to_call(tmp_path: Path) -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.join("one")
        network, _ = await swarm.join("two")
        node = network._dht._node
        [other] = node.nearest(place_of(node.peer))
        for steps in range(8):  # of the event loop; after one of them the answer has come and is not read yet
            call = asyncio.create_task(node.ping(node.peer))  # its own daemon refuses that at once
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            time.sleep(0.05)  # noqa: ASYNC251  # for the daemon, while nothing goes on here
            for _ in range(steps):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
        assert await node.ping(other)

    in_a_swarm(tmp_path, test)


def test_who_calls_too_often_is_refused_and_nobody_else_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.calls._CALLS_PER_MINUTE", 30)

    async def test(swarm: Swarm) -> None:
        called, _ = await swarm.join("called")
        eager, _ = await swarm.join("eager")
        peer = called._dht._node.peer
        answers = [await eager._dht._node.ping(peer) for _ in range(40)]
        assert answers[0]
        assert not answers[-1]
        assert [(one.peer_id, one.kind) for one in called.complaints.recent] == [(eager.peer_id, "calls")]
        calm, _ = await swarm.join("calm")
        assert await calm._dht._node.ping(peer)

    in_a_swarm(tmp_path, test)


def test_one_answer_among_silence_does_not_mean_that_there_is_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has just started has no records, and knows who might."""

    def reply(_: dht_pb2.FindRequest) -> dht_pb2.FindResult:
        raise PermissionError("not now")

    async def test(swarm: Swarm) -> None:
        started, _ = await swarm.join("started")
        full, identity = await swarm.join("full")
        offered = offer(identity)
        record = records.sign(offered, identity)
        for key in keys_of(offered):
            full._dht._node.keep(DHTID.generate(key), offered.peer_id, record)
        async with swarm.client_knowing(full) as client:
            directory = Directory(client)
            assert [peer.peer_id for peer in await directory.all_peers()] == [offered.peer_id]
        async with swarm.client_knowing(full) as client:
            hostile(monkeypatch, full, reply)
            with pytest.raises(LookupFailed, match="asked: 2, answers: 1"):
                await Directory(client).all_peers()
        assert started.peer_id != full.peer_id

    in_a_swarm(tmp_path, test)


def test_what_a_node_keeps_itself_is_no_answer(tmp_path: Path) -> None:
    """Or one that is cut off would take its own record for a swarm that refuses it, and for all that there is."""

    async def test(swarm: Swarm) -> None:
        async with contextlib.AsyncExitStack() as others:
            first, _ = await Swarm(tmp_path / "others", others).join("first")
            swarm.initial_peers = await first.maddrs()
            network, identity = await swarm.join("last")
            directory = Directory(network)
            assert await directory.publish(offer(identity), identity)
            seen = [peer.peer_id for peer in await directory.all_peers()]
        assert not await directory.publish(offer(identity), identity)
        assert not await directory.is_reachable()
        with pytest.raises(LookupFailed):
            await network.get(INDEX_KEY)
        assert seen == [identity.peer_id] == [peer.peer_id for peer in await directory.all_peers()]

    in_a_swarm(tmp_path, test)


def test_a_node_that_is_busy_for_a_while_lets_others_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = DhtNode.rpc_ping

    async def busy(self: DhtNode, request: dht_pb2.PingRequest, context: P2PContext) -> dht_pb2.PingResponse:
        await asyncio.sleep(ANSWER_SECONDS + 1.0)
        return await honest(self, request, context)

    monkeypatch.setattr(DhtNode, "rpc_ping", busy)

    async def test(swarm: Swarm) -> None:
        await swarm.join("busy")
        network, _ = await swarm.join("joining")
        assert not network._dht.is_alone

    in_a_swarm(tmp_path, test)


def test_a_node_whose_one_answer_is_late_while_others_come_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = DhtNode.rpc_find

    async def busy(self: DhtNode, request: dht_pb2.FindRequest, context: P2PContext) -> dht_pb2.FindResponse:
        await asyncio.sleep(ANSWER_SECONDS + 1.0)
        return await honest(self, request, context)

    monkeypatch.setattr(DhtNode, "rpc_find", busy)

    async def test(swarm: Swarm) -> None:
        await swarm.join("busy")
        monkeypatch.setattr(DhtNode, "rpc_find", honest)
        network, _ = await swarm.join("asking")
        node = network._dht._node
        [peer] = node.nearest(place_of(node.peer))
        finding = asyncio.create_task(node.find(peer, place_of(node.peer)))
        await asyncio.sleep(0.5)
        assert await node.ping(peer)
        assert await finding is None
        assert node.nearest(place_of(node.peer)) == [peer]
        assert await node.find(peer, place_of(node.peer)) is None  # asked again, and silent all the time now
        assert node.nearest(place_of(node.peer)) == []

    in_a_swarm(tmp_path, test)
