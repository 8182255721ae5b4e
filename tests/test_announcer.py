"""The announcement a peer keeps alive, over a store that takes it only sometimes; in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from peer.announcer import Announcer
from peer.twin import Twin
from swarm.directory import Directory, Seen, accepts
from swarm.identity import Identity
from swarm.memory import MemoryNetwork
from swarm.records import Announcement
from swarm.shelf import Shelf
from tests import faulty
from tests.test_records import announcement

PERIOD = 15.0
START = time.time()  # from then on time is virtual


class Moody(MemoryNetwork):
    """Refuses the next few records, and notes when each came."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self._refusals = refusals
        self.times: list[float] = []

    async def put(self, keys: Sequence[str], subkey: str, value: bytes, seen: Seen) -> bool:
        self.times.append(asyncio.get_running_loop().time())
        if len(self.times) <= self._refusals:
            return False
        return await super().put(keys, subkey, value, seen)


@pytest.mark.parametrize(("refusals", "attempts"), [(0, [0]), (2, [0, 1, 3]), (9, [0, 1, 3, 7])])
def test_announcement_nobody_took_is_soon_tried_again(refusals: int, attempts: list[float], tmp_path: Path) -> None:
    async def publish() -> list[float]:
        store = Moody(refusals)
        start = asyncio.get_running_loop().time()
        with Identity.hold(tmp_path / "key") as identity:
            announcer = Announcer(Directory(store), store.join(identity.peer_id), identity, PERIOD)
            await announcer.publish(announcement(identity.peer_id))
        return [round(time - start, 3) for time in store.times]

    assert faulty.run(publish()) == attempts


def test_what_is_announced_while_an_attempt_waits_stays(tmp_path: Path) -> None:
    async def run() -> list[str]:
        store = Moody(1)
        with Identity.hold(tmp_path / "key") as identity:
            directory = Directory(store)
            announcer = Announcer(directory, store.join(identity.peer_id), identity, PERIOD)
            said = announcement(identity.peer_id)
            earlier = asyncio.create_task(announcer.publish(said))
            await asyncio.sleep(0.5)
            await announcer.publish(said.model_copy(update={"state": "draining"}))
            await earlier
            return [one.said.state for one in await directory.look()]

    assert faulty.run(run()) == ["draining"]


class Store(MemoryNetwork):
    """Says, as nodes do, whether it has taken a record."""

    async def put(self, keys: Sequence[str], subkey: str, value: bytes, seen: Seen) -> bool:
        await super().put(keys, subkey, value, seen)
        return all(self._records[key][subkey][0] == value for key in keys)


class Shelved(MemoryNetwork):
    """A node's shelf: what has ended it does not show any more, but it remembers when it was issued."""

    def __init__(self) -> None:
        super().__init__()
        self._shelf = Shelf(lambda: asyncio.get_running_loop().time())

    async def put(self, keys: Sequence[str], subkey: str, value: bytes, seen: Seen) -> bool:
        said = accepts(value, subkey, now=time.time())
        for key in keys:
            if subkey in (held := self._shelf.get(key.encode())):
                seen(held[subkey].record)
        kept = [self._shelf.put(key.encode(), subkey, value, said.issued, said.lifetime) for key in keys]
        return all(kept)

    async def get(self, key: str) -> list[tuple[str, bytes, float]]:
        now = self._shelf.clock()
        return [(subkey, entry.record, now - entry.born) for subkey, entry in self._shelf.get(key.encode()).items()]


class Host:
    """A program that publishes under a key, on a host whose clock is wrong by so much."""

    def __init__(self, store: MemoryNetwork, identity: Identity, started: float, clock_ahead: float = 0.0) -> None:
        loop = asyncio.get_running_loop()

        def clock() -> float:
            return START + clock_ahead + loop.time()

        self.offer = announcement(identity.peer_id, started=started)
        network = store.join(identity.peer_id)
        self.announcer = Announcer(Directory(store, clock=clock), network, identity, PERIOD, clock)

    @property
    def published(self) -> Announcement:
        assert self.announcer._published is not None
        return self.announcer._published

    async def live(self, seconds: float) -> None:
        """Publish and renew for so long."""
        await self.announcer.publish(self.offer)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.announcer.run(dict)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "key file" in record.getMessage()]


@pytest.mark.parametrize("ahead", [-300.0, 0.0, 300.0])
def test_two_hosts_with_one_key_both_notice_and_say_so(
    ahead: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        with Identity.hold(tmp_path / "key") as identity:
            store = Store()
            one, two = Host(store, identity, 1.0), Host(store, identity, 2.0, ahead)
            await asyncio.gather(one.live(100.0), two.live(100.0))
            assert one.published.shared_key
            assert two.published.shared_key
            await one.live(100.0)
            assert not one.published.shared_key

    faulty.run(program())
    said = warnings(caplog)
    assert len(said) == 2
    assert all(str(tmp_path / "key") in text for text in said)


@pytest.mark.parametrize("ahead", [-300.0, 0.0, 300.0])
@pytest.mark.parametrize("leaves", [True, False])
def test_restart_whose_clock_was_set_is_no_other_host_and_is_found_within_a_second(
    ahead: float, leaves: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        with Identity.hold(tmp_path / "key") as identity:
            store = Store()
            before = Host(store, identity, 1.0)
            await before.live(50.0)
            if leaves:
                await before.announcer.withdraw()
            after = Host(store, identity, 2.0, ahead)
            start = asyncio.get_running_loop().time()
            await after.announcer.publish(after.offer)
            assert asyncio.get_running_loop().time() - start <= 1.0
            assert await Directory(store).all_peers() == [after.published]
            await after.live(100.0)
            assert not after.published.shared_key

    faulty.run(program())
    assert warnings(caplog) == []


@pytest.mark.parametrize("ahead", [5.0, 60.0, 600.0])
def test_restart_whose_fast_clock_was_set_right_while_it_was_away_is_found_in_seconds(
    ahead: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        with Identity.hold(tmp_path / "key") as identity:
            store = Shelved()
            await Host(store, identity, 2.0, ahead).live(50.0)
            await asyncio.sleep(3 * PERIOD + 1)  # its last record has ended
            assert await Directory(store).look() == []
            after = Host(store, identity, 1.0)
            start = asyncio.get_running_loop().time()
            await after.announcer.publish(after.offer)
            assert asyncio.get_running_loop().time() - start <= 8.0
            assert await Directory(store).all_peers() == [after.published]
            await after.live(100.0)
            assert not after.published.shared_key

    faulty.run(program())
    assert warnings(caplog) == []


def test_peer_whose_clock_is_set_back_goes_on_being_found(tmp_path: Path) -> None:
    async def program() -> None:
        with Identity.hold(tmp_path / "key") as identity:
            store = Store()
            host = Host(store, identity, 1.0)
            await host.live(20.0)
            right = host.announcer._clock
            host.announcer._clock = lambda: right() - 300.0
            for _ in range(3):
                await asyncio.sleep(PERIOD)
                await host.announcer.publish(host.offer)
                [found] = await Directory(store).look()
                assert found.age == 0.0

    faulty.run(program())


def test_record_of_an_earlier_run_that_only_some_nodes_have_is_no_other_host() -> None:
    """Its clock was set back meanwhile; others take the new one at once, so that nothing has to be tried again."""
    left = announcement("peer", started=1.0, expires=2_000.0)
    twin = Twin(3.0)
    assert twin.issue(1_000.0) == 1_000.0
    assert not twin.see(left, 2.0)
    twin.taken()
    assert not twin.see(left, 2.0)
    assert twin.issue(1_015.0) > left.issued
    assert not twin.is_there
