"""Which peers are better left alone for now: what went wrong with them, and until when that counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from swarm.errors import PeerError, PeerLied, PeerRefused, Why

_FIRST, _LONGEST = 2.0, 60.0  # seconds after a peer was lost; doubled each time it is lost again
_REFUSALS: dict[Why, float] = {
    "full": 5.0,
    "model": 600.0,
    "gone": 0.0,
    "unlawful": 5.0,
    "stranger": 600.0,
    "rate": 5.0,
    "leaving": 60.0,
}
_MOST = 1024  # peers that are remembered: those that are welcome again soonest are forgotten first


class Cooldowns:
    """Shared by all generations of a client: none of them has to find out again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._pause: dict[str, float] = {}  # the last one after a loss, by peer
        self._barring: dict[str, PeerError] = {}  # of peers that are of no use to this client, whatever happens

    def note(self, error: PeerError) -> None:
        """Leave its peer alone for a while."""
        if isinstance(error, PeerLied):
            pause = math.inf
            self._barring[error.peer_id] = error
        elif isinstance(error, PeerRefused):
            pause = _REFUSALS[error.why]
            if error.why == "stranger":
                self._barring[error.peer_id] = error
        else:
            pause = min(2 * self._pause.get(error.peer_id, _FIRST / 2), _LONGEST)
            self._pause[error.peer_id] = pause
        self._until[error.peer_id] = max(self._clock() + pause, self._until.get(error.peer_id, 0.0))
        if len(self._until) > _MOST:
            self._drop(min(self._until, key=self._until.__getitem__))

    def copy(self) -> Cooldowns:
        """As they are now."""
        other = Cooldowns(self._clock)
        other._until, other._pause, other._barring = self._until.copy(), self._pause.copy(), self._barring.copy()
        return other

    def forget(self, peer_id: str) -> None:
        """It has started anew: what was does not count any more, unless it lied."""
        if self._until.get(peer_id) != math.inf:
            self._drop(peer_id)

    def _drop(self, peer_id: str) -> None:
        self._until.pop(peer_id, None)
        self._pause.pop(peer_id, None)
        self._barring.pop(peer_id, None)

    @property
    def barring(self) -> dict[str, PeerError]:
        """Of the active ones, those that are not to be asked even where nobody else is left, and what they said."""
        return {peer_id: self._barring[peer_id] for peer_id in self.active & self._barring.keys()}

    @property
    def active(self) -> set[str]:
        """The peers to leave alone now."""
        return {*self.left}

    @property
    def left(self) -> dict[str, float]:
        """By peer to leave alone now, for how many seconds still."""
        now = self._clock()
        return {peer_id: until - now for peer_id, until in self._until.items() if until > now}
