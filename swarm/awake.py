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
from collections.abc import Iterator
from types import TracebackType
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
        self._deadlines: set[Deadline] = set()

    @property
    def pauses(self) -> int:
        """How often the program has stood still so far while the clock was kept."""
        self.notice()
        return self._pauses

    def now(self) -> float:
        """Seconds, of which only differences mean something, and while the clock is kept."""
        now = _time()
        self._notice(now)
        return now - self._lost

    @contextlib.contextmanager
    def kept(self) -> Iterator[Clock]:
        """Notice every pause meanwhile."""
        self.keep()
        try:
            yield self
        finally:
            self.release()

    def keep(self) -> None:
        """Notice every pause until `release`."""
        self._keepers += 1
        if self._beat is None:
            self._arm()

    def release(self) -> None:
        """One keeper less."""
        self._keepers -= 1
        if not self._keepers and self._beat is not None:
            self.notice()
            self._beat.cancel()
            self._beat = None

    def note(self, deadline: Deadline) -> None:
        """One that begins afresh after a pause, until it is forgotten."""
        self._deadlines.add(deadline)

    def forget(self, deadline: Deadline) -> None:
        """One that is over."""
        self._deadlines.discard(deadline)

    def notice(self) -> bool:
        """Whether a pause has ended just now: then all deadlines begin afresh."""
        return self._notice(_time())

    def _notice(self, now: float) -> bool:
        late = now - self._due
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


class Deadline:
    """As `asyncio.timeout`, but begun afresh after a pause: the block raises TimeoutError."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._times = 0  # it has begun afresh

    async def __aenter__(self) -> None:
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()
        self._clock = clock()
        self._clock.keep()
        self._clock.note(self)
        self._begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        self._clock.forget(self)
        self._clock.release()
        await self._limit.__aexit__(kind, error, trace)

    def renew(self) -> None:
        """Begin afresh, unless it has too often."""
        if self._times < _MOST_TIMES and not self._limit.expired():
            self._times += 1
            self._handle.cancel()
            self._begin()

    def _begin(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(self._seconds, self._end)

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
    try:
        return _clocks[loop]
    except KeyError:
        return _clocks.setdefault(loop, Clock())


def timeout(seconds: float) -> Deadline:
    """A block that may take so long, pauses left out."""
    return Deadline(seconds)


def _time() -> float:
    return asyncio.get_running_loop().time()
