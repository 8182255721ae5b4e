"""Moving away from hops that are about to leave, while they still serve: no round waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from client.routing import Hop
from client.session import ChainSession
from swarm.errors import ChainLost, PeerError, PeerRefused
from swarm.tasks import end, owned

log = logging.getLogger("specswarm")


@dataclass(frozen=True, slots=True)
class _Preparing:
    """Others are being filled with the text."""

    hops: list[Hop]
    """The chain with them."""
    held: int
    """Positions that they will hold."""
    task: asyncio.Task[None]


class Relief:
    """Prepares others in the background, and has them take over between two rounds."""

    def __init__(
        self,
        substitutes: Callable[[Sequence[Hop], Collection[str]], Awaitable[list[Hop]]],
        note: Callable[[PeerError], object],
    ) -> None:
        """`substitutes` gives a chain without certain peers, or raises ChainLost; `note` has a peer left alone."""
        self._substitutes = substitutes
        self._note = note
        self._preparing: _Preparing | None = None

    @property
    def is_ready(self) -> bool:
        """Whether others could take over, or cannot be got ready."""
        return self._preparing is not None and self._preparing.task.done()

    async def step(
        self, session: ChainSession, number: int, tokens: Sequence[int], seconds: float, *, may_move: bool
    ) -> bool:
        """Before verdict `number` on the text `tokens`, do what is to be done; whether others took over.

        They have `seconds` to get ready, and take over only where that is in the way of nothing: `may_move`. Raises
        PeerLost.
        """
        leaving = session.leaving & session.peer_ids
        ready = self._preparing
        if ready is None:
            if leaving:
                await self._prepare(session, leaving, number, tokens, seconds)
            return False
        if not ready.task.done() or not may_move:
            return False
        self._preparing = None
        error = ready.task.exception()
        if error is None:
            kept, limit = session.peer_ids, session.limit(len(tokens))
            points = [limit if hop.contact.peer_id in kept else ready.held for hop in ready.hops]
            await session.lead_over(ready.hops, points)
            log.info("moved from %s, which leaves", ", ".join(sorted(leaving)))
        elif isinstance(error, PeerError):
            self._note(error)
        else:
            raise error
        session.drop(session.outside)
        return error is None

    async def end(self) -> None:
        """Give up what is being prepared."""
        preparing, self._preparing = self._preparing, None
        if preparing is not None:
            await end(preparing.task)

    async def _prepare(
        self, session: ChainSession, leaving: set[str], number: int, tokens: Sequence[int], seconds: float
    ) -> None:
        for peer_id in leaving:
            self._note(PeerRefused(peer_id, "leaving", "it is about to leave"))
        with contextlib.suppress(ChainLost):  # nobody can take over: it serves as long as it is there
            hops = await self._substitutes(session.hops, leaving)
            if not leaving & {hop.contact.peer_id for hop in hops}:
                work = session.prepare(hops, number, list(tokens), seconds)
                self._preparing = _Preparing(hops, session.limit(len(tokens)), owned(work, "preparing others"))
