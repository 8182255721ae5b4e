"""Finds out whether another program publishes under this peer's key, a copy of its key file, from the records it meets.

Clocks are not compared: of two that publish under one id, each issues its next record after the other's last one.
"""

from __future__ import annotations

import math

from swarm.directory import CLOCK_TOLERANCE
from swarm.records import Envelope

_STEP = 0.001  # seconds from one record to the next, where the clock has not moved on
_FIRST_LEAP, _GROWTH = 10.0, 8.0  # seconds ahead of the clock after a refusal; times as far after the next one


class Twin:
    """What this program knows of the other one."""

    def __init__(self, patience: float) -> None:
        """`patience`: how many records of ours must be taken, with none of another's between, for it to be gone."""
        self.is_there = False
        self._patience = patience
        self._latest = 0.0  # when the newest record under this id was issued, ours or not
        self._known = math.inf  # the same when somebody took ours last
        self._num_taken = 0  # of ours, since there was one of another's
        self._leap = 0.0

    def issue(self, now: float) -> float:
        """When our next record is to be issued: `now`, or just after the newest under this id."""
        self._latest = max(now + self._leap, self._latest + _STEP)
        return self._latest

    def refused(self) -> None:
        """Nobody took our newest record, though nodes answer: a run before this one, whose clock was ahead, may have
        issued a later one. That has ended, so nobody shows it any more, but they remember when it was issued."""
        self._leap = min(max(_FIRST_LEAP, _GROWTH * self._leap), CLOCK_TOLERANCE)

    def see(self, found: Envelope, started: float) -> bool:
        """Take note of a record under this id; `started`: when this program did. Whether it is news that another one
        is at it: what is left of a run before this one is known when the first of this one's is taken."""
        self._latest = max(self._latest, found.issued)
        if found.started == started or found.issued <= self._known:
            return False
        is_news = not self.is_there
        self.is_there, self._num_taken = True, 0
        return is_news

    def taken(self) -> None:
        """Somebody has taken our newest record."""
        self._known = self._latest
        self._leap = 0.0
        self._num_taken += 1
        if self._num_taken > self._patience:
            self.is_there = False
