"""What `status` makes of a swarm: whoever is announced is asked, and who does not answer serves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator

import msgspec
import pytest
from typer.testing import CliRunner

from specswarm.cli import app
from specswarm.status import Status, look_on, show
from swarm import PROTOCOL, VERSION, inspection
from swarm.directory import Directory
from swarm.errors import PeerLost
from swarm.identity import Identity
from swarm.inspection import is_owners
from swarm.memory import MemoryNetwork
from swarm.records import Announcement
from swarm.transport import Stream
from swarm.wire import SESSION_PROTOCOL, Complaint, Inspect, Inspected, Ping, Pong
from tests import faulty
from tests.test_records import announcement


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Identity]]:
    folder = tmp_path_factory.mktemp("keys")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Identity.hold(folder / f"{i}.key")) for i in range(4)]


class Place:
    """A swarm in memory, with peers that answer or do not."""

    def __init__(self, identities: list[Identity]) -> None:
        self._identities = iter(identities)
        self.network = MemoryNetwork()

    async def add(self, start: int, end: int, *, answers: bool = True, **changes: object) -> Announcement:
        """A peer of a model of 8 layers is announced."""
        identity = next(self._identities)
        offer = announcement(identity.peer_id, start=start, end=end, expires=time.time() + 45.0, **changes)
        await Directory(self.network).publish(offer, identity)
        await self.network.join(identity.peer_id).serve(SESSION_PROTOCOL, pong if answers else deaf)
        return offer

    async def look(self) -> Status:
        return await look_on(self.network.join("looker"))


async def pong(stream: Stream) -> None:
    while True:
        ping = await stream.receive()
        assert isinstance(ping, Ping)
        await stream.send(Pong(ping.nonce))


async def deaf(stream: Stream) -> None:
    with contextlib.suppress(PeerLost):
        while True:
            await stream.receive()


def test_layers_of_peers_that_do_not_answer_are_gaps_at_once(identities: list[Identity]) -> None:
    async def program() -> None:
        place = Place(identities)
        there, deaf_one, gone = await place.add(0, 3), await place.add(2, 5, answers=False), await place.add(4, 7)
        place.network.leave(gone.peer_id)
        await asyncio.sleep(7.0)
        status = await place.look()
        [model] = status.models
        assert (model.missing, model.unannounced) == ([3, 4, 5, 6, 7], [7])
        silent = {peer.said.peer_id: peer.as_dict()["silent_seconds"] for peer in model.peers}
        assert silent == {there.peer_id: None, deaf_one.peer_id: 7.0, gone.peer_id: 7.0}
        found = status.as_dict()["models"][0]
        assert (found["missing_layers"], found["silent_layers"]) == ([3, 4, 5, 6, 7], [3, 4, 5, 6])

    faulty.run(program())


def test_asking_is_bounded_in_time_and_number(identities: list[Identity], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specswarm.status._MAX_ASKED", 2)
    monkeypatch.setattr("specswarm.status._AT_ONCE", 1)
    monkeypatch.setattr("specswarm.status._ASKING_SECONDS", 6.0)

    async def program() -> None:
        place = Place(identities)
        await place.add(0, 1, answers=False)
        await place.add(1, 2, answers=False)
        await asyncio.sleep(1.0)
        await place.add(2, 3, answers=False)
        started = asyncio.get_running_loop().time()
        [model] = (await place.look()).models
        assert asyncio.get_running_loop().time() - started == 6.0
        # the second was not waited for, the third not asked: they are there as long as their records are renewed
        assert sum(peer.is_silent for peer in model.peers) == 1
        assert not model.peers[2].is_silent
        await asyncio.sleep(20.0)
        [model] = (await place.look()).models
        assert [peer.is_silent for peer in model.peers] == [True] * 3

    faulty.run(program())


def test_all_that_is_wrong_is_said_in_text_and_json(
    identities: list[Identity], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "0")

    async def program() -> Status:
        place = Place(identities)
        await place.add(0, 4, shared_key=True, model="mo\x1b[31mdel:smile:")
        await place.add(4, 8, answers=False)
        await place.add(0, 8, protocol=PROTOCOL + 1)
        for i in range(3):
            place.network.clocks.note(f"{i}", -90.0)
        return await place.look()

    status = faulty.run(program())
    show(status)
    shown = capsys.readouterr().out
    for text in (
        r"mo\x1b[31mdel:smile:",
        "silent for 0 s",
        "another program uses its key",
        "nobody answers for layers 4, 5, 6, 7",
        f"1 peer speaks another version of the protocol (theirs {PROTOCOL + 1}, ours {PROTOCOL})",
        "this machine's clock is 90 s behind those of 3 other nodes",
    ):
        assert text in shown, shown
    assert "\x1b" not in shown
    found = json.loads(json.dumps(status.as_dict()))
    assert found["protocol"] == PROTOCOL
    assert [other["protocol"] for other in found["other_versions"]] == [PROTOCOL + 1]
    assert "behind" in found["clock"]
    assert [peer["shared_key"] for peer in found["models"][0]["peers"]] == [True, False]


def test_clocks_of_peers_are_told_apart(identities: list[Identity]) -> None:
    async def program() -> None:
        place = Place(identities)
        for i, ahead in enumerate((-600.0, 2.0, 600.0)):
            identity = next(place._identities)
            offer = announcement(identity.peer_id, start=i, end=i + 1, expires=time.time() + 45.0 + ahead)
            await Directory(place.network).publish(offer, identity)
            await place.network.join(identity.peer_id).serve(SESSION_PROTOCOL, pong)
        [model] = (await place.look()).models
        assert [peer.note for peer in model.peers] == ["clock 600 s behind", "", "clock 600 s ahead"]

    faulty.run(program())


def test_version_and_protocol_are_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"specswarm {VERSION}, protocol {PROTOCOL}\n")
    assert SESSION_PROTOCOL.endswith(f"/{PROTOCOL}")


class Peer:
    """One that says whom it limits, to its owner."""

    def __init__(self, peer_id: str) -> None:
        self.peer_id = peer_id
        self.asked = list[bool]()

    async def serve(self, stream: Stream) -> None:
        with contextlib.suppress(PeerLost):
            while True:
                match await stream.receive():
                    case Ping(nonce):
                        await stream.send(Pong(nonce))
                    case Inspect() as message:
                        self.asked.append(is_owners(message, self.peer_id, time.time()))
                        await stream.send(Inspected((Complaint("eve", "rate", "too [b]much", 7, 3.0),)))


def test_only_ones_own_peer_is_asked_whom_it_limits(
    identities: list[Identity], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    async def program() -> Status:
        place = Place(identities)
        for start in (0, 4):
            said = await place.add(start, start + 4)
            peer = Peer(said.peer_id)
            await place.network._nodes[said.peer_id].serve(SESSION_PROTOCOL, peer.serve)
        status = await look_on(place.network.join("looker"), owner=identities[1])
        assert peer.asked == [True]
        return status

    status = faulty.run(program())
    show(status)
    shown = capsys.readouterr().out
    assert "what your peer has refused others" in shown
    assert "too [b]much" in shown
    mine, other = sorted(status.as_dict()["models"][0]["peers"], key=lambda one: one["complaints"] is None)
    assert other["complaints"] is None
    assert mine["complaints"] == [["eve", "rate", "too [b]much", 7, 3.0]]


def test_whom_a_peer_limits_is_for_its_owner_alone(identities: list[Identity]) -> None:
    owner, other = identities[:2]
    mine = inspection.request(owner, 1000.0)
    assert is_owners(mine, owner.peer_id, 1500.0)
    assert not is_owners(mine, owner.peer_id, 2000.0)
    assert not is_owners(mine, other.peer_id, 1000.0)
    assert not is_owners(msgspec.structs.replace(mine, at=1001.0), owner.peer_id, 1000.0)
