"""Peers say how busy they are, and clients hear of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from peer.compute import Failure
from peer.worker import Worker
from tests import memory_swarm
from tests.test_queue import decode, session


class Busy:
    """An engine that takes a while for each batch, and makes nothing of it."""

    can_break = False

    def run(self, jobs: Sequence[object], between: object = None) -> list[Failure]:
        time.sleep(0.05)
        return [Failure("no stage") for _ in jobs]


def test_a_load_is_the_share_of_the_time_since_it_was_asked_for_last() -> None:
    async def run() -> None:
        done = asyncio.Event()
        with ThreadPoolExecutor(1) as thread:
            worker = Worker(Busy(), thread, lambda *_: done.set(), 512)  # type: ignore[arg-type]
            worker.load()
            worker.submit(decode(session(1, "client")))
            await done.wait()
            assert 0.2 < worker.load() <= 1
            await asyncio.sleep(0.01)
            assert worker.load() == 0

    asyncio.run(run())


def test_clients_are_told_the_load(target: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path, announce_seconds=1) as network,
            memory_swarm.client(network, target, draft="none") as model,
        ):
            load = 0.0
            while not load:  # until the peer has announced itself again, and the client has looked
                await model.generate([1, 2, 3], max_new_tokens=40)
                await model.refresh()
                (load,) = (peer.load for peer in model.target.roster.peers.values())
            assert load <= 1

    asyncio.run(run())
