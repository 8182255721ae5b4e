"""The shortest chain that visits no peer twice: dynamic programming over layer boundaries, in bounded work. Pure.

One table of least seconds to go, for each boundary and peer, gives the shortest walk. That may return to a peer, where
others are faster in the middle of what it serves. Then the walk gets a memory: for each set of the peers that it wanted
twice, a table of its own says what is left to one that has been at them (decremental state space relaxation: Righini
and Salani 2008). All chains are such walks, so a walk that is a chain is the shortest of them. n such peers take 2^n
tables; where that would be too many, the best chain found on the way is taken. There is one wherever there is a walk: a
peer can do itself what lies between its visits.

Announcements may be made to mislead, so the work is counted, not hoped for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_WORK = 3_000_000
"""Links looked at for the shortest walk, and as many again for a chain in its place: some 20 ms each."""
_BOUNDARY_WORK = 5_000  # of a table for each boundary, in links
_TABLES = 16  # that a search should be able to make: enough for three peers that are wanted twice
_FEWEST = 8  # peers considered for each layer at any rate

Floats = NDArray[np.float64]

Walk = tuple[tuple[int, int], ...]
"""(Peer, boundary up to which it serves) of each visit, both by number."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What the parts of a chain for the layers `start`:`end` take, in seconds; arrays are by peer."""

    start: int
    end: int
    starts: Floats
    ends: Floats
    """The layers of a peer."""
    layer_seconds: Floats
    visit_seconds: Floats
    """Beside its layers, however many."""
    links: Floats
    """[from, to]"""
    way_in: Floats
    way_out: Floats
    """From where the chain begins, and to where it ends."""


def shortest(costs: Costs, usable: NDArray[np.bool_], most_work: int = MOST_WORK) -> list[tuple[int, int]] | None:
    """The shortest chain of usable peers, as (peer, end of its layers) of each hop; None if there is none.

    Where `most_work` does not suffice, for the walk or for a chain in its place, one that is nearly as short: of the
    peers that seem to be the best for some layer, or with fewer than it takes of those that are wanted twice.
    """
    map_ = _Map(costs, np.flatnonzero(usable)).reduced(most_work)
    walk = map_.walk()
    if walk is not None and _first_return(walk) is not None:
        map_ = map_.reduced(most_work // _TABLES, [peer for peer, _ in walk])
        walk = _Search(map_, most_work).chain()
    return None if walk is None else map_.named(walk)


def _first_return(walk: Walk) -> int | None:
    """The number of the first visit to a peer where the walk was before."""
    peers = [peer for peer, _ in walk]
    return next((visit for visit, peer in enumerate(peers) if peer in peers[:visit]), None)


def _straight(walk: Walk) -> Walk:
    """The chain in which each peer does itself what lies between its visits."""
    chain = list[tuple[int, int]]()
    for peer, end in walk:
        before = next((visit for visit, (other, _) in enumerate(chain) if other == peer), len(chain))
        chain[before:] = [(peer, end)]
    return tuple(chain)


class _Search:
    """For a chain in place of a walk that returns."""

    def __init__(self, map_: _Map, work: int) -> None:
        self._map = map_
        self._tables_left = work // map_.work

    def chain(self) -> Walk | None:
        """The shortest, as far as the work allows."""
        wanted, found = list[int](), list[Walk]()  # peers, twice; chains
        while (walk := self._map.walk(wanted)) is not None:
            found.append(_straight(walk))
            best = min(found, key=self._map.seconds)
            again = _first_return(walk)
            if again is None or self._map.seconds(walk) >= self._map.seconds(best):
                return best
            wanted.append(walk[again][0])
            if 2 ** len(wanted) > self._tables_left:
                return min(best, self._turned_off(walk), key=self._map.seconds)
            self._tables_left -= 2 ** len(wanted)
        return None

    def _turned_off(self, walk: Walk) -> Walk:
        """Another way from where it first returns, again and again, with the work that is left."""
        for _ in range(self._tables_left):
            visit = _first_return(walk)
            if visit is None:
                return walk
            rest = self._map.walk(behind=walk[:visit])
            if rest is None:
                break
            walk = (*walk[:visit], *rest)
        return _straight(walk)


class _Table(NamedTuple):
    """Least seconds to go, [boundary, peer]; infinite for who cannot be there."""

    serving: Floats
    """Of a peer that has the states at this boundary, and serves on."""
    leaving: Floats
    """Of one that passes them on."""


class _Map:
    """Peers and boundaries of their layers, both by numbers of their own here."""

    def __init__(self, costs: Costs, places: NDArray[np.intp]) -> None:
        """`places`: the peers' numbers in `costs`."""
        self.places = places
        self._costs = costs
        self._starts, self._ends = costs.starts[places], costs.ends[places]
        self._layer_seconds, self._visit_seconds = costs.layer_seconds[places], costs.visit_seconds[places]
        self._way_in, self._way_out = costs.way_in[places], costs.way_out[places]
        ends = np.unique(np.concatenate([self._starts, self._ends, [costs.start, costs.end]])).astype(int)
        self._boundaries = ends[(costs.start <= ends) & (ends <= costs.end)]
        # [boundary, peer]: whether it serves the layers from there to the next boundary
        self._serves = (self._starts <= self._boundaries[:-1, None]) & (self._boundaries[:-1, None] < self._ends)
        self._serving = [np.flatnonzero(row) for row in self._serves]
        self.work = self._work(self._serves)

    def reduced(self, most_work: int, keep: Sequence[int] = ()) -> _Map:
        """With as many of the peers as a table of so much work allows: those that seem to be the best for some layer,
        and the peers `keep`."""
        if self.work <= most_work:
            return self
        ranked = np.argsort(np.where(self._serves, self._seconds_by_layer(), math.inf), axis=1, kind="stable")
        fewer, kept = len(self.places), np.ones(len(self.places), dtype=bool)
        while fewer > _FEWEST and self._work(self._serves[:, kept]) > most_work:
            fewer = max(fewer // 2, _FEWEST)
            kept[:] = False
            kept[ranked[:, :fewer]] = True
            kept[list(keep)] = True
        return _Map(self._costs, self.places[kept & self._serves.any(axis=0)])

    def _seconds_by_layer(self) -> Floats:
        """What each peer that serves any layer would take for one, with its share of the rest, if it did all it can."""
        layers = np.minimum(self._ends, self._costs.end) - np.maximum(self._starts, self._costs.start)
        rest = self._visit_seconds + (self._way_in + self._way_out) / 2
        by_layer: Floats = self._layer_seconds + rest / np.maximum(layers, 1)
        return by_layer

    def named(self, walk: Walk) -> list[tuple[int, int]]:
        """A walk by the peers' places and by layers."""
        return [(int(self.places[peer]), int(self._boundaries[end])) for peer, end in walk]

    def seconds(self, walk: Walk) -> float:
        """What all of it takes."""
        total, done = self._way_in[walk[0][0]] + self._way_out[walk[-1][0]], self._boundaries[0]
        for peer, end in walk:
            total += self._visit_seconds[peer] + self._layer_seconds[peer] * (self._boundaries[end] - done)
            done = self._boundaries[end]
        return float(total + sum(self._links(one)[other] for (one, _), (other, _) in pairwise(walk)))

    def walk(self, wanted: Collection[int] = (), behind: Walk = ()) -> Walk | None:
        """The shortest that returns to none of the peers `wanted`; None if there is none.

        With `behind`, what goes on from there and comes to none of its peers again.
        """
        begin = behind[-1][1] if behind else 0
        tables = self._tables(wanted, begin, frozenset(peer for peer, _ in behind))
        ways, end, been = self._links(behind[-1][0]) if behind else self._way_in, begin, frozenset[int]()
        walk = list[tuple[int, int]]()
        while end < len(self._boundaries) - 1:
            serving, leaving = tables[been]
            totals = ways + self._visit_seconds + serving[end]
            peer = int(totals.argmin()) if len(totals) else 0
            if not len(totals) or totals[peer] == math.inf:
                return None
            end += 1
            while serving[end, peer] <= leaving[end, peer]:
                end += 1
            walk.append((peer, end))
            ways, been = self._links(peer), been | ({peer} & set(wanted))
        return tuple(walk)

    def _work(self, serves: NDArray[np.bool_]) -> int:
        """Of a table for these peers."""
        count = serves.sum(axis=1)
        return int(count[:-1] @ count[1:]) + _BOUNDARY_WORK * len(count)

    def _links(self, peer: int) -> Floats:
        links: Floats = self._costs.links[self.places[peer], self.places]
        return links

    def _tables(self, wanted: Collection[int], begin: int, barred: frozenset[int]) -> dict[frozenset[int], _Table]:
        """By the wanted peers where a walk has been already."""
        tables = dict[frozenset[int], _Table]()
        for number in reversed(range(len(wanted) + 1)):
            for been in map(frozenset, combinations(wanted, number)):
                onward = {peer: tables[been | {peer}] for peer in wanted if peer not in been}
                tables[been] = self._table(begin, [*(barred | been)], onward)
        return tables

    def _table(self, begin: int, barred: list[int], onward: Mapping[int, _Table]) -> _Table:
        """From the end backwards to the boundary `begin`: without the peers `barred`, and for a peer of `onward` with
        what is left to a walk that has been there."""
        last, size = len(self._boundaries) - 1, len(self.places)
        serving, leaving = np.full((2, last + 1, size), math.inf)
        leaving[last] = np.where(self._serves[last - 1], self._way_out, math.inf)
        for at in reversed(range(begin, last)):
            for peer, table in onward.items():
                leaving[at + 1, peer] = table.leaving[at + 1, peer]
            here, layers = self._serving[at], self._boundaries[at + 1] - self._boundaries[at]
            to_go = np.minimum(serving[at + 1], leaving[at + 1]) + self._layer_seconds * layers
            serving[at, here] = to_go[here]
            serving[at, barred] = math.inf
            if at > begin and len(here):
                before = self._serving[at - 1]
                ways = self._costs.links[self.places[before][:, None], self.places[here]]
                ways += (self._visit_seconds + serving[at])[here]
                leaving[at, before] = ways.min(axis=1)
        return _Table(serving, leaving)
