"""Keeps a peer's announcement alive, with fresh figures, and takes it back at the end."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from peer.twin import Twin
from swarm.directory import Directory
from swarm.errors import LookupFailed
from swarm.identity import Identity
from swarm.ping import round_trips
from swarm.records import Announcement, Envelope
from swarm.tasks import end, owned
from swarm.transport import Network

log = logging.getLogger("specswarm")

_LIFETIME_PERIODS = 3.0  # an announcement ends when its third renewal is missing
_RETRY_SECONDS = (1.0, 2.0, 4.0)  # between attempts when nobody took it
_MAX_LINKS = 32  # neighbours measured and announced


class Announcer:
    """Owns what this peer has published; renews it every `period` seconds."""

    def __init__(
        self,
        directory: Directory,
        network: Network,
        identity: Identity,
        period: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self._network = network
        self._identity = identity
        self._period = period
        self._clock = clock
        self._published: Announcement | None = None
        self._wanted: Announcement | None = None  # what `publish` was given last
        self._twin = Twin(_LIFETIME_PERIODS)

    @property
    def is_published(self) -> bool:
        """Whether anything is."""
        return self._published is not None

    async def publish(self, announcement: Announcement) -> None:
        """Announce this, in place of whatever was announced before.

        Nobody takes it while this node is cut off; or at first, where the nodes have a record of this peer that is
        later by its clock: it was set back, or is another host's with the same key. The next attempt is later still.
        """
        self._wanted = announcement
        for wait in (0.0, *_RETRY_SECONDS):
            await asyncio.sleep(wait)
            if self._wanted is not announcement:  # something else is to be said by now
                return
            issued, lifetime = self._twin.issue(self._clock()), _LIFETIME_PERIODS * self._period
            self._published = announcement.model_copy(
                update={
                    "expires": issued + lifetime,
                    "lifetime": lifetime,
                    "shared_key": self._twin.is_there,
                }
            )
            if await self.directory.publish(self._published, self._identity, self._see):
                self._twin.taken()
                return
            if await self.directory.is_reachable():
                self._twin.refused()
        log.warning(
            "no node of the swarm took this peer's announcement; next attempt in %.0f s%s",
            self._period,
            self.directory.trouble(),
        )

    async def run(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Renew what was published until cancelled, with its `state` now; each time after measuring the links to the
        model's other peers.

        Peers that are gone take long to measure: the renewal does not wait for them, or it would come too late. The
        second renewal comes by chance sooner: peers that have started together do not all measure at once for ever.
        """
        measuring: asyncio.Task[dict[str, float] | None] | None = None
        pause = random.uniform(0, self._period)  # noqa: S311 - no secret
        try:
            while self._published is not None:
                changes: dict[str, Any] = {**state(), "maddrs": tuple(await self._network.maddrs())}
                measuring = measuring or owned(self._measure_links(self._published), "measuring links")
                await asyncio.wait([measuring], timeout=self._period / 2)
                if measuring.done():
                    links, measuring = measuring.result(), None
                    changes |= {} if links is None else {"links": links}
                await self.publish(self._published.model_copy(update=changes))
                await asyncio.sleep(pause)
                pause = self._period
        finally:
            if measuring is not None:
                await end(measuring)

    def _see(self, found: Envelope) -> None:
        """A node had this record under our id."""
        if self._published is not None and self._twin.see(found, self._published.started):
            log.warning(
                "another program publishes under this peer's id (it says it is at %s): the key file %s was copied. "
                "Clients reach one or the other by chance: stop one, and give it an --identity of its own",
                ", ".join(found.maddrs[:2]) or "no address",
                self._identity.path,
            )

    async def withdraw(self) -> None:
        """Say that the peer has left."""
        if self._published is not None:
            await self.directory.withdraw(self._published, self._identity)

    async def _measure_links(self, own: Announcement) -> dict[str, float] | None:
        """By peer, the seconds to those that answer; None if nobody says who there is.

        A peer behind NAT is left to dial this one, unless this one is behind NAT as well. It does so while this one
        still loads: so they have a direct connection when they need it. Who meet on a circuit stay on it.
        """
        try:
            others = await self.directory.peers_of(own.fingerprint, joining=own.contact.is_relayed)
        except LookupFailed:
            return None
        contacts = [
            other.contact
            for other in others
            if other.peer_id != own.peer_id and (own.contact.is_relayed or not other.contact.is_relayed)
        ]
        return await round_trips(self._network, contacts[:_MAX_LINKS])
