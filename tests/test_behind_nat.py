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


Swarm = tuple[list[str], list[Program]]
"""Initial peers; the bootstrap node and the peers."""


@contextlib.contextmanager
def started(arguments: list[str], log: Path) -> Iterator[Program]:
    """A program that ends with the block."""
    program = Program(arguments, log)
    try:
        yield program
    finally:
        program.stop()


def hidden_peer(
    model: Path, span: str, initial_peers: list[str], folder: Path
) -> contextlib.AbstractContextManager[Program]:
    """A peer that only relays reach."""
    name = span.replace(":", "-")
    config = folder / f"{name}.toml"
    config.write_text("[join]\nhost_maddrs = []\nbehind_nat = true\n")
    reach = [part for maddr in initial_peers for part in ("--initial-peer", maddr)]
    options = ["--identity", str(folder / f"{name}.key"), "--config", str(config), "--threads", "1", *reach]
    return started(["join", str(model), "--layers", span, *options], folder / f"{name}.log")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("swarm")


@pytest.fixture(scope="module")
def swarm(target: Path, folder: Path) -> Iterator[Swarm]:
    """A peer that listens, and behind it two neighbours that nobody can dial."""
    options = ["--threads", "1"]
    with (
        running_swarm(str(target), ["0:2"], folder, options=options, ready_seconds=READY_SECONDS) as running,
        hidden_peer(target, "2:3", running[0], folder) as one,
        hidden_peer(target, "3:4", running[0], folder) as other,
    ):
        for program in (one, other):
            program.ready = program.next(READY_SECONDS)
        yield running[0], [*running[1], one, other]


def test_relays_are_all_that_a_hidden_peer_announces(swarm: Swarm) -> None:
    initial_peers, programs = swarm
    for program in programs[-2:]:
        peer_id, maddrs = program.ready["peer_id"], program.ready["maddrs"]
        assert maddrs == [f"{relay}/p2p-circuit/p2p/{peer_id}" for relay in initial_peers]


def test_client_that_listens_nowhere_generates_through_peers_that_nobody_can_dial(
    target: Path, swarm: Swarm
) -> None:
    whole = load_whole(target)
    with SwarmModel.connect(str(target), initial_peers=swarm[0], threads=1) as model:
        for prompt in (PROMPT, PROMPT[:5]):
            result = model.generate(prompt, max_new_tokens=32)
            assert result.token_ids == greedy(whole, prompt, 32)
            assert [str(span) for _, span in result.chain] == ["0:2", "2:3", "3:4"]
            assert [peer for peer, _ in result.chain] == [program.ready["peer_id"] for program in swarm[1][1:]]
            assert result.reroutes == 0


def test_generation_goes_on_when_the_only_relay_is_back(target: Path, folder: Path, swarm: Swarm) -> None:
    initial_peers, programs = swarm
    listen = [part for maddr in initial_peers for part in ("--host-maddr", maddr.partition("/p2p/")[0])]
    relay: Program | None = None
    again = ["bootstrap", "--identity", str(folder / "0.key"), *listen]
    with (
        contextlib.ExitStack() as stack,
        SwarmModel.connect(str(target), initial_peers=initial_peers, threads=1, timeout=150.0) as model,
    ):
        stream = model.stream(PROMPT, max_new_tokens=300)
        for _ in stream:
            if relay is None:
                programs[0].stop()
                assert len(stream.result.token_ids) < 300
                relay = stack.enter_context(started(again, folder / "again.log"))
                relay.next(READY_SECONDS)
        result = stream.result
        assert result.token_ids == greedy(load_whole(target), PROMPT, 300)
        assert result.stall_seconds > 0
