"""Lists of whom a peer serves and whom a client uses: toy swarms, and one of real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from peer.limits import Limits
from specswarm.processes import running_swarm
from swarm.errors import ChainLost
from swarm.identity import Identity
from swarm.span import Span
from swarm.speculation.tree import NOTHING
from tests import faulty
from tests.faulty import FaultyNetwork
from tests.toy import reference
from tests.toy_swarm import PROMPT, ToyClient, ToySwarm


async def two_chains(limits: dict[str, Limits]) -> ToySwarm:
    """Peers a0, a1 and b0, b1, each with one of two layers; some with other limits."""
    swarm = ToySwarm(FaultyNetwork(1), 2)
    for name in ("a0", "a1", "b0", "b1"):
        layer = int(name[1])
        swarm.limits = limits.get(name, Limits())
        await swarm.start(name, Span(layer, layer + 1))
    return swarm


def peers_of(client: ToyClient) -> set[str]:
    return {hop.contact.peer_id for hop in client.hops}


@pytest.mark.parametrize("lists", [{"allow": ("a0", "a1")}, {"deny": ("b0", "b1")}], ids=str)
def test_a_client_leads_its_chain_over_listed_peers_only(lists: dict[str, tuple[str, ...]]) -> None:
    async def run() -> None:
        client = ToyClient(await two_chains({}), window=3, **lists)  # type: ignore[arg-type]
        assert await client.generate(20) == reference(PROMPT, 20, 2)
        assert peers_of(client) == {"a0", "a1"}

    faulty.run(run())


def test_a_client_whose_list_leaves_layers_out_is_told_which() -> None:
    async def run() -> None:
        swarm = await two_chains({})
        target = ToyClient(swarm, window=1, deny=("a1", "b1")).target
        await target.refresh()
        with pytest.raises(ChainLost, match="layers 1:2 of 2"):
            await target.plan(tokens=1)

    faulty.run(run())


@pytest.mark.parametrize("lists", [{"allow": ("somebody",)}, {"deny": ("client",)}], ids=str)
def test_a_client_that_a_peer_does_not_serve_uses_others_and_asks_it_once(
    lists: dict[str, tuple[str, ...]],
) -> None:
    async def run() -> None:
        closed = Limits.model_construct(**lists)  # type: ignore[arg-type]
        swarm = await two_chains({"a0": closed, "a1": closed})
        client = ToyClient(swarm, window=3)
        for _ in range(3):
            assert await client.generate(20) == reference(PROMPT, 20, 2)
            assert peers_of(client) == {"b0", "b1"}
        assert client.chain.reroutes <= 2

    faulty.run(run())


def test_a_client_that_nobody_serves_is_told_why_and_at_once() -> None:
    async def run() -> None:
        closed = Limits.model_construct(allow=("somebody",))
        client = ToyClient(await two_chains(dict.fromkeys(("a0", "a1", "b0", "b1"), closed)), window=3)
        await client.target.refresh()
        with pytest.raises(ChainLost, match="client may not use this peer"):
            await client.chain.verify(PROMPT, NOTHING)
        await client.chain.close()
        assert asyncio.get_running_loop().time() < 10

    faulty.run(run())


def test_a_denied_peer_is_left_out_of_chains_over_the_one_that_denies_it() -> None:
    async def run() -> None:
        swarm = await two_chains({"a1": Limits.model_construct(deny=("a0",))})
        swarm.directory.peers["b0"] = swarm.directory.peers["b0"].model_copy(update={"step_seconds": 1.0})
        swarm.kill("b1")
        client = ToyClient(swarm, window=3)  # which would like a0 better
        assert await client.generate(20) == reference(PROMPT, 20, 2)
        assert peers_of(client) == {"b0", "a1"}
        assert client.chain.reroutes == 1

    faulty.run(run())


def test_a_peer_with_a_list_serves_the_client_on_it_and_tells_others(target: Path, tmp_path: Path) -> None:
    """Real processes: the client's lasting identity is what the peer's list names."""
    from client import SwarmModel
    from tests.models import greedy, load_whole

    key = tmp_path / "client.key"
    with Identity.hold(key) as identity:
        peer_id = identity.peer_id
    options = ["--threads", "1", "--allow", peer_id]
    with running_swarm(str(target), ["0:4"], tmp_path, options=options, ready_seconds=90) as (initial_peers, _):
        with SwarmModel.connect(str(target), initial_peers=initial_peers, identity=key, threads=1) as model:
            assert model.generate([1, 2, 3], max_new_tokens=8).token_ids == greedy(load_whole(target), [1, 2, 3], 8)
        with (
            SwarmModel.connect(str(target), initial_peers=initial_peers, threads=1) as model,
            pytest.raises(ChainLost, match="may not use this peer"),
        ):
            model.generate([1, 2, 3], max_new_tokens=8)
