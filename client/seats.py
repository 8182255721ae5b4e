"""Where drafts are best made: here, or at a peer that offers it, which may be nearer to the chain, or faster. Pure.

    tokens/s = E[tokens](g) / (trip + g * draft + waiting)

with g as the window says, or the best; see `speculation.closed_form`. The trip is that of the chain which the place
itself would choose: a peer that is the first or the last hop saves one link of N + 1. But its stage and its drafts take
turns on one thread: a round that arrives while it drafts ahead waits for half a draft, on the average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from client.routing import UNKNOWN_LINK, Atlas, plan, trip_seconds
from swarm.errors import ChainLost
from swarm.records import Announcement
from swarm.speculation.closed_form import best_length, expected_tokens
from swarm.wire import Contact

ACCEPTANCE = {"none": 0.0, "ngram": 0.3}
"""Share of drafts that stand, by drafter; rough: what a text will show is not known before it."""
ACCEPTANCE_OF_A_MODEL = 0.8
_MOST_PLANS, _FEW_DRAFTS = 4, 4
_WORTH = 1.05  # times as fast as here a peer must be


@dataclass(frozen=True, slots=True)
class Promise:
    """What a round takes and brings."""

    seconds: float
    tokens: float

    def taken(self, seconds: float, tokens: int) -> float:
        """What a round took that brought so many tokens: a place that drafts more where a text is easy is no slower for
        that."""
        return seconds * min(self.tokens / tokens, 1.0)


@dataclass(frozen=True, slots=True)
class Seat:
    """A place where drafts can be made."""

    contact: Contact | None
    """Of the peer; None: here."""
    trip_seconds: float
    draft_seconds: float
    """For one more draft."""
    acceptance: float
    """Of a draft, if the one before stands."""
    is_hop: bool = False
    """Whether a stage of its chain computes there, too."""

    excess: float = 0.0
    """Seconds by which rounds took longer than that, as far as it is known."""

    def rate(self, window: int | None) -> float:
        """Tokens per second with so many drafts a round; None: with as many as are best."""
        if not self.acceptance:
            return 1 / (self.trip_seconds + self.excess)
        return expected_tokens(self.acceptance, self._drafts(window)) / (self.round_seconds(window) + self.excess)

    def promise(self, window: int | None) -> Promise:
        """Of a round, by what is announced."""
        return Promise(self.round_seconds(window), expected_tokens(self.acceptance, self._drafts(window)))

    def round_seconds(self, window: int | None) -> float:
        """From one verdict to the next, by what is announced."""
        drafts = self._drafts(window)
        waiting = self.draft_seconds / 2 if self.is_hop and drafts else 0.0
        return self.trip_seconds + drafts * self.draft_seconds + waiting

    def _drafts(self, window: int | None) -> int:
        if window is not None or not self.acceptance:
            return window or 0
        cost = min(max(self.draft_seconds / self.trip_seconds, 1e-3), 0.99)
        return best_length(self.acceptance, cost)


HERE = Seat(None, UNKNOWN_LINK, 0.0, 0.0)
"""This client, where there is no choice."""


def best(here: Seat | None, others: Sequence[Seat], window: int | None) -> Seat:
    """The fastest of at least one; here, unless another one is so by more than a little. None: not here."""
    if here is None or not others:
        return here or max(others, key=lambda seat: seat.rate(window))
    fastest = best(None, others, window)
    return fastest if fastest.rate(window) > _WORTH * here.rate(window) else here


def seats_at(
    num_layers: int,
    atlas: Atlas,
    reachable: Mapping[str, float],
    *,
    tokens: int,
    excess: Mapping[str, float] = MappingProxyType({}),
) -> list[Seat]:
    """Those peers that draft and are `reachable`, as far as their own links to others make up a chain; of many, a few
    that are likely to be the best.

    `reachable`: round trips from this client, by peer; `tokens` of a usual round; `excess`: seconds by which rounds
    at a peer took longer than it announces.
    """
    found, peers = list[Seat](), atlas.peers
    for peer in _likeliest(num_layers, atlas, reachable, tokens):
        links = _links_of(peer, peers)
        try:
            hops = plan(num_layers, atlas, links, tokens=tokens)
        except ChainLost:
            continue
        trip = trip_seconds(hops, atlas, tokens=tokens)
        is_hop = peer.contact in [hop.contact for hop in hops]
        slower = excess.get(peer.peer_id, 0.0)
        found.append(Seat(peer.contact, trip, peer.draft_seconds or 0.0, ACCEPTANCE_OF_A_MODEL, is_hop, slower))
    return found


def _likeliest(num_layers: int, atlas: Atlas, reachable: Mapping[str, float], tokens: int) -> list[Announcement]:
    """Of the peers that draft, those near both ends of the chain that this client would choose, and fast: a plan for
    each of hundreds would hold up everything else."""
    drafting = [
        peer
        for peer in atlas.peers
        if peer.draft_seconds is not None and peer.num_layers == num_layers and peer.peer_id in reachable
    ]
    if len(drafting) <= _MOST_PLANS:
        return drafting
    try:
        hops = plan(num_layers, atlas, reachable, tokens=tokens)
    except ChainLost:
        hops = []
    ends = [atlas.places[hop.contact.peer_id] for hop in (*hops[:1], *hops[-1:])]

    def seconds(peer: Announcement) -> float:
        way = float(atlas.links[atlas.places[peer.peer_id], ends].sum())
        return way + _FEW_DRAFTS * (peer.draft_seconds or 0.0)

    return sorted(drafting, key=seconds)[:_MOST_PLANS]


def _links_of(peer: Announcement, peers: Sequence[Announcement]) -> dict[str, float]:
    """Round trips from a peer to the others, and to itself; where neither end has measured them, they are long."""
    links = {other.peer_id: other.links.get(peer.peer_id, 2 * UNKNOWN_LINK) for other in peers}
    return {**links, **peer.links, peer.peer_id: 0.0}
