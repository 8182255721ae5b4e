"""Trees that grow while they are on their way, over real peers: whatever is sent when, the text is plain decoding's."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from client.audit import Seeds
from client.chain import Chain
from client.patience import TripTimer
from client.routes import Routes
from client.terms import Terms
from peer.metrics import STALE
from swarm.sketch import ROW_BYTES, distances
from swarm.speculation.sampling import Sampling
from swarm.speculation.tree import NOTHING
from swarm.wire import Round
from tests import faulty, memory_swarm
from tests.toy_chain import IDS, assert_consistent, open_at, opened, toy_chain
from tests.toy_swarm import some_more, some_tree

PROMPT = [5, 17, 3, 9, 200, 41]
COUNT = 40
SPANS = ["0:1", "1:3", "3:4"]


async def grow(chain: Chain, expected: list[int], chance: random.Random) -> None:
    """Let the tree on its way grow, now and then."""
    for _ in range(chance.randrange(4)):
        await asyncio.sleep(chance.choice([0, 0, 0.002]))
        flight = chain.flight
        if flight is None or not 0 < len(flight) < 40:
            return
        await chain.send_more(some_more(chance, flight, expected[flight.length :]))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, top_k=20, seed=3)], ids=["greedy", "sampled"])
def test_text_is_that_of_plain_decoding_however_trees_grow(
    sampling: Sampling, target: Path, tmp_path: Path
) -> None:
    chance = random.Random(5)
    on_their_way = 0

    async def run() -> None:
        nonlocal on_their_way
        async with (
            memory_swarm.peers(target, SPANS, tmp_path) as network,
            memory_swarm.client(network, target, draft="none") as model,
        ):
            options = {"temperature": sampling.temperature, "top_k": sampling.top_k, "seed": sampling.seed}
            plain = await model.generate(PROMPT, max_new_tokens=COUNT + 60, **options)
            expected = [*PROMPT, *plain.token_ids]
            for _ in range(6):
                timer = TripTimer(1.0, 30.0)
                chain = Chain(
                    model.target, Terms(sampling), Routes(model.target, round_tokens=9), timer=timer, timeout=60.0
                )
                text = list(PROMPT)
                while len(text) < len(PROMPT) + COUNT:
                    on_their_way += chain.judges(text)
                    tree = some_tree(chance, expected[len(text) :], chance.randrange(8))
                    growing = asyncio.create_task(grow(chain, expected, chance))
                    text += (await chain.verify(text, tree)).tokens
                    growing.cancel()
                    await asyncio.wait([growing])
                await chain.close()
                assert text == expected[: len(text)]

    asyncio.run(run())
    assert on_their_way > 20


def test_hops_are_witnesses_of_the_text_alone_however_trees_grow(target: Path, tmp_path: Path) -> None:
    """An audit compares what they were given with what others are given who get the text as it stands."""
    chance, terms = random.Random(6), Terms(witness=Seeds().of)

    async def run() -> None:
        async with (
            memory_swarm.peers(target, SPANS, tmp_path) as network,
            memory_swarm.client(network, target, draft="none") as model,
        ):
            plain = await model.generate(PROMPT, max_new_tokens=COUNT + 60)
            expected = [*PROMPT, *plain.token_ids]
            grown = Chain(
                model.target, terms, Routes(model.target, round_tokens=9), timer=TripTimer(1.0, 30.0), timeout=60.0
            )
            text, on_their_way = list(PROMPT), 0
            longest = len(expected) - 30
            while len(text) < len(PROMPT) + COUNT or (on_their_way <= 5 and len(text) < longest):
                on_their_way += grown.judges(text)
                tree = some_tree(chance, expected[len(text) :], chance.randrange(8))
                growing = asyncio.create_task(grow(grown, expected, chance))
                text += (await grown.verify(text, tree)).tokens
                growing.cancel()
                await asyncio.wait([growing])
            while grown.judges(text):
                text += (await grown.verify(text, NOTHING)).tokens
            text += (
                await grown.verify(text, NOTHING)
            ).tokens  # whatever branch the last tree took comes again as text
            straight = Chain(
                model.target, terms, Routes(model.target, round_tokens=9), timer=TripTimer(1.0, 30.0), timeout=60.0
            )
            await straight.verify(text, NOTHING)
            end = min(grown.settled, straight.settled)
            ours, theirs = await grown.recall(0, end), await straight.recall(0, end)
            assert ours.keys() == theirs.keys() == {1, 3}
            for layer, sketches in ours.items():
                assert len(sketches) == len(theirs[layer]) == end * ROW_BYTES
                assert max(distances(sketches, theirs[layer])) < 1e-3
            assert on_their_way > 5
            assert end >= len(PROMPT) + COUNT
            await grown.close()
            await straight.close()

    asyncio.run(run())


def test_what_waits_of_a_tree_that_was_given_up_is_not_run() -> None:
    session = IDS[0]
    tree = Round(session, 1, 0, (1, 2, 3), 2, True, (-1, -1))
    more = [Round(session, 2 + i, 0, (4,), 1, True, (0,), 2 + i) for i in range(3)]
    another = Round(session, 5, 1, (2,), 0, True)
    late = Round(session, 5, 0, (4,), 1, True, (0,), 5)

    async def run() -> tuple[int, float]:
        swarm = await toy_chain()
        stream = await opened(swarm, "first", open_at(0))
        stale = STALE._value.get()
        thread = swarm.services["first"]._rounds._worker._thread
        thread._free = asyncio.get_running_loop().time() + 1.0  # busy with others
        for message in (tree, *more, another, late):
            await stream.send(message)
        await asyncio.sleep(2.0)
        assert_consistent(swarm)
        return swarm.engines["first"].computed, STALE._value.get() - stale

    computed, stale = faulty.run(run())
    assert computed == len(tree.tokens) + len(another.tokens)
    assert stale == len([*more, late])
