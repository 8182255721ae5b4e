"""When a tree on its way gets more drafts, and how many: rounds that follow each other before a verdict. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.speculation.cost import Cost

_MOST = 32  # drafts of one round that brings more


class Overlap:
    """As many as are worth more than they take, in at most so many rounds a trip."""

    def __init__(self, cost: Cost, in_flight: int) -> None:
        """`in_flight`: rounds that may be on their way; 1: no more drafts before the verdict."""
        self._cost = cost
        self._in_flight = in_flight

    @property
    def is_wanted(self) -> bool:
        """Whether there may be any at all."""
        return self._in_flight > 1

    @property
    def gap(self) -> float:
        """Seconds between two rounds."""
        return self._cost.trip.seconds(1) / self._in_flight

    @property
    def limit(self) -> int:
        """Most drafts of one round."""
        return _MOST

    def size(self, chances: Sequence[float]) -> int:
        """How many of these drafts, the likeliest first, are worth a round of their own now; 0: none yet.

        A draft that stands saves as long as a token takes at present; it takes the chain's time for one more position,
        and all of them together the stages' start.
        """
        cost = self._cost
        worth = [chance * cost.seconds_per_token - cost.trip.per_position for chance in chances]
        wanted = [gain for gain in worth if gain > 0]
        return len(wanted) if sum(wanted) > cost.start else 0
