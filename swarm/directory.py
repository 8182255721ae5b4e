"""Who serves what: publishes a peer's announcement and finds those of others.

Every announcement lies under two keys: its model's fingerprint, where clients of that model look, and one index of all
models, for `status`. Within a key each peer owns the subkey that is its peer id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from swarm import records
from swarm.errors import BadMessage
from swarm.identity import Identity
from swarm.membership import PUBLIC, Membership
from swarm.records import Announcement

INDEX_KEY = "specswarm/1/index"
MAX_LIFETIME = 75.0  # seconds; a minute, and room for clocks that differ


def model_key(fingerprint: str) -> str:
    """The key under which a model's peers are found."""
    return f"specswarm/1/model/{fingerprint}"


def keys_of(announcement: Announcement) -> tuple[str, str]:
    """The keys an announcement belongs under, and no others."""
    return model_key(announcement.fingerprint), INDEX_KEY


def accepts(record: bytes, peer_id: str, expires: float, *, now: float, swarm: Membership = PUBLIC) -> Announcement:
    """The announcement in a stored record.

    Raises BadMessage if it is not `peer_id`'s, or not for this swarm, ends at another time, or later than any may.
    """
    if not expires <= now + MAX_LIFETIME:  # not a number is refused too
        raise BadMessage(f"record stored as {peer_id}'s lasts longer than {MAX_LIFETIME:.0f} s")
    announcement = records.read(record, swarm)
    if announcement.peer_id != peer_id or announcement.expires != expires:
        raise BadMessage(f"record stored as {peer_id}'s speaks of another peer or time")
    return announcement


class RecordStore(Protocol):
    """A key-value store with subkeys whose entries expire: the DHT, or a dictionary in tests."""

    async def put(self, keys: Sequence[str], subkey: str, value: bytes, expires: float) -> bool:
        """Store under each key; later `expires` replaces earlier. False if nobody stored it."""

    async def get(self, key: str) -> list[tuple[str, bytes, float]]:
        """All live entries under a key: (subkey, value, expires)."""


class Directory:
    """Typed access to the store. Records that are malformed, forged, expired or withdrawn do not appear."""

    def __init__(
        self, store: RecordStore, swarm: Membership = PUBLIC, clock: Callable[[], float] = time.time
    ) -> None:
        """`swarm`: to which this node belongs."""
        self._store = store
        self._swarm = swarm
        self._clock = clock
        self._seen: dict[str, list[tuple[str, bytes, float]]] = {}  # by key, what was found last

    async def publish(self, announcement: Announcement, identity: Identity) -> bool:
        """Store the announcement for as long as it says; whether anybody took it."""
        record = records.sign(announcement, identity, self._swarm)
        return await self._store.put(keys_of(announcement), announcement.peer_id, record, announcement.expires)

    async def withdraw(self, announcement: Announcement, identity: Identity) -> None:
        """Replace a published announcement by one that says the peer has left."""
        # A store keeps what ends later: one second more makes this the newer record.
        await self.publish(
            announcement.model_copy(update={"state": "left", "expires": announcement.expires + 1}), identity
        )

    async def peers_of(self, fingerprint: str, *, joining: bool = False) -> list[Announcement]:
        """The live announcements of one model: the peers that serve it, and on request those still loading."""
        states = {"serving", "joining"} if joining else {"serving"}
        found = await self._live(model_key(fingerprint))
        return [peer for peer in found if peer.fingerprint == fingerprint and peer.state in states]

    async def all_peers(self) -> list[Announcement]:
        """The peers that serve any model."""
        return [peer for peer in await self._live(INDEX_KEY) if peer.state == "serving"]

    async def _live(self, key: str) -> list[Announcement]:
        """The announcements under a key; to a node that is cut off, those it saw last count until they end."""
        entries = await self._store.get(key) or self._seen.get(key, [])
        self._seen[key] = entries
        now = self._clock()
        found = []
        for subkey, record, expires in entries:
            try:
                announcement = accepts(record, subkey, expires, now=now, swarm=self._swarm)
            except BadMessage:
                continue  # a stranger's nonsense; whoever stored it is not known here
            if announcement.expires > now:
                found.append(announcement)
        return sorted(found, key=lambda a: (a.start, a.end, a.peer_id))
