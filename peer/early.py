"""Results that arrive before the Open of their session.

A client sends Open to all hops and the first round right behind it, without waiting for a round trip. Where a link is
slow, the previous hop's result may overtake the Open; it waits here, within bounds, for nobody vouches for it yet.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from swarm.wire import Hidden

MAX_BYTES = 64 << 20  # over all sessions; the oldest make room
_OVERHEAD = 1000  # bytes of a held message beside its states and tokens
MAX_SECONDS = 10.0  # an Open that is later than that does not come


class EarlyResults:
    """Holds results by session until they are claimed, crowded out or too old."""

    def __init__(self, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._bytes = 0
        self._held: OrderedDict[bytes, list[tuple[Hidden, str]]] = OrderedDict()
        self._since: dict[bytes, float] = {}

    def hold(self, message: Hidden, sender: str) -> None:
        """Keep a result of peer `sender` for a session that is not open yet."""
        session_id, now = message.round.session, self._clock()
        self._held.setdefault(session_id, []).append((message, sender))
        self._since.setdefault(session_id, now)
        self._bytes += _size(message)
        while self._held and (self._bytes > self._max_bytes or self._oldest < now - MAX_SECONDS):
            self.claim(next(iter(self._held)))

    def claim(self, session_id: bytes) -> list[tuple[Hidden, str]]:
        """Hand over what was held for a session, in order of arrival."""
        held = self._held.pop(session_id, [])
        self._since.pop(session_id, None)
        self._bytes -= sum(_size(message) for message, _ in held)
        return held

    @property
    def _oldest(self) -> float:
        return self._since[next(iter(self._held))]


def _size(message: Hidden) -> int:
    """Bytes it takes, roughly: the states, and something for all the rest."""
    return len(message.states) + _OVERHEAD + 8 * len(message.round.tokens)
