"""Strangers who ask for a lot, on real peers: nobody else pays for it, and the peers' owner hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.chaos import stranger
from benchmarks.chaos.stranger import KINDS, Attack
from client import AsyncSwarmModel
from specswarm.processes import Program, running_swarm
from swarm.directory import Directory
from swarm.identity import Identity
from swarm.inspection import inspect
from swarm.libp2p import Libp2pNetwork
from swarm.tasks import end, owned
from tests.models import greedy, load_whole

PROMPT = [5, 6, 7, 8]
NEW_TOKENS = 24
SPANS = ("0:2", "2:4")
HONEST_TEXTS = 30  # at most, until the owner has heard of it
ROOM = """
[join]
threads = 1
cache_mib = 1
replayed_tokens = 4096
max_streams = 48
max_client_streams = 40
"""
"""Little, so that strangers need not ask for long."""

HEARD = {
    "replays": "rate",
    "copies": "rate",
    "dials": "rate",
    "frames": "messages",
    "streams": "streams",
    "hoards": "full",
}
"""By what a stranger does: the complaint."""


@dataclass(frozen=True)
class Swarm:
    """Two peers of two layers each."""

    initial_peers: list[str]
    programs: list[Program]
    folder: Path

    async def complaints(self, network: Libp2pNetwork, attack: Attack) -> set[str]:
        """What the peers tell their owners of this stranger."""
        strangers = {one.peer_id for one in attack.networks}
        found = set[str]()
        for number in (1, 2):
            owner = Identity.read(self.folder / f"{number}.key")
            peer = next(peer for peer in attack.peers if peer.peer_id == owner.peer_id)
            said = await inspect(network, peer.contact, owner, 10.0)
            found |= {one.kind for one in said if one.peer_id in strangers}
        return found

    @property
    def log(self) -> str:
        """Of all peers."""
        return "".join((self.folder / f"{number}.log").read_text() for number in (1, 2))


@pytest.fixture(scope="module")
def swarm(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    folder = tmp_path_factory.mktemp("strangers")
    (folder / "peers.toml").write_text(ROOM)
    options = ["--config", str(folder / "peers.toml")]
    with running_swarm(str(target), SPANS, folder, options=options, ready_seconds=90) as (initial_peers, programs):
        yield Swarm(initial_peers, programs, folder)


@contextlib.asynccontextmanager
async def attacked(swarm: Swarm, kind: str, fingerprint: str) -> AsyncIterator[tuple[Libp2pNetwork, Attack]]:
    """Meanwhile a stranger of two identities does what he does."""
    async with AsyncExitStack() as joined:
        networks = [
            await joined.enter_async_context(Libp2pNetwork.join(None, initial_peers=swarm.initial_peers))
            for _ in range(3)
        ]
        found = sorted(await Directory(networks[0]).peers_of(fingerprint), key=lambda peer: peer.start)
        attack = Attack(networks[:2], found, "127.0.0.1")
        attacking = owned(KINDS[kind](attack), kind)
        try:
            yield networks[2], attack
        finally:
            await end(attacking)


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_client_goes_on_undisturbed_and_the_owner_hears_of_it(
    kind: str, target: Path, swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = greedy(load_whole(target), PROMPT, NEW_TOKENS)
    monkeypatch.setattr(stranger, "HOARDED", 1500)
    strangers = list[str]()

    async def run() -> None:
        async with AsyncSwarmModel.connect(str(target), initial_peers=swarm.initial_peers, threads=1) as model:
            async with attacked(swarm, kind, model.target.fingerprint) as (network, attack):
                strangers.extend(one.peer_id for one in attack.networks)
                for _ in range(HONEST_TEXTS):
                    result = await model.generate(PROMPT, max_new_tokens=NEW_TOKENS)
                    assert (result.token_ids, result.reroutes) == (expected, 0)
                    if HEARD[kind] in await swarm.complaints(network, attack):
                        break
                else:
                    pytest.fail(f"nobody complained: {attack.done}, {swarm.log}")
            assert not model.target.roster.cooldowns.active

    asyncio.run(run())
    assert all(program.process.poll() is None for program in swarm.programs)
    assert any(f"peer {one}: " in swarm.log for one in strangers)


@pytest.mark.parametrize(("number", "says"), [(1, True), (0, False)], ids=["own peer", "no peer"])
def test_status_shows_whom_ones_own_peer_limits(number: int, says: bool, swarm: Swarm) -> None:
    key = str(swarm.folder / f"{number}.key")
    command = [sys.executable, "-m", "specswarm", "status", "--json", "--identity", key]
    reach = [part for maddr in swarm.initial_peers for part in ("--initial-peer", maddr)]
    shown = json.loads(subprocess.run([*command, *reach], capture_output=True, check=True, text=True).stdout)
    complaints = [peer["complaints"] for model in shown["models"] for peer in model["peers"]]
    assert len(complaints) == 2
    assert (sum(one is not None for one in complaints), shown["own"] is None) == (int(says), says)
