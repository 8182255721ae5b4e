"""Announced peers that lie or send nonsense: everybody else goes on, and the text stays what it is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from client.session import ChainSession
from swarm.directory import Directory
from swarm.identity import Identity
from swarm.memory import MemoryNetwork, MemoryStream
from swarm.model.source import ModelSource
from swarm.records import Announcement
from swarm.speculation.sampling import Sampling
from swarm.transport import Stream
from swarm.wire import (
    PUSH_PROTOCOL,
    SESSION_PROTOCOL,
    Hidden,
    Open,
    Ping,
    Pong,
    Refused,
    Round,
    Verdict,
    new_session_id,
)
from tests import memory_swarm
from tests.models import greedy, load_whole

PROMPT = [5, 6, 7, 8]
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def expected(target: Path) -> list[int]:
    return greedy(load_whole(target), PROMPT, NEW_TOKENS)


@contextlib.asynccontextmanager
async def stranger(
    network: MemoryNetwork,
    target: Path,
    folder: Path,
    handle: Callable[[Stream], Awaitable[None]],
    **changes: Any,
) -> AsyncIterator[str]:
    """A node that announces, rightly signed, that it serves the whole model at no cost; its peer id."""
    source = ModelSource.resolve(str(target))
    with Identity.hold(folder / "stranger.key") as identity:
        place = network.join(identity.peer_id)
        for protocol in (SESSION_PROTOCOL, PUSH_PROTOCOL):
            await place.serve(protocol, handle)
        layers = source.info.num_layers
        announcement = {
            "peer_id": identity.peer_id,
            "maddrs": (),
            "model": "model",
            "fingerprint": source.fingerprint(),
            "config_hash": source.info.config_hash,
            "num_layers": layers,
            "start": 0,
            "end": layers,
            "dtype": "float32",
            "quantize": None,
            "draft_seconds": None,
            "step_seconds": 0,
            "token_seconds": 0,
            "load": 0.25,
            "free_tokens": 1000,
            "max_round": 512,
            "links": {},
            "version": "0",
            "started": 0,
            "expires": time.time() + 70,
        }
        await Directory(place).publish(Announcement.model_validate(announcement | changes), identity)
        yield identity.peer_id


async def nonsense(stream: Stream) -> None:
    """Answer everything with bytes that are no message."""
    assert isinstance(stream, MemoryStream)
    while True:
        await stream.receive()
        stream._outbox.put_nowait(b"\xc1 nonsense")


async def liar(stream: Stream) -> None:
    """Answer pings, and every round with a token that does not exist."""
    while True:
        match await stream.receive():
            case Ping(nonce):
                await stream.send(Pong(nonce))
            case Round(judged=True) as round:
                await stream.send(Verdict(round.session, round.number, (1 << 31,), (0.0,)))


@pytest.mark.parametrize(
    ("handle", "changes", "is_asked"),
    [
        (nonsense, {}, False),
        (liar, {}, True),
        (liar, {"num_layers": 16, "start": 2, "end": 10}, False),
        (liar, {"num_layers": 16, "start": 8, "end": 16}, False),
    ],
    ids=["nonsense for a ping", "token that does not exist", "another number of layers", "layers beyond the model"],
)
def test_a_stranger_changes_nothing_for_others(
    handle: Callable[[Stream], Awaitable[None]],
    changes: dict[str, Any],
    is_asked: bool,
    target: Path,
    draft: Path,
    expected: list[int],
    tmp_path: Path,
) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:2"], tmp_path, announce_seconds=1) as network,
            stranger(network, target, tmp_path, handle, **changes),
            memory_swarm.peers(
                target, ["2:4"], tmp_path, network, announce_seconds=1
            ),  # measures its links at once
            memory_swarm.client(network, target, draft=str(draft)) as model,
        ):
            result = await model.generate(PROMPT, max_new_tokens=NEW_TOKENS)
            assert result.token_ids == expected
            assert (result.reroutes > 0) == is_asked
            assert [str(span) for _, span in result.chain] == ["0:2", "2:4"]

    asyncio.run(run())


def test_peers_of_different_dtypes_make_up_a_chain(target: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:2"], tmp_path) as network,
            memory_swarm.peers(target, ["2:4"], tmp_path, network, dtype="bfloat16"),
            memory_swarm.client(network, target) as model,
        ):
            result = await model.generate(PROMPT, max_new_tokens=NEW_TOKENS)
            assert len(result.token_ids) == NEW_TOKENS
            assert result.reroutes == 0

    asyncio.run(run())


def test_rounds_are_no_longer_than_the_smallest_peer_takes(
    target: Path, draft: Path, expected: list[int], tmp_path: Path
) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:2"], tmp_path, max_batch_tokens=3) as network,
            memory_swarm.peers(target, ["2:4"], tmp_path, network),
            memory_swarm.client(network, target, draft=str(draft), window=8) as model,
        ):
            result = await model.generate(PROMPT, max_new_tokens=NEW_TOKENS)
            assert result.token_ids == expected
            assert result.reroutes == 0
            assert result.rounds >= NEW_TOKENS / 3

    asyncio.run(run())


def test_a_generation_that_breaks_while_it_prefills_leaves_nothing_open(
    target: Path, draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drafter fails while the chain is being opened."""
    opened: list[ChainSession] = []

    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft)) as model,
        ):
            generation = model.stream(PROMPT)

            def fail(*_: object) -> None:
                raise MemoryError("no memory")

            monkeypatch.setattr(generation._draft._drafter, "follow", fail)
            with pytest.raises(MemoryError):
                async for _ in generation:
                    pass
            await asyncio.sleep(0)
            opened.extend(s for s in [generation._chain._session] if s is not None)
            listeners = [t for t in asyncio.all_tasks() if "HopStreams._listen" in str(t.get_coro())]
            assert not listeners

    asyncio.run(run())
    assert not opened


def test_states_pushed_into_a_first_hop_by_its_own_client_are_refused(target: Path, tmp_path: Path) -> None:
    """Who feeds a first hop may send it token ids alone: embedded as ids, states would fail on the torch thread."""

    async def run() -> None:
        async with memory_swarm.peers(target, ["0:4"], tmp_path) as network:
            place = network.join("eve")
            [peer] = await Directory(place).all_peers()
            session, states = new_session_id("eve"), bytes(4 * 64)
            control = await place.open(peer.contact, SESSION_PROTOCOL)
            await control.send(Open(session, peer.fingerprint, 0, 4, None, None, 0, 512, Sampling()))
            push = await place.open(peer.contact, PUSH_PROTOCOL)
            await push.send(Hidden(Round(session, 0, 0, (1,), 0, judged=True), 0, "float32", states, ()))
            refused = await control.receive()
            assert isinstance(refused, Refused)
            assert (refused.why, refused.session) == ("unlawful", session)
            await control.send(Round(session, 0, 0, (1,), 0, judged=True))
            assert isinstance(await control.receive(), Verdict)
            control.close()
            push.close()

    asyncio.run(run())
