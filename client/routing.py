"""Which peers, with which of their layers, make up the chain: the one of least trip time. Pure.

trip time = link to the first peer + every stage's compute + every link between them + link back from the last one.
A shortest path over layer boundaries that visits no peer twice; a peer may serve any stretch of its span that begins
and ends at a boundary of some peer's span. A part of a chain is planned in the same way, between the peers that stay.

Who is busy is not known at the same time everywhere, and whoever is the best for one is the best for all around him. So
compute is taken to be longer by the waiting that the announced load means, and each plan takes peers to be slower than
they are by a chance of its own: those that are about as good share the work.
"""

from __future__ import annotations

import heapq
import itertools
import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from swarm.errors import ChainLost
from swarm.records import Announcement
from swarm.span import Span
from swarm.wire import Contact

UNKNOWN_LINK = 0.1  # one-way seconds assumed where nobody has measured
MAX_CHAINS = 10_000  # looked at before the best whole one so far is taken: announcements may be made to mislead
HUBS = 8
"""So many peers, to which most others know the way, stand in for links that nobody has measured."""
CHANCE = 0.1
"""By up to this share of its compute and of the way to it, and by its load more, a peer seems to be slower: the busier
it is, the more others have changed that since."""
FULL = 0.9
"""The greatest load that is believed: it is some seconds old."""
BEFORE = -1  # where what is planned begins, beside the peers by their places

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
    map_ = _Map(span, atlas, usable, to_client, penalties, salt, tokens, before, after)
    chain = map_.shortest_walk()
    if chain is not None and len({i for i, _ in chain}) < len(chain):
        chain = _shortest(map_)
    if chain is None:
        raise ChainLost(_missing(span, num_layers, list(itertools.compress(atlas.peers, usable))))
    starts = [span.start, *(end for _, end in chain)]
    return [
        _hop(atlas.peers[i], Span(start, end), round_trips) for (i, end), start in zip(chain, starts, strict=False)
    ]


def trip_seconds(hops: Sequence[Hop], atlas: Atlas, *, tokens: int) -> float:
    """What a round of `tokens` tokens takes through a chain, and back to whoever has planned it."""
    places = [atlas.places.get(hop.contact.peer_id) for hop in hops]
    between = sum(
        UNKNOWN_LINK if one is None or other is None else float(atlas.links[one, other])
        for one, other in itertools.pairwise(places)
    )
    return between + (hops[0].round_trip + hops[-1].round_trip) / 2 + sum(hop.seconds(tokens) for hop in hops)


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
    )


def stage_seconds(peer: Announcement, layers: int, tokens: int) -> float:
    """Announced compute of `layers` of the peer's layers for a round of `tokens` tokens."""
    whole = peer.step_seconds + peer.token_seconds * (tokens - 1)
    return whole * layers / len(peer.span)


class _Map:
    """What every step costs, and how much is still to come. Peers by their places in the atlas, beside BEFORE."""

    def __init__(
        self,
        span: Span,
        atlas: Atlas,
        usable: NDArray[np.bool_],
        to_client: Floats,
        penalties: Mapping[str, float],
        salt: int | None,
        tokens: int,
        before: str | None,
        after: str | None,
    ) -> None:
        """`usable`: which peers of the atlas; `to_client`: one-way seconds."""
        self.span = span
        self._usable = usable
        self._starts, self._ends, self._links = atlas.starts, atlas.ends, atlas.links
        stages = (atlas.step_seconds + atlas.token_seconds * (tokens - 1)) * (1 + atlas.waiting)
        self._layer_seconds = stages / (atlas.ends - atlas.starts)
        self._penalties = np.zeros(len(usable))
        if salt is not None:
            seems_slower = (CHANCE + atlas.load) * atlas.chances(salt)
            self._penalties[usable] = (seems_slower * (stages + to_client))[usable]
        for peer_id in penalties.keys() & atlas.places.keys():
            self._penalties[atlas.places[peer_id]] += penalties[peer_id]
        self._from_before = to_client if before is None else atlas.links_of(before)
        self._to_after = to_client if after is None else atlas.links_of(after)
        ends = np.unique(np.concatenate([atlas.starts[usable], atlas.ends[usable], [span.start, span.end]]))
        self._boundaries = [int(end) for end in ends if span.start <= end <= span.end]
        self._to_go, self._entering = self._least_to_go()

    def steps(self, done: int, last: int) -> Iterator[tuple[float, int, int]]:
        """(seconds, peer, layers done then) of every way on from `last`, which has done the layers up to `done`."""
        links = self._from_before if last == BEFORE else self._links[last]
        for i in map(int, np.flatnonzero(self._serving(done))):
            if i != last:
                for end in self._boundaries:
                    if done < end <= self._ends[i]:
                        yield links[i] + self._stage(i, done, end), i, end

    def to_go(self, done: int, last: int) -> float:
        """At least the seconds from there back to the client; exactly those, if no peer has to be visited twice."""
        return float(self._to_go[done][last])

    def shortest_walk(self) -> tuple[tuple[int, int], ...] | None:
        """The shortest chain as (peer, end of its layers) of each hop, if no matter how often a peer is visited; None
        if there is none."""
        done, walk = self.span.start, list[tuple[int, int]]()
        ways = self._from_before + self._entering[done]
        while done < self.span.end:
            i = int(ways.argmin()) if len(ways) else 0
            if not len(ways) or ways[i] == math.inf:
                return None
            ends = [end for end in self._boundaries if done < end <= self._ends[i]]
            done = min((self._stage(i, done, end) + self._to_go[end][i], end) for end in ends)[1]
            walk.append((i, done))
            if done < self.span.end:
                ways = self._links[i] + self._entering[done]
                ways[i] = math.inf
        return tuple(walk)

    def _serving(self, layer: int) -> NDArray[np.bool_]:
        """Who can do this layer."""
        return self._usable & (self._starts <= layer) & (layer < self._ends)

    def _ending(self, layer: int) -> NDArray[np.bool_]:
        """Who can have done the layers before this one."""
        return self._usable & (self._starts < layer) & (layer <= self._ends)

    def _stage(self, i: int, start: int, end: int) -> float:
        return float(self._penalties[i] + self._layer_seconds[i] * (end - start))

    def _least_to_go(self) -> tuple[dict[int, Floats], dict[int, Floats]]:
        """By layers done, seconds to go for each peer that did the last of them; and for each that does the next. From
        the end backwards; peers may be visited twice."""
        whole, size = self.span.end, len(self._starts)
        to_go = {whole: np.where(self._ending(whole), self._to_after, math.inf)}
        entering = dict[int, Floats]()
        for done in reversed(self._boundaries[:-1]):
            best, serving = np.full(size, math.inf), self._serving(done)
            for end in self._boundaries:
                if end > done:
                    seconds = self._penalties + self._layer_seconds * (end - done) + to_go[end]
                    np.minimum(best, seconds, out=best, where=serving & (end <= self._ends))
            entering[done] = best
            ending = self._ending(done)
            before, after = np.flatnonzero(ending), np.flatnonzero(serving)
            to_go[done] = np.full(size, math.inf)
            if len(before) and len(after):
                ways = self._links[np.ix_(before, after)]
                ways += best[after]
                if (ending & serving).any():
                    ways[before[:, None] == after] = math.inf
                to_go[done][before] = ways.min(axis=1)
        return to_go, entering


def _shortest(map_: _Map) -> tuple[tuple[int, int], ...] | None:
    """The shortest chain as (peer, end of its layers) of each hop, no peer twice; None if there is none.

    A* over chains: the map's least time to go never says too much, so the first whole chain taken is the shortest.
    """
    frontier: list[tuple[float, int, float, tuple[tuple[int, int], ...]]] = [(0.0, -map_.span.start, 0.0, ())]
    for _ in range(MAX_CHAINS):
        if not frontier:
            return None
        _, minus_done, cost, chain = heapq.heappop(frontier)
        if -minus_done == map_.span.end:
            return chain
        visited = {i for i, _ in chain}
        for seconds, i, end in map_.steps(-minus_done, chain[-1][0] if chain else BEFORE):
            total = cost + seconds + map_.to_go(end, i)
            if i not in visited and total < math.inf:
                heapq.heappush(frontier, (total, -end, cost + seconds, (*chain, (i, end))))
    whole = [entry for entry in frontier if -entry[1] == map_.span.end]
    return min(whole)[3] if whole else None


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
