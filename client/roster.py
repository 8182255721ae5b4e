"""Who serves the target, how far away they are, and who is better left alone for now; chains are planned by it.

Nothing here is sent or awaited: a client asks (see `client.target`), a simulator can too.
"""

from __future__ import annotations

import copy
import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from client.cooldown import Cooldowns
from client.excess import MUCH, WORTH, Excess
from client.mending import gaps
from client.routing import Atlas, Hop, Kind, expected_seconds, plan, trip_seconds
from client.seats import Seat, seats_at
from swarm.errors import ChainLost, PeerError, PeerLost
from swarm.records import Announcement

_WARY = 1000.0  # times the rest of its cool-down is what a trip may be longer without a peer

log = logging.getLogger("specswarm")


class Roster:
    """Of one client, for all its generations."""

    def __init__(
        self,
        num_layers: int,
        clock: Callable[[], float] = time.monotonic,
        salt: int | None = None,
        pauses: Callable[[], int] = lambda: 0,
    ) -> None:
        """`num_layers` of the target; `salt`, a client's own, has it choose others than other clients do of peers that
        are about as good: see `routing.plan`; `pauses`: how often this program has stood still, or was cut off."""
        self.peers: Mapping[str, Announcement] = {}
        """By peer: what it announces."""
        self.round_trips: dict[str, float] = {}
        """By peer: seconds to it and back; one that is not in it is out of reach."""
        self.cooldowns = Cooldowns(clock)
        self._drafting_cooldowns = Cooldowns(clock)
        self.excess = Excess(clock)
        """By how much peers are slower than they announce."""
        self.drafting_excess = Excess(clock)
        """The same of rounds at peers that draft."""
        self._pauses = pauses
        self._excused: dict[str, int] = {}  # by peer: after which pause it was lost
        self._num_layers = num_layers
        self._salt = salt
        self._atlas: Callable[[], Atlas] = functools.cache(partial(Atlas, ()))

    def update(self, found: Mapping[str, Announcement], atlas: Atlas | None = None) -> None:
        """These are the peers now; what went wrong with one that has started anew is forgotten.

        `atlas`: theirs, if somebody has it already.
        """
        for peer_id, peer in found.items():
            before = self.peers.get(peer_id)
            if before is not None and peer.started > before.started:
                for memory in (self.cooldowns, self.excess, self.drafting_excess):
                    memory.forget(peer_id)
                self.round_trips.pop(peer_id, None)
        if self.peers != found:
            self.peers = found
            self._atlas = functools.cache(partial(Atlas, found.values()) if atlas is None else lambda: atlas)
        self.round_trips = {peer: seconds for peer, seconds in self.round_trips.items() if peer in found}
        self._excused = {peer: pauses for peer, pauses in self._excused.items() if peer in found}
        self.excess.keep(found)
        self.drafting_excess.keep(found)

    def frozen(self) -> Roster:
        """What is known now: for planning in a thread, while this one goes on."""
        frozen = copy.copy(self)
        frozen.round_trips = dict(self.round_trips)
        frozen.cooldowns, frozen._drafting_cooldowns = self.cooldowns.copy(), self._drafting_cooldowns.copy()
        frozen.excess, frozen.drafting_excess = self.excess.copy(), self.drafting_excess.copy()
        return frozen

    def note(self, error: PeerError) -> bool:
        """Leave a peer alone that failed or refused; a lost one until the way to it was measured again, and that alone
        where this program has stood still before: what streams do then says nothing of the other end.

        Whether it counts against the peer.
        """
        return self._note(error, self.cooldowns)

    def note_drafting(self, error: PeerError) -> None:
        """The same of a peer that was to draft; one that refused may be a hop all the same."""
        self._note(error, self._drafting_cooldowns, *([self.cooldowns] if isinstance(error, PeerLost) else []))

    def plan(self, *, excluded: Collection[str] = (), **options: Any) -> list[Hop]:
        """The best chain or part of one by what is known now; `options` are those of `routing.plan`.

        It has as few as it takes of the peers that are better left alone for now, and of those, such as will be welcome
        again soon. Those that do not serve this client are no help even then. What chains with a peer took longer than
        announced counts more than what it announces. Raises ChainLost.
        """
        barring, left, excess = self.cooldowns.barring, self.cooldowns.left, self.excess.seconds
        options |= {
            "excluded": barring.keys() | excluded,
            "salt": self._salt,
            "penalties": {
                peer_id: _WARY * left.get(peer_id, 0.0) + excess.get(peer_id, 0.0)
                for peer_id in left.keys() | excess
            },
        }
        try:
            return plan(self._num_layers, self._atlas(), self.round_trips, **options)
        except ChainLost as lost:
            refusals = "".join(f"; {error}" for error in [*barring.values()][:1])
            raise ChainLost(f"{lost}{refusals}") from None

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
                new = self.plan(**bounds, kinds=alike)
            except ChainLost:
                if kinds is not None:
                    raise
                new = self.plan(**bounds)
                log.warning("layers %s go on in another precision: the text may differ from here on", gap.span)
            filled += new
            kept |= {hop.contact.peer_id for hop in new}
        return [*filled, *hops[done:]]

    def trip_seconds(self, hops: Sequence[Hop], *, tokens: int) -> float:
        """What a round of `tokens` tokens takes through a chain and back, by what is known now."""
        return trip_seconds(hops, self._atlas(), tokens=tokens)

    def expected_seconds(self, hops: Sequence[Hop], *, tokens: int) -> float:
        """The same, and the waiting for others that the hops announce."""
        return expected_seconds(hops, self._atlas(), tokens=tokens)

    def faster(
        self,
        hops: Sequence[Hop],
        seconds: float,
        *,
        text: int,
        tokens: int,
        excluded: Collection[str] = (),
        kinds: Collection[Kind] | None = None,
    ) -> list[Hop]:
        """A chain of peers that compute alike in the place of `hops`, which take `seconds`: it promises to take much
        less, which is soon worth computing a text of `text` tokens there, and none of those that come in was in a
        chain as slow. Hops of both keep their layers.

        Raises ChainLost.
        """
        spans = {hop.contact.peer_id: hop.span for hop in hops}
        if len(own := {hop.kind for hop in hops}) > 1:
            raise ChainLost("the peers of this chain compute in several ways")
        kinds = own.intersection(kinds) if kinds else own
        without = {*excluded}
        while True:
            found = self.plan(tokens=tokens, excluded=without, kinds=kinds)
            moved = {hop.contact.peer_id for hop in found if spans.get(hop.contact.peer_id, hop.span) != hop.span}
            if not moved:
                break
            without |= moved
        known, new = self.excess.seconds, [hop for hop in found if hop.contact.peer_id not in spans]
        promised = self.expected_seconds(found, tokens=tokens)
        promised += max((known.get(hop.contact.peer_id, 0.0) for hop in new), default=0.0)
        is_worth_it = sum(hop.seconds(text) for hop in new) < WORTH * (seconds - promised)
        if not (new and is_worth_it and promised * MUCH <= seconds):
            raise ChainLost("no chain promises to be much faster")
        return found

    def seats(self, *, tokens: int) -> list[Seat]:
        """Where drafts of a usual round of `tokens` tokens can be made, apart from the client itself."""
        unwelcome = self.cooldowns.active | self._drafting_cooldowns.active
        reachable = {peer: seconds for peer, seconds in self.round_trips.items() if peer not in unwelcome}
        excess = self.drafting_excess.seconds
        return seats_at(self._num_layers, self._atlas(), reachable, tokens=tokens, excess=excess)

    def _note(self, error: PeerError, *cooldowns: Cooldowns) -> bool:
        if isinstance(error, PeerLost):
            self.round_trips.pop(error.peer_id, None)
            if self._excused.get(error.peer_id, 0) < (pauses := self._pauses()):
                self._excused[error.peer_id] = pauses
                return False
        for one in cooldowns:
            one.note(error)
        return True
