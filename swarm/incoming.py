"""What others' streams may take of a node: places, and memory for what is on its way in.

Its law: identities are free, and whoever has opened a stream has shown no right yet. A node of which somebody makes use
here, or that makes use of us, is known; all others are strangers. A known node keeps a stream for each use, those on
which something came last. A stranger, and any further stream, has a place as long as nobody else needs it; a stranger
has memory for an early message, no more; what goes beyond is read and thrown away, so that a stream that others share
goes on. Large messages of strangers are read at a pace: bytes cost time, whether anybody wants them or not.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from swarm.complaints import Complaints
from swarm.metrics import STREAMS
from swarm.wire import MAX_MESSAGE

MAX_STREAMS = 1024
MAX_CLIENT_STREAMS = 64  # of one node
SMALL = 1 << 16  # bytes of a message that anybody may send: nobody counts them
NODE_BYTES = 2 * MAX_MESSAGE  # in flight of one node, ...
HOST_BYTES = 4 * NODE_BYTES  # ... of all strangers at one address, ...
ALL_BYTES = 16 * MAX_MESSAGE  # ... and of everybody
_PATIENCE = 10.0  # seconds that a large message may take, ...
_RATE = 1 << 20  # ... and bytes a second beyond those: as fast as those of all strangers at one address are read

Known = Callable[[], Mapping[str, int]]
"""By peer id, the nodes that are known, and how many uses there are of each."""


def nobody() -> Mapping[str, int]:
    """Known to a node that makes no difference."""
    return {}


@dataclass(slots=True, eq=False)
class Guest:
    """A stream of another node."""

    peer_id: str
    host: str
    known: Known
    close: Callable[[], None] | None
    """None: it keeps its place whoever needs one."""
    used: float
    """When its last message came."""
    asker: str
    """The node that wanted it."""
    coming: int = 0
    """Bytes of the large message that is on its way in."""

    @property
    def is_known(self) -> bool:
        """Whether its node is."""
        return self.peer_id in self.known()


class IncomingStreams:
    """The streams that are open, by the node at the other end."""

    def __init__(
        self,
        max_streams: int = MAX_STREAMS,
        max_client_streams: int = MAX_CLIENT_STREAMS,
        clock: Callable[[], float] = time.monotonic,
        complaints: Complaints | None = None,
        is_shared: bool = False,
    ) -> None:
        """`max_client_streams`: of one node; `complaints` hears who had to be limited. `is_shared`: many may have asked
        for the streams of a node, and they share its places by the address from which they did."""
        self._max_streams = max_streams
        self._max_client_streams = max_client_streams
        self._clock = clock
        self._complaints = complaints or Complaints(clock)
        self._is_shared = is_shared
        self._guests: dict[Guest, None] = {}
        self._due: dict[str, float] = {}  # by address of strangers: when what was read of them so far was due

    @contextlib.contextmanager
    def taken_by(
        self,
        peer_id: str,
        host: str = "",
        known: Known = nobody,
        close: Callable[[], None] | None = None,
        asker: str | None = None,
    ) -> Iterator[Guest | None]:
        """A place for one more stream while it is served; None if there is none. `close` ends it, if its place goes to
        somebody else; without it, that cannot be. `asker`: who wanted it, if it is not the node itself."""
        asker = asker or peer_id
        if not self._make_place(peer_id, host):
            self._complaints.about("streams", asker, "too many streams are open: one more is refused")
            yield None
            return
        guest = Guest(peer_id, host, known, close, self._clock(), asker)
        self._guests[guest] = None
        STREAMS.inc()
        try:
            yield guest
        finally:
            STREAMS.dec()
            self._guests.pop(guest, None)

    @contextlib.contextmanager
    def room_for(self, guest: Guest, size: int) -> Iterator[bool]:
        """Memory for a large message while it comes in; False if it is to be thrown away."""
        guest.coming = size if self._makes_room(guest, size) else 0
        if not guest.coming:
            self.complain(guest, f"no room for a message of {size} bytes: it is thrown away")
        try:
            yield guest.coming > 0
        except TimeoutError:
            self.complain(guest, f"a message of {size} bytes does not come")
            raise
        finally:
            guest.coming = 0
            self.note_use(guest)

    def due(self, guest: Guest, size: int) -> float:
        """When so many more bytes of a large message, which have come, were due at the pace of their address: no more
        of it is read before."""
        now = self._clock()
        if guest.is_known:
            return now
        self._due = {host: due for host, due in self._due.items() if due > now}
        self._due[guest.host] = due = self._due.get(guest.host, now) + size / _RATE
        return due

    def pause(self, guest: Guest, due: float) -> float:
        """Seconds until then, or 0 for a node that is known by now."""
        return 0.0 if guest.is_known else max(due - self._clock(), 0.0)

    def complain(self, guest: Guest, text: str) -> None:
        """Take note of what is wrong with a message."""
        self._complaints.about("messages", guest.peer_id, text)

    def note_use(self, guest: Guest) -> None:
        """A message has come."""
        guest.used = self._clock()

    def _make_place(self, peer_id: str, host: str) -> bool:
        own = [guest for guest in self._guests if guest.peer_id == peer_id]
        if len(own) >= self._max_client_streams and not (self._is_shared and self._make_place_among(own, host)):
            return False
        if len(self._guests) < self._max_streams:
            return True
        spare = [one for one in self._spare() if one.close is not None]
        if not spare:
            return False
        hosts, nodes = Counter(one.host for one in spare), Counter(one.peer_id for one in spare)
        self._end(min(spare, key=lambda one: (-hosts[one.host], -nodes[one.peer_id], one.used)))
        return True

    def _make_place_among(self, guests: Sequence[Guest], host: str) -> bool:
        """For one more from an address: of those from the one that has most, the stream goes that was used longest
        ago."""
        hosts = Counter(guest.host for guest in guests)
        ((most, number),) = hosts.most_common(1)
        if hosts[host] + 1 >= number:
            return False
        self._end(min((guest for guest in guests if guest.host == most), key=lambda one: one.used))
        return True

    def _makes_room(self, guest: Guest, size: int) -> bool:
        of_node = size + sum(one.coming for one in self._guests if one.peer_id == guest.peer_id)
        if of_node > NODE_BYTES:
            return False
        if not guest.is_known:
            others = (one for one in self._guests if one.coming and one.host == guest.host and not one.is_known)
            of_host = sum(one.coming for one in others)
            if of_host + size > HOST_BYTES:
                return False
        while sum(one.coming for one in self._guests) + size > ALL_BYTES:
            largest = max(self._guests, key=lambda one: (one.coming > 0 and not one.is_known, one.coming))
            if not guest.is_known or largest.close is None or (largest.is_known and largest.coming <= size):
                return False
            self._end(largest)
        return True

    def _spare(self) -> list[Guest]:
        """Streams of strangers, and those that known nodes have beyond their uses."""
        left = {known: Counter(known()) for known in {guest.known for guest in self._guests}}
        spare = list[Guest]()
        for guest in sorted(self._guests, key=lambda one: one.used, reverse=True):
            if left[guest.known][guest.peer_id] > 0:
                left[guest.known][guest.peer_id] -= 1
            else:
                spare.append(guest)
        return spare

    def _end(self, guest: Guest) -> None:
        """Close a stream: its place, and the memory of what was coming in, are free from now on."""
        self._complaints.about("streams", guest.asker, "others need the place of a stream that it opened")
        del self._guests[guest]
        if guest.close is not None:
            guest.close()


def seconds_for(size: int) -> float:
    """In which a large message of so many bytes has to come."""
    return _PATIENCE + size / _RATE
