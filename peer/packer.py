"""Which hidden states are packed on their way out: those whose bytes take longer on the link than packing takes here.

What packing costs and what it brings is measured as it is done; the link's speed is what the peer's owner says. How
fast a stream is at present cannot be told from here: what is written to it waits in the daemon, and how fast that sends
depends on what it has sent before.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import msgspec

from peer.metrics import SAVED_BYTES
from swarm.packing import pack
from swarm.rows import value_bytes
from swarm.tasks import report
from swarm.wire import AnyMessage, Hidden

UPLINK_MBIT = 100.0
"""Of a peer whose owner says nothing else."""
LEAST = 1 << 14
"""Bytes of states below which nothing is packed: they are a few packets, whatever is done."""
_BOTH_ENDS = 1.5  # times what packing takes: unpacking takes half as long
_FEWEST, _KEPT = 3, 5  # messages that are packed before it is asked whether that pays; of so many the medians count
_TRY_AGAIN = 64  # messages that are sent as they are before one shows whether packing would pay by now


@dataclass(frozen=True, slots=True)
class Experience:
    """What packing states of one form has cost and brought."""

    ratio: float
    """Bytes that are left of one."""
    seconds_per_byte: float
    """Of what is packed."""


def usual(experiences: Iterable[Experience]) -> Experience:
    """The median of each: the first message takes longer, and so does one while others compute."""
    ratios, seconds = zip(*((one.ratio, one.seconds_per_byte) for one in experiences), strict=True)
    return Experience(median(ratios), median(seconds))


def pays(experience: Experience, uplink_mbit: float) -> bool:
    """Whether a byte less on the link saves more time than it takes to pack and to unpack."""
    return (1 - experience.ratio) * 8e-6 / uplink_mbit > _BOTH_ENDS * experience.seconds_per_byte


class Packer:
    """Packs what is worth it; owns what it has learnt of that."""

    def __init__(self, uplink_mbit: float = UPLINK_MBIT) -> None:
        """`uplink_mbit`: 10^6 bits a second that this peer can send."""
        self._uplink_mbit = uplink_mbit
        self._learnt: dict[str, deque[Experience]] = {}  # by form
        self._passed_over = 0  # messages since one was tried
        self._has_failed = False

    async def pack(self, message: AnyMessage) -> AnyMessage:
        """The message as it is to be sent. Large states are packed on another thread: the event loop goes on."""
        if not isinstance(message, Hidden) or len(message.states) < LEAST or not self._is_wanted(message.dtype):
            return message
        size = len(message.states)
        try:
            packed, seconds = await asyncio.to_thread(_timed, message)
        except Exception as error:  # without packing all goes on, only slower
            report("packing failed, and is left alone from now on", error)
            self._has_failed = True
            return message
        learnt = self._learnt.setdefault(message.dtype, deque(maxlen=_KEPT))
        learnt.append(Experience(len(packed) / size, seconds / size))
        if len(packed) >= size:
            return message
        SAVED_BYTES.inc(size - len(packed))
        return msgspec.structs.replace(message, states=packed, packed=True)

    def _is_wanted(self, form: str) -> bool:
        if self._has_failed:
            return False
        learnt = self._learnt.get(form, ())
        if len(learnt) < _FEWEST or pays(usual(learnt), self._uplink_mbit):
            return True
        self._passed_over = (self._passed_over + 1) % _TRY_AGAIN
        return self._passed_over == 0


def _timed(message: Hidden) -> tuple[bytes, float]:
    """Its states, packed, and the seconds that took."""
    started = time.perf_counter()
    packed = pack(message.states, value_bytes(message.dtype))
    return packed, time.perf_counter() - started
