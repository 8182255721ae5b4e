"""How much of something each caller has had lately. Pure, with a clock of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import itemgetter

_MINUTE = 60.0  # seconds
_ROUNDING = 1e-6
_FEW, _MOST = 1024, 8192
"""Callers that are remembered without looking who is at rest; and at most, where who has had least is forgotten."""


class Rates:
    """For each caller a bucket that refills within so many seconds.

    It is kept as the moment when it will be full again (Turner's "virtual scheduling", ITU-T I.371): one number for
    each caller that has had something lately.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic, seconds: float = _MINUTE) -> None:
        """`most`: what a bucket holds."""
        self._most_at_once = most
        self._refill = seconds
        self._clock = clock
        self._full_at: dict[str, float] = {}
        self._most = _FEW

    def allows(self, caller: str, amount: int = 1) -> bool:
        """Whether the caller may have so much more, or what fills a bucket if that is less; to ask changes nothing."""
        return self._debt(caller) + self._seconds(amount) <= self._refill + _ROUNDING

    def seconds_until(self, caller: str, amount: int = 1) -> float:
        """After which the caller may have so much more; 0 if it may now."""
        if caller not in self._full_at:
            return 0.0
        return max(self._debt(caller) + self._seconds(amount) - self._refill, 0.0)

    def note(self, caller: str, amount: int = 1) -> None:
        """Take note that the caller has had so much."""
        now = self._clock()
        self._full_at[caller] = now + self._debt(caller) + self._seconds(amount)
        if len(self._full_at) > self._most:  # a full bucket need not be known
            latest = sorted(self._full_at.items(), key=itemgetter(1), reverse=True)[: _MOST // 2]
            self._full_at = {one: moment for one, moment in latest if moment > now}
            self._most = max(_FEW, min(2 * len(self._full_at), _MOST))

    def _seconds(self, amount: int) -> float:
        """In which so much comes back."""
        return self._refill * min(amount, self._most_at_once) / self._most_at_once

    def _debt(self, caller: str) -> float:
        """Seconds until the caller's bucket is full again."""
        now = self._clock()
        return max(self._full_at.get(caller, now) - now, 0.0)
