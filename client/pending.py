"""A verdict that is waited for, and what has gone wrong with it so far. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from swarm.wire import Progress


@dataclass(slots=True)
class Queue:
    """What a hop has said of the queue in which rounds of a verdict wait."""

    worked: int
    moved: float
    """When that was last another count than before."""
    lent: float = 0.0
    """Seconds in which nothing but this has moved, ..."""
    most: float = 0.0
    """... and how many these may be."""


class Pending:
    """One verdict."""

    def __init__(
        self, number: int, now: float, *, is_first: bool = False, is_sent: bool = False, is_astray: bool = False
    ) -> None:
        self.number = number
        self.is_first = is_first
        self.was_on_its_way = is_sent
        """Whether its round had been sent before it was asked for."""
        self.is_sent = is_sent
        """Whether there is nothing to be done but wait."""
        self.started = self.moved = self.hopeful = now
        """When it was first asked for; when something last moved; and when it last was worth waiting."""
        self.farthest: dict[str, int] = {}
        """By peer: how far it had come in the best of all surveys."""
        self.queues: dict[str, Queue] = {}
        """By peer: that in which rounds wait, or have waited."""
        self.unlawful = Counter[str]()
        self.is_astray = self.was_astray = is_astray
        self.is_disturbed = False
        self.is_told = False
        """Whether the user knows that layers are missing."""
        self.fresh_starts = 0
        """How often everything was tried once more because this program had stood still."""

    def has_moved(self, reports: Mapping[str, Progress], end: int, step: int) -> bool:
        """Whether a hop has come farther than ever since this verdict, on a text of `end` tokens, was asked for: by
        `step` tokens that it has taken or run, as many as come at a time.

        Who starts again does not, nor who only says something else each time: or a peer that keeps the rounds to itself
        would be tried for ever.
        """
        moved = False
        for peer_id, report in reports.items():
            held, computed = min(report.held, end), min(report.computed, end)
            place = (
                (report.taken > self.number) + held // step + computed // step + (held == end) + (computed == end)
            )
            if place > self.farthest.get(peer_id, -1):
                self.farthest[peer_id] = place
                moved = True
        return moved

    def queue_moves(self, peer_id: str, report: Progress, now: float, *, seconds: float, most: float) -> bool:
        """Whether the queue at a hop has moved in the last `seconds`, though nothing of this verdict has; that much is
        believed for as many as `most` in all."""
        queue = self.queues.setdefault(peer_id, Queue(report.worked, now))
        since = max(queue.moved, self.moved)
        queue.most = max(queue.most, most)
        if report.worked != queue.worked and queue.lent + now - since < queue.most:
            queue.lent += now - since
            queue.moved = since = now
        queue.worked = report.worked
        return now - since < seconds
