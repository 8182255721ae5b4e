"""The records that a node keeps for the swarm: of every peer under every key the newest, for as long as it lives.

Whoever fills it with made-up records finds its bounds: they are chosen so that a key's records fit one answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from swarm.ages import Ages

MAX_KEYS = 1024
MAX_SUBKEYS = 512  # of a key
MAX_KEY_BYTES = 2 << 20  # of a key's records; the daemon takes messages of at most 4 MiB
MAX_RECORDS = 8192  # of all keys
_PURGE_SECONDS = 1.0  # at least, between two looks through everything


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, and when its peer issued it, by the peer's clock; when it was made and ends by this node's."""

    record: bytes
    issued: float
    born: float
    ends: float


class Shelf:
    """Owns a node's share of the records; what has ended is not there any more."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._ages = Ages(clock)
        self._keys: dict[bytes, dict[str, Entry]] = {}
        self._purged = float("-inf")

    def get(self, key: bytes) -> dict[str, Entry]:
        """The records under a key by their subkeys."""
        now = self.clock()
        live = {subkey: entry for subkey, entry in self._keys.get(key, {}).items() if entry.ends > now}
        if live:
            self._keys[key] = live
        else:
            self._keys.pop(key, None)
        return live

    def put(self, key: bytes, subkey: str, record: bytes, issued: float, lifetime: float) -> bool:
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
        entry = Entry(record, issued, born, born + lifetime)
        if not self._has_room(key, {**live, subkey: entry}):
            return False
        self._keys.setdefault(key, live)[subkey] = entry
        return True

    def _has_room(self, key: bytes, wanted: dict[str, Entry]) -> bool:
        """Whether the bounds allow `wanted` under this key."""
        size = sum(len(subkey) + len(entry.record) for subkey, entry in wanted.items())
        if len(wanted) > MAX_SUBKEYS or size > MAX_KEY_BYTES:
            return False
        if not self._is_full(key):
            return True
        self._purge()
        return not self._is_full(key)

    def _is_full(self, key: bytes) -> bool:
        is_new = key not in self._keys
        return len(self._keys) + is_new > MAX_KEYS or sum(map(len, self._keys.values())) >= MAX_RECORDS

    def _purge(self) -> None:
        """Drop all that has ended; not for every record that is refused, or refusing would be dear."""
        if self.clock() >= self._purged + _PURGE_SECONDS:
            self._purged = self.clock()
            for key in list(self._keys):
                self.get(key)
