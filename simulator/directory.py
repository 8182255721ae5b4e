"""What is announced in a simulated swarm, as old as it is when somebody looks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import simpy

from swarm.records import Announcement

_LIFETIME_PERIODS = 3.0  # after which an announcement that is not renewed ends


class Directory:
    """The newest announcement of each peer, until it ends."""

    def __init__(self, env: simpy.Environment, period: float) -> None:
        """`period`: seconds between two announcements of a peer."""
        self.period = period
        self._env = env
        self._found: dict[str, Announcement] = {}
        self._ends: dict[str, float] = {}
        self._first_end = math.inf  # before which none ends
        self._view: Mapping[str, Announcement] | None = None

    def publish(self, announcement: Announcement) -> None:
        """It counts until the third renewal is missing."""
        self._found[announcement.peer_id] = announcement
        self._view = None
        self.renew(announcement.peer_id)

    def renew(self, peer_id: str) -> None:
        """A peer says the same once more."""
        if peer_id in self._found:
            end = self._ends[peer_id] = self._env.now + _LIFETIME_PERIODS * self.period
            self._first_end = min(self._first_end, end)

    def withdraw(self, peer_id: str) -> None:
        """It says that it has left."""
        if self._found.pop(peer_id, None) is not None:
            del self._ends[peer_id]
            self._view = None

    def look(self) -> Mapping[str, Announcement]:
        """By peer, what it announces. As long as nothing changes, this is the same object."""
        now = self._env.now
        if now >= self._first_end:
            for peer_id in [peer_id for peer_id, end in self._ends.items() if end <= now]:
                self.withdraw(peer_id)
            self._first_end = min(self._ends.values(), default=math.inf)
        if self._view is None:
            self._view = dict(self._found)
        return self._view
