"""What a trip takes beyond its stages' compute: links, and waiting for stages that are busy with others. Pure."""

from __future__ import annotations

from collections import deque

_REMEMBERED = 32  # trips
_MEMORY = 0.9  # weight of what was known before, against one more trip


class Queueing:
    """Tells the two apart: links always take their time, and now and then nobody waits.

    A verdict says what its stages computed, and what they did for others meanwhile is not in it. So the least that a
    trip of late took beyond its compute are the links, and what others took beyond that was waiting.
    """

    def __init__(self) -> None:
        self._beyond = deque[float](maxlen=_REMEMBERED)
        self._waiting = self._compute = 0.0

    def note(self, seconds: float, compute: float) -> None:
        """A trip has taken that long, its stages together `compute` seconds of it."""
        self._beyond.append(max(seconds - compute, 0.0))
        self._waiting = _MEMORY * self._waiting + self._beyond[-1] - self.links
        self._compute = _MEMORY * self._compute + compute

    @property
    def links(self) -> float:
        """Seconds of a trip over all links; 0 before the first one."""
        return min(self._beyond, default=0.0)

    @property
    def utilisation(self) -> float:
        """Share of their time that the stages are busy, 0..1, as a queue with one server and chance arrivals (M/M/1)
        has it: the waiting is u / (1 - u) of the compute."""
        busy = self._waiting + self._compute
        return self._waiting / busy if busy else 0.0


_LONG = 256  # trips
_PER_HOP, _SHARE = 3e-3, 0.2  # seconds, and part of what is announced, by which a trip may always take longer


class Congestion:
    """How much longer trips take than the chain would need if nothing else were on its way.

    Links and stages are announced as they are without load; what else a trip takes in any case (threads, encryption)
    is the least of what trips of late took beyond that. But where it is always crowded, the least is waiting, too: it
    is believed up to a bound.
    """

    def __init__(self) -> None:
        self._beyond = deque[float](maxlen=_LONG)
        self._waiting = self._seconds = 0.0

    def note(self, seconds: float, alone: float, hops: int) -> None:
        """A trip over so many hops has taken that long, and would take `alone` by what is announced."""
        self._beyond.append(max(seconds - alone, 0.0))
        usual = min(*self._beyond, _PER_HOP * hops + _SHARE * alone)
        self._waiting = _MEMORY * self._waiting + self._beyond[-1] - usual
        self._seconds = _MEMORY * self._seconds + seconds

    @property
    def share(self) -> float:
        """Of the time of trips: waiting, 0..1."""
        return self._waiting / self._seconds if self._seconds else 0.0
