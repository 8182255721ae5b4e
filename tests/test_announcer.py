"""The announcement a peer keeps alive, over a store that takes it only sometimes; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from peer.announcer import Announcer
from swarm.directory import Directory
from swarm.identity import Identity
from swarm.memory import MemoryNetwork
from tests import faulty
from tests.test_records import announcement

PERIOD = 15.0


class Moody(MemoryNetwork):
    """Refuses the next few records, and notes when each came."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self._refusals = refusals
        self.times: list[float] = []

    async def put(self, keys: Sequence[str], subkey: str, value: bytes, expires: float) -> bool:
        self.times.append(asyncio.get_running_loop().time())
        if len(self.times) <= self._refusals:
            return False
        return await super().put(keys, subkey, value, expires)


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
