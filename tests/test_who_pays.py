"""Lawful wishes of strangers on real peers: what one of them asks for, nobody else pays for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.chaos.stranger import Stranger, Target
from client import AsyncSwarmModel
from specswarm.processes import Program, running_swarm
from swarm.directory import Directory
from swarm.libp2p import Libp2pNetwork
from tests.models import greedy, load_whole

PROMPT = [5, 6, 7, 8]
NEW_TOKENS = 24
TEXT = 1110  # tokens of the stranger's text
SPANS = ("0:2", "2:4")

Attack = Callable[[Stranger], Awaitable[None]]


@pytest.fixture(scope="module")
def swarm(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], list[Program]]]:
    """Two peers of two layers each."""
    folder = tmp_path_factory.mktemp("strangers")
    with running_swarm(str(target), SPANS, folder, options=["--threads", "1"], ready_seconds=90) as running:
        yield running


async def replays(stranger: Stranger) -> None:
    await stranger.replay()


@pytest.mark.parametrize("attack", [replays])
def test_an_honest_client_beside_goes_on_undisturbed(
    attack: Attack, target: Path, swarm: tuple[list[str], list[Program]]
) -> None:
    initial_peers, programs = swarm
    expected = greedy(load_whole(target), PROMPT, NEW_TOKENS)

    async def run() -> None:
        async with (
            Libp2pNetwork.join(None, initial_peers=initial_peers) as network,
            AsyncSwarmModel.connect(str(target), initial_peers=initial_peers, threads=1) as model,
        ):
            fingerprint = model.target.fingerprint
            found = await Directory(network).peers_of(fingerprint)
            chain = [Target(peer.introduction, peer.span) for peer in sorted(found, key=lambda one: one.start)]
            async with Stranger.with_text(network, fingerprint, chain, TEXT) as stranger:
                await beside(model, stranger)

    async def beside(model: AsyncSwarmModel, stranger: Stranger) -> None:
        for _ in range(10):
            await attack(stranger)
            result = await model.generate(PROMPT, max_new_tokens=NEW_TOKENS)
            assert (result.token_ids, result.reroutes) == (expected, 0)

    asyncio.run(run())
    assert all(program.process.poll() is None for program in programs)
