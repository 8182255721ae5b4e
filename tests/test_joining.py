"""Peers that choose their layers themselves."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from swarm.directory import Directory
from swarm.identity import Identity
from swarm.span import Span
from tests import memory_swarm


def test_peers_that_join_at_once_share_the_layers_out(target: Path, tmp_path: Path) -> None:
    async def run() -> list[Span]:
        async with memory_swarm.peers(target, [""] * 4, tmp_path / "peers", num_layers=1) as network:
            return [peer.span for peer in await Directory(network).all_peers()]

    assert asyncio.run(run()) == [Span(0, 1), Span(1, 2), Span(2, 3), Span(3, 4)]


def test_a_peer_that_has_settled_keeps_its_layers_while_it_loads(target: Path, tmp_path: Path) -> None:
    """Whoever chooses later makes room, also where its peer id is the smaller one."""

    async def run() -> list[Span]:
        async with memory_swarm.peers(target, ["0:1"], tmp_path / "first") as network:
            [serving] = await Directory(network).all_peers()
        with contextlib.ExitStack() as stack:
            several = [stack.enter_context(Identity.hold(tmp_path / f"{i}.key")) for i in range(64)]
            last = max(several, key=lambda identity: identity.peer_id)
            loading = serving.model_copy(update={"peer_id": last.peer_id, "state": "joining"})
            await Directory(network).publish(loading, last)
            async with memory_swarm.peers(target, [""], tmp_path / "peers", network, num_layers=1):
                return [peer.span for peer in await Directory(network).all_peers()]

    assert asyncio.run(run()) == [Span(1, 2)]


def test_a_peer_with_room_for_all_layers_takes_them_all(target: Path, tmp_path: Path) -> None:
    async def run() -> list[Span]:
        async with memory_swarm.peers(target, [""], tmp_path / "peers") as network:
            return [peer.span for peer in await Directory(network).all_peers()]

    assert asyncio.run(run()) == [Span(0, 4)]


def test_a_peer_that_left_is_not_found(target: Path, tmp_path: Path) -> None:
    async def run() -> int:
        async with memory_swarm.peers(target, ["0:4"], tmp_path / "peers") as network:
            assert len(await Directory(network).all_peers()) == 1
        return len(await Directory(network).all_peers())

    assert asyncio.run(run()) == 0
