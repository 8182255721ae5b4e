"""Keeps a peer's announcement alive, with fresh figures, and takes it back at the end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from swarm.directory import Directory
from swarm.identity import Identity
from swarm.ping import round_trips
from swarm.records import Announcement
from swarm.transport import Transport

log = logging.getLogger("specswarm")

LIFETIME_PERIODS = 3.5  # an announcement outlives so many missed renewals
_MAX_LINKS = 32  # neighbours measured and announced


@dataclass
class Announcer:
    """Publishes `template`, its changing fields filled in, every `period` seconds."""

    directory: Directory
    transport: Transport
    identity: Identity
    template: Announcement
    free_tokens: Callable[[], int]
    period: float
    _links: dict[str, float] = field(default_factory=dict)
    _published: Announcement | None = None

    async def publish(self) -> None:
        """Announce the present state."""
        announcement = self.template.model_copy(
            update={
                "free_tokens": self.free_tokens(),
                "links": self._links,
                "expires": time.time() + LIFETIME_PERIODS * self.period,
            }
        )
        if not await self.directory.publish(announcement, self.identity):
            log.warning("no node of the swarm took this peer's announcement; trying again in %.0f s", self.period)
        self._published = announcement

    async def run(self) -> None:
        """Renew until cancelled; each time after measuring the links to the other peers of the model."""
        while True:
            await self._measure_links()
            await self.publish()
            await asyncio.sleep(self.period)

    async def withdraw(self) -> None:
        """Say that the peer has left."""
        if self._published is not None:
            await self.directory.withdraw(self._published, self.identity)

    async def _measure_links(self) -> None:
        others = [
            announcement.contact
            for announcement in await self.directory.peers_of(self.template.fingerprint)
            if announcement.peer_id != self.template.peer_id
        ]
        self._links = await round_trips(self.transport, others[:_MAX_LINKS])
