"""How old each peer's newest record is, by this node's own clock alone.

Peers' clocks may be wrong, so a record's end is never compared with a clock's time: it counts from the moment it was
first seen, less the age that whoever brought it says it has. Seen again it is no younger, and a record that is older
than one seen before, by its peer's own clock, is none any more: so replaying records makes no dead peer live on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

MAX_PEERS = 8192  # those whose records were seen last


class Ages:
    """Owns what is remembered of each peer's newest record, after its end as well."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: any that only goes forward, in seconds."""
        self._clock = clock
        self._newest: dict[str, tuple[float, float]] = {}  # by peer: when it issued it, and its birth by this clock

    def age(self, peer_id: str, issued: float, told: float = 0.0) -> float | None:
        """Seconds that a peer's record has lived, None if a newer one of it is known.

        `issued`: by the peer's clock. `told`: the age it has by the word of whoever brings it, heeded the first time.
        """
        now = self._clock()
        known = self._newest.pop(peer_id, None)
        newest = (issued, now - told) if known is None or known[0] < issued else known
        self._newest[peer_id] = newest
        if len(self._newest) > MAX_PEERS:
            del self._newest[next(iter(self._newest))]
        return now - newest[1] if newest[0] == issued else None
