"""Which peers, with which of their layers, make up the chain: the one of least trip time. Pure.

trip time = link to the first peer + every stage's compute + every link between them + link back from the last one.
A shortest path over layer boundaries that visits no peer twice (`client.shortest`); a peer may serve any stretch of its
span that begins and ends at a boundary of some peer's span. A part of a chain is planned in the same way, between the
peers that stay.

Who is busy is not known at the same time everywhere, and whoever is the best for one is the best for all around him. So
compute is taken to be longer by the waiting that the announced load means, and each plan takes peers to be slower than
they are by a chance of its own: those that are about as good share the work.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from client.shortest import Costs, shortest
from swarm.errors import ChainLost
from swarm.records import Announcement
from swarm.span import Span
from swarm.wire import Contact, Introduction

UNKNOWN_LINK = 0.1  # one-way seconds assumed where nobody has measured
HUBS = 8
"""So many peers, to which most others know the way, stand in for links that nobody has measured."""
CHANCE = 0.1
"""By up to this share of its compute and of the way to it, and by its load more, a peer seems to be slower: the busier
it is, the more others have changed that since."""
FULL = 0.9
"""The greatest load that is believed: it is some seconds old."""

Floats = NDArray[np.float64]

_NONE: Mapping[str, float] = MappingProxyType({})

Kind = tuple[str, str | None]
"""How a peer computes: dtype and quantization. Peers of one kind give the same numbers."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One peer of a chain and the layers it serves there."""

    contact: Contact
    span: Span
    max_round: int
    """Most tokens it takes in one round."""
    kind: Kind
    round_trip: float
    """Seconds from the client and back."""
    step_seconds: float
    """Announced compute of its layers here: of one token, and of each further token of a round."""
    token_seconds: float
    introduction: Introduction = field(repr=False, compare=False)
    """What the peer has signed: by this, the hop before is told where it is."""

    def seconds(self, tokens: int) -> float:
        """Announced compute for a round of `tokens` tokens."""
        return self.step_seconds + self.token_seconds * (tokens - 1)


class Atlas:
    """What peers announce of themselves and of the links between them, as arrays: made once, for many plans."""

    def __init__(self, peers: Iterable[Announcement]) -> None:
        self.peers = tuple(peers)
        self.places = {peer.peer_id: i for i, peer in enumerate(self.peers)}
        self._keys = np.array([zlib.crc32(peer.peer_id.encode()) for peer in self.peers], dtype=np.uint64)
        self.num_layers = _column(self.peers, "num_layers")
        self.starts, self.ends = _column(self.peers, "start"), _column(self.peers, "end")
        self.step_seconds, self.token_seconds = (
            _column(self.peers, "step_seconds"),
            _column(self.peers, "token_seconds"),
        )
        self.load = np.minimum(_column(self.peers, "load"), FULL)
        self.waiting = self.load / (1 - self.load)
        """What a round waits for others, in times of its compute: that of a queue with one server and chance arrivals
        (M/M/1)."""
        measured = np.full((len(self.peers), len(self.peers)), math.inf)
        for i, peer in enumerate(self.peers):
            others = [
                (self.places[other], seconds) for other, seconds in peer.links.items() if other in self.places
            ]
            for j, seconds in others:
                measured[i, j] = measured[j, i] = min(measured[i, j], seconds / 2)
        self.links = _completed(measured)
        """One-way seconds, [from, to], as either of the two has measured them."""

    def chances(self, salt: int) -> Floats:
        """For each peer a number from 0 to 1, as if by chance, and always the same for one salt."""
        mixed = (self._keys ^ np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
        return (mixed ^ (mixed >> np.uint64(32))) / 2.0**64

    def links_of(self, peer_id: str) -> Floats:
        """One-way seconds between each peer and this one, which need not be among them."""
        if peer_id in self.places:
            row: Floats = self.links[self.places[peer_id]]
            return row
        measured = [peer.links.get(peer_id) for peer in self.peers]
        return np.array([UNKNOWN_LINK if seconds is None else seconds / 2 for seconds in measured])


def plan(
    num_layers: int,
    peers: Atlas | Sequence[Announcement],
    round_trips: Mapping[str, float],
    *,
    tokens: int,
    excluded: Collection[str] = (),
    penalties: Mapping[str, float] = _NONE,
    salt: int | None = None,
    span: Span | None = None,
    before: str | None = None,
    after: str | None = None,
    kinds: Collection[Kind] | None = None,
) -> list[Hop]:
    """The chain of least trip time for rounds of `tokens` tokens.

    `round_trips`: measured seconds from the client to a peer and back; a peer that is not in it is out of reach.
    `penalties`: by peer, seconds that a hop is worth which does without it. `salt`, a client's own
    number below 2^64, has different clients choose different ones of those that are about as good (see CHANCE).
    With `span`, the part of a chain that serves those layers, between the peers `before` and `after` (None: the
    client); with `kinds`, of peers that compute so. Raises ChainLost, naming the layers, if the peers left cannot
    cover them all.
    """
    span = span or Span(0, num_layers)
    atlas = peers if isinstance(peers, Atlas) else Atlas(peers)
    to_client = np.array([round_trips.get(peer.peer_id, math.inf) for peer in atlas.peers]) / 2
    usable = (atlas.num_layers == num_layers) & np.isfinite(to_client)
    usable[[atlas.places[peer_id] for peer_id in atlas.places.keys() & excluded]] = False
    if kinds is not None:
        usable &= np.array([(peer.dtype, peer.quantize) in kinds for peer in atlas.peers], dtype=bool)
    costs = Costs(
        start=span.start,
        end=span.end,
        starts=atlas.starts,
        ends=atlas.ends,
        layer_seconds=_stage_seconds(atlas, tokens) / (atlas.ends - atlas.starts),
        visit_seconds=_visit_seconds(atlas, usable, to_client, penalties, salt, tokens),
        links=atlas.links,
        way_in=to_client if before is None else atlas.links_of(before),
        way_out=to_client if after is None else atlas.links_of(after),
    )
    chain = shortest(costs, usable)
    if chain is None:
        raise ChainLost(_missing(span, num_layers, list(itertools.compress(atlas.peers, usable))))
    starts = [span.start, *(end for _, end in chain)]
    return [
        _hop(atlas.peers[i], Span(start, end), round_trips) for (i, end), start in zip(chain, starts, strict=False)
    ]


def _stage_seconds(atlas: Atlas, tokens: int) -> Floats:
    """Of each peer, for all its layers: compute and waiting."""
    seconds: Floats = (atlas.step_seconds + atlas.token_seconds * (tokens - 1)) * (1 + atlas.waiting)
    return seconds


def _visit_seconds(
    atlas: Atlas,
    usable: NDArray[np.bool_],
    to_client: Floats,
    penalties: Mapping[str, float],
    salt: int | None,
    tokens: int,
) -> Floats:
    """By how much each peer seems slower than it is, and the penalties."""
    seconds = np.zeros(len(usable))
    if salt is not None:
        seems_slower = (CHANCE + atlas.load) * atlas.chances(salt)
        seconds[usable] = (seems_slower * (_stage_seconds(atlas, tokens) + to_client))[usable]
    for peer_id in penalties.keys() & atlas.places.keys():
        seconds[atlas.places[peer_id]] += penalties[peer_id]
    return seconds


def trip_seconds(hops: Sequence[Hop], atlas: Atlas, *, tokens: int) -> float:
    """What a round of `tokens` tokens takes through a chain, and back to whoever has planned it."""
    places = [atlas.places.get(hop.contact.peer_id) for hop in hops]
    between = sum(
        [
            UNKNOWN_LINK if one is None or other is None else float(atlas.links[one, other])
            for one, other in itertools.pairwise(places)
        ]
    )
    return between + (hops[0].round_trip + hops[-1].round_trip) / 2 + sum([hop.seconds(tokens) for hop in hops])


def expected_seconds(hops: Sequence[Hop], atlas: Atlas, *, tokens: int) -> float:
    """The same, and what rounds wait for others by the announced load."""
    waiting = sum(
        [
            float(atlas.waiting[atlas.places[hop.contact.peer_id]]) * hop.seconds(tokens)
            for hop in hops
            if hop.contact.peer_id in atlas.places
        ]
    )
    return trip_seconds(hops, atlas, tokens=tokens) + waiting


def _hop(peer: Announcement, span: Span, round_trips: Mapping[str, float]) -> Hop:
    share = len(span) / len(peer.span)
    return Hop(
        contact=peer.contact,
        span=span,
        max_round=peer.max_round,
        kind=(peer.dtype, peer.quantize),
        round_trip=round_trips[peer.peer_id],
        step_seconds=peer.step_seconds * share,
        token_seconds=peer.token_seconds * share,
        introduction=peer.introduction,
    )


def _completed(measured: Floats) -> Floats:
    """Links, where nobody has measured them, by the shortest way over one of those peers that most have measured."""
    known = np.isfinite(measured)
    found = np.full_like(measured, math.inf)
    for hub in np.argsort(-known.sum(axis=1), kind="stable")[:HUBS]:
        np.minimum(found, measured[hub][:, None] + measured[hub][None, :], out=found)
    found[found == math.inf] = UNKNOWN_LINK
    return np.where(known, measured, found)


def _column(peers: Sequence[Announcement], name: str) -> Floats:
    return np.array([getattr(peer, name) for peer in peers], dtype=float)


def _missing(span: Span, num_layers: int, usable: Sequence[Announcement]) -> str:
    covered = {layer for peer in usable for layer in range(peer.start, peer.end)}
    gaps = [layer for layer in range(span.start, span.end) if layer not in covered]
    spans: list[list[int]] = []
    for layer in gaps:
        if spans and spans[-1][1] == layer:
            spans[-1][1] += 1
        else:
            spans.append([layer, layer + 1])
    listed = ", ".join(f"{start}:{end}" for start, end in spans)
    return f"no reachable peer serves layers {listed} of {num_layers}: start one with `specswarm join --layers`"
