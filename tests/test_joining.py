"""Peers that choose their layers themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path

from swarm.directory import Directory
from swarm.span import Span
from tests import memory_swarm


def test_peers_that_join_at_once_share_the_layers_out(target: Path, tmp_path: Path) -> None:
    async def run() -> list[Span]:
        async with memory_swarm.peers(target, [""] * 4, tmp_path / "peers", num_layers=1) as network:
            return [peer.span for peer in await Directory(network).all_peers()]

    assert asyncio.run(run()) == [Span(0, 1), Span(1, 2), Span(2, 3), Span(3, 4)]


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
