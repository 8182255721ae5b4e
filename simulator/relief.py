"""Moving a simulated chain away from hops that are about to leave, while they still serve: as `client.relief` does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import simpy

from client.routing import Hop
from simulator.session import ChainSession
from swarm.errors import ChainLost, PeerError, PeerRefused


@dataclass(frozen=True, slots=True)
class _Preparing:
    """Others are being filled with the text."""

    hops: list[Hop]
    """The chain with them."""
    held: int
    """Positions that they will hold."""
    process: simpy.Process


class Relief:
    """Prepares others beside the text, and has them take over between two rounds."""

    def __init__(
        self,
        env: simpy.Environment,
        substitutes: Callable[[Sequence[Hop], Collection[str]], list[Hop]],
        note: Callable[[PeerError], object],
    ) -> None:
        """`substitutes` gives a chain without certain peers, or raises ChainLost; `note` has a peer left alone."""
        self._env = env
        self._substitutes = substitutes
        self._note = note
        self._preparing: _Preparing | None = None

    @property
    def is_ready(self) -> bool:
        """Whether others could take over, or cannot be got ready."""
        return self._preparing is not None and not self._preparing.process.is_alive

    def step(self, session: ChainSession, number: int, length: int, seconds: float, *, may_move: bool) -> None:
        """Before verdict `number` on a text of so many tokens, do what is to be done.

        Others have `seconds` to get ready, and take over only where that is in the way of nothing: `may_move`.
        """
        ready = self._preparing
        if ready is None:
            if session.leaving and (leaving := session.leaving & session.peer_ids):
                self._prepare(session, leaving, number, length, seconds)
        elif may_move and not ready.process.is_alive:
            self._preparing, error = None, None if ready.process.ok else ready.process.value
            if error is None:
                kept, limit = session.peer_ids, session.limit(length)
                points = [limit if hop.contact.peer_id in kept else ready.held for hop in ready.hops]
                session.lead_over(ready.hops, points)
            elif isinstance(error, PeerError):
                self._note(error)
            else:
                raise error
            session.drop(session.outside)

    def end(self) -> None:
        """Give up what is being prepared."""
        preparing, self._preparing = self._preparing, None
        if preparing is not None and preparing.process.is_alive:
            preparing.process.interrupt()

    def _prepare(self, session: ChainSession, leaving: set[str], number: int, length: int, seconds: float) -> None:
        for peer_id in sorted(leaving):
            self._note(PeerRefused(peer_id, "leaving", "it is about to leave"))
        with contextlib.suppress(ChainLost):  # nobody can take over: it serves as long as it is there
            hops = self._substitutes(session.hops, leaving)
            if not leaving & {hop.contact.peer_id for hop in hops}:
                process = self._env.process(session.prepare(hops, number, length, seconds))
                process.defused = True  # who asks for it later is told what has failed, and nobody else
                self._preparing = _Preparing(hops, session.limit(length), process)
