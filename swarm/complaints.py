"""What other nodes did that was refused, ended or ignored: a line of the log now and then, a count for Prometheus, and
for the owner of this node, who is limited and why."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from swarm.foreign import printable
from swarm.metrics import COMPLAINTS
from swarm.wire import MAX_COMPLAINT, MAX_COMPLAINTS, MAX_COUNT, Complaint

log = logging.getLogger("specswarm")

_PAUSE_SECONDS = 60.0  # between two lines about one node for one thing
_MOST_LINES = 20  # about one thing in that time, whoever does it: identities are free
_RECENT = 3600.0  # seconds for which the owner is told


@dataclass(slots=True)
class _Offence:
    """Something that one node does."""

    text: str
    times: int
    """Since the first of late; ..."""
    unsaid: int
    """... since the last line."""
    said: float
    """When that was written."""
    last: float


class Complaints:
    """Owns who was complained of lately, and for what; the one of longest ago is forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._offences: OrderedDict[tuple[str, str], _Offence] = OrderedDict()  # by kind and node
        self._lines: dict[str, tuple[float, int]] = {}  # by kind: since when, and how many

    def about(self, kind: str, peer_id: str, text: str) -> None:
        """Take note of what a node did. `kind` is one of a few words, `text` says it to people."""
        now = self._clock()
        COMPLAINTS.labels(kind).inc()
        offence = self._offences.pop((kind, peer_id), None)
        if offence is None or now - offence.last > _RECENT:
            offence = _Offence(text, 0, 0, now - _PAUSE_SECONDS, now)
        self._offences[kind, peer_id] = offence
        if len(self._offences) > MAX_COMPLAINTS:
            self._offences.popitem(last=False)
        offence.text, offence.last, offence.times = text, now, offence.times + 1
        if now - offence.said < _PAUSE_SECONDS or not self._has_line(kind, now):
            offence.unsaid += 1
            return
        again = f" (and {offence.unsaid} times before)" if offence.unsaid else ""
        log.warning("peer %s: %s%s", peer_id, text, again)
        offence.said, offence.unsaid = now, 0

    @property
    def recent(self) -> list[Complaint]:
        """For the owner: the last ones first."""
        now = self._clock()
        return [
            Complaint(
                peer_id,
                kind,
                printable(offence.text, MAX_COMPLAINT),
                min(offence.times, MAX_COUNT),
                now - offence.last,
            )
            for (kind, peer_id), offence in reversed(self._offences.items())
            if now - offence.last <= _RECENT
        ]

    def _has_line(self, kind: str, now: float) -> bool:
        """Whether one more about this is written; what others do is only counted then."""
        since, lines = self._lines.get(kind, (now, 0))
        if now - since >= _PAUSE_SECONDS:
            since, lines = now, 0
        self._lines[kind] = (since, lines + 1)
        if lines == _MOST_LINES:
            log.warning("many nodes do this (%s): what more of them do in this minute is only counted", kind)
        return lines < _MOST_LINES
