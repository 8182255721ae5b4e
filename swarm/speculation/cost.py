"""What a trip costs and brings, and with that how much is best drafted. Pure.

    tokens per second = E[tokens per trip] / seconds per trip
    E[tokens per trip] = 1 + the chances of all drafts, added up
    seconds per trip = fixed + per_position * positions + drafting that is not hidden

`fixed` are the links and the stages' start; `per_position` is compute and bytes of one more token in a round. Both are
fitted to the trips themselves, so whatever makes them up is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarm.speculation.queueing import Congestion, Queueing

_MEMORY = 0.95  # weight of what was known before, against one more trip
_FIRST_TRIP = 0.1  # seconds that a trip takes, until one was made
_OUTLIER = 2.0  # times the expected seconds, at which a trip is cut
_STOPPED = 10.0  # times the usual seconds of a draft, at which it is cut: the program may have stood still


class TripCost:
    """A line through the trips so far: seconds against positions, old trips forgotten bit by bit."""

    def __init__(self, per_position: float = 0.0, trust: float = 100.0) -> None:
        """`per_position`: seconds that are announced; `trust`: its weight, in squared positions off the mean."""
        self._announced = self.per_position = per_position
        """Of `per_position`: seconds for one more token, by least squares, drawn to what is announced."""
        self.fixed = _FIRST_TRIP
        """Seconds of a round without any tokens."""
        self._trust = trust
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    @property
    def is_known(self) -> bool:
        """Whether any trip was made."""
        return self._weight > 0

    def announce(self, per_position: float) -> None:
        """The chain is another one."""
        self._announced = per_position
        self._fit()

    def note(self, positions: int, seconds: float) -> None:
        """A trip of a round with so many tokens has taken that long."""
        if self.is_known:
            seconds = min(seconds, _OUTLIER * self.seconds(positions))
        self._weight = _MEMORY * self._weight + 1
        self._x = _MEMORY * self._x + positions
        self._y = _MEMORY * self._y + seconds
        self._xx = _MEMORY * self._xx + positions**2
        self._xy = _MEMORY * self._xy + positions * seconds
        self._fit()

    @property
    def mean(self) -> float:
        """Seconds of a trip, of late."""
        return self._y / self._weight if self.is_known else _FIRST_TRIP

    def seconds(self, positions: int) -> float:
        """What a round of so many tokens takes."""
        return self.fixed + self.per_position * positions

    def _fit(self) -> None:
        """Draw the line anew."""
        if not self.is_known:
            self.per_position = self._announced
            return
        spread = max(self._xx - self._x**2 / self._weight, 0.0)
        together = self._xy - self._x * self._y / self._weight
        self.per_position = max((together + self._trust * self._announced) / (spread + self._trust), 0.0)
        self.fixed = max((self._y - self.per_position * self._x) / self._weight, 0.0)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; seconds."""

    trip_fixed: float
    trip_per_position: float
    start: float
    per_draft: float
    per_token: float


class Cost:
    """Of one generation: trips, and what drafting takes."""

    def __init__(self) -> None:
        self.trip = TripCost()
        self.queueing = Queueing()
        self._congestion = Congestion()
        self.per_draft = 0.0
        """Seconds to work out one draft, on the average."""
        self.start = 0.0
        """Seconds that the stages take for a round of however few tokens."""
        self._compute = TripCost()
        self._hops, self._alone_announced = 1, 0.0
        self._drafts = self._draft_seconds = self._tokens = self._token_seconds = self._sent = 0.0
        self._sent_since = 0  # positions, since the last tokens

    def announce(self, per_position: float, hops: int, alone: float = 0.0) -> None:
        """The chain has so many hops, which announce that they take so long for one more token, together.

        A round of one token would be back after `alone`, if nothing else were on its way; 0: that is not known.
        """
        self.trip.announce(per_position)
        self._hops, self._alone_announced = hops, alone

    def note_trip(self, positions: int, seconds: float, compute: float) -> None:
        """The trip of a round with so many tokens took that long, its stages together `compute` seconds of it."""
        self.trip.note(positions, seconds)
        self._compute.note(positions, compute)
        self.queueing.note(seconds, compute)
        if self._alone_announced:
            alone = self._alone_announced + self.trip.per_position * (positions - 1)
            self._congestion.note(seconds, alone, self._hops)
        self.start = self._compute.fixed

    @property
    def busy(self) -> float:
        """The share of a trip in which some stage computes, with however few tokens."""
        return min(self.start / max(self.trip.seconds(1), 1e-9), 1.0)

    @property
    def load(self) -> float:
        """The share of the time that one hop, its stage or its link, is taken up by what this generation sends: all its
        positions, as if what one more of them takes were the same at every hop."""
        if not self._token_seconds:
            return 0.0
        return self.trip.per_position / self._hops * self._sent / self._token_seconds

    @property
    def waiting(self) -> float:
        """The share of a trip by which it takes longer than it would if nothing else were on its way."""
        return self._congestion.share

    def note_sent(self, positions: int) -> None:
        """A round with so many tokens has been sent."""
        self._sent_since += positions

    def note_tokens(self, tokens: int, seconds: float) -> None:
        """So many tokens were committed that long after the ones before."""
        self._sent, self._sent_since = _MEMORY * self._sent + self._sent_since, 0
        self._tokens = _MEMORY * self._tokens + tokens
        self._token_seconds = _MEMORY * self._token_seconds + seconds

    @property
    def seconds_per_token(self) -> float:
        """Of late."""
        return self._token_seconds / self._tokens if self._tokens else self.trip.fixed

    def note_drafting(self, drafts: int, seconds: float) -> None:
        """It took so long to work out so many drafts."""
        if self._drafts:
            seconds = min(seconds, _STOPPED * drafts * self.per_draft)
        self._drafts = _MEMORY * self._drafts + drafts
        self._draft_seconds = _MEMORY * self._draft_seconds + seconds
        self.per_draft = self._draft_seconds / max(self._drafts, 1.0)

    @property
    def figures(self) -> Figures:
        """As it stands now."""
        trip = self.trip
        return Figures(trip.fixed, trip.per_position, self.start, self.per_draft, self.seconds_per_token)

    def rate(self, chances: Sequence[float]) -> float:
        """Tokens per second with these drafts, one trip after the other."""
        return (1 + sum(chances)) / self._alone(1 + len(chances))

    def best_size(self, chances: Sequence[float]) -> int:
        """How many of these drafts, the likeliest first, bring most tokens per second: as long as one more brings more
        for its time than those before it for theirs."""
        expected, seconds, one_more, size = 1.0, self._alone(1), self.trip.per_position, 0
        while size < len(chances) and chances[size] * seconds > expected * one_more:
            expected += chances[size]
            seconds += one_more
            size += 1
        return size

    def _alone(self, positions: int) -> float:
        """What a round of so many tokens would take if nothing else were on its way. Sending more at a time saves no
        waiting: whoever did so because the chain is busy would make it busier still."""
        return max(self.trip.seconds(positions) - self.waiting * self.trip.mean, 1e-6)

    def is_worth_drafting(self, chances: Sequence[float], promise: float) -> bool:
        """Whether one more draft, of at most the chance `promise`, would bring more than working it out and sending it
        takes."""
        return promise > (self.per_draft + self.trip.per_position) * self.rate(chances)
