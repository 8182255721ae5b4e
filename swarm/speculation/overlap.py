"""When a tree on its way gets more drafts, and how many: rounds that follow each other before a verdict. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.speculation.cost import Cost

_MOST = 16  # drafts of one round that brings more
_LEAST = 0.005  # chance of a draft that is sent: others' machines work on it, even where nobody waits for that
_FULL = 0.35  # share of the time that stages and links are taken up, from which on a round more is in the way


class Overlap:
    """As many as are worth more than they take, in at most so many rounds a trip."""

    def __init__(self, cost: Cost, in_flight: int) -> None:
        """`in_flight`: rounds that may be on their way; 1: no more drafts before the verdict."""
        self._cost = cost
        self._in_flight = in_flight

    @property
    def is_wanted(self) -> bool:
        """Whether there may be any at all."""
        return self._in_flight > 1 and self._price < 1

    @property
    def _price(self) -> float:
        """Of the chain's time, in what it would cost if all had to wait for it. What is done while nobody works delays
        nothing; the more stages and links have to do, the likelier it is that something waits, and the longer."""
        return ((self._cost.busy + self._cost.load + self._cost.waiting) / _FULL) ** 2

    @property
    def gap(self) -> float:
        """Seconds between two rounds."""
        return self._cost.trip.seconds(1) / self._in_flight

    def num_at_once(self, chances: Sequence[float]) -> int:
        """How many of these drafts, the likeliest first, are better sent now than with the next round.

        A draft that is sent now delays the verdict by the time of its position; one that follows delays what it may
        stand for by the gap, and has a part in the start of another round. More than the chain can take in a gap would
        only be in the way of what is known by then.
        """
        if not self.is_wanted:
            return len(chances)
        positions = self._cost.trip.per_position / max(self.gap + self._cost.start, 1e-9)  # of one, in gaps
        return min(sum(chance >= positions for chance in chances), int(1 / max(positions, 1e-3)))

    @property
    def limit(self) -> int:
        """Most drafts of one round."""
        return _MOST

    def size(self, chances: Sequence[float]) -> int:
        """How many of these drafts, the likeliest first, are worth a round of their own now; 0: none yet.

        A draft that stands saves as long as a token takes at present; it takes the chain's time for one more position,
        and all of them together the stages' start.
        """
        cost, price = self._cost, self._price
        likely = [chance for chance in chances[:_MOST] if chance >= _LEAST]
        worth = [chance * cost.seconds_per_token - price * cost.trip.per_position for chance in likely]
        wanted = [gain for gain in worth if gain > 0]
        return len(wanted) if sum(wanted) > price * cost.start else 0
