"""Who may open a session here, and how many how fast. Pure: the table asks, with a clock of its own.

Its law: to ask changes nothing, and a refused request takes nothing of what a client may have.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from peer.limits import Limits
from peer.session import Refusal
from swarm.permits import permits
from swarm.rates import Rates

REPLAY_SECONDS = 600.0  # in which what may be passed on again comes back: much at once, after a failure, and seldom


class Admission:
    """The lists, and each client's opening rate."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._opened = Rates(limits.opens_per_minute, clock)
        self._replayed = Rates(limits.replayed_tokens, clock, REPLAY_SECONDS)

    def check(self, client: str, num_sessions: int) -> None:
        """Raise Refusal unless a client with so many open sessions may open another one."""
        limits = self._limits
        if not permits(client, limits.allow, limits.deny):
            raise Refusal("stranger", f"{client} may not use this peer: its owner would have to allow it")
        if num_sessions >= limits.max_client_sessions:
            raise Refusal("full", f"full: this client has {num_sessions} sessions open")
        if not self._opened.allows(client):
            raise Refusal("rate", f"too many sessions opened: {limits.opens_per_minute} a minute are taken")

    def check_replay(self, client: str, tokens: int) -> None:
        """Raise Refusal unless so much of a client's text may be passed on again."""
        if not self._replayed.allows(client, tokens):
            most, minutes = self._limits.replayed_tokens, REPLAY_SECONDS / 60
            raise Refusal(
                "rate", f"too much text is to be passed on again: {most} tokens in {minutes:.0f} minutes are"
            )

    def note_replay(self, client: str, tokens: int) -> None:
        """Take note that so much of it has been."""
        self._replayed.note(client, tokens)

    def is_denied(self, peer_id: str) -> bool:
        """Whether nothing of this node is to be taken."""
        return peer_id in self._limits.deny

    def note(self, client: str) -> None:
        """Take note that a client has opened a session."""
        self._opened.note(client)
