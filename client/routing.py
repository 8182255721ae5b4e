"""Which peers, with which of their layers, make up the chain: the one of least trip time. Pure.

trip time = link to the first peer + every stage's compute + every link between them + link back from the last one.
A shortest path over layer boundaries that visits no peer twice; a peer may serve any stretch of its span that begins
and ends at a boundary of some peer's span. A part of a chain is planned in the same way, between the peers that stay.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from swarm.errors import ChainLost
from swarm.records import Announcement
from swarm.span import Span
from swarm.wire import Contact

UNKNOWN_LINK = 0.1  # one-way seconds assumed where nobody has measured
MAX_CHAINS = 10_000  # looked at before the best whole one so far is taken: announcements may be made to mislead
BEFORE, AFTER = -1, -2  # the two ends of what is planned, beside the peers by index

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


def plan(
    num_layers: int,
    peers: Sequence[Announcement],
    round_trips: Mapping[str, float],
    *,
    tokens: int,
    excluded: Collection[str] = (),
    penalties: Mapping[str, float] = _NONE,
    span: Span | None = None,
    before: str | None = None,
    after: str | None = None,
    kinds: Collection[Kind] | None = None,
) -> list[Hop]:
    """The chain of least trip time for rounds of `tokens` tokens.

    `round_trips`: measured seconds from the client to a peer and back; a peer that is not in it is out of reach.
    `penalties`: by peer, seconds that a hop is worth which does without it.
    With `span`, the part of a chain that serves those layers, between the peers `before` and `after` (None: the
    client); with `kinds`, of peers that compute so. Raises ChainLost, naming the layers, if the peers left cannot
    cover them all.
    """
    span = span or Span(0, num_layers)
    usable = [
        peer
        for peer in peers
        if peer.num_layers == num_layers and peer.peer_id in round_trips and peer.peer_id not in excluded
        if kinds is None or (peer.dtype, peer.quantize) in kinds
    ]
    known = {peer.peer_id: peer.links for peer in peers}
    chain = _shortest(_Map(span, usable, round_trips, known, penalties, tokens, before, after))
    if chain is None:
        raise ChainLost(_missing(span, num_layers, usable))
    starts = [span.start, *(end for _, end in chain)]
    return [_hop(usable[i], Span(start, end), round_trips) for (i, end), start in zip(chain, starts, strict=False)]


def trip_seconds(hops: Sequence[Hop], peers: Sequence[Announcement], *, tokens: int) -> float:
    """What a round of `tokens` tokens takes through a chain, and back to whoever has planned it."""
    links = {peer.peer_id: peer.links for peer in peers}
    ids = [hop.contact.peer_id for hop in hops]
    between = sum(_between(one, other, links) for one, other in itertools.pairwise(ids))
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
    """What every step costs, and at least how much is still to come. Peers by index, beside BEFORE and AFTER."""

    def __init__(
        self,
        span: Span,
        peers: Sequence[Announcement],
        round_trips: Mapping[str, float],
        links: Mapping[str, Mapping[str, float]],
        penalties: Mapping[str, float],
        tokens: int,
        before: str | None,
        after: str | None,
    ) -> None:
        """`links`: round trips that peers, those of the ends included, have measured to others."""
        self.span = span
        self._peers = peers
        self._round_trips = round_trips
        self._links = links
        self._penalties = [penalties.get(peer.peer_id, 0.0) for peer in peers]
        self._tokens = tokens
        self._ids: list[str | None] = [*(peer.peer_id for peer in peers), after, before]  # BEFORE is -1, AFTER -2
        ends = {end for peer in peers for end in (peer.start, peer.end) if span.start < end < span.end}
        self._boundaries = sorted({span.start, span.end} | ends)
        self._to_go = self._least_to_go()

    def steps(self, done: int, last: int) -> Iterator[tuple[float, int, int]]:
        """(seconds, peer, layers done then) of every way on from `last`, which has done the layers up to `done`."""
        for i in self._serving(done):
            if i != last:
                link = self._link(last, i)
                yield from ((link + seconds, i, end) for seconds, end in self._stages(i, done))

    def to_go(self, done: int, last: int) -> float:
        """At least the seconds from there back to the client; exactly those, if no peer has to be visited twice."""
        return self._to_go.get((done, last), math.inf)

    def _least_to_go(self) -> dict[tuple[int, int], float]:
        """By (layers done, peer that did the last of them), from the end backwards; peers may be visited twice."""
        whole = self.span.end
        ends = [i for i, peer in enumerate(self._peers) if peer.start < whole <= peer.end]
        to_go = {(whole, i): self._link(i, AFTER) for i in ends}
        for done in reversed(self._boundaries[:-1]):
            entering = {
                i: min(seconds + to_go.get((end, i), math.inf) for seconds, end in self._stages(i, done))
                for i in self._serving(done)
            }
            before = [i for i, peer in enumerate(self._peers) if peer.start < done <= peer.end]
            if done == self.span.start:
                before = [BEFORE]
            for last in before:
                ways = (self._link(last, i) + seconds for i, seconds in entering.items() if i != last)
                to_go[done, last] = min(ways, default=math.inf)
        return to_go

    def _serving(self, layer: int) -> list[int]:
        return [i for i, peer in enumerate(self._peers) if peer.start <= layer < peer.end]

    def _stages(self, i: int, start: int) -> list[tuple[float, int]]:
        """(seconds, end) of every stretch of a peer's layers that begins at `start`."""
        peer = self._peers[i]
        ends = [end for end in self._boundaries if start < end <= peer.end]
        return [(self._penalties[i] + stage_seconds(peer, end - start, self._tokens), end) for end in ends]

    def _link(self, one: int, other: int) -> float:
        """One-way seconds from one to the other."""
        before, after = self._ids[one], self._ids[other]
        if before is None or after is None:
            peer_id = before or after
            return self._round_trips[peer_id] / 2 if peer_id else 0.0
        return _between(before, after, self._links)


def _shortest(map_: _Map) -> tuple[tuple[int, int], ...] | None:
    """The shortest chain as (peer, end of its layers) of each hop, no peer twice; None if there is none.

    A* over chains: the map's least time to go never says too much, so the first whole chain taken is the shortest.
    """
    frontier: list[tuple[float, int, float, tuple[tuple[int, int], ...]]] = [
        (map_.to_go(map_.span.start, BEFORE), -map_.span.start, 0.0, ())
    ]
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


def _between(one: str, other: str, links: Mapping[str, Mapping[str, float]]) -> float:
    """One-way seconds between two peers, as either has measured them."""
    measured = (links.get(one, _NONE).get(other), links.get(other, _NONE).get(one))
    return min((seconds / 2 for seconds in measured if seconds is not None), default=UNKNOWN_LINK)


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
