"""How many drafts a round gets: a fixed number, or the best by the model of cost. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from swarm.speculation.closed_form import best_length
from swarm.speculation.cost import Cost
from swarm.speculation.overlap import Overlap

_AT_FIRST = 0.8  # acceptance that a generation begins with
_STRIKES = 2  # rounds in a row in which drafts do not pay, after which there are none


class Window(Protocol):
    """Decides from the chances of the drafts, the likeliest first."""

    limit: int
    """Most drafts that it ever wants."""

    def size(self, chances: Sequence[float]) -> int:
        """How many of them to send, as it stands."""

    def is_enough(self, chances: Sequence[float], promise: float) -> bool:
        """Whether to draft no more, where another draft would have at most the chance `promise`."""

    def sent(self, size: int) -> None:
        """A round with so many drafts is on its way."""

    def judged(self, accepted: int) -> None:
        """Of the drafts that were sent last, so many stand; what the trip took is known to the cost already."""


class FixedWindow:
    """Always the same number, as far as there are drafts."""

    def __init__(self, size: int) -> None:
        self.limit = size

    def size(self, chances: Sequence[float]) -> int:
        """All of them, up to the limit."""
        return min(len(chances), self.limit)

    def is_enough(self, chances: Sequence[float], promise: float) -> bool:
        """Once nothing better can come."""
        return self.size(chances) == self.limit and (not self.limit or chances[self.limit - 1] >= promise)

    def sent(self, size: int) -> None:
        """It takes no notice."""

    def judged(self, accepted: int) -> None:
        """It takes no notice."""


class BestWindow:
    """As many as bring most tokens per second, apart from those that may as well follow.

    It at most doubles from round to round, and falls to none only when drafts do not pay twice in a row. As drafts are
    made, and learnt from, whether they are sent or not, it rises again as soon as they pay.
    """

    def __init__(self, cost: Cost, limit: int, overlap: Overlap) -> None:
        self.limit = limit
        self._cost = cost
        self._overlap = overlap
        self._is_new = not cost.trip.is_known
        self._last: int | None = None  # drafts of the round before
        self._strikes = 0
        self._pays = True

    def size(self, chances: Sequence[float]) -> int:
        """The best one within reach."""
        best = self._cost.best_size(chances[: self.limit])
        self._pays = best > 0 or not chances
        if not self._pays and self._strikes + 1 < _STRIKES:
            return 1
        best = min(best, max(self._overlap.num_at_once(chances), 1))
        if self._last is not None:
            return min(best, 2 * self._last + 1)
        return min(best, self._first_length()) if self._is_new else best

    def is_enough(self, chances: Sequence[float], promise: float) -> bool:
        """When drafting one more takes longer than it saves."""
        known = chances[: self.limit]
        if len(known) == self.limit and (not known or known[-1] >= promise):
            return True
        if not self._overlap.num_at_once([promise]):
            return True
        return not self._cost.is_worth_drafting(known[: self.size(chances)], promise)

    def _first_length(self) -> int:
        """Of a chain, by the closed form, while neither trips nor verdicts say more."""
        drafting = self._cost.per_draft + self._cost.trip.per_position
        return best_length(_AT_FIRST, min(max(drafting / self._cost.trip.seconds(1), 1e-3), 0.99))

    def sent(self, size: int) -> None:
        """Remember it for the next one."""
        self._strikes = 0 if self._pays else self._strikes + 1
        self._last = size

    def judged(self, accepted: int) -> None:
        """The chances of the drafts have learnt from it."""
