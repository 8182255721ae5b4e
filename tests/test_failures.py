"""Real peers, as processes over libp2p, that die, hang and leave in mid-generation: the tokens are always the same."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from client import SwarmModel
from client.blocking import BlockingGeneration
from specswarm.processes import LOOPBACK, Program, running_swarm
from swarm.errors import DaemonEnded
from tests.models import greedy, load_whole

READY_SECONDS = 120.0
PROMPT = [1, 2, 3] * 20
TOKENS = 80
SPANS = ["0:2"] * 3 + ["2:4"] * 3


@pytest.fixture(scope="module")
def expected(target: Path) -> list[int]:
    return greedy(load_whole(target), PROMPT, TOKENS)


@pytest.fixture(scope="module")
def swarm(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], dict[str, Program]]]:
    """Three peers for each half; initial peers, and programs by peer id."""
    folder = tmp_path_factory.mktemp("swarm")
    options = ["--threads", "1"]
    with running_swarm(str(target), SPANS, folder, options=options, ready_seconds=READY_SECONDS) as (
        peers,
        programs,
    ):
        yield peers, {program.ready["peer_id"]: program for program in programs}


@pytest.fixture
def model(
    target: Path, swarm: tuple[list[str], dict[str, Program]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[SwarmModel]:
    monkeypatch.setattr(
        "client.excess._LEAST", float("inf")
    )  # no chain is left for being slow: this machine may be busy
    with SwarmModel.connect(str(target), initial_peers=swarm[0], draft="ngram", threads=1) as connected:
        yield connected


def disturbed(model: SwarmModel, acts: dict[int, Any]) -> BlockingGeneration:
    """A generation, whole; each act gets the chain's peer ids when so many tokens are there."""
    stream = model.stream(PROMPT, max_new_tokens=TOKENS)
    waiting = sorted(acts.items())
    for _ in stream:
        while waiting and len(stream.result.token_ids) >= waiting[0][0]:
            waiting.pop(0)[1]([peer for peer, _ in stream.result.chain])
    assert not waiting
    return stream


def test_each_hop_may_die_in_mid_decode(
    model: SwarmModel, swarm: tuple[list[str], dict[str, Program]], expected: list[int]
) -> None:
    def kill(hop: int) -> Any:
        return lambda chain: swarm[1][chain[hop]].process.kill()

    result = disturbed(model, {20: kill(0), 45: kill(1)}).result
    assert result.token_ids == expected
    assert result.reroutes == 2


def test_a_client_whose_own_daemon_ends_says_so_and_blames_no_hop(
    target: Path,
    swarm: tuple[list[str], dict[str, Program]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = set(psutil.Process().children())
    with SwarmModel.connect(str(target), initial_peers=swarm[0], draft="ngram", threads=1) as model:
        [daemon] = set(psutil.Process().children()) - before
        caplog.set_level(logging.INFO, "specswarm")
        with pytest.raises(DaemonEnded, match="the network daemon has ended"):
            disturbed(model, {20: lambda _: daemon.kill()})
    assert not any("lost" in message for message in caplog.messages)


def test_a_stopped_peer_is_left_within_five_seconds(
    model: SwarmModel, swarm: tuple[list[str], dict[str, Program]], expected: list[int]
) -> None:
    stopped = []

    def stop(chain: list[str]) -> None:
        stopped.append(chain[0])
        swarm[1][chain[0]].process.send_signal(signal.SIGSTOP)

    try:
        result = disturbed(model, {30: stop}).result
    finally:
        for peer in stopped:
            swarm[1][peer].process.send_signal(signal.SIGCONT)
    assert result.token_ids == expected
    assert result.reroutes == 1
    assert stopped[0] not in [peer for peer, _ in result.chain]


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_text_goes_on_here_when_the_peer_that_drafts_dies_or_leaves(
    target: Path,
    draft: Path,
    tmp_path: Path,
    swarm: tuple[list[str], dict[str, Program]],
    end: str,
) -> None:
    """The text is so long that much of it is left however late the end of the peer is seen to."""
    initial_peers, _ = swarm
    reach = [part for maddr in initial_peers for part in ("--initial-peer", maddr)]
    options = ["--identity", str(tmp_path / "drafting.key"), "--threads", "1", "--draft", str(draft)]
    listen = [part for maddr in LOOPBACK for part in ("--host-maddr", maddr)]
    drafting = Program(
        ["join", str(target), "--layers", "2:4", *reach, *listen, *options], tmp_path / "drafting.log"
    )
    try:
        peer_id = drafting.next(READY_SECONDS)["peer_id"]
        with SwarmModel.connect(str(target), initial_peers=initial_peers, draft_at="peer", threads=1) as model:
            stream = model.stream(PROMPT, max_new_tokens=3 * TOKENS, window=2)
            was_there = False
            for _ in stream:
                if not was_there and len(stream.result.token_ids) >= 30:
                    was_there = stream.result.drafted_at == peer_id
                    getattr(drafting.process, end)()
        assert was_there
        assert stream.result.token_ids == greedy(load_whole(target), PROMPT, 3 * TOKENS)
        assert end == "terminate" or stream.result.drafted_at is None
    finally:
        drafting.process.kill()
        drafting.finish(READY_SECONDS)


def test_a_peer_that_is_told_to_stop_is_left_between_two_rounds(
    model: SwarmModel, swarm: tuple[list[str], dict[str, Program]], expected: list[int]
) -> None:
    leaving: list[Program] = []

    def terminate(chain: list[str]) -> None:
        leaving.append(swarm[1][chain[1]])
        leaving[0].process.terminate()

    result = disturbed(model, {10: terminate}).result
    assert result.token_ids == expected
    assert leaving[0].finish(30) == 0


def test_a_generation_goes_on_after_its_client_was_killed(
    target: Path, swarm: tuple[list[str], dict[str, Program]], expected: list[int], tmp_path: Path
) -> None:
    file, text = tmp_path / "text", "once upon a time " * 4
    with SwarmModel.connect(str(target), initial_peers=swarm[0], draft="none", threads=1) as model:
        whole = model.generate(text, max_new_tokens=TOKENS)
    reach = [part for maddr in swarm[0] for part in ("--initial-peer", maddr)]
    arguments = ["generate", str(target), *reach, "--resume", str(file)]
    killed = Program([*arguments, "-p", text, "--max-new-tokens", str(TOKENS)], tmp_path / "first.log")
    while not file.exists() or file.read_bytes().count(b"\n") < 5:
        assert killed.process.poll() is None
        time.sleep(0.01)
    killed.process.kill()
    killed.finish(10)
    kept = [token for line in file.read_bytes().split(b"\n")[1:5] for token in json.loads(line)]
    again = Program(arguments, tmp_path / "second.log")
    printed = again.next(READY_SECONDS)
    assert again.finish(READY_SECONDS) == 0
    assert printed["token_ids"] == whole.token_ids
    assert printed["token_ids"][: len(kept)] == kept
    assert printed["rounds"] < TOKENS


def test_a_client_that_stands_still_for_longer_than_its_timeout_goes_on(
    target: Path, swarm: tuple[list[str], dict[str, Program]], tmp_path: Path
) -> None:
    """As if nothing had happened: its own silence is nobody's death, nor a time without progress."""
    file, text = tmp_path / "text", "once upon a time " * 4
    with SwarmModel.connect(str(target), initial_peers=swarm[0], draft="none", threads=1) as model:
        whole = model.generate(text, max_new_tokens=TOKENS)
    reach = [part for maddr in swarm[0] for part in ("--initial-peer", maddr)]
    options = ["--resume", str(file), "-p", text, "--max-new-tokens", str(TOKENS), "--timeout", "2"]
    client = Program(["generate", str(target), *reach, *options], tmp_path / "client.log")
    while not file.exists() or file.read_bytes().count(b"\n") < 5:
        assert client.process.poll() is None
        time.sleep(0.01)
    client.process.send_signal(signal.SIGSTOP)
    assert file.read_bytes().count(b"\n") < TOKENS
    time.sleep(5.0)
    client.process.send_signal(signal.SIGCONT)
    printed = client.next(READY_SECONDS)
    assert client.finish(READY_SECONDS) == 0
    assert printed["token_ids"] == whole.token_ids
    assert printed["reroutes"] == 0
