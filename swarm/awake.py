"""Time as this program lives it: what it slept through does not count.

A deadline tells that somebody else was silent. A program that was stopped, whose machine slept, or that got no
processor for a while, has heard nobody: when it goes on, all its deadlines are over, before it has read what came
meanwhile. So deadlines of this module begin afresh after such a pause, and its seconds leave pauses out.

A pause is noticed by a beat for which the event loop is late. It goes on only while somebody needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from weakref import WeakKeyDictionary

log = logging.getLogger("specswarm")

BEAT_SECONDS = 0.25
PAUSE_SECONDS = 0.5
"""By which a beat is late if the program has stood still; less is the usual hustle."""
_WORTH_TELLING = 5.0
_MOST_TIMES = 3  # that a deadline begins afresh: where a program stands still all the time, it must end, too


class Clock:
    """Of the running event loop."""

    def __init__(self) -> None:
        self._pauses = 0
        self._lost = 0.0  # seconds of all pauses
        self._keepers = 0
        self._beat: asyncio.TimerHandle | None = None
        self._due = 0.0  # of the beat
        self._deadlines: set[_Deadline] = set()

    @property
    def pauses(self) -> int:
        """How often the program has stood still so far while the clock was kept."""
        self.notice()
        return self._pauses

    def now(self) -> float:
        """Seconds, of which only differences mean something, and while the clock is kept."""
        self.notice()
        return _time() - self._lost

    @contextlib.contextmanager
    def kept(self) -> Iterator[Clock]:
        """Notice every pause meanwhile."""
        self._keepers += 1
        if self._beat is None:
            self._arm()
        try:
            yield self
        finally:
            self._keepers -= 1
            if not self._keepers and self._beat is not None:
                self.notice()
                self._beat.cancel()
                self._beat = None

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """As `asyncio.timeout`, but begun afresh after a pause. Raises TimeoutError."""
        with self.kept():
            async with asyncio.timeout(None) as limit:
                deadline = _Deadline(self, limit, seconds)
                self._deadlines.add(deadline)
                try:
                    yield
                finally:
                    self._deadlines.discard(deadline)
                    deadline.cancel()

    def notice(self) -> bool:
        """Whether a pause has ended just now: then all deadlines begin afresh."""
        late = _time() - self._due
        if self._beat is None or late < PAUSE_SECONDS:
            return False
        self._pauses += 1
        self._lost += late
        if late > _WORTH_TELLING:
            log.info("this program stood still for %.0f s: what it was waiting for gets its time again", late)
        self._beat.cancel()
        self._arm()
        for deadline in self._deadlines:
            deadline.renew()
        return True

    def _arm(self) -> None:
        self._due = _time() + BEAT_SECONDS
        self._beat = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._on_beat)

    def _on_beat(self) -> None:
        if not self.notice():
            self._arm()


class _Deadline:
    """One that is waited for."""

    def __init__(self, clock: Clock, limit: asyncio.Timeout, seconds: float) -> None:
        self._clock, self._limit, self._seconds = clock, limit, seconds
        self._times = 0  # it has begun afresh
        self._handle = asyncio.get_running_loop().call_later(seconds, self._end)

    def renew(self) -> None:
        """Begin afresh, unless it has too often."""
        if self._times < _MOST_TIMES and not self._limit.expired():
            self._times += 1
            self._handle.cancel()
            self._handle = asyncio.get_running_loop().call_later(self._seconds, self._end)

    def cancel(self) -> None:
        """It is not waited for any more."""
        self._handle.cancel()

    def _end(self) -> None:
        """The time is over, unless the program has stood still just now."""
        times = self._times
        self._clock.notice()
        if times == self._times:
            self._limit.reschedule(0.0)


_clocks: WeakKeyDictionary[asyncio.AbstractEventLoop, Clock] = WeakKeyDictionary()


def clock() -> Clock:
    """That of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _clocks:
        _clocks[loop] = Clock()
    return _clocks[loop]


def timeout(seconds: float) -> contextlib.AbstractAsyncContextManager[None]:
    """See Clock.timeout."""
    return clock().timeout(seconds)


def _time() -> float:
    return asyncio.get_running_loop().time()
