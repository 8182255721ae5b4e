"""What time it is elsewhere: whether this machine's clock is right, by what other nodes say theirs is.

Nothing depends on it, for records are judged by their age (`swarm.ages`), unless clocks are farther apart than that
tolerates: then this is what tells why nobody is found.
"""

from __future__ import annotations

import time
from collections.abc import Callable

NOTICEABLE = 60.0  # seconds; what differs by less is not worth a word
_MAX_VOICES = 64
_VOICE_SECONDS = 600.0  # for which a node's word counts
_ENOUGH = 3  # voices by whose median this clock may be called wrong


class Clocks:
    """Owns what nodes have said lately; each has one voice, and one that lies cannot tip the scales."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._voices: dict[str, tuple[float, float]] = {}  # by node: how far this clock is ahead of its; heard when
        self._said = False

    def note(self, peer_id: str, ahead: float) -> None:
        """That node's answer says that this clock is so many seconds ahead of its own."""
        self._voices.pop(peer_id, None)
        self._voices[peer_id] = ahead, self._clock()
        if len(self._voices) > _MAX_VOICES:
            del self._voices[next(iter(self._voices))]

    @property
    def ahead(self) -> float:
        """Seconds by which this clock is ahead of the others', by their median; of the two in the middle, by that
        which is nearer to it."""
        voices = self._heard()
        return min(voices[(len(voices) - 1) // 2], voices[len(voices) // 2], key=abs) if voices else 0.0

    @property
    def trouble(self) -> str:
        """In words, where it is worth some; else empty."""
        ahead, num_voices = self.ahead, len(self._heard())
        if abs(ahead) < NOTICEABLE:
            return ""
        if num_voices < _ENOUGH:
            others = "that of another node" if num_voices == 1 else f"those of {num_voices} other nodes"
            return f"this machine's clock and {others} differ by {abs(ahead):.0f} s: one of them is wrong"
        way = "ahead of" if ahead > 0 else "behind"
        return f"this machine's clock is {abs(ahead):.0f} s {way} those of {num_voices} other nodes: set it"

    def news(self) -> str:
        """The trouble, if there was none when this was asked last."""
        trouble = self.trouble
        news = "" if self._said else trouble
        self._said = trouble != ""
        return news

    def _heard(self) -> list[float]:
        since = self._clock() - _VOICE_SECONDS
        return sorted(ahead for ahead, heard in self._voices.values() if heard >= since)
