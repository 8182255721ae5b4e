"""Texts of which peers would not keep all of it waiting: the client sends them in parts, and mends them in parts."""

from __future__ import annotations

import asyncio

import pytest

from client import mending, session
from peer.limits import Limits
from peer.session import Growing, Session
from swarm.span import Span
from swarm.wire import Round
from tests import faulty
from tests.faulty import FaultyNetwork
from tests.toy import reference
from tests.toy_swarm import ToyClient, ToySwarm

AHEAD = 48  # tokens; the toy peers take 16 at a time
LIMITS = Limits.model_construct(max_in_flight=2 * AHEAD)
PROMPT = [7 * i % 50 for i in range(400)]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_AHEAD", AHEAD)
    monkeypatch.setattr(mending, "MAX_AHEAD", AHEAD)


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens in flight, each time a round was admitted anywhere."""
    seen: list[int] = []
    admit = Session.admit

    def watched(self: Session, round: Round, tree: Growing) -> None:
        admit(self, round, tree)
        seen.append(self.in_flight)

    monkeypatch.setattr(Session, "admit", watched)
    return seen


@pytest.mark.parametrize("slow", [1.0, 30.0])
def test_a_long_prompt_is_never_more_in_flight_than_a_part(slow: float, most: list[int]) -> None:
    """Also where a later hop is much slower than the first one."""

    async def run() -> None:
        network = FaultyNetwork(1)
        swarm = ToySwarm(network, 2, limits=LIMITS)
        for i in range(2):
            await swarm.start(f"peer{i}", Span(i, i + 1))
        thread = swarm.services["peer1"]._rounds._worker._thread
        submit = thread.submit

        def slowly(*arguments: object) -> object:
            thread._free += slow * network.delay()  # type: ignore[attr-defined]
            return submit(*arguments)  # type: ignore[arg-type]

        thread.submit = slowly  # type: ignore[assignment, method-assign]
        client = ToyClient(swarm, window=4, prompt=PROMPT)
        assert await client.generate(20) == reference(PROMPT, 20, 2)
        assert client.chain.reroutes == 0

    faulty.run(run())
    assert 16 < max(most) <= AHEAD + 16


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
def test_a_hop_that_dies_while_the_prompt_is_brought_up_is_replaced(seconds: float, most: list[int]) -> None:
    async def run() -> None:
        client = await chain_with_a_spare()
        asyncio.get_running_loop().call_later(seconds, lambda: client.swarm.kill(second_of(client)))
        assert await client.generate(20) == reference(PROMPT, 20, 3)
        assert client.chain.reroutes >= 1

    faulty.run(run())
    assert max(most) <= LIMITS.max_in_flight


def test_a_hop_that_dies_behind_a_long_text_gets_it_in_parts_too(most: list[int]) -> None:
    async def run() -> None:
        client = await chain_with_a_spare()
        killed: list[int] = []

        def kill_once(count: int) -> None:
            if count >= 5 and not killed:
                killed.append(count)
                most.clear()
                client.swarm.kill(second_of(client))

        assert await client.generate(20, kill_once) == reference(PROMPT, 20, 3)
        assert client.chain.reroutes == 1
        assert killed

    faulty.run(run())
    assert max(most) <= LIMITS.max_in_flight


async def chain_with_a_spare() -> ToyClient:
    """Three hops, and another peer for the second one."""
    swarm = ToySwarm(FaultyNetwork(2), 3, limits=LIMITS)
    for i, name in enumerate(["one", "two", "three"]):
        await swarm.start(name, Span(i, i + 1))
    await swarm.start("other", Span(1, 2))
    return ToyClient(swarm, window=4, prompt=PROMPT)


def second_of(client: ToyClient) -> str:
    return client.chain.hops[1].contact.peer_id
