"""Which clients are new to this peer. Pure, with a clock of its own.

Identities are free, so a crowd of them must not count for more than one client: all newcomers have one share together.
Who has been served for long enough, and since long enough ago, has one alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

PROBATION = 600.0  # seconds between a client's first round and the end of ...
ENOUGH = 5.0  # ... this: seconds of the stage's time
_MOST = 4096  # clients that are known; the one that was served longest ago is forgotten


class Standing:
    """What clients have been served here, since when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._served: OrderedDict[str, tuple[float, float]] = OrderedDict()  # since when, and seconds of the stage

    def is_new(self, client: str) -> bool:
        """Whether a client lives on the newcomers' share."""
        since, seconds = self._served.get(client, (0.0, 0.0))
        return seconds < ENOUGH or self._clock() - since < PROBATION

    def note(self, client: str, seconds: float) -> None:
        """Take note that the stage has worked so long for a client."""
        since, before = self._served.pop(client, (self._clock(), 0.0))
        self._served[client] = (since, before + seconds)
        if len(self._served) > _MOST:
            self._served.popitem(last=False)
