"""Peers that accept no inbound connection, as processes on loopback: they listen nowhere, so nobody can dial them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import SwarmModel
from specswarm.processes import Program, running_swarm
from tests.models import greedy, load_whole

READY_SECONDS = 90.0
PROMPT = list(range(1, 200))


@contextlib.contextmanager
def hidden_peer(model: Path, span: str, initial_peers: list[str], folder: Path) -> Iterator[Program]:
    """A peer that only relays reach."""
    name = span.replace(":", "-")
    config = folder / f"{name}.toml"
    config.write_text("[join]\nhost_maddrs = []\nbehind_nat = true\n")
    reach = [part for maddr in initial_peers for part in ("--initial-peer", maddr)]
    options = ["--identity", str(folder / f"{name}.key"), "--config", str(config), "--threads", "1", *reach]
    program = Program(["join", str(model), "--layers", span, *options], folder / f"{name}.log")
    try:
        program.ready = program.next(READY_SECONDS)
        yield program
    finally:
        program.stop()


@pytest.fixture(scope="module")
def swarm(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], list[Program]]]:
    """A peer that listens, and behind it two neighbours that nobody can dial."""
    folder = tmp_path_factory.mktemp("swarm")
    options = ["--threads", "1"]
    with (
        running_swarm(str(target), ["0:2"], folder, options=options, ready_seconds=READY_SECONDS) as running,
        hidden_peer(target, "2:3", running[0], folder) as one,
        hidden_peer(target, "3:4", running[0], folder) as other,
    ):
        yield running[0], [*running[1], one, other]


def test_relays_are_all_that_a_hidden_peer_announces(swarm: tuple[list[str], list[Program]]) -> None:
    initial_peers, programs = swarm
    for program in programs[-2:]:
        peer_id, maddrs = program.ready["peer_id"], program.ready["maddrs"]
        assert maddrs == [f"{relay}/p2p-circuit/p2p/{peer_id}" for relay in initial_peers]


def test_client_that_listens_nowhere_generates_through_peers_that_nobody_can_dial(
    target: Path, swarm: tuple[list[str], list[Program]]
) -> None:
    whole = load_whole(target)
    with SwarmModel.connect(str(target), initial_peers=swarm[0], threads=1) as model:
        for prompt in (PROMPT, PROMPT[:5]):
            result = model.generate(prompt, max_new_tokens=32)
            assert result.token_ids == greedy(whole, prompt, 32)
            assert [str(span) for _, span in result.chain] == ["0:2", "2:3", "3:4"]
            assert [peer for peer, _ in result.chain] == [program.ready["peer_id"] for program in swarm[1][1:]]
            assert result.reroutes == 0
