"""How many processor threads compute, how they wait for each other, and what a peer says while it loads."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from swarm import progress
from swarm.model import threads
from swarm.model.fingerprint import file_hash
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Stage
from swarm.model.threads import Machine
from swarm.span import Span
from tests import memory_swarm


@pytest.fixture
def stage(target: Path) -> Stage:
    return load_stage(ModelSource.resolve(str(target)), Span(0, 2))


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged for people, in order; every step of a long piece of work counts as news."""
    log = logging.getLogger("specswarm")
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    with caplog.at_level("INFO", log.name):
        yield caplog


# --- how many -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "count"),
    [
        (Machine(cores=1, idle=1.0, peers=0), 1),
        (Machine(cores=2, idle=2.0, peers=0), 2),
        (Machine(cores=2, idle=1.9, peers=0), 2),
        (Machine(cores=2, idle=1.2, peers=0), 1),  # another program computes
        (Machine(cores=2, idle=0.0, peers=0), 1),
        (Machine(cores=2, idle=2.0, peers=1), 1),  # two peers, of which neither has clients yet
        (Machine(cores=2, idle=2.0, peers=3), 1),
        (Machine(cores=16, idle=15.8, peers=0), 16),
        (Machine(cores=16, idle=15.8, peers=2), 5),
        (Machine(cores=16, idle=3.1, peers=2), 3),
        (Machine(cores=16, idle=16.0, peers=40), 1),
    ],
)
def test_threads_are_an_equal_share_of_the_cores_and_none_that_is_busy(machine: Machine, count: int) -> None:
    assert threads.most(machine) == count


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({"cpu.max": "150000 100000"}, "0::/", [1.5]),
        ({"cpu.max": "max 100000"}, "0::/", []),
        ({"a/cpu.max": "max 100000", "cpu.max": "200000 100000"}, "0::/a/b", [2.0]),
        ({"a/cpu.max": "300000 100000", "cpu.max": "200000 100000"}, "0::/a", [3.0, 2.0]),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, "7:cpu:/docker/x\n0::/", [0.5]),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "7:cpu:/", []),
        ({"cpu.max": "soon"}, "0::/", []),
        ({}, "0::/a", []),
    ],
)
def test_quotas_of_control_groups_count_with_those_around_them(
    files: dict[str, str], membership: str, cores: list[float], tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text + "\n")
    (tmp_path / "own").write_text(membership + "\n")
    assert sorted(threads._quotas(tmp_path / "groups", tmp_path / "own")) == sorted(cores)
    assert list(threads._quotas(tmp_path, tmp_path / "no Linux")) == []


def test_other_peers_of_this_machine_are_seen(tmp_path: Path) -> None:
    def peers() -> int:
        return sum(map(threads._is_other_peer, psutil.process_iter(["cmdline"])))

    before = peers()
    waiting = [sys.executable, "-c", "input()", "specswarm", "join", "embedded"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE) as other:
        assert peers() == before + 1
        other.communicate(b"\n")


@pytest.mark.parametrize(("speedup", "count"), [(1.9, 8), (1.2, 1), (0.1, 1)])
def test_more_threads_are_taken_only_as_they_pay(
    speedup: float, count: int, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(_: Stage, tokens: int) -> float:
        return tokens / speedup ** torch.get_num_threads().bit_length()

    monkeypatch.setattr(threads, "round_seconds", seconds)
    torch.set_num_threads(8)
    threads.settle(stage)
    assert torch.get_num_threads() == count


def test_the_flat_form_is_proven_at_the_number_that_was_chosen(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_flat = []
    monkeypatch.setattr("swarm.model.loading.settle", lambda stage: was_flat.append(stage.is_flat))
    stage = load_stage(ModelSource.resolve(str(target)), Span(0, 2), choose_threads=True)
    assert was_flat == [False]
    assert stage.is_flat


@pytest.mark.parametrize(("wanted", "count"), [(3, 3), (1, 1), (None, 2)])
def test_a_number_that_is_given_wins(wanted: int | None, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "look", lambda: Machine(cores=2, idle=2.0, peers=0))
    torch.set_num_threads(4)
    threads.limit(wanted)
    assert torch.get_num_threads() == count


def test_a_peer_and_a_client_keep_the_number_that_they_are_given(
    target: Path, draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("swarm.model.loading.settle", lambda _: pytest.fail("nobody asked for a choice"))

    async def run() -> int:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path / "peers", threads=3) as network,
            memory_swarm.client(network, target, draft=str(draft), threads=2) as model,
        ):
            return await asyncio.get_running_loop().run_in_executor(model.thread, torch.get_num_threads)

    assert asyncio.run(run()) == 2
    assert f"computing with 3 of {threads.num_cores()} cores" in told.messages


# --- how they wait ------------------------------------------------------------------------------------------------

_PRINT_POLICY = """
import os, sys
from specswarm import cli
assert "torch" not in sys.modules
def shown(*_, **__):
    print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("KMP_BLOCKTIME"), "torch" in sys.modules)
cli.app = shown
cli.main([])
"""


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({}, "PASSIVE 0 False"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None False"),
        ({"GOMP_SPINCOUNT": "1000"}, "None None False"),
        ({"KMP_BLOCKTIME": "200"}, "None 200 False"),
    ],
)
def test_the_command_has_threads_sleep_before_torch_is_imported(given: dict[str, str], seen: str) -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    printed = subprocess.run(
        [sys.executable, "-c", _PRINT_POLICY],
        env=environment | given,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert printed.stdout.split() == seen.split()


# --- what a peer says meanwhile -----------------------------------------------------------------------------------


def test_a_peer_tells_how_far_its_loading_is(target: Path, tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with memory_swarm.peers(target, ["1:4"], tmp_path / "peers"):
            pass

    asyncio.run(run())
    steps = ("reading ", "checking ", "making its forward pass faster: ", "computing with ", "timing ")
    found = [next((i for i, line in enumerate(told.messages) if line.startswith(step)), -1) for step in steps]
    assert min(found) > -1
    assert found == sorted(found)
    assert f"reading {target}: 1 of 4 parts" in told.messages
    assert "timing 17 at a time: 6 of 7 rounds" in told.messages


def test_hashing_of_large_weights_tells_how_far_it_is(tmp_path: Path, told: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(2 << 20))
    assert file_hash(file) == hashlib.sha256(bytes(2 << 20)).hexdigest()
    assert told.messages == [f"hashing {file.name}: {done} of 2 MiB" for done in (1, 2)]


def test_work_that_is_soon_done_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    work = progress.Progress()
    for i in range(5):
        work.at("working", i, 5)
    assert not caplog.messages
