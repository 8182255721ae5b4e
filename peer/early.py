"""Results that arrive before the client's word that they are wanted: an Open, or a Relink to their sender.

A client sends these to all hops and the next round right behind, without waiting for a round trip. Where a link is
slow, the previous hop's result may overtake them; it waits here, within bounds, for nobody vouches for it yet.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping

from swarm.wire import Hidden, client_mark, size_of

MAX_BYTES = 64 << 20  # over all; of the sender that takes most of it, the client that does makes room
MAX_RESULTS = 128  # of one session: whoever claims them has to take them all at once
MAX_SESSIONS = 64  # of one sender: of more of them, the client with most makes room
_AT_A_TIME = 64  # sessions that are forgotten at once
MAX_SECONDS = 10.0  # what is not claimed by then never will be

Key = tuple[str, bytes]
"""Sender and session."""


class EarlyResults:
    """Holds results by sender and session until they are claimed, crowded out or too old."""

    def __init__(self, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._senders = Counter[str]()  # bytes
        self._sessions = Counter[Key]()
        self._held: OrderedDict[Key, tuple[float, list[Hidden]]] = OrderedDict()  # the oldest first, ...
        self._of: dict[str, OrderedDict[bytes, None]] = {}  # ... and by sender, the oldest sessions first

    def hold(self, message: Hidden, sender: str) -> bool:
        """Keep a result of peer `sender` that is not wanted yet; whether there was room for all of his."""
        now, key = self._clock(), (sender, message.round.session)
        self._forget_old()
        _, messages = self._held.setdefault(key, (now, []))
        if len(messages) == MAX_RESULTS:
            return False
        messages.append(message)
        own = self._of.setdefault(sender, OrderedDict())
        own[key[1]] = None
        self._sessions[key] += size_of(message)
        self._senders[sender] += size_of(message)
        is_kept = len(own) <= MAX_SESSIONS
        if not is_kept:
            (oldest, *_) = _of_greatest(dict.fromkeys(own, 1))
            self._forget((sender, oldest))
        while self._senders.total() > self._max_bytes:
            heaviest = max(self._senders, key=self._senders.__getitem__)
            sizes = {one: self._sessions[heaviest, one] for one in self._of[heaviest]}
            self._forget((heaviest, max(_of_greatest(sizes), key=sizes.__getitem__)))
            is_kept &= heaviest != sender
        return is_kept

    def claim(self, session_id: bytes, sender: str) -> list[Hidden]:
        """Hand over what `sender` has pushed for a session, in order of arrival."""
        self._forget_old()
        return self._forget((sender, session_id))

    def _forget_old(self) -> None:
        limit = self._clock() - MAX_SECONDS
        for key, (since, _) in list(itertools.islice(self._held.items(), _AT_A_TIME)):
            if since >= limit:
                break
            self._forget(key)

    def _forget(self, key: Key) -> list[Hidden]:
        _, messages = self._held.pop(key, (0.0, []))
        sender, session_id = key
        self._senders[sender] -= self._sessions.pop(key, 0)
        own = self._of.get(sender, OrderedDict())
        own.pop(session_id, None)
        if not own:
            self._of.pop(sender, None)
            del self._senders[sender]
        return messages


def _of_greatest(sizes: Mapping[bytes, int]) -> list[bytes]:
    """The sessions of the client whose sessions are the greatest together, in their order."""
    clients = Counter[bytes]()
    for session, size in sizes.items():
        clients[client_mark(session)] += size
    ((most, _),) = clients.most_common(1)
    return [session for session in sizes if client_mark(session) == most]
