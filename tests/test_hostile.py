"""Real peers under attack: nothing that a stranger sends ends one, and honest clients beside it get their tokens."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.chaos.attacker import write
from benchmarks.chaos.hostile_messages import Aim, any_frame, frame
from client import AsyncSwarmModel
from specswarm.processes import Program, running_swarm
from swarm.errors import PeerLost
from swarm.libp2p import Libp2pNetwork
from swarm.span import Span
from swarm.wire import (
    MAX_MESSAGE,
    MAX_SESSION_MESSAGE,
    PUSH_PROTOCOL,
    SESSION_PROTOCOL,
    Contact,
    Ping,
    Pong,
)
from tests.models import VOCAB, greedy, load_whole

PROMPT = [5, 6, 7, 8]
NEW_TOKENS = 24
MESSAGES = 1000  # to each handler of each peer
PER_STREAM = 40
SPANS = ["0:2", "2:4"]


@pytest.fixture(scope="module")
def swarm(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], list[Program]]]:
    """Two peers of two layers each."""
    folder = tmp_path_factory.mktemp("hostile")
    with running_swarm(str(target), SPANS, folder, options=["--threads", "1"], ready_seconds=90) as running:
        yield running


async def attack(network: Libp2pNetwork, contact: Contact, protocol: str, aim: Aim, seed: int) -> int:
    """Send it all to one handler; how often it was broken off."""
    chance = random.Random(seed)
    broken = 0
    for _ in range(MESSAGES // PER_STREAM):
        stream = await network.open(contact, protocol)
        session = chance.randbytes(16)
        with closing(stream):
            try:
                for _ in range(PER_STREAM):
                    await write(stream, any_frame(chance, protocol, aim, session))
            except PeerLost:
                broken += 1
    return broken


async def pings(network: Libp2pNetwork, contact: Contact) -> bool:
    with closing(await network.open(contact, SESSION_PROTOCOL)) as stream:
        await stream.send(Ping(5))
        return await asyncio.wait_for(stream.receive(), 10) == Pong(5)


def test_a_thousand_wrong_messages_on_every_handler_end_no_peer_and_disturb_no_client(
    target: Path, swarm: tuple[list[str], list[Program]]
) -> None:
    initial_peers, programs = swarm
    contacts = [Contact(p.ready["peer_id"], tuple(p.ready["maddrs"])) for p in programs[1:]]
    expected = greedy(load_whole(target), PROMPT, NEW_TOKENS)

    async def run() -> int:
        async with (
            Libp2pNetwork.join(None, initial_peers=initial_peers) as network,
            AsyncSwarmModel.connect(str(target), initial_peers=initial_peers, threads=1) as model,
        ):
            info, fingerprint = model.target.info, model.target.fingerprint
            spans = [Span.parse(span) for span in SPANS]
            introductions = [peer.introduction for peer in model.target.roster.peers.values()]
            aims = [
                Aim(fingerprint, span, info.num_layers, info.hidden_size, VOCAB, network.peer_id, (), introductions)
                for span in spans
            ]
            attacks = [
                asyncio.create_task(attack(network, contact, protocol, aim, seed))
                for seed, (contact, aim) in enumerate(zip(contacts, aims, strict=True))
                for protocol in (SESSION_PROTOCOL, PUSH_PROTOCOL)
            ]
            generated = 0
            while generated < 2 or not all(task.done() for task in attacks):
                result = await model.generate(PROMPT, max_new_tokens=NEW_TOKENS)
                assert result.token_ids == expected
                assert result.reroutes == 0
                generated += 1
                await asyncio.sleep(0.5)
            for task in attacks:
                task.result()
            assert all([await pings(network, contact) for contact in contacts])
        return generated

    assert asyncio.run(run()) >= 2
    assert all(program.process.poll() is None for program in programs)


@pytest.mark.parametrize(
    ("protocol", "limit"), [(SESSION_PROTOCOL, MAX_SESSION_MESSAGE), (PUSH_PROTOCOL, MAX_MESSAGE)]
)
def test_a_message_that_is_too_long_ends_its_stream_before_it_is_sent(
    protocol: str, limit: int, swarm: tuple[list[str], list[Program]]
) -> None:
    initial_peers, programs = swarm
    contact = Contact(programs[1].ready["peer_id"], tuple(programs[1].ready["maddrs"]))

    async def run() -> None:
        async with Libp2pNetwork.join(None, initial_peers=initial_peers) as network:
            for length, ends in ((limit, False), (limit + 1, True)):
                with closing(await network.open(contact, protocol)) as stream:
                    await write(stream, frame(b"x", length))
                    with contextlib.suppress(TimeoutError, ConnectionError):
                        assert await asyncio.wait_for(stream._reader.read(1), 1.0) == b""
                        assert ends
                        continue
                    assert ends == stream._writer.is_closing()

    asyncio.run(run())


def test_one_node_holds_so_many_streams_open_and_others_still_get_in(
    target: Path, swarm: tuple[list[str], list[Program]]
) -> None:
    initial_peers, programs = swarm
    contact = Contact(programs[1].ready["peer_id"], tuple(programs[1].ready["maddrs"]))

    async def run() -> None:
        async with Libp2pNetwork.join(None, initial_peers=initial_peers) as network:
            streams = [await network.open(contact, SESSION_PROTOCOL) for _ in range(70)]
            answers = 0
            for stream in streams:
                with contextlib.suppress(PeerLost):
                    await stream.send(Ping(1))
                    answers += await asyncio.wait_for(stream.receive(), 10) == Pong(1)
            assert answers == 64
            async with Libp2pNetwork.join(None, initial_peers=initial_peers) as other:
                assert await pings(other, contact)
            for stream in streams:
                stream.close()
            await asyncio.sleep(1)
            assert await pings(network, contact)

    asyncio.run(run())
