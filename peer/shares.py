"""Whose turn it is where many want something that can be given to few at a time. Pure.

Its law: over any while in which two of them want something all the time, both get as much of it, but for what is given
at once (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996). Who has been away saves nothing up, and who
wants little is not behind those who want much.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from operator import itemgetter
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

_MOST = 4096  # that are remembered; those who have had least are forgotten first


class Shares(Generic[T]):
    """What each has had, beyond what those have had whose turn it is."""

    def __init__(self) -> None:
        self._had: dict[T, float] = {}
        self._now = 0.0  # what the one has had whose turn it was last

    def so_far(self, who: T) -> float:
        """What one has had: the less that is, the sooner comes his turn."""
        return max(self._had.get(who, 0.0), self._now)

    def next(self, wanting: Iterable[T]) -> T:
        """Who of these, at least one, has had least; of several, the first."""
        return min(wanting, key=self.so_far)

    def charge(self, costs: Mapping[T, float]) -> None:
        """These, at least one, have had their turn together: each has got something of that cost."""
        before = {who: self.so_far(who) for who in costs}
        self._now = min(before.values())
        self._had |= {who: before[who] + cost for who, cost in costs.items()}
        self._had = {who: had for who, had in self._had.items() if had > self._now}
        if len(self._had) > _MOST:
            self._had = dict(sorted(self._had.items(), key=itemgetter(1))[-_MOST // 2 :])

    def forget(self, who: T) -> None:
        """One who wants nothing any more."""
        self._had.pop(who, None)

    def begin_anew(self) -> None:
        """Nobody wants anything: what all have had does not count any more."""
        self._had.clear()


class Turns:
    """The shares of clients, and in each one's those of his sessions."""

    def __init__(self) -> None:
        self._clients = Shares[str]()
        self._sessions = defaultdict[str, Shares[bytes]](Shares[bytes])

    def so_far(self, client: str, session: bytes) -> tuple[float, float]:
        """What a client has had, and one of his sessions: the less that is, the sooner comes its turn."""
        return self._clients.so_far(client), self._sessions[client].so_far(session)

    @property
    def is_fresh(self) -> bool:
        """Whether nobody has had anything since all began anew."""
        return not self._sessions

    def charge(self, costs: Mapping[tuple[str, bytes], float]) -> None:
        """These sessions of these clients, at least one, have had their turn together, at these costs."""
        bills = defaultdict[str, dict[bytes, float]](dict)
        for (client, session), cost in costs.items():
            bills[client][session] = cost
        self._clients.charge({client: sum(bill.values()) for client, bill in bills.items()})
        for client, bill in bills.items():
            self._sessions[client].charge(bill)

    def forget(self, client: str, session: bytes) -> None:
        """A session that wants nothing any more."""
        self._sessions[client].forget(session)

    def keep(self, clients: Collection[str]) -> None:
        """No others want anything for now: how much of theirs each of their sessions had does not count any more."""
        for client in self._sessions.keys() - clients:
            del self._sessions[client]

    def begin_anew(self) -> None:
        """Nobody wants anything: nothing counts any more."""
        self._sessions.clear()
        self._clients.begin_anew()
