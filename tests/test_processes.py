"""The real thing: a bootstrap node, peers and clients as processes on loopback, over libp2p."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from client import AsyncSwarmModel, SwarmModel
from specswarm.processes import LOOPBACK, Program, running_swarm
from swarm.directory import Directory
from swarm.libp2p import Libp2pNetwork
from swarm.model.source import ModelSource
from swarm.ping import round_trip
from swarm.wire import NO_SESSION, PUSH_PROTOCOL, SESSION_PROTOCOL, Contact, Ping, Pong, Refused, Round
from tests.models import VOCAB, greedy, load_whole

READY_SECONDS = 90.0
LISTEN = [part for maddr in LOOPBACK for part in ("--host-maddr", maddr)]


@pytest.fixture(scope="module")
def swarm(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], list[Program]]]:
    """Four peers of a layer each."""
    folder = tmp_path_factory.mktemp("swarm")
    spans = ["0:1", "1:2", "2:3", "3:4"]
    with running_swarm(
        str(target), spans, folder, options=["--threads", "1"], ready_seconds=READY_SECONDS
    ) as running:
        yield running


def reach(initial_peers: list[str]) -> list[str]:
    return [part for maddr in initial_peers for part in ("--initial-peer", maddr)]


@pytest.mark.parametrize("kind", ["model", "ngram", "none"])
def test_greedy_tokens_equal_transformers(
    kind: str, target: Path, draft: Path, swarm: tuple[list[str], list[Program]]
) -> None:
    chance = random.Random(3)
    prompts = [[chance.randrange(VOCAB) for _ in range(length)] for length in (1, 7, 130, 700)]
    whole = load_whole(target)
    options = {"draft": str(draft) if kind == "model" else kind, "threads": 1}
    with SwarmModel.connect(str(target), initial_peers=swarm[0], **options) as model:
        for prompt in prompts:
            for window in (0, 4, 8):
                result = model.generate(prompt, max_new_tokens=24, window=window)
                assert result.token_ids == greedy(whole, prompt, 24)
                assert [str(span) for _, span in result.chain] == ["0:1", "1:2", "2:3", "3:4"]
                assert result.reroutes == 0


def test_ten_clients_at_once_get_what_each_gets_alone(target: Path, swarm: tuple[list[str], list[Program]]) -> None:
    whole = load_whole(target)
    prompts = [[7 * i % VOCAB, i, 3] * (1 + i * i) for i in range(10)]

    async def one(prompt: list[int]) -> list[int]:
        async with AsyncSwarmModel.connect(str(target), initial_peers=swarm[0], threads=1) as model:
            return (await model.generate(prompt, max_new_tokens=24)).token_ids

    async def all_at_once() -> list[list[int]]:
        return await asyncio.gather(*map(one, prompts))

    assert asyncio.run(all_at_once()) == [greedy(whole, prompt, 24) for prompt in prompts]


def test_hops_that_compute_for_longer_than_is_waited_for_are_not_lost(
    target: Path, swarm: tuple[list[str], list[Program]]
) -> None:
    """Clients ask after a fifth of a second; long prompts wait for each other's at every hop for many of these."""
    whole = load_whole(target)
    prompts = [[7 * i % VOCAB, i, 3] * 600 for i in range(6)]

    async def one(prompt: list[int]) -> tuple[list[int], int]:
        options = {"threads": 1, "wait_floor": 0.2, "wait_ceiling": 0.2}
        async with AsyncSwarmModel.connect(str(target), initial_peers=swarm[0], **options) as model:
            result = await model.generate(prompt, max_new_tokens=8)
            return result.token_ids, result.reroutes

    async def all_at_once() -> list[tuple[list[int], int]]:
        return await asyncio.gather(*map(one, prompts))

    assert asyncio.run(all_at_once()) == [(greedy(whole, prompt, 8), 0) for prompt in prompts]


def test_generate_prints_one_object_and_streams_the_same_text(
    target: Path, swarm: tuple[list[str], list[Program]], tmp_path: Path
) -> None:
    arguments = ["generate", str(target), *reach(swarm[0]), "-p", "once upon", "--max-new-tokens", "12"]
    program = Program(arguments, tmp_path / "log")
    printed = program.next(READY_SECONDS)
    assert program.finish(READY_SECONDS) == 0
    required = {
        *("text", "token_ids", "prompt_tokens", "rounds", "drafted", "accepted", "seconds", "first_token_seconds"),
        *("tokens_per_second", "reroutes", "chain", "bytes_sent", "bytes_received"),
    }
    assert required <= printed.keys()
    assert (len(printed["token_ids"]), printed["finish_reason"]) == (12, "length")
    assert all(hop.keys() == {"peer_id", "span"} for hop in printed["chain"])
    streamed = subprocess.run(
        [sys.executable, "-m", "specswarm", *arguments, "--explain"],
        capture_output=True,
        check=True,
        timeout=READY_SECONDS,
    )
    assert streamed.stdout.decode() == printed["text"] + "\n"
    explained = streamed.stderr.decode()
    assert "ended at max_new_tokens (length)" in explained
    assert re.search(
        r"a trip takes [\d.]+ ms, [\d.]+ of them in its stages, and [\d.]+ for each of its tokens", explained
    )
    assert re.search(r"[\d.]+ were sent for a verdict, [\d.]+ of them stood", explained)


def test_the_models_own_generation_config_counts(
    target: Path, swarm: tuple[list[str], list[Program]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(target, tmp_path / "m"))
    (folder / "generation_config.json").write_text('{"repetition_penalty": 1.3, "num_beams": 2}')
    arguments = ["generate", str(folder), *reach(swarm[0]), "-p", "once upon", "--max-new-tokens", "12", "--json"]
    ended = subprocess.run(
        [sys.executable, "-m", "specswarm", *arguments], capture_output=True, check=True, timeout=READY_SECONDS
    )
    prompt = ModelSource.resolve(str(folder)).tokenizer()("once upon")["input_ids"]
    plain, expected = (greedy(load_whole(target), prompt, 12, repetition_penalty=one) for one in (1.0, 1.3))
    assert json.loads(ended.stdout)["token_ids"] == expected != plain
    assert ended.stderr.decode().count("generation_config.json asks for num_beams: not applied here\n") == 1


def test_status_lists_peers_and_spans(swarm: tuple[list[str], list[Program]], tmp_path: Path) -> None:
    program = Program(["status", *reach(swarm[0])], tmp_path / "log")
    [model] = program.next(READY_SECONDS)["models"]
    assert program.finish(READY_SECONDS) == 0
    assert [peer["span"] for peer in model["peers"]] == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert model["missing_layers"] == []


def test_strangers_nonsense_does_not_disturb_a_peer(target: Path, swarm: tuple[list[str], list[Program]]) -> None:
    initial_peers, programs = swarm
    chance = random.Random(1)

    async def attack() -> None:
        async with Libp2pNetwork.join(None, initial_peers=initial_peers) as network:
            with SwarmModel.connect(str(target), initial_peers=initial_peers) as model:
                peers = [peer for peer, _ in model.generate([1], max_new_tokens=1).chain]
            for peer in peers:
                for protocol in (SESSION_PROTOCOL, PUSH_PROTOCOL):
                    for size in (0, 1, 50, 5000):
                        stream = await network.open(Contact(peer), protocol)
                        stream._writer.write(size.to_bytes(4, "big") + chance.randbytes(size))
                        stream._writer.write(chance.randbytes(100))
                        stream.close()
                stream = await network.open(Contact(peer), SESSION_PROTOCOL)
                await stream.send(Round(NO_SESSION, 0, 0, (1,), 0, judged=True))
                assert isinstance(await stream.receive(), Refused)
                await stream.send(Ping(5))
                assert await stream.receive() == Pong(5)
                stream.close()

    asyncio.run(attack())
    assert all(program.process.poll() is None for program in programs)
    with SwarmModel.connect(str(target), initial_peers=initial_peers) as model:
        assert model.generate([1, 2, 3], max_new_tokens=8).token_ids == greedy(load_whole(target), [1, 2, 3], 8)


def test_streams_can_be_opened_and_closed_without_end(swarm: tuple[list[str], list[Program]]) -> None:
    """A QUIC connection has room for a few hundred at a time; those that were closed must not count."""
    initial_peers, programs = swarm

    async def knock() -> None:
        async with Libp2pNetwork.join(None, initial_peers=initial_peers) as network:
            contact = Contact(programs[1].ready["peer_id"], tuple(programs[1].ready["maddrs"]))
            assert "quic" in contact.maddrs[0]
            for _ in range(800):
                await round_trip(network, contact)

    asyncio.run(knock())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_peer_told_to_stop_withdraws_and_leaves_no_process(number: int, target: Path, tmp_path: Path) -> None:
    with running_swarm(str(target), ["0:2", "2:4"], tmp_path, ready_seconds=READY_SECONDS) as (
        initial_peers,
        programs,
    ):
        leaving = programs[2].process
        children = psutil.Process(leaving.pid).children(recursive=True)
        assert children
        os.kill(leaving.pid, number)
        assert leaving.wait(15) == 0
        assert not any(child.is_running() for child in children)
        status = Program(["status", *reach(initial_peers)], tmp_path / "status.log")
        [model] = status.next(READY_SECONDS)["models"]
        status.finish(READY_SECONDS)
        assert model["missing_layers"] == [2, 3]
        generate = Program(["generate", str(target), *reach(initial_peers), "-p", "x"], tmp_path / "generate.log")
        assert generate.finish(READY_SECONDS) == 1
        assert "layers 2:4 of 4" in (tmp_path / "generate.log").read_text()


def test_ctrl_c_does_not_reach_the_daemon_without_which_a_node_ends(target: Path, tmp_path: Path) -> None:
    """A terminal sends it to the whole group of processes, and a peer needs its network in order to leave well."""
    with running_swarm(str(target), ["0:4"], tmp_path, ready_seconds=READY_SECONDS) as (_, programs):
        for program in programs:
            [daemon] = psutil.Process(program.process.pid).children()
            assert os.getpgid(daemon.pid) != os.getpgid(program.process.pid)
            daemon.kill()
        assert [program.finish(READY_SECONDS) for program in programs] == [1, 1]
    for number in range(2):
        assert "the network daemon has ended" in (tmp_path / f"{number}.log").read_text()


def test_a_bootstrap_node_keeps_its_address(tmp_path: Path) -> None:
    arguments = ["bootstrap", "--identity", str(tmp_path / "key"), *LISTEN]
    first = Program(arguments, tmp_path / "log")
    maddrs = first.next(READY_SECONDS)["maddrs"]
    assert first.stop() == 0
    ports = [maddr.partition("/p2p/")[0] for maddr in maddrs]
    again = ["bootstrap", "--identity", str(tmp_path / "key")]
    second = Program([*again, *(part for port in ports for part in ("--host-maddr", port))], tmp_path / "log")
    assert second.next(READY_SECONDS)["maddrs"] == maddrs
    assert second.stop() == 0


def test_a_swarm_outlives_its_bootstrap_and_finds_it_again(target: Path, tmp_path: Path) -> None:
    """Those who are in go on without it; once it is back at its address, newcomers who know only it find the peers."""
    expected = greedy(load_whole(target), [1, 2, 3], 8)
    spans = ["0:2", "2:4"]
    with running_swarm(
        str(target), spans, tmp_path, options=["--threads", "1"], ready_seconds=READY_SECONDS
    ) as running:
        initial_peers, programs = running
        peers = sorted(program.ready["peer_id"] for program in programs[1:])
        with SwarmModel.connect(str(target), initial_peers=initial_peers, draft="none") as model:
            programs[0].process.kill()
            programs[0].process.wait()
            assert model.generate([1, 2, 3], max_new_tokens=8).token_ids == expected
            by_peer = [maddr for program in programs[1:] for maddr in program.ready["maddrs"]]
            with SwarmModel.connect(
                str(target), initial_peers=[*initial_peers, *by_peer], draft="none"
            ) as newcomer:
                assert newcomer.generate([1, 2, 3], max_new_tokens=8).token_ids == expected
        listen = [part for maddr in initial_peers for part in ("--host-maddr", maddr.partition("/p2p/")[0])]
        again = Program(["bootstrap", "--identity", str(tmp_path / "0.key"), *listen], tmp_path / "again.log")
        try:
            assert sorted(again.next(READY_SECONDS)["maddrs"]) == sorted(initial_peers)
            assert sorted(wait_for_peers(initial_peers, 2, seconds=30.0)) == peers
            with SwarmModel.connect(str(target), initial_peers=initial_peers, draft="none") as model:
                assert model.generate([1, 2, 3], max_new_tokens=8).token_ids == expected
        finally:
            again.stop()


def wait_for_peers(initial_peers: list[str], count: int, *, seconds: float) -> list[str]:
    """The ids of the peers that newcomers find, as soon as they are that many."""

    async def look() -> list[str]:
        async with asyncio.timeout(seconds):
            while True:
                async with Libp2pNetwork.join(None, initial_peers=initial_peers) as network:
                    found = await Directory(network).all_peers()
                if len(found) == count:
                    return [peer.peer_id for peer in found]
                await asyncio.sleep(0.5)  # a stranger is told of no event

    return asyncio.run(look())


def test_a_dead_peers_record_ends_with_its_third_renewal(target: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[join]\nannounce_seconds = 1\nthreads = 1\n")
    options = ["--config", str(config)]
    with running_swarm(
        str(target), ["0:2", "2:4"], tmp_path, options=options, ready_seconds=READY_SECONDS
    ) as running:
        initial_peers, programs = running
        assert len(wait_for_peers(initial_peers, 2, seconds=READY_SECONDS)) == 2
        programs[1].process.kill()
        assert wait_for_peers(initial_peers, 1, seconds=30.0) == [programs[2].ready["peer_id"]]


def test_a_peer_without_layers_takes_the_least_served(target: Path, tmp_path: Path) -> None:
    with running_swarm(str(target), ["0:2"], tmp_path, ready_seconds=READY_SECONDS) as (initial_peers, _):
        arguments = ["join", str(target), "--num-layers", "2", *reach(initial_peers), *LISTEN]
        peer = Program([*arguments, "--identity", str(tmp_path / "new.key")], tmp_path / "new.log")
        try:
            assert peer.next(READY_SECONDS)["span"] == [2, 4]
        finally:
            peer.stop()


def test_a_peer_that_hangs_holds_up_neither_an_audited_text_nor_new_clients(target: Path, tmp_path: Path) -> None:
    """It would audit, is still announced, and answers nothing."""
    expected = greedy(load_whole(target), [1, 2, 3], 30)
    with running_swarm(str(target), ["0:4"] * 2, tmp_path, ready_seconds=READY_SECONDS) as (
        initial_peers,
        programs,
    ):
        options = {"initial_peers": initial_peers, "draft": "none", "audit": 1.0, "wait_floor": 0.2}
        with SwarmModel.connect(str(target), **options) as model:
            used = model.generate([1, 2, 3], max_new_tokens=1).chain[0][0]
            peers = {program.ready["peer_id"]: program.process for program in programs if program.ready["span"]}
            [other] = [process for peer_id, process in peers.items() if peer_id != used]
            other.send_signal(signal.SIGSTOP)
            try:
                started = time.monotonic()
                result = model.generate([1, 2, 3], max_new_tokens=30)
                with SwarmModel.connect(str(target), **options) as late:
                    result_of_late = late.generate([1, 2, 3], max_new_tokens=30)
                seconds = time.monotonic() - started
            finally:
                other.send_signal(signal.SIGCONT)
    assert result.token_ids == result_of_late.token_ids == expected
    assert result.audits_skipped >= 1
    assert seconds < 20.0


def test_a_generation_survives_the_loss_of_a_peer(target: Path, tmp_path: Path) -> None:
    """A killed peer's layers are taken over by another; the tokens are the same."""
    expected = greedy(load_whole(target), [1, 2, 3], 60)
    spans = ["0:2", "2:4", "2:4"]
    with running_swarm(str(target), spans, tmp_path, ready_seconds=READY_SECONDS) as (initial_peers, programs):
        by_id = {program.ready["peer_id"]: program for program in programs}
        with SwarmModel.connect(str(target), initial_peers=initial_peers, draft="none", timeout=3) as model:
            used = model.generate([1, 2, 3], max_new_tokens=1).chain[-1][0]
            stream = model.stream([1, 2, 3], max_new_tokens=60)
            for count, _ in enumerate(stream):
                if count == 20:
                    by_id[used].process.kill()
            assert stream.result.token_ids == expected
            assert stream.result.reroutes >= 1
