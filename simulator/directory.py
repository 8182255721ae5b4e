"""What is announced in a simulated swarm, as old as it is when somebody looks."""

from __future__ import annotations

from collections.abc import Callable

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

    def publish(self, announcement: Announcement) -> None:
        """It counts until the third renewal is missing."""
        expires = self._env.now + _LIFETIME_PERIODS * self.period
        self._found[announcement.peer_id] = announcement.model_copy(update={"expires": expires})

    def withdraw(self, peer_id: str) -> None:
        """It says that it has left."""
        self._found.pop(peer_id, None)

    def look(self, wanted: Callable[[Announcement], bool] = lambda _: True) -> dict[str, Announcement]:
        """By peer, what it announces."""
        now = self._env.now
        for peer_id in [peer_id for peer_id, found in self._found.items() if found.expires <= now]:
            del self._found[peer_id]
        return {peer_id: found for peer_id, found in self._found.items() if wanted(found)}
