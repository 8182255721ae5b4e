"""How fast the stage is, as the peer announces it: measured again and again while it serves.

What was measured at the start may have been measured in a busy moment. Rounds that were served would tell too little:
what they take depends on the length of their texts, on prefill, and on who shares their forward pass. So rounds of one
token and of several are tried now and then, when no round waits for the stage; and not one right behind the other, for
what one has left in the processor's caches, rounds do not find there: further tokens would seem too cheap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from statistics import median_low

from swarm.model.speed import MANY, Speed

_KEPT = 3  # trials of which the median counts: one that was disturbed does not
_NOISE = 0.1  # by less than this share of it, no other speed is announced
_TIME = 0.005  # share of the stage's time that trials take at most
_ROUNDS = 3  # of either kind in a trial, of which the fastest counts: nothing but disturbance makes them differ
_LEAST_PAUSE = 5.0  # seconds for a trial, shared out between its rounds; doubled after each as announced, ...
_LONGEST_PAUSE = 60.0  # ... up to this
_SURPRISE = 0.5  # by more than this share of it, a trial took another time than announced
_PATIENCE = 60.0  # seconds after which a trial no longer waits until no round does


class Pace:
    """What has been measured of late, and what is announced of it."""

    def __init__(self, first: Speed) -> None:
        """`first`: as measured at the start; it counts as one trial."""
        self.speed = first
        """Announced."""
        self._trials = deque([(first.step_seconds, _seconds(first))], maxlen=_KEPT)

    def note(self, one: float, many: float) -> None:
        """A round of one token has taken so many seconds, and one of MANY.

        Of two trials, the faster counts: nothing but disturbance makes them differ.
        """
        self._trials.append((one, many))
        one, many = (median_low(times) for times in zip(*self._trials, strict=True))
        if self._differs(one, many, _NOISE):
            self.speed = Speed(one, max(many - one, 0.0) / (MANY - 1))

    async def keep(self, trial: Callable[[int, float], Awaitable[float]]) -> None:
        """Measure until cancelled.

        `trial` gives the seconds that a round of so many tokens took which waited for others, so many seconds at most.
        """
        pause, rest = _LEAST_PAUSE, 0.0
        while True:
            seconds: dict[int, list[float]] = {1: [], MANY: []}
            for _ in range(_ROUNDS):
                for tokens, taken in seconds.items():
                    await asyncio.sleep(max(pause / (2 * _ROUNDS), rest))
                    taken.append(await trial(tokens, _PATIENCE))
                    rest = taken[-1] / _TIME
            one, many = map(min, seconds.values())
            pause = _LEAST_PAUSE if self._differs(one, many, _SURPRISE) else min(2 * pause, _LONGEST_PAUSE)
            self.note(one, many)

    def _differs(self, one: float, many: float, share: float) -> bool:
        """Whether such rounds take other times than announced, by more than this share."""
        return any(
            abs(found - announced) > share * announced
            for found, announced in ((one, self.speed.step_seconds), (many, _seconds(self.speed)))
        )


def _seconds(speed: Speed) -> float:
    """Of a round of MANY tokens."""
    return speed.step_seconds + speed.token_seconds * (MANY - 1)
