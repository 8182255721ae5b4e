"""What others do, to compare with: routes, batches and windows that the real nodes do not have. Pure."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Literal, TypeVar

from peer.batching import Waiting, next_batch
from simulator.peer import Batching, Peer
from swarm.records import Announcement
from swarm.speculation.windows import FixedWindow

Choice = Callable[[Sequence[str]], str]
"""One of those who can do the next layers."""

T = TypeVar("T", bound=Waiting)

_LEAST, _FIRST, _MOST = 1, 4, 12  # drafts
_GOOD, _BAD = 0.75, 0.25  # shares of a round's drafts that stand


def first_come(waiting: Sequence[T], max_tokens: int) -> list[T]:
    """As many as fit from the head of the queue, whatever they are."""
    chosen: list[T] = []
    tokens = 0
    for item in waiting:
        tokens += len(item.round.tokens)
        if chosen and tokens > max_tokens:
            break
        chosen.append(item)
    return chosen


BATCHING: Mapping[str, Batching] = {"ours": next_batch, "first-come": first_come}


class ThresholdWindow(FixedWindow):
    """One draft more after a round in which most stood, one less after one in which few did."""

    def __init__(self) -> None:
        super().__init__(_FIRST)
        self._sent = 0

    def sent(self, size: int) -> None:
        """So many drafts are on their way."""
        self._sent = size

    def judged(self, accepted: int) -> None:
        """So many of them stand."""
        share = accepted / self._sent if self._sent else 0.0
        self.limit += (share >= _GOOD) - (share <= _BAD)
        self.limit = min(max(self.limit, _LEAST), _MOST)


def choice(
    routing: Literal["random", "round-robin", "shortest-queue"], random: Random, peer: Callable[[str], Peer | None]
) -> Choice:
    """How one of those is chosen who can do a layer, for all clients. The shortest queue is known at once: better than
    it could be."""
    turns = defaultdict[tuple[str, ...], Iterator[int]](itertools.count)  # by who can be chosen

    def shortest(names: Sequence[str]) -> str:
        return min(names, key=lambda name: (found.num_waiting if (found := peer(name)) else 0, random.random()))

    return {
        "random": random.choice,
        "round-robin": lambda names: names[next(turns[tuple(names)]) % len(names)],
        "shortest-queue": shortest,
    }[routing]


def chosen(peers: Mapping[str, Announcement], reachable: Mapping[str, float], choose: Choice) -> set[str]:
    """Peers of a chain, each chosen of those who can go on with it, until none is left to do or none can."""
    names, layer = set[str](), 0
    while able := [name for name in reachable if peers[name].start <= layer < peers[name].end]:
        name = choose(able)
        names.add(name)
        layer = peers[name].end
    return names
