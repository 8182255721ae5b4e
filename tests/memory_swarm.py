"""A whole swarm in one event loop: real peers and real clients over the in-memory network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from benchmarks.chaos.liar import Liar, Lies
from client.api import AsyncSwarmModel
from client.config import ClientConfig
from peer import node
from peer.config import PeerConfig
from specswarm.drafting import drafting
from swarm.identity import Identity
from swarm.memory import MemoryNetwork
from swarm.transport import Network


@contextlib.asynccontextmanager
async def peers(
    model: Path,
    spans: Sequence[str],
    folder: Path,
    network: MemoryNetwork | None = None,
    lies: Lies | None = None,
    drafts: Mapping[int, Path] = MappingProxyType({}),
    **options: Any,
) -> AsyncIterator[MemoryNetwork]:
    """A peer for each span `A:B` of `model`, all started at once; for `""` it chooses its layers itself.

    Whoever is named in `lies`, now or later, sends other messages than it should. Those in `drafts`, by their place
    among the spans, draft for clients, with that model.
    """
    network = network or MemoryNetwork()
    stop = asyncio.Event()
    with contextlib.ExitStack() as stack:
        async with asyncio.TaskGroup() as group:
            ready: list[asyncio.Future[node.Ready]] = []
            for i, span in enumerate(spans):
                identity = stack.enter_context(Identity.hold(folder / f"{uuid4()}.key"))
                given = {"model": str(model), "initial_peers": ["memory"], "layers": span or None, **options}
                config = PeerConfig.model_validate({**given, "draft": str(drafts[i]) if i in drafts else None})
                beside = drafting(config) if config.draft else node.nothing_else
                ready.append(asyncio.get_running_loop().create_future())
                place: Network = Liar(network.join(identity.peer_id), {} if lies is None else lies)
                group.create_task(node.serve_on(place, config, identity, ready[-1].set_result, stop, beside))
                if config.dtype != "float32":  # transformers loads by a default dtype that all threads share
                    await ready[-1]
            await asyncio.gather(*ready)
            yield network
            stop.set()


@contextlib.asynccontextmanager
async def client(network: MemoryNetwork, model: Path, **options: Any) -> AsyncIterator[AsyncSwarmModel]:
    """A client of the swarm."""
    settings = ClientConfig.model_validate({"model": str(model), "initial_peers": ["memory"], **options})
    place: Network = network.join(f"client {id(settings)}")
    async with AsyncSwarmModel.connect_over(place, settings) as connected:
        yield connected
