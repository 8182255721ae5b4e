"""How long to wait for a verdict before asking what became of it, and for work that is said to go on. Pure.

As TCP does for its retransmission timer (RFC 6298): the mean of the trips so far and four times their mean deviation.
A trip whose round was sent again is no sample (Karn's rule), or one fault would make the next wait longer; one that was
only slow is, or the wait would never follow links that become longer.

Who is asked may say that the round waits in its queue. That is believed for as long as the work takes by what the peer
itself announces, several times over: its processor may be busy, and attention takes the longer the longer the text is.
"""

from __future__ import annotations

from collections.abc import Iterable

from client.routing import Hop
from swarm.wire import MAX_AHEAD, MAX_ROUND_TOKENS, Progress

_SLOWER = 10.0
"""Times what it announces that a peer may take."""
_MAX_QUEUED = 4 * MAX_AHEAD
"""Tokens before a session's own at one peer that are believed."""
_MAX_BATCH = 2 * MAX_ROUND_TOKENS
"""Tokens that a peer runs at once: decode, and prefill."""
_MEAN_GAIN, _DEVIATION_GAIN = 1 / 8, 1 / 4
_DEVIATIONS = 4


class TripTimer:
    """Estimates one chain's trips; all in seconds."""

    def __init__(self, floor: float, ceiling: float) -> None:
        """No wait is shorter than `floor` or longer than `ceiling`."""
        self.floor = floor
        self.ceiling = ceiling
        self.mean = 0.0
        """Of the trips so far; 0 before the first."""
        self._deviation = 0.0

    def note(self, seconds: float) -> None:
        """Take note of an undisturbed trip."""
        if not self.mean:
            self.mean, self._deviation = seconds, seconds / 2
            return
        self._deviation += _DEVIATION_GAIN * (abs(seconds - self.mean) - self._deviation)
        self.mean += _MEAN_GAIN * (seconds - self.mean)

    def wait(self, extra: float = 0.0) -> float:
        """After how long an answer is overdue, where `extra` seconds of work are known to come on top."""
        return min(max(self.mean + _DEVIATIONS * self._deviation + extra, self.floor), self.ceiling)


def seconds_of_work(hops: Iterable[Hop], tokens: int) -> float:
    """That one hop after the other may take for so many tokens."""
    return _SLOWER * sum(hop.seconds(tokens) for hop in hops if tokens)


def seconds_of_batch(hop: Hop, report: Progress) -> float:
    """That may pass before anything is run to its end at a hop that says this."""
    return seconds_of_work([hop], min(report.queued, _MAX_BATCH))


def seconds_of_queue(hop: Hop, report: Progress) -> float:
    """That may pass before all is run to its end that such a hop has of a session, and what it has before that."""
    return seconds_of_work([hop], min(report.queued, _MAX_QUEUED))
