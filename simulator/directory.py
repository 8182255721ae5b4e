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
        end = self._env.now + _LIFETIME_PERIODS * self.period
        self._found[announcement.peer_id], self._ends[announcement.peer_id] = announcement, end
        self._first_end = min(self._first_end, end)
        self._view = None

    def withdraw(self, peer_id: str) -> None:
        """It says that it has left."""
        if self._found.pop(peer_id, None) is not None:
            del self._ends[peer_id]
            self._view = None

    def __contains__(self, peer_id: str) -> bool:
        """Whether it has announced something that has not ended, or was not looked at since."""
        return peer_id in self._found

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
