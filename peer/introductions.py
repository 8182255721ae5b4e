"""Whom a client may have this peer dial: peers of its own model, by what they have signed of themselves.

So nobody is dialled in another's name, and no look-up is on a mend's way.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from peer.session import Neighbour, Refusal
from swarm import records
from swarm.errors import BadMessage
from swarm.membership import PUBLIC, Membership
from swarm.records import Announcement

MAX_AGE = 86_400.0  # seconds: a session's hops are those of its beginning
_KEPT = 256  # contacts that have been read lately: reading one takes as long as a round's other work


class Introductions:
    """Reads records, and remembers what was in the last ones."""

    def __init__(
        self, fingerprint: str, swarm: Membership = PUBLIC, clock: Callable[[], float] = time.time
    ) -> None:
        """`fingerprint`: of the model whose peers may be dialled, in `swarm`."""
        self._fingerprint = fingerprint
        self._swarm = swarm
        self._clock = clock
        self._read: OrderedDict[bytes, Announcement] = OrderedDict()

    def neighbour(self, record: bytes) -> Neighbour:
        """The peer that has signed this. Raises Refusal."""
        found = self._read.get(record) or self._check(record)
        if self._clock() - found.issued > MAX_AGE:
            raise Refusal("unlawful", f"the next peer's record is {self._clock() - found.issued:.0f} s old")
        self._read[record] = found
        self._read.move_to_end(record)
        if len(self._read) > _KEPT:
            self._read.popitem(last=False)
        return Neighbour(found.contact, found.max_round)

    def _check(self, record: bytes) -> Announcement:
        try:
            found = records.read(record, self._swarm)
        except BadMessage as error:
            raise Refusal("unlawful", f"the next peer has not said where it is: {error}") from None
        if not isinstance(found, Announcement):
            raise Refusal("unlawful", "the next peer speaks another version of the protocol")
        if found.fingerprint != self._fingerprint:
            raise Refusal("model", f"the next peer serves model {found.fingerprint[:12]}")
        return found
