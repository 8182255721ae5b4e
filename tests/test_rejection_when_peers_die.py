"""The rule `rejection` over peers that die, hang, leave or lose messages: all verdicts are the rule's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.errors import ChainLost
from swarm.span import Span
from swarm.speculation.evidence import evidence
from swarm.speculation.noise import uniform
from swarm.speculation.rejection import DRAFTING, reject
from swarm.speculation.sampling import Sampling
from swarm.speculation.tree import DraftTree
from swarm.wire import AnyMessage, Proofs
from tests import faulty
from tests.faulty import FaultyNetwork, FaultyStream
from tests.test_mending_property import disturb, rates
from tests.toy import VOCAB, logits_of, rows_of
from tests.toy_swarm import PROMPT, ToyClient, ToySwarm

LAYERS = 3
COUNT = 24
SPANS = (Span(0, 1), Span(1, 2), Span(2, 3))
SAMPLING = Sampling(0.9, seed=5)
PART = 9 * 60  # bytes of a message with proofs: a round's drafts take several

Act = Callable[[ToySwarm, list[str]], None]
"""What happens to the peers of the chain."""


def drafted(random: Random, text: list[int], size: int) -> DraftTree:
    """A chain, of a draft that is a little wrong, and what each token was drawn from."""
    tokens, proofs = list[int](), []
    for _ in range(size):
        context = [*text, *tokens]
        blurred = torch.tensor([random.gauss(0, 0.5) for _ in range(VOCAB)])
        logits = logits_of(rows_of(context, LAYERS)[-1]) + blurred
        proofs.append(evidence(logits, context, SAMPLING, random.choice([1, 5, VOCAB])))
        tokens.append(proofs[-1].draw(uniform(SAMPLING.seed, len(context), DRAFTING)))
    chain = DraftTree.chain(tokens)
    return DraftTree(chain.tokens, chain.parents, chain.chances, tuple(proofs))


def expected(text: list[int], tree: DraftTree) -> list[int]:
    """The verdict of one machine."""
    rows = rows_of([*text, *tree.tokens], LAYERS)[len(text) - 1 :]
    return reject(torch.stack([*map(logits_of, rows)]), text, tree.tokens, tree.proofs, SAMPLING)


async def generate(client: ToyClient, on_verdict: Callable[[int], None] = lambda _: None) -> int:
    """Generate COUNT tokens; how many drafts stood."""
    random, text, stood = client.swarm.network.random, list(PROMPT), 0
    fresh = asyncio.create_task(client.target.keep_fresh())
    try:
        await client.target.refresh()
        while len(text) < len(PROMPT) + COUNT:
            tree = drafted(random, text, random.randint(0, 5))
            try:
                verdict = await client.chain.verify(text, tree)
            except ChainLost:
                if len(text) > len(PROMPT):
                    raise
                continue  # before the first token a person is told at once, and asks again
            assert list(verdict.tokens) == expected(text, tree)
            text += verdict.tokens
            stood += len(verdict.tokens) - 1
            client.hops = client.chain.hops
            on_verdict(len(text) - len(PROMPT))
    finally:
        fresh.cancel()
        await asyncio.wait([fresh])
        await client.chain.close()
    return stood


async def swarm_of(spares: int, network: FaultyNetwork) -> ToySwarm:
    """So many peers for each layer: `first0`, `first1`, ..."""
    swarm = ToySwarm(network, LAYERS)
    for i in range(spares):
        for name, span in zip(["first", "middle", "last"], SPANS, strict=True):
            await swarm.start(f"{name}{i}", span)
    return swarm


def rejecting(swarm: ToySwarm, **options: Any) -> ToyClient:
    return ToyClient(swarm, window=5, sampling=SAMPLING, rule="rejection", **options)


def undergo(act: Act, *, later: float = 0.0, spares: int = 2) -> ToyClient:
    """Generate; after half of the tokens, or some seconds `later`, when a round is on its way, `act` happens."""

    async def run() -> ToyClient:
        swarm = await swarm_of(spares, FaultyNetwork(3))
        client = rejecting(swarm)
        acted = []

        def on_verdict(done: int) -> None:
            if done >= COUNT // 2 and not acted:
                names = [hop.contact.peer_id for hop in client.hops]
                acted.append(asyncio.get_running_loop().call_later(later, act, swarm, names))

        async with asyncio.timeout(100):
            assert await generate(client, on_verdict) > 0
        return client

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("client.rounds.MAX_SESSION_MESSAGE", PART)
        return faulty.run(run())


@pytest.mark.parametrize("later", [0.0, 0.02, 0.05, 0.08, 0.12])
@pytest.mark.parametrize("lost", [{0}, {1}, {2}, {1, 2}, {0, 1, 2}], ids=str)
def test_any_hops_may_die_whatever_of_a_round_is_there(lost: Collection[int], later: float) -> None:
    client = undergo(lambda swarm, names: [swarm.kill(names[hop]) for hop in lost] and None, later=later)
    assert client.chain.reroutes >= 1


@pytest.mark.parametrize("hop", [0, 1, 2])
def test_a_hop_that_hangs_is_left(hop: int) -> None:
    def hang(swarm: ToySwarm, names: list[str]) -> None:
        swarm.network.nodes[names[hop]].is_hung = True

    assert undergo(hang).chain.reroutes >= 1


def test_a_last_hop_that_does_not_read_its_proofs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    send, full = FaultyStream.send, set[str]()

    async def blocked(stream: FaultyStream, *messages: AnyMessage) -> None:
        if stream.peer_id in full and any(isinstance(message, Proofs) for message in messages):
            await asyncio.Event().wait()
        await send(stream, *messages)

    monkeypatch.setattr(FaultyStream, "send", blocked)
    client = undergo(lambda _, names: full.add(names[-1]))
    assert client.chain.reroutes == 1
    assert full.isdisjoint(hop.contact.peer_id for hop in client.hops)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 1 << 32),
    rates,
    rates,
    rates,
    rates,
    st.sampled_from([0.0, 0.002, 0.01]),
)
def test_any_order_of_loss_delay_and_death_gives_the_rules_verdicts(
    seed: int, deaths: float, hangs: float, cuts: float, drains: float, loss: float
) -> None:
    async def run() -> None:
        network = FaultyNetwork(seed, loss=loss)
        swarm = await swarm_of(3, network)
        mortal = [f"{name}{i}" for i in (1, 2) for name in ("first", "middle", "last")]

        def alive() -> list[str]:
            return [name for name in mortal if name in network.nodes]

        async def kill_or_start() -> None:
            name = network.random.choice(mortal)
            if name in network.nodes:
                swarm.kill(name)
            else:
                await swarm.start(name, SPANS["fml".index(name[0])])

        async def hang_one() -> None:
            for name in alive()[:1]:
                network.nodes[name].is_hung = True
                asyncio.get_running_loop().call_later(network.random.uniform(0.1, 20), network.nodes[name].resume)

        async def drain_one() -> None:
            for name in alive()[-1:]:
                network.nodes[name].start(swarm.drain(name))

        async def cut_one() -> None:
            network.cut(network.random.choice([*network.nodes]))

        acts = {kill_or_start: deaths, hang_one: hangs, cut_one: cuts, drain_one: drains}
        work = [asyncio.create_task(disturb(swarm, rate, act)) for act, rate in acts.items()]
        work.append(asyncio.create_task(swarm.renew(5.0)))
        await generate(rejecting(swarm, timeout=300.0))
        for task in work:
            task.cancel()
        await asyncio.wait(work)
        for name in list(network.nodes):
            network.kill(name)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("client.rounds.MAX_SESSION_MESSAGE", PART)
        faulty.run(run())
