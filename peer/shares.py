"""Whose turn it is where many want something that can be given to one at a time. Pure.

Its law: over any while in which two of them want something all the time, both get as much of it, but for what is given
at once (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996). Who has been away saves nothing up, and who
wants little is not behind those who want much.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Shares(Generic[T]):
    """What each has had, beyond what those have had whose turn it is."""

    def __init__(self) -> None:
        self._had: dict[T, float] = {}
        self._now = 0.0  # what the one has had whose turn it was last

    def next(self, wanting: Iterable[T]) -> T:
        """Who of these, at least one, has had least; of several, the first."""
        return min(wanting, key=self._so_far)

    def charge(self, who: T, cost: float) -> None:
        """It was the turn of `who`, who has got something of that cost."""
        self._now = self._so_far(who)
        self._had[who] = self._now + cost
        self._had = {one: had for one, had in self._had.items() if had > self._now}

    def forget(self, who: T) -> None:
        """One who wants nothing any more."""
        self._had.pop(who, None)

    def begin_anew(self) -> None:
        """Nobody wants anything: what all have had does not count any more."""
        self._had.clear()

    def _so_far(self, who: T) -> float:
        return max(self._had.get(who, 0.0), self._now)
