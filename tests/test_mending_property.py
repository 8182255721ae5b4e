"""Whatever order things go wrong in, the tokens are the reference's: real services and chains, in virtual time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peer.limits import DEFAULTS
from peer.queue import Queue
from swarm.span import Span
from tests import faulty
from tests.faulty import FaultyNetwork
from tests.toy import reference
from tests.toy_swarm import PROMPT, ToyClient, ToySwarm

LAYERS = 4
SPANS = (Span(0, 1), Span(1, 2), Span(2, 4), Span(0, 2), Span(2, 3), Span(3, 4), Span(1, 3), Span(0, 4))
"""Of peers that come and go; beside them a peer for each of the first three is never killed."""
TAKEN = (4, 16, 32)
"""Tokens that a peer takes at a time."""
TIGHT: dict[str, Any] = {
    "max_cache_bytes": 1500,
    "limits": DEFAULTS.model_copy(update={"opens_per_minute": 10}),
}
"""Peers that refuse sessions: there is room for two at a time, and each client may open so many."""
COUNT = 24
RUNS = int(os.environ.get("SPECSWARM_PROPERTY_RUNS", "300"))  # `make chaos` asks for more


@pytest.fixture(scope="module", autouse=True)
def few_tokens_on_their_way() -> Iterator[None]:
    """So that the longer prompts go by and by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.session.MAX_AHEAD", 32)
        patch.setattr("client.mending.MAX_AHEAD", 32)
        yield


rates = st.sampled_from([0.0, 0.3, 1.0, 3.0])
"""Of one kind of fault, per second."""


async def disturb(swarm: ToySwarm, rate: float, act: object) -> None:
    while rate:
        await asyncio.sleep(swarm.network.random.expovariate(rate))
        await act()  # type: ignore[operator]


async def disturbed(
    seed: int,
    window: int,
    deaths: float,
    hangs: float,
    cuts: float,
    drains: float,
    loss: float,
    repeats: float,
    sent: int,
    growths: tuple[int, ...],
) -> None:
    network = FaultyNetwork(seed, loss=loss, repeats=repeats)
    random = network.random
    is_tight, in_parts = random.random() < 0.3, random.random() < 0.3
    options = (TIGHT if is_tight else {}) | ({"prefill_tokens": 2} if in_parts else {})
    swarm = ToySwarm(network, LAYERS, max_sent_bytes=sent, **options)
    for i, span in enumerate(SPANS[:3]):
        await swarm.start(f"sure{i}", span, random.choice(TAKEN))
    mortal = [f"mortal{i}" for i in range(6)]
    for name in mortal:
        await swarm.start(name, random.choice(SPANS), random.choice(TAKEN))

    async def kill_one() -> None:
        swarm.kill(random.choice(mortal))

    async def bring_one_back() -> None:
        name = random.choice(mortal)
        if name not in network.nodes:
            await swarm.start(name, random.choice(SPANS), random.choice(TAKEN))

    async def drain_one() -> None:
        name = random.choice(mortal)
        if name in network.nodes:
            network.nodes[name].start(swarm.drain(name))

    async def hang_one() -> None:
        node = network.nodes.get(random.choice([*mortal * 8, "client"]))
        if node is not None:
            node.is_hung = True
            asyncio.get_running_loop().call_later(random.uniform(0.1, 20), node.resume)

    async def cut_one() -> None:
        if random.random() < 0.99:
            network.cut(random.choice([*network.nodes]))
        else:
            network.cut_off("client", random.uniform(0.1, 10))

    longest = {0.0: 12, 0.05: 5}.get(repeats, 1)  # of many parts one would begin the session anew, again and again
    prompt = PROMPT * random.choice([1, min(5, longest), longest])
    client = ToyClient(swarm, window=window, timeout=300.0, growths=growths, prompt=prompt)
    work = [
        asyncio.create_task(swarm.renew(5.0)),
        asyncio.create_task(disturb(swarm, deaths, kill_one)),
        asyncio.create_task(disturb(swarm, deaths, bring_one_back)),
        asyncio.create_task(disturb(swarm, hangs, hang_one)),
        asyncio.create_task(disturb(swarm, cuts, cut_one)),
        asyncio.create_task(disturb(swarm, drains, drain_one)),
    ]
    tokens = await client.generate(COUNT)
    for task in work:
        task.cancel()
    await asyncio.wait(work)
    for name in list(network.nodes):
        network.kill(name)
    assert tokens == reference(prompt, COUNT, LAYERS)
    if not (hangs or cuts or loss or repeats or is_tight):
        assert all(name in mortal for name in client.target.roster.cooldowns.active)


@settings(max_examples=RUNS, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 1 << 32),
    st.integers(0, 5),
    rates,
    rates,
    rates,
    rates,
    st.sampled_from([0.0, 0.002, 0.01]),
    st.sampled_from([0.0, 0.05, 0.3]),
    st.sampled_from([0, 100, 1 << 20]),
    st.sampled_from([(0,), (0, 1, 2), (3, 6)]),
)
def test_any_order_of_loss_repeat_delay_and_death_gives_the_reference(
    seed: int,
    window: int,
    deaths: float,
    hangs: float,
    cuts: float,
    drains: float,
    loss: float,
    repeats: float,
    sent: int,
    growths: tuple[int, ...],
) -> None:
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # others decode everywhere: where prefill has short passes, all is in parts
        patch.setattr(Queue, "is_disturbing", lambda *_: True)
        faulty.run(disturbed(seed, window, deaths, hangs, cuts, drains, loss, repeats, sent, growths))
