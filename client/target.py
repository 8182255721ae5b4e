"""What a client knows of the target: its sizes, its fingerprint, and who serves it how far away."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from client.routing import Hop, plan
from swarm.directory import Directory
from swarm.errors import ChainLost, UsageError
from swarm.model.source import ModelInfo, ModelSource
from swarm.ping import round_trips
from swarm.records import Announcement
from swarm.transport import Transport

_REFRESH_SECONDS = 10.0


class Target:
    """The model that the chain serves, and the peers that are known to serve it."""

    def __init__(self, info: ModelInfo, fingerprint: str, transport: Transport, directory: Directory) -> None:
        self.info = info
        self.fingerprint = fingerprint
        self.transport = transport
        self._directory = directory
        self._peers: list[Announcement] = []
        self._round_trips: dict[str, float] = {}

    async def plan(self, *, tokens: int, excluded: Collection[str] = ()) -> list[Hop]:
        """The best chain for rounds of `tokens` tokens, by what is known now. Raises ChainLost."""
        if not self._peers:
            raise ChainLost(f"nobody serves this model (fingerprint {self.fingerprint[:12]}){await self._others()}")
        return plan(self.info.num_layers, self._peers, self._round_trips, tokens=tokens, excluded=excluded)

    async def refresh(self) -> None:
        """Look the peers up, and measure the way to those not measured yet."""
        self._peers = await self._directory.peers_of(self.fingerprint)
        present = {peer.peer_id for peer in self._peers}
        self._round_trips = {peer: seconds for peer, seconds in self._round_trips.items() if peer in present}
        unknown = [peer.contact for peer in self._peers if peer.peer_id not in self._round_trips]
        measured = await round_trips(self.transport, unknown)
        self._round_trips |= measured

    async def keep_fresh(self) -> None:
        """Refresh again and again until cancelled, so that planning a chain never waits."""
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            await self.refresh()

    async def _others(self) -> str:
        """What else there is, for a client that found no peer of its own model."""
        others = {f"{peer.model} ({peer.fingerprint[:12]})" for peer in await self._directory.all_peers()}
        return f"; there are peers for {', '.join(sorted(others))}" if others else ", nor any other"


async def find_fingerprint(source: ModelSource, directory: Directory, wanted: str | None) -> str:
    """The fingerprint of the weights to use.

    A source with its weights at hand states it. Otherwise it is the one that peers announce for this configuration; if
    there are several, `wanted` (its beginning suffices) chooses. Raises UsageError or ChainLost.
    """
    own = source.fingerprint()
    if own is not None:
        if wanted is not None and not own.startswith(wanted):
            raise UsageError(f"{source.name} has fingerprint {own[:12]}, not {wanted[:12]}")
        return own
    announced = {
        peer.fingerprint for peer in await directory.all_peers() if peer.config_hash == source.info.config_hash
    }
    fitting = sorted(fingerprint for fingerprint in announced if fingerprint.startswith(wanted or ""))
    if not fitting:
        raise ChainLost(
            f"nobody serves {source.name} with this configuration{' and fingerprint' if wanted else ''}"
        )
    if len(fitting) > 1:
        listed = ", ".join(fingerprint[:12] for fingerprint in fitting)
        raise UsageError(f"{source.name} is served with different weights: choose by --fingerprint ({listed})")
    return fitting[0]
