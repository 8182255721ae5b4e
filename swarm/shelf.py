"""The records that a node keeps for the swarm: of every peer under every key the newest, for as long as it lives.

Whoever fills it with made-up records finds its bounds: they are chosen so that a key's records fit one answer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from swarm.ages import Ages

T = TypeVar("T")

MAX_KEYS = 1024
MAX_SUBKEYS = 512  # of a key
MAX_KEY_BYTES = 2 << 20  # of a key's records; the daemon takes messages of at most 4 MiB
MAX_RECORDS = 8192  # of all keys
_PURGE_SECONDS = 1.0  # at least, between two looks through everything


OWN = "own"
"""Origin of what this node keeps for itself."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, and when its peer issued it, by the peer's clock; when it was made and ends by this node's."""

    record: bytes
    issued: float
    born: float
    ends: float
    origin: str
    """The network from which it came."""
    since: float
    """When the first of the records came that are there without a gap."""


class Shelf:
    """Owns a node's share of the records; what has ended is not there any more.

    Where there is no more room, the network with most records makes room for one with fewer: that of it goes which has
    been there for the shortest time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._ages = Ages(clock)
        self._keys: dict[bytes, dict[str, Entry]] = {}
        self._purged = float("-inf")
        self._origins = Counter[str]()  # of all records, when they were looked through last

    def get(self, key: bytes) -> dict[str, Entry]:
        """The records under a key by their subkeys."""
        now = self.clock()
        live = {subkey: entry for subkey, entry in self._keys.get(key, {}).items() if entry.ends > now}
        if live:
            self._keys[key] = live
        else:
            self._keys.pop(key, None)
        return live

    def put(
        self, key: bytes, subkey: str, record: bytes, issued: float, lifetime: float, origin: str = OWN
    ) -> bool:
        """Whether the record is kept now: none that was issued later is known, it did not end here before, and there
        is room."""
        age = self._ages.age(subkey, issued)
        if age is None or age >= lifetime:
            return False
        live = self.get(key)
        held = live.get(subkey)
        if held is not None and held.issued == issued:
            return held.record == record
        born = self.clock() - age
        since = self.clock() if held is None else held.since
        wanted = {**live, subkey: Entry(record, issued, born, born + lifetime, origin, since)}
        if not _fits(wanted):
            other = _giving_way(wanted, origin)
            if other is None or not _fits(wanted := _without(wanted, other)):
                return False
        elif held is None and not self._has_room(key) and not self._make_room(key, origin):
            return False
        kept = self._keys.get(key, {})
        self._keys[key] = {other: entry for other, entry in wanted.items() if other in kept or other == subkey}
        return True

    def _has_room(self, key: bytes) -> bool:
        """Whether one more record, under this key, is within the bounds of all keys together."""
        if not self._is_full(key):
            return True
        self._purge()
        return not self._is_full(key)

    def _make_room(self, key: bytes, origin: str) -> bool:
        """Whether a record of another network could go.

        All are looked through only where one has more than this: networks have about as many as a second ago.
        """
        is_new = key not in self._keys
        if (is_new and len(self._keys) >= MAX_KEYS) or self._origins[origin] >= max(
            self._origins.values(), default=0
        ):
            return False
        everything = {
            (other, subkey): entry for other, live in self._keys.items() for subkey, entry in live.items()
        }
        chosen = _giving_way(everything, origin)
        if chosen is None:
            return False
        self._origins[everything[chosen].origin] -= 1
        self._origins[origin] += 1
        del self._keys[chosen[0]][chosen[1]]
        return True

    def _is_full(self, key: bytes) -> bool:
        is_new = key not in self._keys
        return len(self._keys) + is_new > MAX_KEYS or sum(map(len, self._keys.values())) >= MAX_RECORDS

    def _purge(self) -> None:
        """Drop all that has ended; not for every record that is refused, or refusing would be dear."""
        if self.clock() >= self._purged + _PURGE_SECONDS:
            self._purged = self.clock()
            for key in list(self._keys):
                self.get(key)
            self._origins = Counter(entry.origin for live in self._keys.values() for entry in live.values())


def _fits(entries: Mapping[str, Entry]) -> bool:
    """Whether so much fits under one key."""
    size = sum(len(subkey) + len(entry.record) for subkey, entry in entries.items())
    return len(entries) <= MAX_SUBKEYS and size <= MAX_KEY_BYTES


def _giving_way(entries: Mapping[T, Entry], origin: str) -> T | None:
    """Which of these makes room for one more of a network; None if no network has more than that one."""
    counts = Counter(entry.origin for entry in entries.values())
    most = max(counts, key=counts.__getitem__)
    if counts[most] <= counts[origin]:
        return None
    return max(
        (where for where, entry in entries.items() if entry.origin == most), key=lambda one: entries[one].since
    )


def _without(entries: Mapping[str, Entry], subkey: str) -> dict[str, Entry]:
    return {other: entry for other, entry in entries.items() if other != subkey}
