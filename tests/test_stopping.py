"""Signals: whatever a program is at, it ends at once, or leaves well and ends at once at the second one."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from client import SwarmModel
from specswarm.processes import LOOPBACK, Program, running_swarm
from swarm.identity import Identity

READY_SECONDS = 90.0
LISTEN = [part for maddr in LOOPBACK for part in ("--host-maddr", maddr)]
STOP_SECONDS = 10.0  # on a busy machine; what it would take otherwise is minutes, or the 30 s of leaving
HUGE = 1 << 36  # bytes of weights that are none: reading them takes minutes, and no room on the disk


@pytest.fixture(scope="module")
def swarm(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], list[Program]]]:
    folder = tmp_path_factory.mktemp("swarm")
    options = ["--threads", "1"]
    with running_swarm(str(target), ["0:4"], folder, options=options, ready_seconds=READY_SECONDS) as running:
        yield running


@pytest.fixture(scope="module")
def huge(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target with weights that take very long to read."""
    folder = tmp_path_factory.mktemp("huge")
    for file in target.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    head = json.dumps({"x": {"dtype": "U8", "shape": [HUGE], "data_offsets": [0, HUGE]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + HUGE)
    return folder


def children(program: Program) -> list[psutil.Process]:
    return psutil.Process(program.process.pid or 0).children(recursive=True)


def wait_until_it_reads(program: Program, file: Path) -> None:
    """Until the process has the file open."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and program.process.poll() is None:
        if str(file) in {opened.path for opened in psutil.Process(program.process.pid or 0).open_files()}:
            return
        time.sleep(0.05)
    raise AssertionError("it does not read its weights")


def wait_for_children(program: Program) -> None:
    until = time.monotonic() + READY_SECONDS
    while not children(program):
        assert program.process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)


def ends(program: Program, number: int) -> tuple[int, float]:
    """The exit code of a program after a signal, and how long that took; it leaves no process behind."""
    left = children(program)
    started = time.monotonic()
    program.process.send_signal(number)
    code = program.finish(READY_SECONDS)
    seconds = time.monotonic() - started
    _, alive = psutil.wait_procs(left, timeout=5)
    assert not alive
    return code, seconds


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", ["join", "generate"])
def test_loading_ends_at_once(
    command: str, number: int, huge: Path, swarm: tuple[list[str], list[Program]], tmp_path: Path
) -> None:
    reach = [part for maddr in swarm[0] for part in ("--initial-peer", maddr)]
    key = tmp_path / "key"
    own: Sequence[str] = LISTEN if command == "join" else ("-p", "x")
    program = Program([command, str(huge), "--identity", str(key), *own, *reach], tmp_path / "log")
    try:
        wait_until_it_reads(program, huge / "model.safetensors")
        assert children(program)
        code, seconds = ends(program, number)
    finally:
        program.process.kill()
    assert code == 128 + number
    assert seconds < STOP_SECONDS
    assert "Traceback" not in (tmp_path / "log").read_text()
    with Identity.hold(key):  # nobody else does
        pass


def test_a_start_that_nobody_answers_ends_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes a connection, and says nothing
        silent.settimeout(READY_SECONDS)
        port = silent.getsockname()[1]
        nobody = f"/ip4/127.0.0.1/tcp/{port}/p2p/12D3KooWQhUesA5R5gKgJq4kNcHyK9C2KsYjoz8SBnp26gWzYcBD"
        program = Program(["status", "--initial-peer", nobody], tmp_path / "log")
        try:
            with silent.accept()[0]:
                code, seconds = ends(program, signal.SIGINT)
        finally:
            program.process.kill()
    assert (code, seconds < STOP_SECONDS) == (130, True)
    assert (tmp_path / "log").read_text() == ""


def test_a_peer_says_whom_it_leaves_and_the_second_signal_ends_it_at_once(
    target: Path, swarm: tuple[list[str], list[Program]], tmp_path: Path
) -> None:
    reach = [part for maddr in swarm[0] for part in ("--initial-peer", maddr)]
    log = tmp_path / "log"
    options = ["--identity", str(tmp_path / "key"), "--threads", "1", "--layers", "0:4", *LISTEN]
    peer = Program(["join", str(target), *options, *reach], log)
    peer_id = peer.next(READY_SECONDS)["peer_id"]
    try:
        with SwarmModel.connect(str(target), initial_peers=swarm[0], allow=[peer_id], draft="none") as model:
            pieces = iter(model.stream([1, 2, 3], max_new_tokens=500))
            next(pieces)  # nobody else may take over, so the session stays
            peer.process.send_signal(signal.SIGINT)
            until = time.monotonic() + READY_SECONDS
            while "leaving" not in log.read_text() and time.monotonic() < until:
                time.sleep(0.02)
            assert "leaving, 1 client, at most 30 s; again to stop at once" in log.read_text()
            code, seconds = ends(peer, signal.SIGINT)
            pieces.close()  # type: ignore[attr-defined]
    finally:
        peer.process.kill()
    assert (code, seconds < STOP_SECONDS) == (130, True)
    assert "Traceback" not in log.read_text()


@pytest.mark.skipif(os.cpu_count() == 1, reason="it has no workers then")
def test_a_simulation_ends_at_once_with_all_its_workers(tmp_path: Path) -> None:
    scenario = Path(__file__).parents[1] / "configs" / "scenarios" / "thousand.toml"
    program = Program(["simulate", str(scenario), "--seeds", "2"], tmp_path / "log", subprocess.Popen)
    wait_for_children(program)
    code, seconds = ends(program, signal.SIGINT)
    assert (code, seconds < STOP_SECONDS) == (130, True)
    assert "Traceback" not in (tmp_path / "log").read_text()
