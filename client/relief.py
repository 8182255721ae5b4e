"""Moving away from hops that are about to leave, or from a slow chain, while they serve: no round waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from client.routing import Hop
from client.session import ChainSession
from client.target import REFRESH_SECONDS
from swarm.errors import ChainLost, PeerError, PeerRefused
from swarm.tasks import end, owned

log = logging.getLogger("specswarm")

_Find = Callable[[], Awaitable[tuple[list[Hop], str]]]
"""Gives a chain, and why it is better than the one there is; or raises ChainLost."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """Others hold the text."""

    hops: list[Hop]
    """The chain with them."""
    held: int
    """Positions that they hold."""
    why: str
    """The old chain is left; for the log."""


class Relief:
    """Prepares others in the background, and has them take over between two rounds.

    Where nobody can be prepared, for there is nobody, or whoever would feed them has not kept the text, the mend that
    follows the peer's end does it all.
    """

    def __init__(
        self,
        substitutes: Callable[[Sequence[Hop], Collection[str], Collection[str]], Awaitable[list[Hop]]],
        faster: Callable[[Sequence[Hop], float, int, Collection[str]], Awaitable[list[Hop]]],
        note: Callable[[PeerError], object],
    ) -> None:
        """`substitutes` gives a chain with others in the place of certain peers, and without some more; `faster`, one
        for a chain that takes so many seconds, for a text of so many tokens, without some peers. Both raise ChainLost.
        `note` has a peer left alone.
        """
        self._substitutes = substitutes
        self._faster = faster
        self._note = note
        self._preparing: asyncio.Task[_Ready | None] | None = None
        self._is_for_leaving = False  # whether it is in the place of such as leave
        self._passed_over: set[str] = set()  # peers that could not be prepared, ...
        self._passed_over_as_faster: set[str] = set()  # ... in the place of a slow chain
        self._next = 0.0  # when to look for others again: sooner, the same ones are known
        self._next_faster = 0.0  # the same of faster ones, ...
        self._pause = REFRESH_SECONDS  # ... and how long after that; doubled each time

    @property
    def is_ready(self) -> bool:
        """Whether others could take over."""
        task = self._preparing
        return task is not None and task.done() and task.exception() is None and task.result() is not None

    async def step(
        self,
        session: ChainSession,
        number: int,
        tokens: Sequence[int],
        seconds: float,
        *,
        may_move: bool,
        trip: float | None,
    ) -> bool:
        """Before verdict `number` on the text `tokens`, do what is to be done; whether others took over.

        They have `seconds` to get ready, and take over only where that is in the way of nothing: `may_move`. `trip`:
        the seconds that one takes, if that is much too long. Raises PeerLost.
        """
        if session.leaving & session.peer_ids and self._preparing is not None and not self._is_for_leaving:
            await self.end()  # that can wait
            session.drop(session.outside)
        preparing = self._preparing
        if preparing is None:
            find = self._wanted(session, trip, len(tokens))
            if find is not None:
                work = self._prepare(session, find, number, list(tokens), seconds)
                self._preparing = owned(work, "preparing others")
            return False
        if not preparing.done() or (self.is_ready and not may_move):
            return False
        self._preparing = None
        ready = preparing.result()
        unfit = session.faults.keys() | session.leaving
        if ready is not None and unfit.isdisjoint(hop.contact.peer_id for hop in ready.hops):
            kept, limit = session.peer_ids, session.limit(len(tokens))
            held = min(ready.held, limit)
            points = [limit if hop.contact.peer_id in kept else held for hop in ready.hops]
            await session.lead_over(ready.hops, points)
            log.info("moved to others: %s", ready.why)
            session.drop(session.outside)
            return True
        session.drop(session.outside)
        return False

    async def end(self) -> None:
        """Give up what is being prepared."""
        preparing, self._preparing = self._preparing, None
        if preparing is not None:
            await end(preparing)

    def _wanted(self, session: ChainSession, trip: float | None, text: int) -> _Find | None:
        """What finds others, where they are wanted now."""
        leaving, now = session.leaving & session.peer_ids, asyncio.get_running_loop().time()
        if session.settled is None:
            return None
        if leaving and now >= self._next:
            self._next, self._is_for_leaving = now + REFRESH_SECONDS, True
            return partial(self._others, session.hops, leaving)
        if trip is not None and not leaving and now >= self._next_faster:
            self._next_faster, self._pause, self._is_for_leaving = now + self._pause, 2 * self._pause, False
            return partial(self._faster_ones, session.hops, trip, text)
        return None

    async def _others(self, hops: Sequence[Hop], leaving: set[str]) -> tuple[list[Hop], str]:
        """In the place of those that leave, and why. Raises ChainLost."""
        for peer_id in leaving:
            self._note(PeerRefused(peer_id, "leaving", "it is about to leave"))
        others = await self._substitutes(hops, leaving, leaving | self._passed_over)
        return others, f"{', '.join(sorted(leaving))} will be gone soon"

    async def _faster_ones(self, hops: Sequence[Hop], trip: float, text: int) -> tuple[list[Hop], str]:
        """In the place of a slow chain, and why. Raises ChainLost."""
        others = await self._faster(hops, trip, text, self._passed_over_as_faster)
        return others, f"trips took {1e3 * trip:.0f} ms, much longer than announced"

    async def _prepare(
        self, session: ChainSession, find: _Find, number: int, tokens: Sequence[int], seconds: float
    ) -> _Ready | None:
        """Have others hold the text; None if there are none who can: then the chain serves as it is."""
        passed_over = self._passed_over if self._is_for_leaving else self._passed_over_as_faster
        try:
            hops, why = await find()
        except ChainLost:
            passed_over.clear()  # or these, next time
            return None
        others = {hop.contact.peer_id for hop in hops} - session.peer_ids
        held = session.limit(len(tokens))
        try:
            if await session.prepare(hops, number, tokens, seconds):
                return _Ready(hops, held, why)
            passed_over |= others
        except PeerError as error:
            self._note(error)
            passed_over.add(error.peer_id)
        return None
