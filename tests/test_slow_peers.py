"""Peers that compute for longer than an answer is waited for: they are not lost, and liars get no farther by that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from swarm.span import Span
from swarm.wire import Ask, Pong, Progress, Round
from tests import faulty
from tests.faulty import FaultyNetwork, FaultyStream
from tests.test_chain import COUNT, LAYERS, SPANS, intercept, pairs, swarm_of
from tests.toy import reference
from tests.toy_swarm import PROMPT, ToyClient, ToySwarm

CEILING = 5.0
"""Seconds that a toy client waits, at most, before it asks what became of a round; peers run 64 tokens at a time."""
TIMEOUT = 2 * CEILING
"""As much longer as it is by default: for half of it a queue may stand still."""
TEXT = [7 * i % 50 for i in range(200)]


def take(swarm: ToySwarm, name: str, seconds: float, announced: float) -> None:
    """Have a peer take so long for each token, and announce something."""
    thread: Any = swarm.services[name]._rounds._worker._thread
    submit = thread.submit

    def slowly(run: Any, batch: Any, loop: Any) -> Any:
        thread._free = max(thread._free, loop.time()) + seconds * sum(len(job.round.tokens) for job in batch)
        return submit(run, batch, loop)

    thread.submit = slowly
    record = swarm.directory.peers[name].model_copy(update={"token_seconds": announced})
    swarm.directory.peers[name] = record


async def slow_swarm(seconds: float, announced: float) -> ToySwarm:
    """A peer for each layer, with another one in its place."""
    swarm = ToySwarm(FaultyNetwork(3), 3)
    for name in ("a", "b"):
        for layer in range(3):
            await swarm.start(f"{name}{layer}", Span(layer, layer + 1))
            take(swarm, f"{name}{layer}", seconds, announced)
    return swarm


def test_work_that_takes_long_by_what_was_announced_is_waited_for() -> None:
    """Not even one part of the prompt is through a hop before the client asks for the first time."""

    async def run() -> None:
        client = ToyClient(await slow_swarm(seconds=1.0, announced=0.3), window=3, prompt=TEXT, timeout=TIMEOUT)
        assert await client.generate(8) == reference(TEXT, 8, 3)
        assert client.chain.reroutes == 0

    faulty.run(run())


def test_a_queue_that_moves_is_waited_for_though_it_takes_longer_than_announced() -> None:
    """Eight clients take turns: each one's prompt stands still for several batches of others."""
    batch = 64 * 0.06
    assert batch < CEILING < 2 * batch

    async def run() -> None:
        swarm = await slow_swarm(seconds=0.06, announced=0.01)
        for name in ("b0", "b1", "b2"):
            swarm.kill(name)
        clients = [ToyClient(swarm, window=3, prompt=[i, *TEXT], timeout=TIMEOUT) for i in range(8)]
        texts = await asyncio.gather(*(client.generate(8) for client in clients))
        assert texts == [reference([i, *TEXT], 8, 3) for i in range(8)]
        assert [client.chain.reroutes for client in clients] == [0] * 8

    faulty.run(run())


def test_a_peer_whose_machine_is_busy_has_a_second_to_answer_however_short_a_client_waits() -> None:
    async def run() -> None:
        swarm = await slow_swarm(seconds=0.0, announced=0.001)
        client = ToyClient(swarm, window=3, floor=0.05, timeout=TIMEOUT)
        loop = asyncio.get_running_loop()
        stood_still: list[str] = []

        def stand_still(_: int) -> None:
            if not stood_still:
                node = swarm.network.nodes[client.hops[1].contact.peer_id]
                node.is_hung = True
                loop.call_later(0.8, node.resume)
                stood_still.append(node.peer_id)

        assert await client.generate(COUNT, stand_still) == reference(PROMPT, COUNT, 3)
        assert client.chain.reroutes == 0

    faulty.run(run())


def test_a_peer_whose_computing_hangs_is_lost_although_it_answers() -> None:
    async def run() -> float:
        swarm = await slow_swarm(seconds=0.0, announced=0.001)
        client = ToyClient(swarm, window=3, timeout=TIMEOUT)
        stalled: list[str] = []

        def stall(done: int) -> None:
            if done >= 10 and not stalled:
                stalled.append(client.hops[1].contact.peer_id)
                take(swarm, stalled[0], 1e6, 0.001)

        assert await client.generate(COUNT, stall) == reference(PROMPT, COUNT, 3)
        assert client.chain.reroutes == 1
        assert stalled[0] not in {hop.contact.peer_id for hop in client.hops}
        return client.chain.stall_seconds

    assert CEILING < faulty.run(run()) < 4 * CEILING


@pytest.mark.parametrize("moves", ["queue", "text", "round", "nothing"])
def test_a_peer_that_only_says_that_work_goes_on_is_left_in_the_end(moves: str) -> None:
    """Its queue is believed for ten times what it may take by the announced pace, and a text to grow to its end."""
    asked: list[int] = []

    def answer(_: FaultyStream, message: Any) -> Any:
        match message:
            case Ask(session, nonce):
                asked.append(nonce)
                count = len(asked)
                taken, held = count if moves == "round" else 0, count if moves == "text" else 0
                worked = count if moves == "queue" else 0
                return Progress(session, nonce, taken, held, 1, 0, held, worked, 1 << 31)
            case Round(session=session):
                return Pong(0)
        return None

    async def run() -> float:
        swarm = await swarm_of(pairs() | {"x0": SPANS[0]})
        liar = swarm.directory.peers["x0"].model_copy(update={"step_seconds": 0.0})
        swarm.directory.peers["x0"] = liar
        intercept(swarm, "x0", answer)
        client = ToyClient(swarm, window=3, timeout=TIMEOUT)
        assert await client.generate(COUNT) == reference(PROMPT, COUNT, LAYERS)
        assert "x0" not in {hop.contact.peer_id for hop in client.hops}
        return client.chain.stall_seconds

    assert faulty.run(run()) < 60
