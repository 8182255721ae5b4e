"""What the log says of strangers: a line now and then for each, however much nonsense they send."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("specswarm")

_PAUSE_SECONDS = 60.0  # between two lines about one node
_MAX_NODES = 256  # that are remembered; one in a crowd of strangers is news again


class Complaints:
    """Owns who was complained of lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}

    def about(self, peer_id: str, text: str) -> None:
        """Have the log say what a node did, unless it spoke of that node just now."""
        now = self._clock()
        if self._next.get(peer_id, now) > now:
            return
        self._next.pop(peer_id, None)
        self._next[peer_id] = now + _PAUSE_SECONDS
        if len(self._next) > _MAX_NODES:
            del self._next[next(iter(self._next))]
        log.warning("peer %s: %s", peer_id, text)
