"""A bootstrap node: it keeps a share of the records and is the address by which others find the swarm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from pydantic import Field, field_validator

from swarm.config import expanded
from swarm.identity import Identity
from swarm.libp2p import Libp2pNetwork
from swarm.lifetime import run_until
from swarm.membership import KeyFile, Membership
from swarm.metrics import Observed, served

DEFAULT_HOST_MADDRS = ("/ip4/0.0.0.0/udp/31330/quic-v1", "/ip4/0.0.0.0/tcp/31330")


class BootstrapConfig(Observed):
    """Options of `specswarm bootstrap`. With fixed ports and the same identity the address stays the same."""

    initial_peers: tuple[str, ...] = ()
    host_maddrs: tuple[str, ...] = DEFAULT_HOST_MADDRS
    announce_maddrs: tuple[str, ...] = ()
    swarm_key: KeyFile = None
    """The private swarm's; without it, the node belongs to the public one."""
    identity: Path = Field(Path("~/.config/specswarm/bootstrap.key"), validate_default=True)
    relay: bool = True
    """Whether to pass on what goes to peers behind NAT and comes from them."""

    @field_validator("identity")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return expanded(value)


async def serve(config: BootstrapConfig, on_ready: Callable[[str, list[str]], None], stop: asyncio.Event) -> None:
    """Be a bootstrap node until `stop` is set; `on_ready` gets the peer id and the addresses to hand out."""
    with Identity.hold(config.identity) as identity, served(config):
        async with Libp2pNetwork.join(
            identity,
            initial_peers=config.initial_peers,
            host_maddrs=config.host_maddrs,
            announce_maddrs=config.announce_maddrs,
            swarm=Membership.read(config.swarm_key),
            is_relay=config.relay,
        ) as network:
            on_ready(network.peer_id, await network.maddrs())
            await run_until(stop, network.run())
