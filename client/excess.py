"""By how much chains take longer than their peers announce, as this client has measured it. Pure.

A peer may announce what it likes, of itself and of the links to others; only the trips of whole chains are measured,
and a slow one says that some hop of it is slow, not which. A chain that is not slow says that none is. So a peer counts
for as slow as the fastest of the chains in which it was of late; chains without it are chosen as long as that is known,
and those of its neighbours that did nothing are found in a chain that is not slow, by and by.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median_low

_STANDS = 5.0  # seconds for which a chain that was not slow speaks for its hops, whatever others say
_FIRST, _LONGEST = 120.0, 3600.0
"""Seconds after which a peer is tried again, doubled each time; it counts for less and less until then."""
_TRIPS = 5  # of a chain, of which the median counts: one that was disturbed does not
_ENOUGH = 3  # trips to say anything
MUCH = 2.0
"""Times what was announced of a chain that it must take to be left, and times what another one promises."""
WORTH = 64
"""Trips for which what a better chain saves must make up for computing the text there."""
_LEAST = 0.05  # seconds that must be at least between


@dataclass(frozen=True, slots=True)
class _Known:
    """Of one peer."""

    seconds: float
    when: float
    """When a chain told them, ..."""
    lasts: float
    """... and for how long that counts."""

    def left(self, now: float) -> float:
        """What still counts of the seconds."""
        return self.seconds * max(1 - (now - self.when) / self.lasts, 0.0)


class Excess:
    """What is known of single peers, for all generations of a client."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, _Known] = {}  # by peer

    def note(self, peer_ids: Iterable[str], seconds: float) -> None:
        """A chain of these peers takes so much longer than they announce."""
        now = self._clock()
        for peer_id in peer_ids:
            known = self._known.get(peer_id, _Known(0.0, now - 2 * _STANDS, _FIRST / 2))
            if seconds > known.seconds and now - known.when <= _STANDS:
                continue
            is_slow_anew = seconds > 0 and not known.left(now)
            lasts = min(2 * known.lasts, _LONGEST) if is_slow_anew else known.lasts
            self._known[peer_id] = _Known(seconds, now, lasts)

    def keep(self, peer_ids: Iterable[str]) -> None:
        """Forget all but these."""
        kept = frozenset(peer_ids)
        self._known = {peer_id: known for peer_id, known in self._known.items() if peer_id in kept}

    def forget(self, peer_id: str) -> None:
        """It has started anew."""
        self._known.pop(peer_id, None)

    def copy(self) -> Excess:
        """As it is now."""
        other = Excess(self._clock)
        other._known = self._known.copy()
        return other

    @property
    def seconds(self) -> dict[str, float]:
        """By peer: how much longer a trip takes through it than announced, at most; less, the longer ago that was."""
        now = self._clock()
        left = {peer_id: known.left(now) for peer_id, known in self._known.items()}
        return {peer_id: seconds for peer_id, seconds in left.items() if seconds}


class Trips:
    """The newest ones of a chain, each beside what was announced."""

    def __init__(self) -> None:
        self._pairs = deque[tuple[float, float]](maxlen=_TRIPS)  # seconds announced, and taken
        self._chain: object = None
        self.seconds = 0.0
        """Of a trip; 0 until there were enough."""
        self.excess: float | None = None
        """By how many seconds they took longer than announced: 0, unless that is so much that the chain is better left;
        None until there were enough."""

    def of(self, chain: object) -> Trips:
        """Those of this chain: none, where the last ones were of another."""
        if chain != self._chain:
            self._chain = chain
            self._pairs.clear()
            self.seconds, self.excess = 0.0, None
        return self

    def note(self, announced: float, taken: float, *, at_least: bool = False) -> None:
        """A trip took so many seconds. `at_least`: it was only waited for so long, for it was on its way before; it
        counts as one that took what was announced, unless that was waited for longer."""
        self._pairs.append((announced, max(taken, announced) if at_least else taken))
        if len(self._pairs) >= _ENOUGH:
            self.seconds = median_low([taken for _, taken in self._pairs])
            usual = median_low([announced for announced, _ in self._pairs])
            excess = median_low([taken - announced for announced, taken in self._pairs])
            self.excess = excess if excess > max((MUCH - 1) * usual, _LEAST) else 0.0
