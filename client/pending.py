"""A verdict that is waited for, and what has gone wrong with it so far. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from swarm.wire import Progress


class Pending:
    """One verdict."""

    def __init__(self, number: int, now: float, *, is_first: bool = False, is_sent: bool = False) -> None:
        self.number = number
        self.is_first = is_first
        self.was_on_its_way = is_sent
        """Whether its round had been sent before it was asked for."""
        self.is_sent = is_sent
        """Whether there is nothing to be done but wait."""
        self.started = self.moved = now
        """When it was first asked for, and when something last moved."""
        self.farthest: dict[str, tuple[int, int]] = {}
        """By peer: the place it had reached in the best of all surveys."""
        self.unlawful = Counter[str]()
        self.contradicted = Counter[str]()
        self.is_astray = False
        self.was_astray = False
        self.is_disturbed = False

    def has_moved(self, reports: Mapping[str, Progress], end: int) -> bool:
        """Whether a hop has come farther than ever since this verdict, on a text of `end` tokens, was asked for.

        Who starts again does not, nor who only says something else each time: or a peer that keeps the rounds to itself
        would be tried for ever.
        """
        moved = False
        for peer_id, report in reports.items():
            place = (min(report.taken, self.number + 1), min(report.held, end))
            if place > self.farthest.get(peer_id, (-1, -1)):
                self.farthest[peer_id] = place
                moved = True
        return moved
