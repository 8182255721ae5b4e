"""A question that nobody answers is no "no": not of the directory, nor of a peer that is asked how far away it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from hivemind.proto import dht_pb2

from client.target import REFRESH_SECONDS
from swarm import records
from swarm.calls import DhtNode
from swarm.directory import Directory, insist, keys_of
from swarm.errors import LookupFailed
from swarm.memory import MemoryTransport
from swarm.span import Span
from swarm.speculation.tree import NOTHING
from tests import faulty, memory_swarm
from tests.faulty import FaultyNetwork
from tests.test_dht import Swarm, in_a_swarm, offer
from tests.toy import reference
from tests.toy_swarm import PROMPT, ToyClient, ToySwarm


class Asked:
    """A question that so many times nobody answers."""

    def __init__(self, failures: float) -> None:
        self.times = 0
        self._failures = failures

    async def __call__(self, *_: object) -> list[Any]:
        self.times += 1
        if self.times <= self._failures:
            raise LookupFailed("nodes asked: 3, answers: 0")
        return []


def test_the_directory_is_asked_again_while_nobody_answers() -> None:
    asked = Asked(failures=3)
    assert faulty.run(insist(asked)) == []
    assert asked.times == 4


def test_a_directory_that_never_answers_is_given_up_and_what_happened_is_said() -> None:
    async def run() -> float:
        with pytest.raises(LookupFailed, match=r"did not answer in \d+ s \(nodes asked: 3, answers: 0\)"):
            await insist(Asked(failures=float("inf")))
        return asyncio.get_running_loop().time()

    assert 20 < faulty.run(run()) < 30


def test_nodes_that_do_not_answer_are_not_taken_for_an_empty_swarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked again, too, as soon as they do answer: not when they would be greeted anyway."""

    async def test(swarm: Swarm) -> None:
        good, identity = await swarm.join("good")
        mine = offer(identity)
        async with swarm.client_knowing(good) as reader:
            assert await Directory(reader).all_peers() == []
            good._dht._node.keep(DHTID.generate(keys_of(mine)[1]), mine.peer_id, records.sign(mine, identity))
            with monkeypatch.context() as busy:
                busy.setattr(DhtNode, "_result", refuse)
                with pytest.raises(LookupFailed, match="nodes asked: 1, answers: 0"):
                    await Directory(reader).all_peers()
            assert await Directory(reader).all_peers() == [mine]

    def refuse(self: DhtNode, place: DHTID, asker: PeerID) -> dht_pb2.FindResult:
        raise RuntimeError("busy")

    in_a_swarm(tmp_path, test)


def test_a_peer_that_cannot_learn_who_serves_what_does_not_choose_as_if_alone(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, failures = MemoryTransport.get, [3]

    async def get(self: MemoryTransport, key: str) -> list[tuple[str, bytes, float]]:
        if failures[0] > 0:
            failures[0] -= 1
            raise LookupFailed("nodes asked: 1, answers: 0")
        return await honest(self, key)

    async def run() -> list[Span]:
        async with memory_swarm.peers(target, ["0:2"], tmp_path / "first") as network:
            monkeypatch.setattr(MemoryTransport, "get", get)
            async with memory_swarm.peers(target, [""], tmp_path / "second", network, num_layers=2):
                return [peer.span for peer in await Directory(network).all_peers()]

    assert asyncio.run(run()) == [Span(0, 2), Span(2, 4)]


async def two_for_each_layer() -> ToySwarm:
    swarm = ToySwarm(FaultyNetwork(4), 2)
    for name in ("a0", "a1", "b0", "b1"):
        layer = int(name[1])
        await swarm.start(name, Span(layer, layer + 1))
    return swarm


def test_what_a_client_knows_stays_while_the_directory_does_not_answer() -> None:
    async def run() -> None:
        swarm = await two_for_each_layer()
        target = ToyClient(swarm, window=1).target
        await target.refresh()
        swarm.directory.peers_of = Asked(failures=float("inf"))  # type: ignore[method-assign]
        keeping = asyncio.create_task(target.keep_fresh())
        await asyncio.sleep(10 * REFRESH_SECONDS)
        assert not keeping.done()
        keeping.cancel()
        assert len(await target.plan(tokens=1)) == 2

    faulty.run(run())


@pytest.mark.parametrize("silent", ["b0", "a1"])
def test_a_client_starts_with_whoever_answered_and_takes_up_the_others_as_they_come(silent: str) -> None:
    async def run() -> None:
        swarm = await two_for_each_layer()
        target = ToyClient(swarm, window=1).target
        swarm.network.nodes[silent].is_hung = True
        loop = asyncio.get_running_loop()
        await target.refresh(is_enough=target.has_chain)
        assert loop.time() < 1.0
        assert silent not in target.roster.round_trips
        loop.call_later(0.5, swarm.network.nodes[silent].resume)
        await asyncio.sleep(1.5)
        assert silent in target.roster.round_trips
        await target.close()

    faulty.run(run())


def test_where_nobody_else_serves_some_layers_a_client_waits_for_who_is_slow_to_answer() -> None:
    async def run() -> None:
        swarm = await two_for_each_layer()
        client = ToyClient(swarm, window=1)
        for name in ("a1", "b1"):
            swarm.network.nodes[name].is_hung = True
        asyncio.get_running_loop().call_later(8.0, swarm.network.nodes["b1"].resume)
        await client.target.refresh()
        assert (await client.chain.verify(PROMPT, NOTHING)).tokens == tuple(reference(PROMPT, 1, 2))

    faulty.run(run())


@pytest.mark.parametrize("prompt", [PROMPT, [7 * i % 50 for i in range(100)]], ids=["short", "long"])
def test_a_text_begins_as_soon_as_the_directory_answers(prompt: list[int]) -> None:
    """Whether its prompt goes ahead of the first round, or with it."""

    async def run() -> None:
        swarm = await two_for_each_layer()
        client, honest, asked = ToyClient(swarm, window=1), swarm.directory.peers_of, Asked(failures=3)

        async def peers_of(fingerprint: str) -> list[Any]:
            await asked()
            return await honest(fingerprint)

        swarm.directory.peers_of = peers_of  # type: ignore[method-assign]
        await client.chain.prefill(prompt)
        assert (await client.chain.verify(prompt, NOTHING)).tokens == tuple(reference(prompt, 1, 2))
        assert asked.times == 4

    faulty.run(run())


def test_a_client_that_is_cut_off_while_its_prompt_is_on_its_way_goes_on_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("client.session.MAX_AHEAD", 48)

    async def run() -> None:
        client, prompt = ToyClient(await two_for_each_layer(), window=1), [7 * i % 50 for i in range(400)]
        await client.target.refresh()
        prefill = asyncio.create_task(client.chain.prefill(prompt))
        await asyncio.sleep(0.2)
        client.node.is_hung = True
        asyncio.get_running_loop().call_later(20.0, client.node.resume)
        await prefill
        assert (await client.chain.verify(prompt, NOTHING)).tokens == tuple(reference(prompt, 1, 2))
        assert client.chain.reroutes == 0

    faulty.run(run())
