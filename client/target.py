"""What a client knows of the target: its sizes, its fingerprint, and who serves it how far away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Any

from client.cooldown import Cooldowns
from client.mending import gaps
from client.routing import Hop, Kind, plan
from client.seats import Seat, seats_at
from swarm.directory import Directory
from swarm.errors import BadMessage, ChainLost, PeerError, PeerLost, UsageError
from swarm.model.source import ModelInfo, ModelSource
from swarm.permits import permits
from swarm.ping import round_trip
from swarm.records import Announcement
from swarm.transport import Transport
from swarm.wire import Contact

_REFRESH_SECONDS = 5.0
_MEASURE_SECONDS = 3.0  # to reach a peer and have its pings answered
_WARY = 1000.0  # times the rest of its cool-down is what a trip may be longer without a peer
_WITNESSES = 3  # peers asked whether it is us who are cut off

log = logging.getLogger("specswarm")


class Target:
    """The model that the chain serves, the peers that are known to serve it, and those that are left alone for now."""

    def __init__(
        self,
        info: ModelInfo,
        fingerprint: str,
        transport: Transport,
        directory: Directory,
        *,
        allow: Collection[str] = (),
        deny: Collection[str] = (),
    ) -> None:
        """`allow`, `deny`: peers that may be in a chain (none: all may), and peers that may not."""
        self.info = info
        self.fingerprint = fingerprint
        self.transport = transport
        self._directory = directory
        self._allow, self._deny = frozenset(allow), frozenset(deny)
        self._peers: dict[str, Announcement] = {}
        self._round_trips: dict[str, float] = {}
        self._tried: dict[str, float] = {}  # by peer: the end of the record whose addresses were tried last
        self._cooldowns = Cooldowns()
        self._drafting_cooldowns = Cooldowns()

    @property
    def num_reachable(self) -> int:
        """Peers to which the way was measured."""
        return len(self._round_trips)

    @property
    def peers(self) -> list[Announcement]:
        """Those that serve the model."""
        return [*self._peers.values()]

    def seats(self, *, tokens: int) -> list[Seat]:
        """Where drafts of a usual round of `tokens` tokens can be made, apart from here."""
        unwelcome = self._cooldowns.active | self._drafting_cooldowns.active
        reachable = {peer: seconds for peer, seconds in self._round_trips.items() if peer not in unwelcome}
        return seats_at(self.peers, reachable, tokens=tokens)

    async def plan(
        self, *, tokens: int, excluded: Collection[str] = (), kinds: Collection[Kind] | None = None
    ) -> list[Hop]:
        """The best chain for rounds of `tokens` tokens, by what is known now: without the peers `excluded`, and of such
        as compute in one of `kinds` (None: in any). Raises ChainLost."""
        if not self._peers:
            raise ChainLost(f"nobody serves this model (fingerprint {self.fingerprint[:12]}){await self._others()}")
        return self._plan(tokens=tokens, excluded=excluded, kinds=kinds)

    def fill(
        self,
        hops: Sequence[Hop],
        lost: Collection[str],
        *,
        tokens: int,
        excluded: Collection[str] = (),
        kinds: Collection[Kind] | None = None,
    ) -> list[Hop]:
        """The chain `hops` with other peers in place of the lost ones; the others stay. Raises ChainLost.

        Peers that compute like those they replace come first: others may give another text. With `kinds`, none but
        those are taken.
        """
        kept = {hop.contact.peer_id for hop in hops} - set(lost)
        filled: list[Hop] = []
        done = 0
        for gap in gaps(hops, lost):
            filled += hops[done : gap.start]
            done = gap.end
            before = hops[gap.start - 1].contact.peer_id if gap.start else None
            after = hops[gap.end].contact.peer_id if gap.end < len(hops) else None
            alike = kinds or {hop.kind for hop in hops[gap.start : gap.end]}
            bounds: dict[str, Any] = {
                "span": gap.span,
                "before": before,
                "after": after,
                "tokens": tokens,
                "excluded": kept.union(excluded),
            }
            try:
                new = self._plan(**bounds, kinds=alike)
            except ChainLost:
                if kinds is not None:
                    raise
                new = self._plan(**bounds)
                log.warning("layers %s go on in another precision: the text may differ from here on", gap.span)
            filled += new
            kept |= {hop.contact.peer_id for hop in new}
        return [*filled, *hops[done:]]

    def note(self, error: PeerError) -> None:
        """Leave a peer alone that failed or refused; a lost one until it has answered a ping again."""
        self._cooldowns.note(error)
        if isinstance(error, PeerLost):
            self._round_trips.pop(error.peer_id, None)

    def note_drafting(self, error: PeerError) -> None:
        """The same of a peer that was to draft; one that refused may be a hop all the same."""
        self._drafting_cooldowns.note(error)
        if isinstance(error, PeerLost):
            self.note(error)

    async def is_reachable(self, apart_from: Collection[str]) -> bool:
        """Whether any of a few peers apart from these answers; True if none is known that could."""
        others = [peer.contact for peer_id, peer in self._peers.items() if peer_id not in apart_from]
        if not others:
            return True
        answers = await asyncio.gather(*map(self._measured, others[:_WITNESSES]))
        return any(answers)

    async def refresh(self, *, silent_too: bool = False) -> None:
        """Look the peers up, and measure the way to those that it is not known of.

        One that did not answer is tried again when it has renewed its record, or with `silent_too`: until then it is
        most likely gone, and the network would refuse to dial it again and again.
        """
        found = {
            peer.peer_id: peer
            for peer in await self._directory.peers_of(self.fingerprint)
            if permits(peer.peer_id, self._allow, self._deny)
        }
        for peer_id, peer in found.items():
            before = self._peers.get(peer_id)
            if before is not None and peer.started > before.started:
                self._cooldowns.forget(peer_id)
                self._round_trips.pop(peer_id, None)
        self._peers = found
        self._round_trips = {peer: seconds for peer, seconds in self._round_trips.items() if peer in found}
        unknown = [
            peer
            for peer_id, peer in found.items()
            if peer_id not in self._round_trips and (silent_too or self._tried.get(peer_id) != peer.expires)
        ]
        self._tried = {peer_id: peer.expires for peer_id, peer in found.items()}
        await asyncio.gather(*(self._measured(peer.contact) for peer in unknown))

    async def keep_fresh(self) -> None:
        """Refresh again and again until cancelled, so that planning a chain never waits."""
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            await self.refresh()

    def _plan(self, *, excluded: Collection[str] = (), **options: Any) -> list[Hop]:
        """A plan with as few as it takes of the peers that are better left alone for now, and of those, such as will
        be welcome again soon.

        Those that do not serve this client are no help even then. Raises ChainLost.
        """
        barring = self._cooldowns.barring
        options |= {
            "excluded": barring.keys() | excluded,
            "penalties": {peer_id: _WARY * left for peer_id, left in self._cooldowns.left.items()},
        }
        try:
            return plan(self.info.num_layers, list(self._peers.values()), self._round_trips, **options)
        except ChainLost as lost:
            refusals = "".join(f"; {error}" for error in [*barring.values()][:1])
            raise ChainLost(f"{lost}{refusals}") from None

    async def _measured(self, contact: Contact) -> bool:
        """Take note of the way to a peer; whether it answered."""
        try:
            async with asyncio.timeout(_MEASURE_SECONDS):
                self._round_trips[contact.peer_id] = await round_trip(self.transport, contact)
        except (PeerLost, BadMessage, TimeoutError):
            return False
        return True

    async def _others(self) -> str:
        """What else there is, for a client that found no peer of its own model."""
        others = {f"{peer.model} ({peer.fingerprint[:12]})" for peer in await self._directory.all_peers()}
        return f"; there are peers for {', '.join(sorted(others))}" if others else ", nor any other"


async def find_fingerprint(source: ModelSource, directory: Directory, wanted: str | None) -> str:
    """The fingerprint of the weights to use.

    A source with its weights at hand states it. Otherwise it is the one that peers announce for this configuration; if
    there are several, `wanted` (its beginning suffices) chooses. Raises UsageError or ChainLost.
    """
    own = await asyncio.to_thread(source.fingerprint)
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
