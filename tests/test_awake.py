"""Whoever stood still has heard nobody: deadlines begin afresh, and nobody is blamed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from client.cooldown import Cooldowns
from client.roster import Roster
from swarm import awake
from swarm.errors import PeerLost
from swarm.memory import MemoryNetwork
from swarm.ping import round_trip
from swarm.wire import SESSION_PROTOCOL, Contact, Ping, Pong
from tests import faulty
from tests.faulty import VirtualLoop
from tests.test_chain import COUNT, LAYERS, pairs, swarm_of
from tests.toy import reference
from tests.toy_swarm import PROMPT, ToyClient, ToySwarm


def stand_still(seconds: float) -> None:
    """As a program does that is stopped: what is due meanwhile is due all at once."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.jump(seconds)


@pytest.mark.parametrize("begins", [0.0, 0.1, 3.0, 9.9])
def test_a_deadline_begins_afresh_after_a_pause(begins: float) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(begins, stand_still, 75.0)
        with pytest.raises(TimeoutError):
            async with awake.timeout(10.0):
                await asyncio.Event().wait()
        assert loop.time() == pytest.approx(begins + 85.0)

    faulty.run(run())


def test_what_comes_during_a_pause_is_in_time() -> None:
    async def run() -> None:
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        loop.call_later(1.0, stand_still, 75.0)
        loop.call_later(30.0, news.set)
        async with awake.timeout(10.0):
            await news.wait()

    faulty.run(run())


def test_without_a_pause_a_deadline_is_kept() -> None:
    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with awake.timeout(10.0):
                await asyncio.sleep(11.0)
        assert asyncio.get_running_loop().time() == pytest.approx(10.0)
        async with awake.timeout(10.0):
            await asyncio.sleep(9.0)

    faulty.run(run())


def test_seconds_leave_pauses_out_and_pauses_are_counted() -> None:
    async def run() -> None:
        with awake.clock().kept() as clock:
            started = clock.now()
            for pause in (2.0, 75.0):
                await asyncio.sleep(3.0)
                stand_still(pause)
                await asyncio.sleep(0)
            assert clock.now() - started == pytest.approx(6.0, abs=2 * awake.BEAT_SECONDS)
            assert clock.pauses == 2

    faulty.run(run())


def test_a_ping_during_which_this_program_stood_still_is_made_again() -> None:
    async def run() -> float:
        network = MemoryNetwork()
        peer, client = network.join("peer"), network.join("client")
        seen: set[int] = set()

        async def answer(stream: object) -> None:
            while True:
                match await stream.receive():  # type: ignore[attr-defined]
                    case Ping(nonce):
                        if nonce not in seen:
                            seen.add(nonce)
                            time.sleep(0.9)  # noqa: ASYNC251 - the whole program stands still
                        await stream.send(Pong(nonce))  # type: ignore[attr-defined]

        await peer.serve(SESSION_PROTOCOL, answer)  # type: ignore[arg-type]
        return await round_trip(client, Contact("peer"))

    assert asyncio.run(run()) < 0.5


def generated(act: Callable[[ToySwarm, ToyClient], None], timeout: float) -> ToyClient:
    """The client after COUNT tokens, the act after ten of them."""

    async def run() -> ToyClient:
        swarm = await swarm_of(pairs())
        client = ToyClient(swarm, window=3, timeout=timeout)
        acted: list[int] = []

        def once(done: int) -> None:
            if done >= 10 and not acted:
                acted.append(done)
                act(swarm, client)

        assert await client.generate(COUNT, once) == reference(PROMPT, COUNT, LAYERS)
        return client

    return faulty.run(run())


def test_a_pause_does_not_count_towards_the_time_without_progress() -> None:
    def act(swarm: ToySwarm, client: ToyClient) -> None:
        swarm.kill(client.hops[1].contact.peer_id)
        asyncio.get_running_loop().call_later(0.01, stand_still, 75.0)

    client = generated(act, timeout=20.0)
    assert client.chain.stall_seconds < 10


def test_streams_that_break_in_a_pause_are_no_mark_against_their_peers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "specswarm")

    def act(swarm: ToySwarm, client: ToyClient) -> None:
        def stand_still_and_lose_all() -> None:
            stand_still(75.0)
            for stream in list(client.node.streams):
                stream.close()

        asyncio.get_running_loop().call_later(0.01, stand_still_and_lose_all)

    client = generated(act, timeout=20.0)
    assert client.target.roster.cooldowns.active == set()
    said = [record.getMessage() for record in caplog.records]
    assert any("this program stood still or was cut off, and its way to peer" in line for line in said)
    assert not any(line.startswith("lost ") for line in said)


def test_only_what_is_lost_first_after_a_pause_is_forgiven() -> None:
    pauses = [0]
    roster = Roster(LAYERS, pauses=lambda: pauses[0])
    roster.note(PeerLost("a", "gone"))
    assert roster.cooldowns.active == {"a"}
    roster.cooldowns = Cooldowns()
    pauses[0] = 1
    roster.note(PeerLost("a", "gone"))
    assert roster.cooldowns.active == set()
    roster.note(PeerLost("a", "gone"))
    assert roster.cooldowns.active == {"a"}


def test_where_the_program_stands_still_again_and_again_a_deadline_ends_all_the_same() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        for begins in (5.0, 85.0, 165.0, 245.0):
            loop.call_at(begins, stand_still, 75.0)
        with pytest.raises(TimeoutError):
            async with awake.timeout(10.0):
                await asyncio.Event().wait()
        assert loop.time() == pytest.approx(320.0)

    faulty.run(run())
