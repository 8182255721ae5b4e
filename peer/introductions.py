"""Whom a client may have this peer dial: peers of its own model, by what they have signed of themselves.

So nobody is dialled in another's name, and no look-up is on a mend's way.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from peer.session import Neighbour, Refusal
from swarm.membership import PUBLIC, Membership
from swarm.records import is_genuine
from swarm.wire import Contact, Introduction

MAX_AGE = 86_400.0  # seconds: a session's hops are those of its beginning
_KEPT = 256  # that have been checked lately: a check takes a tenth of a millisecond


class Introductions:
    """Checks what clients show of next peers, and remembers what it has checked last."""

    def __init__(
        self, fingerprint: str, swarm: Membership = PUBLIC, clock: Callable[[], float] = time.time
    ) -> None:
        """`fingerprint`: of the model whose peers may be dialled, in `swarm`."""
        self._fingerprint = fingerprint
        self._swarm = swarm
        self._clock = clock
        self._checked: OrderedDict[Introduction, None] = OrderedDict()

    def neighbour(self, introduction: Introduction, known: Contact | None = None) -> Neighbour:
        """The peer that has signed this. Raises Refusal, also if that is long ago, unless the peer is `known`."""
        age = self._clock() - introduction.issued
        if abs(age) > MAX_AGE and introduction.contact != known:
            raise Refusal("unlawful", f"the next peer's word on where it is was {age:.0f} s old")
        if introduction not in self._checked and not is_genuine(introduction, self._fingerprint, self._swarm):
            raise Refusal("unlawful", "the next peer has not said itself where it serves this model")
        self._checked[introduction] = None
        self._checked.move_to_end(introduction)
        if len(self._checked) > _KEPT:
            self._checked.popitem(last=False)
        return Neighbour(introduction.contact, introduction.max_round)
