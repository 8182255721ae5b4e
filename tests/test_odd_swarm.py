"""A swarm of real processes in which much is odd: clocks, a model's name, a copied key, a version, and then a death."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from specswarm import processes
from specswarm.processes import LOOPBACK, Place, Program, running_swarm
from swarm import PROTOCOL
from swarm.identity import Identity
from tests.models import greedy, load_whole

READY_SECONDS = 120.0
NAME = "mod\x1b[31mel\n\u202e"

SITE = """
import os, time
ahead, protocol, real = float(os.environ.get("AHEAD", 0)), os.environ.get("PROTOCOL"), time.time
time.time = lambda: real() + ahead
if protocol:
    import swarm
    swarm.PROTOCOL = int(protocol)
"""
"""What a process does before anything else, as Python's `sitecustomize`."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    (folder / "sitecustomize.py").write_text(SITE)
    return folder


@pytest.fixture(scope="module")
def odd(folder: Path) -> Callable[..., Any]:
    """Starts a process whose clock is so many seconds ahead, or whose protocol is another."""

    def starter(ahead: float = 0.0, protocol: str = "") -> Any:
        if not ahead and not protocol:
            return processes.spawn
        path = os.pathsep.join([str(folder), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, "AHEAD": str(ahead), "PROTOCOL": protocol}

        def popen(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
            return subprocess.Popen(*arguments, **options, env=environment)

        return popen

    return starter


@pytest.fixture(scope="module")
def swarm(target: Path, folder: Path, odd: Callable[..., Any]) -> Iterator[tuple[list[str], list[Program]]]:
    """Layers 0:2 by a peer that is ten minutes slow, 2:4 by one that is ten minutes fast, as is the bootstrap; a second
    program with the key of the first peer; and a peer of a later version."""
    model = folder / NAME
    shutil.copytree(target, model)
    with Identity.hold(folder / "1.key"):
        pass
    shutil.copy(folder / "1.key", folder / "3.key")
    config = folder / "config.toml"
    config.write_text("[join]\nannounce_seconds = 8\nthreads = 1\n")
    starts = [odd(600.0), odd(-600.0), odd(600.0), odd(), odd(protocol=str(PROTOCOL + 1))]

    def place(number: int) -> Place:
        return LOOPBACK, starts[number]

    spans = ["0:2", "2:4", "0:2", "0:4"]
    with running_swarm(
        str(model), spans, folder, options=["--config", str(config)], place=place, ready_seconds=READY_SECONDS
    ) as running:
        yield running


def reach(initial_peers: Sequence[str]) -> list[str]:
    return [part for maddr in initial_peers for part in ("--initial-peer", maddr)]


def run(popen: Any, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    with tempfile.NamedTemporaryFile("r") as log, Path(log.name).open("w") as errors:
        process = popen(
            [sys.executable, "-m", "specswarm", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        with process.stdout:
            output = process.stdout.read()
        return process.wait(READY_SECONDS), output, log.read()


def wait_for_line(log: Path, text: str) -> None:
    """Until a program has said so; its records are renewed every few seconds."""
    for _ in range(300):
        if text in log.read_text():
            return
        time.sleep(0.1)
    pytest.fail(f"{log.name} has no line with {text!r}:\n{log.read_text()}")


def test_what_is_odd_is_said_and_everybody_is_found(
    swarm: tuple[list[str], list[Program]], folder: Path, odd: Callable[..., Any], tmp_path: Path
) -> None:
    initial_peers, programs = swarm
    for number in (1, 3):  # who share a key
        wait_for_line(folder / f"{number}.log", "another program publishes under this peer's id")
        assert f"{number}.key was copied" in (folder / f"{number}.log").read_text()
    wait_for_line(folder / "2.log", "this machine's clock")
    for _ in range(4):  # records say so from the next one on, which comes within four seconds
        code, shown, _ = run(odd(-600.0), "status", *reach(initial_peers))
        assert code == 0
        if "another program uses its key" in shown:
            break
    assert "another program uses its key" in shown
    assert f"1 peer speaks another version of the protocol (theirs {PROTOCOL + 1}, ours {PROTOCOL})" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    program = Program(["status", *reach(initial_peers)], tmp_path / "log", odd())
    found = program.next(READY_SECONDS)
    assert program.finish(READY_SECONDS) == 0
    [model] = found["models"]
    assert model["model"] == r"mod\x1b[31mel\n\u202e"
    assert model["missing_layers"] == []
    ahead = {peer["peer_id"]: peer["clock_ahead_seconds"] for peer in model["peers"]}
    assert abs(ahead[programs[2].ready["peer_id"]] - 600.0) < 30.0
    assert [other["peer_id"] for other in found["other_versions"]] == [programs[4].ready["peer_id"]]


def test_client_of_any_clock_and_none_of_another_version_is_served(
    target: Path, swarm: tuple[list[str], list[Program]], odd: Callable[..., Any]
) -> None:
    initial_peers, programs = swarm
    programs[3].process.kill()  # whoever dials its id may reach it instead of the one whose key it has
    programs[3].process.wait()
    asked = ["generate", str(target), *reach(initial_peers), "-p", "x", "--max-new-tokens", "8", "--json"]
    expected = greedy(load_whole(target), AutoTokenizer.from_pretrained(target)("x")["input_ids"], 8)
    for ahead in (-600.0, 600.0):
        code, printed, errors = run(odd(ahead), *asked)
        assert code == 0, errors
        assert json.loads(printed)["token_ids"] == expected
    code, _, errors = run(odd(protocol=str(PROTOCOL + 2)), *asked)
    assert code == 1
    theirs = f"(theirs {PROTOCOL}, {PROTOCOL + 1}, ours {PROTOCOL + 2})"
    assert f"3 peers speak another version of the protocol {theirs}" in errors


def test_layers_of_a_dead_peer_are_a_gap_at_once(
    swarm: tuple[list[str], list[Program]], odd: Callable[..., Any]
) -> None:
    initial_peers, programs = swarm
    programs[2].process.kill()
    programs[2].process.wait()
    code, shown, _ = run(odd(), "status", *reach(initial_peers))
    assert code == 0
    assert "nobody answers for layers 2, 3" in shown
    assert "silent for" in shown
