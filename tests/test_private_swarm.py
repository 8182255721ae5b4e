"""A private swarm of real processes: members use it as any other; nobody else gets in by any door."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from client import SwarmModel
from specswarm.processes import LOOPBACK, running_swarm
from swarm import records
from swarm.calls import place_of
from swarm.directory import INDEX_KEY, Directory
from swarm.errors import PeerLost, SwarmUnreachable
from swarm.identity import Identity
from swarm.libp2p import Libp2pNetwork
from swarm.membership import PUBLIC, Membership, make_key
from swarm.wire import PUSH_PROTOCOL, SESSION_PROTOCOL, Contact, Hello, Ping, Pong, Refused
from tests.models import greedy, load_whole
from tests.test_bad_input import complaint, run
from tests.test_records import announcement

PROMPT = [5, 17, 3, 9]


@dataclass(frozen=True)
class Place:
    """The swarm of these tests."""

    key: Path
    initial_peers: list[str]
    bootstrap: Contact
    peer: Contact

    @property
    def swarm(self) -> Membership:
        return Membership.read(self.key)


@pytest.fixture(scope="module")
def private(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("private")
    make_key(folder / "swarm.key")
    shared = ["--swarm-key", str(folder / "swarm.key")]
    with running_swarm(str(target), ["0:4"], folder, shared=shared, ready_seconds=90) as (initial_peers, programs):
        bootstrap, peer = (
            Contact(
                program.ready["peer_id"], tuple(maddr.partition("/p2p/")[0] for maddr in program.ready["maddrs"])
            )
            for program in programs
        )
        yield Place(folder / "swarm.key", initial_peers, bootstrap, peer)


@pytest.fixture(scope="module")
def wrong_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wrong") / "swarm.key"
    make_key(path)
    return path


def as_outsider(test: Callable[[Libp2pNetwork], Awaitable[None]], swarm: Membership = PUBLIC) -> None:
    """Run a test on a node that got in nowhere."""

    async def program() -> None:
        async with Libp2pNetwork.join(None, swarm=swarm) as network:
            await test(network)

    asyncio.run(program())


def test_a_member_generates_the_target_s_text(private: Place, target: Path) -> None:
    with SwarmModel.connect(str(target), initial_peers=private.initial_peers, swarm_key=private.key) as model:
        assert model.generate(PROMPT, max_new_tokens=8).token_ids == greedy(load_whole(target), PROMPT, 8)


def test_status_shows_the_swarm_to_a_member(private: Place) -> None:
    shown = run("status", "--initial-peer", private.initial_peers[0], "--swarm-key", private.key)
    assert shown.exit_code == 0
    assert private.peer.peer_id[:12] in shown.stdout


@pytest.mark.parametrize("command", ["status", "generate", "join", "bootstrap"])
def test_a_node_without_the_key_is_told_that_it_may_need_one(
    private: Place, target: Path, tmp_path: Path, command: str
) -> None:
    arguments: dict[str, list[object]] = {
        "status": [],
        "generate": [target, "-p", "x"],
        "join": [target, "--identity", tmp_path / "id"],
        "bootstrap": ["--identity", tmp_path / "id", "--host-maddr", LOOPBACK[0]],
    }
    result = run(command, *arguments[command], "--initial-peer", private.initial_peers[0])
    assert "is it private? give --swarm-key" in complaint(result, 1)


def test_a_node_with_another_key_is_told_so(private: Place, wrong_key: Path) -> None:
    result = run("status", "--initial-peer", private.initial_peers[0], "--swarm-key", wrong_key)
    assert "is --swarm-key the right file?" in complaint(result, 1)


def test_a_member_does_not_enter_the_public_swarm(tmp_path: Path, wrong_key: Path) -> None:
    async def program() -> None:
        with Identity.hold(tmp_path / "id") as identity:
            async with Libp2pNetwork.join(identity, host_maddrs=LOOPBACK) as public:
                with pytest.raises(SwarmUnreachable, match="another swarm"):
                    async with Libp2pNetwork.join(
                        None, initial_peers=await public.maddrs(), swarm=Membership.read(wrong_key)
                    ):
                        pass

    asyncio.run(program())


@pytest.mark.parametrize("protocol", [SESSION_PROTOCOL, PUSH_PROTOCOL])
def test_an_outsider_s_stream_is_refused_before_anything_is_read_from_it(private: Place, protocol: str) -> None:
    async def test(network: Libp2pNetwork) -> None:
        with closing(await network.open(private.peer, protocol)) as stream:
            await stream.send(Ping(1))
            refused = await stream.receive()
            assert isinstance(refused, Refused)
            assert refused.why == "stranger"

    as_outsider(test)


def test_a_badge_of_another_node_opens_nothing(private: Place) -> None:
    async def test(network: Libp2pNetwork) -> None:
        with closing(await network.open(private.peer, SESSION_PROTOCOL)) as stream:
            await stream.send(Hello(private.swarm.badge(private.bootstrap.peer_id)))
            assert isinstance(await stream.receive(), Refused)
            await stream.send(Ping(1))
            with pytest.raises(PeerLost):
                await stream.receive()

    as_outsider(test)


def test_a_member_s_stream_is_served(private: Place) -> None:
    async def test(network: Libp2pNetwork) -> None:
        with closing(await network.open(private.peer, SESSION_PROTOCOL)) as stream:
            await stream.send(Ping(1))
            assert await stream.receive() == Pong(1)

    as_outsider(test, private.swarm)


def test_an_outsider_finds_no_record_and_stores_none(private: Place, tmp_path: Path) -> None:
    """By the very calls that members use; another's identity is the only one whose badge it could show."""

    async def test(network: Libp2pNetwork) -> None:
        node = network._dht._node
        assert not await network._greet(private.bootstrap)
        other = node.peer.from_base58(private.bootstrap.peer_id)
        place = place_of(other)
        node._silent.clear()
        assert await node.find(other, place) is None
        with Identity.hold(tmp_path / "id") as identity:
            offer = announcement(identity.peer_id, expires=time.time() + 60)
            record = records.sign(offer, identity)
            node._silent.clear()
            assert not await node.store(other, place.generate(INDEX_KEY), offer.peer_id, record)

    as_outsider(test)


def test_members_do_not_take_a_record_of_an_outsider_from_a_member(private: Place, tmp_path: Path) -> None:
    async def program() -> None:
        with Identity.hold(tmp_path / "id") as identity:
            async with Libp2pNetwork.join(
                None, initial_peers=private.initial_peers, swarm=private.swarm
            ) as network:
                offer = announcement(identity.peer_id, expires=time.time() + 60)
                record = records.sign(offer, identity)
                assert not await network.put([INDEX_KEY], offer.peer_id, record, lambda _: None)
                known = await Directory(network, private.swarm).all_peers()
                assert [peer.peer_id for peer in known] == [private.peer.peer_id]

    asyncio.run(program())
