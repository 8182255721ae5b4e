"""Which peers, with which of their layers, make up the chain: the one of least trip time. Pure.

trip time = link to the first peer + every stage's compute + every link between them + link back from the last one.
A shortest path over (layer boundary, peer) pairs; a peer may serve any stretch of its span that begins and ends at a
boundary of some peer's span. Where the shortest path comes back to a peer, which a chain cannot, that peer serves all
that lies between as well: a heuristic, good wherever links cost more than compute.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from swarm.errors import ChainLost
from swarm.records import Announcement
from swarm.span import Span
from swarm.wire import Contact

UNKNOWN_LINK = 0.1  # one-way seconds assumed where nobody has measured


@dataclass(frozen=True, slots=True)
class Hop:
    """One peer of a chain and the layers it serves there."""

    contact: Contact
    span: Span
    max_round: int
    """Most tokens it takes in one round."""


def plan(
    num_layers: int,
    peers: Sequence[Announcement],
    round_trips: Mapping[str, float],
    *,
    tokens: int,
    excluded: Collection[str] = (),
) -> list[Hop]:
    """The chain of least trip time for rounds of `tokens` tokens.

    `round_trips`: measured seconds from the client to a peer and back; a peer that is not in it is out of reach.
    Raises ChainLost, naming the layers, if the peers left cannot cover them all.
    """
    usable = [peer for peer in peers if peer.peer_id in round_trips and peer.peer_id not in excluded]
    boundaries = sorted({0, num_layers} | {peer.start for peer in usable} | {peer.end for peer in usable})
    # State: layers up to `boundary` are done, the last of them by usable[index]; -1 stands for the client.
    frontier: list[tuple[float, int, int]] = [(0.0, 0, -1)]
    came_from: dict[tuple[int, int], tuple[int, int]] = {}
    best: dict[tuple[int, int], float] = {(0, -1): 0.0}
    while frontier:
        cost, boundary, index = heapq.heappop(frontier)
        if cost > best[boundary, index]:
            continue
        if (boundary, index) == (num_layers, -1):
            return _hops(usable, came_from, num_layers)
        for step, state in _next_states(usable, boundaries, boundary, index, num_layers, round_trips, tokens):
            if cost + step < best.get(state, math.inf):
                best[state] = cost + step
                came_from[state] = (boundary, index)
                heapq.heappush(frontier, (cost + step, *state))
    raise ChainLost(_missing(num_layers, usable))


def stage_seconds(peer: Announcement, layers: int, tokens: int) -> float:
    """Announced compute of `layers` of the peer's layers for a round of `tokens` tokens."""
    whole = peer.step_seconds + peer.token_seconds * (tokens - 1)
    return whole * layers / len(peer.span)


def _next_states(
    usable: Sequence[Announcement],
    boundaries: Sequence[int],
    boundary: int,
    index: int,
    num_layers: int,
    round_trips: Mapping[str, float],
    tokens: int,
) -> list[tuple[float, tuple[int, int]]]:
    """(cost, state) of every step from a state: on through another peer, or, when all is done, back to the client."""
    before = usable[index] if index >= 0 else None
    if boundary == num_layers and before is not None:
        return [(round_trips[before.peer_id] / 2, (num_layers, -1))]
    states: list[tuple[float, tuple[int, int]]] = []
    for i, peer in enumerate(usable):
        if i == index or not peer.start <= boundary < peer.end:
            continue
        link = _link(before, peer, round_trips)
        ends = [end for end in boundaries if boundary < end <= peer.end]
        states += [(link + stage_seconds(peer, end - boundary, tokens), (end, i)) for end in ends]
    return states


def _link(before: Announcement | None, peer: Announcement, round_trips: Mapping[str, float]) -> float:
    """One-way seconds to `peer`, from the client or from the peer before, whichever of the two has measured it."""
    if before is None:
        return round_trips[peer.peer_id] / 2
    measured = [
        seconds
        for seconds in (before.links.get(peer.peer_id), peer.links.get(before.peer_id))
        if seconds is not None
    ]
    return min(measured) / 2 if measured else UNKNOWN_LINK


def _hops(
    usable: Sequence[Announcement], came_from: Mapping[tuple[int, int], tuple[int, int]], num_layers: int
) -> list[Hop]:
    """Walk back from the end. A peer met twice takes what lies between, too: its span has it, and that saves links."""
    hops: list[Hop] = []
    state = came_from[num_layers, -1]
    while state[1] >= 0:
        end, index = state
        state = came_from[state]
        peer = usable[index]
        hops.append(Hop(peer.contact, Span(state[0], end), peer.max_round))
    hops.reverse()
    merged: list[Hop] = []
    for hop in hops:
        earlier = next((i for i, h in enumerate(merged) if h.contact.peer_id == hop.contact.peer_id), None)
        if earlier is None:
            merged.append(hop)
        else:
            merged[earlier:] = [replace(hop, span=Span(merged[earlier].span.start, hop.span.end))]
    return merged


def _missing(num_layers: int, usable: Sequence[Announcement]) -> str:
    covered = {layer for peer in usable for layer in range(peer.start, peer.end)}
    gaps = [layer for layer in range(num_layers) if layer not in covered]
    spans: list[list[int]] = []
    for layer in gaps:
        if spans and spans[-1][1] == layer:
            spans[-1][1] += 1
        else:
            spans.append([layer, layer + 1])
    listed = ", ".join(f"{start}:{end}" for start, end in spans)
    return f"no reachable peer serves layers {listed} of {num_layers}: start one with `specswarm join --layers`"
