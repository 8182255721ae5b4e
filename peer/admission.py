"""Who may open a session here, and how many how fast. Pure: the table asks, with a clock of its own.

Its law: to ask changes nothing, and a refused request takes nothing of what a client may have.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from peer.limits import Limits
from peer.session import Refusal
from swarm.permits import permits

_MINUTE = 60.0  # seconds
_ROUNDING = 1e-6
_FEW = 1024  # clients whose rates are kept without looking who is at rest


class Admission:
    """The lists, and each client's opening rate.

    The rate is a bucket of `opens_per_minute` openings that refills within a minute, kept as the moment when it will
    be full again (Turner's "virtual scheduling", ITU-T I.371): one number for each client that has opened lately.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._full_at: dict[str, float] = {}
        self._most = _FEW

    def check(self, client: str, num_sessions: int) -> None:
        """Raise Refusal unless a client with so many open sessions may open another one."""
        limits = self._limits
        if not permits(client, limits.allow, limits.deny):
            raise Refusal("stranger", f"{client} may not use this peer: its owner would have to allow it")
        if num_sessions >= limits.max_client_sessions:
            raise Refusal("full", f"full: this client has {num_sessions} sessions open")
        if self._debt(client) + _MINUTE / limits.opens_per_minute > _MINUTE + _ROUNDING:
            raise Refusal("rate", f"too many sessions opened: {limits.opens_per_minute} a minute are taken")

    def is_denied(self, peer_id: str) -> bool:
        """Whether nothing of this node is to be taken."""
        return peer_id in self._limits.deny

    def note(self, client: str) -> None:
        """Take note that a client has opened a session."""
        now = self._clock()
        self._full_at[client] = now + self._debt(client) + _MINUTE / self._limits.opens_per_minute
        if len(self._full_at) > self._most:  # a full bucket need not be known
            self._full_at = {one: moment for one, moment in self._full_at.items() if moment > now}
            self._most = max(_FEW, 2 * len(self._full_at))

    def _debt(self, client: str) -> float:
        """Seconds until the client's bucket is full again."""
        now = self._clock()
        return max(self._full_at.get(client, now) - now, 0.0)
