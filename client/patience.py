"""How long to wait for a verdict before asking what became of it. Pure.

As TCP does for its retransmission timer (RFC 6298): the mean of the trips so far and four times their mean deviation.
A trip whose round was sent again is no sample (Karn's rule), or one fault would make the next wait longer; one that was
only slow is, or the wait would never follow links that become longer.
"""

from __future__ import annotations

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
