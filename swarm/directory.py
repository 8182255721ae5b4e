"""Who serves what: publishes a peer's announcement and finds those of others.

Every announcement lies under two keys: its model's fingerprint, where clients of that model look, and one index of all
models, for `status`. Within a key each peer owns the subkey that is its peer id. Nodes of every version use the same
keys, so that they see each other; who speaks another protocol is no peer, but is told of.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import insort
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from swarm import PROTOCOL, awake, records
from swarm.ages import Ages
from swarm.clocks import Clocks
from swarm.errors import BadMessage, LookupFailed
from swarm.identity import Identity
from swarm.membership import PUBLIC, Membership
from swarm.records import MAX_LIFETIME, Announcement, Envelope

INDEX_KEY = "specswarm/1/index"
CLOCK_TOLERANCE = 600.0  # seconds by which any node's clock may be wrong
_FARTHEST = 2 * CLOCK_TOLERANCE + MAX_LIFETIME  # from one wrong clock to another, of a record that is about to end

Seen = Callable[[bytes], None]
"""Gets a record that somebody had before."""

_AT_A_TIME = 32  # records that are read
_INSIST_SECONDS = 20.0  # for a question that nobody answers to be asked again

T = TypeVar("T")


def model_key(fingerprint: str) -> str:
    """The key under which a model's peers are found."""
    return f"specswarm/1/model/{fingerprint}"


def keys_of(envelope: Envelope) -> tuple[str, str]:
    """The keys a record belongs under, and no others."""
    return model_key(envelope.fingerprint), INDEX_KEY


def accepts(record: bytes, peer_id: str, *, now: float, swarm: Membership = PUBLIC) -> Envelope:
    """What a stored record says: an Announcement, if its peer speaks this protocol.

    Raises BadMessage if it is not `peer_id`'s, or not for this swarm, or was issued at a time (`now`: by this clock)
    that two clocks cannot differ by. So a stranger who replays a record to nodes that have never seen it can do that
    for a while only.
    """
    found = records.read(record, swarm)
    if found.peer_id != peer_id:
        raise BadMessage(f"record stored as {peer_id}'s speaks of another peer")
    if abs(found.issued - now) > _FARTHEST:
        raise BadMessage(f"record of {peer_id} was issued {found.issued - now:+.0f} s from now")
    return found


@dataclass(frozen=True, slots=True)
class Sighting:
    """A peer that was found, or one of another version."""

    said: Envelope
    """An Announcement, if it speaks this protocol."""
    age: float
    """Seconds since it said so."""
    ahead: float
    """Seconds by which its clock is ahead of this machine's, as far as its record tells."""


class RecordStore(Protocol):
    """A key-value store with subkeys whose entries end: the DHT, or a dictionary in tests."""

    @property
    def clocks(self) -> Clocks:
        """What time it is at the nodes that were asked."""

    async def put(self, keys: Sequence[str], subkey: str, value: bytes, seen: Seen) -> bool:
        """Store under each key; what its peer issued later replaces what it issued earlier. False if nobody stored it.
        `seen` gets what was there before, and may be later."""

    async def get(self, key: str) -> list[tuple[str, bytes, float]]:
        """All live entries under a key: (subkey, value, age in seconds). Raises LookupFailed if nobody says that there
        are none."""


class Directory:
    """Typed access to the store. Records that are malformed, forged, ended or withdrawn do not appear."""

    def __init__(
        self, store: RecordStore, swarm: Membership = PUBLIC, clock: Callable[[], float] = time.time
    ) -> None:
        """`swarm`: to which this node belongs."""
        self._store = store
        self._swarm = swarm
        self._clock = clock
        self._ages = Ages(lambda: asyncio.get_running_loop().time())
        self._seen: dict[str, list[tuple[str, bytes, float]]] = {}  # by key, what was found last
        self._others: dict[str, list[Envelope]] = {}  # by key, who of them speaks another protocol

    async def publish(
        self, announcement: Announcement, identity: Identity, seen: Callable[[Envelope], None] = lambda _: None
    ) -> bool:
        """Store the announcement for as long as it says; whether anybody took it. `seen` gets what was there of the
        same peer before."""
        record = records.sign(announcement, identity, self._swarm)

        def heed(other: bytes) -> None:
            try:
                seen(accepts(other, announcement.peer_id, now=self._clock(), swarm=self._swarm))
            except BadMessage:
                return  # a stranger's nonsense

        return await self._store.put(keys_of(announcement), announcement.peer_id, record, heed)

    async def withdraw(self, announcement: Announcement, identity: Identity) -> None:
        """Replace a published announcement by one that says the peer has left."""
        # A store keeps what is later: one second more makes this the newer record.
        await self.publish(
            announcement.model_copy(update={"state": "left", "expires": announcement.expires + 1}), identity
        )

    async def peers_of(self, fingerprint: str, *, joining: bool = False) -> list[Announcement]:
        """The live announcements of one model: the peers that serve it, and on request those that will. Raises
        LookupFailed."""
        states = {"serving", "joining", "choosing"} if joining else {"serving"}
        found = _announced(await self.look(model_key(fingerprint)))
        return [peer for peer in found if peer.fingerprint == fingerprint and peer.state in states]

    async def all_peers(self) -> list[Announcement]:
        """The peers that serve any model. Raises LookupFailed."""
        return [peer for peer in _announced(await self.look(INDEX_KEY)) if peer.state == "serving"]

    async def look(self, key: str = INDEX_KEY) -> list[Sighting]:
        """All that is found under a key, whatever its state, the peers of other versions at the end.

        To a node that is cut off, those it saw last count until they end. Raises LookupFailed if there are none, and
        nobody says so.
        """
        failure: LookupFailed | None = None
        try:
            self._seen[key] = await self._store.get(key) or self._seen.get(key, [])
        except LookupFailed as error:
            failure = error
        entries = self._seen.get(key, [])
        found, others = list[Sighting](), list[Envelope]()
        for number, entry in enumerate(entries, 1):
            if (one := self._sighted(*entry)) is not None:
                insort(found, one, key=_order)
                if not isinstance(one.said, Announcement) and one.said.state != "left":
                    others.append(one.said)
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)  # a turn for the rounds of a generation
        if failure is not None and not found:
            raise failure
        self._others[key] = others
        return found

    async def is_reachable(self) -> bool:
        """Whether any of its nodes answers."""
        try:
            await self._store.get(INDEX_KEY)
        except LookupFailed:
            return False
        return True

    def trouble(self, model: str | None = None) -> str:
        """Why peers may be missing from what was found last, to be put behind what says that: other versions of the
        protocol, for a model's fingerprint or its configuration's hash if one is given, and clocks that differ by too
        much; empty if there is nothing of the kind."""
        others = {other.peer_id: other for found in self._others.values() for other in found}
        versions = other_versions(
            other for other in others.values() if model in (None, other.fingerprint, other.config_hash)
        )
        clocks = self.clocks.trouble if abs(self.clocks.ahead) > CLOCK_TOLERANCE else ""
        return "".join(f"; {text}" for text in (versions, clocks) if text)

    @property
    def clocks(self) -> Clocks:
        """What time it is at the nodes that were asked."""
        return self._store.clocks

    def _sighted(self, subkey: str, record: bytes, told: float) -> Sighting | None:
        """What is to be made of an entry; None of what is no live record."""
        now = self._clock()
        try:
            said = accepts(record, subkey, now=now, swarm=self._swarm)
        except BadMessage:
            return None  # a stranger's nonsense; whoever stored it is not known here
        age = self._ages.age(subkey, said.issued, told)
        if age is None or not age < said.lifetime:  # not a number is refused too
            return None
        return Sighting(said, age, said.issued + age - now)


def other_versions(others: Iterable[Envelope]) -> str:
    """In words, who speaks another protocol; empty if nobody does."""
    protocols = [other.protocol for other in others]
    if not protocols:
        return ""
    who = "1 peer speaks" if len(protocols) == 1 else f"{len(protocols)} peers speak"
    theirs = ", ".join(map(str, sorted(set(protocols))))
    older = "here" if max(protocols) > PROTOCOL else "there"
    return f"{who} another version of the protocol (theirs {theirs}, ours {PROTOCOL}): update specswarm {older}"


def _announced(found: Iterable[Sighting]) -> list[Announcement]:
    return [one.said for one in found if isinstance(one.said, Announcement)]


def _order(one: Sighting) -> tuple[float, float, str]:
    if isinstance(one.said, Announcement):
        return one.said.start, one.said.end, one.said.peer_id
    return math.inf, math.inf, one.said.peer_id


async def insist(question: Callable[[], Awaitable[T]]) -> T:
    """The answer to a question to the directory, asked again for a while if nobody answers. Raises LookupFailed."""
    with awake.clock().kept() as clock:
        started = clock.now()
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(LookupFailed),
            stop=lambda _: clock.now() - started > _INSIST_SECONDS,
            wait=wait_random_exponential(multiplier=0.25, max=4),
            reraise=True,
        )
        try:
            return cast(T, await retrying(question))
        except LookupFailed as error:
            seconds = clock.now() - started
            raise LookupFailed(
                f"the directory of the swarm did not answer in {seconds:.0f} s ({error}): who serves what is not "
                "known; try again when the network, or this machine, is less busy"
            ) from None
