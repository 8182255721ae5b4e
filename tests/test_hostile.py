"""Real peers under attack: nothing that a stranger sends ends one, and honest clients beside it get their tokens."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from client import AsyncSwarmModel
from specswarm.processes import Program, running_swarm
from swarm.errors import PeerLost
from swarm.libp2p import Libp2pNetwork
from swarm.speculation.sampling import Sampling
from swarm.streams import Libp2pStream
from swarm.wire import (
    MAX_MESSAGE,
    MAX_SESSION_MESSAGE,
    MAX_SIZES,
    PUSH_PROTOCOL,
    SESSION_PROTOCOL,
    AnyMessage,
    Ask,
    Broken,
    Contact,
    Copy,
    Hidden,
    Leaving,
    Open,
    Ping,
    Pong,
    Progress,
    Refused,
    Relink,
    Round,
    Verdict,
    encode,
)
from tests.models import VOCAB, greedy, load_whole

PROMPT = [5, 6, 7, 8]
NEW_TOKENS = 24
MESSAGES = 1000  # to each handler of each peer
PER_STREAM = 40


@pytest.fixture(scope="module")
def swarm(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], list[Program]]]:
    """Two peers of two layers each."""
    folder = tmp_path_factory.mktemp("hostile")
    with running_swarm(
        str(target), ["0:2", "2:4"], folder, options=["--threads", "1"], ready_seconds=90
    ) as running:
        yield running


def any_message(chance: random.Random, session: bytes, fingerprint: str) -> AnyMessage:
    """A well-formed message, where it most likely does not belong."""

    def number() -> int:
        return chance.choice([0, 0, 1, 2, 3, chance.randrange(1 << 31)])

    def peer() -> str:
        return chance.choice(["nobody", "", "12D3KooWQhUesA5R5gKgJq4kNcHyK9C2KsYjoz8SBnp26gWzYcBD"]) or "x" * 128

    tokens = tuple(chance.randrange(2 * VOCAB) for _ in range(chance.choice([1, 2, 5, 600, 2048])))
    round = Round(
        session, number(), number(), tokens, chance.randrange(min(len(tokens), 512)), chance.random() < 0.5
    )
    start = chance.randrange(4)
    upstream = chance.choice([None, peer()])
    downstream = chance.choice([None, Contact(peer(), ("/ip4/127.0.0.1/tcp/9", "nonsense"))])
    states = chance.randbytes(chance.choice([0, 1, len(tokens) * 4, len(tokens) * 4 * 64]))
    return chance.choice(
        [
            Open(
                session, fingerprint, start, start + 1 + number(), upstream, downstream, number(), 1, Sampling(0.5)
            ),
            Open(session, fingerprint, 0, 2, None, Contact(peer()), 0, 512, Sampling()),
            Open(session, fingerprint, 2, 4, peer(), None, 0, 512, Sampling()),
            round,
            Hidden(round, number(), chance.choice(["float32", "bfloat16", "object"]), states, (0.1,)),
            Relink(session, upstream, downstream, number(), 1),
            Ask(session, number(), number()),
            Copy(session, Contact(peer(), ("nonsense",)), number(), number(), 1 + number() % 512),
            Leaving(1.0),
            Ping(number()),
            Pong(number()),
            Refused(session, "full", "no"),
            Broken(session, peer(), "no"),
            Verdict(session, number(), tokens, ()),
            Progress(session, number(), number(), number(), number(), number()),
        ]
    )


def frame(data: bytes, length: int | None = None) -> bytes:
    """The message with its length, or with another one."""
    return (len(data) if length is None else length).to_bytes(4, "big") + data


def anything(chance: random.Random, protocol: str, session: bytes, fingerprint: str) -> bytes:
    """What is sent next."""
    data = encode(any_message(chance, session, fingerprint))
    kind = chance.randrange(40)
    if kind == 0:
        return frame(data, MAX_SIZES[protocol] + 1)  # too long: refused before it is read
    if kind == 1:
        return frame(chance.randbytes(10), 1 << 20)  # the rest never comes: what follows is taken for it
    if kind < 10:
        return frame(chance.randbytes(chance.randrange(1, 300)))
    if kind < 20:
        return frame(data[: chance.randrange(1, len(data) + 1)])
    if kind < 24:
        spoilt = bytearray(data)
        spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        return frame(bytes(spoilt))
    return frame(data)


async def attack(network: Libp2pNetwork, contact: Contact, protocol: str, fingerprint: str, seed: int) -> int:
    """Send it all to one handler; how often it was broken off."""
    chance = random.Random(seed)
    broken = 0
    for _ in range(MESSAGES // PER_STREAM):
        stream = await network.open(contact, protocol)
        session = chance.randbytes(16)
        with closing(stream):
            try:
                for _ in range(PER_STREAM):
                    await write(stream, anything(chance, protocol, session, fingerprint))
            except PeerLost:
                broken += 1
    return broken


async def write(stream: Libp2pStream, data: bytes) -> None:
    if stream._writer.is_closing():
        raise PeerLost(stream.peer_id, "it has closed the stream")
    try:
        stream._writer.write(data)
        await asyncio.wait_for(stream._writer.drain(), 10)
    except (OSError, TimeoutError):
        raise PeerLost(stream.peer_id, "it does not read") from None


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
            fingerprint = model.target.fingerprint
            attacks = [
                asyncio.create_task(attack(network, contact, protocol, fingerprint, seed))
                for seed, contact in enumerate(contacts)
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
