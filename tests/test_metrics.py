"""Counters for Prometheus: what a program that runs says of itself."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from urllib.request import urlopen

import pytest

from client import SwarmModel
from specswarm.processes import running_swarm
from swarm.errors import UsageError
from swarm.metrics import Observed, served


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read(port: int) -> dict[str, float]:
    """The samples, by name and labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    return {name: float(value) for name, value in re.findall(r"^([a-z_]+(?:{.*})?) (\S+)$", text, re.MULTILINE)}


def test_a_peer_and_its_client_count_what_they_do(target: Path, tmp_path: Path) -> None:
    theirs, ours = free_port(), free_port()
    options = ["--metrics-port", str(theirs)]
    with (
        running_swarm(str(target), ["0:4"], tmp_path, options=options, ready_seconds=90) as (initial_peers, _),
        SwarmModel.connect(str(target), initial_peers=initial_peers, metrics_port=ours) as model,
    ):
        before, client_before = read(theirs), read(ours)
        result = model.generate([1, 2, 3], max_new_tokens=12, window=4)
        after, client = read(theirs), read(ours)
    assert after["specswarm_peer_rounds_total"] - before["specswarm_peer_rounds_total"] >= result.rounds
    assert after["specswarm_peer_layer_tokens_total"] >= 4 * (3 + 12 - 1)
    assert after["specswarm_peer_compute_seconds_total"] > 0
    assert after["specswarm_peer_free_tokens"] > 0
    assert after["specswarm_tasks"] > 1
    assert after["process_resident_memory_bytes"] > 1e6
    assert after["process_open_fds"] > 1
    mine = {name: value - client_before.get(name, 0) for name, value in client.items()}  # other tests count as well
    assert mine["specswarm_client_tokens_total"] >= 12
    assert mine["specswarm_client_drafted_total"] == result.drafted
    assert mine["specswarm_client_trip_seconds_count"] == result.rounds


def test_nothing_listens_without_a_port() -> None:
    async def program() -> None:
        with served(Observed()):
            pass

    asyncio.run(program())


def test_a_taken_port_is_named() -> None:
    async def program() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with (
                pytest.raises(UsageError, match=rf"127.0.0.1:{port}: .* --metrics-port"),
                served(Observed(metrics_port=port)),
            ):
                pass

    asyncio.run(program())


def test_the_port_is_free_again_at_the_end() -> None:
    async def program() -> None:
        port = free_port()
        for _ in range(2):
            with served(Observed(metrics_port=port)):
                assert await asyncio.to_thread(read, port)

    asyncio.run(program())
