"""What is wrong with a session: which of its hops must be replaced, and why a verdict is overdue.

The table in `client.chain` says what follows from what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from client.mending import stuck_at
from client.patience import TripTimer, seconds_of_batch, seconds_of_queue
from client.pending import Pending
from client.session import ChainSession
from client.target import Target
from swarm import awake
from swarm.errors import PeerError, PeerLost, PeerRefused, SwarmUnreachable
from swarm.wire import Progress

_LEAST_ANSWER = 2 * awake.PAUSE_SECONDS  # that an answer is waited for, however soon a client asks
_UNLAWFUL = 3  # refusals of one hop, for one verdict, after which it is the hop that is wrong


class Astray(SwarmUnreachable):
    """A round is nowhere, and nobody is to blame: a message was lost on a link that broke and is whole again."""


class Diagnosis:
    """Asks the hops, and weighs what they say of themselves and of each other."""

    def __init__(self, target: Target, timer: TripTimer, *, timeout: float) -> None:
        """`timeout`: seconds without any progress after which a verdict is given up."""
        self._target = target
        self._timer = timer
        self._believed = timeout / 2  # seconds that any queue may stand still: then there is time to mend
        self._contradicted = Counter[str]()  # by peer: how often one that it says is lost answered, in this text

    def blame(self, session: ChainSession | None, error: PeerError) -> None:
        """Have the session mended, or, where the peer is no hop of it, leave the peer alone for now."""
        if session is None or error.peer_id not in session.peer_ids:
            self._target.roster.note(error)
        elif error.peer_id not in session.accused:
            session.faults.setdefault(error.peer_id, error)

    async def survey(self, session: ChainSession) -> dict[str, Progress]:
        """How far the hops got that have no fault; the silent ones get one. Raises SwarmUnreachable if it is us."""
        reports = await session.survey(self._answer_seconds)
        others = session.peer_ids - session.missing - {self._target.transport.peer_id}  # that one is always near
        if others and others.isdisjoint(reports.keys() | _unwilling(session)):
            await self.check_network(session.peer_ids)
            reports = await session.survey(self._answer_seconds)  # it may have come back just now
        for peer_id in session.silent:
            self.blame(session, PeerLost(peer_id, "it is silent"))
        return reports

    @property
    def _answer_seconds(self) -> float:
        """That an answer is waited for: at least as long as this program may have stood still without noticing."""
        return max(self._timer.wait(), _LEAST_ANSWER)

    async def check_network(self, silent: Collection[str]) -> None:
        """Raise SwarmUnreachable if nobody else answers either: then it is us."""
        if not await self._target.is_reachable(apart_from=silent):
            raise SwarmUnreachable("no peer answers: is this machine's network up?")

    def lost(
        self, session: ChainSession, reports: Mapping[str, Progress], pending: Pending
    ) -> dict[str, PeerError]:
        """The hops that must be replaced, and why, after this survey."""
        lost: dict[str, PeerError] = {}
        for peer_id, error in session.faults.items():
            if isinstance(error, PeerRefused) and error.why == "unlawful":
                pending.unlawful[peer_id] += 1
                if peer_id in reports and pending.unlawful[peer_id] < _UNLAWFUL:
                    continue
            lost[peer_id] = error
        for peer_id, (accuser, error) in session.accused.items():
            if {accuser, peer_id} <= reports.keys():
                self._contradicted[accuser] += 1
                if self._contradicted[accuser] > 1:
                    lost[accuser] = PeerLost(
                        accuser, f"it says again that peer {peer_id} is lost, which answers us"
                    )
                    continue
            lost.setdefault(peer_id, error)
        return lost

    async def look_for_the_round(self, session: ChainSession, pending: Pending, end: int) -> None:
        """Find out why the verdict on a text of `end` tokens is overdue; returns if it is worth waiting on.

        Raises what must be mended.
        """
        now = awake.clock().now()
        reports = await self.survey(session)
        if not session.is_whole:
            raise session.trouble
        if self._goes_on(session, reports, pending, end, now):
            pending.hopeful = now
            return
        is_busy = any(report.waiting for report in reports.values())
        if not is_busy and not pending.was_astray:
            pending.is_astray = pending.was_astray = True
            raise Astray("a round got lost on its way")
        ordered = [reports[hop.contact.peer_id] for hop in session.hops]
        stuck = stuck_at(ordered, pending.number)
        peer_id = session.hops[stuck].contact.peer_id
        if stuck and not ordered[stuck].waiting:
            before = session.hops[stuck - 1].contact.peer_id
            self.blame(
                session, PeerLost(before, f"it says that it has passed a round on, but peer {peer_id} has none")
            )
        raise PeerLost(peer_id, "it answers, but does not pass the round on")

    def _goes_on(
        self, session: ChainSession, reports: Mapping[str, Progress], pending: Pending, end: int, now: float
    ) -> bool:
        """Whether work goes on, by what the hops say: the text gets farther, or waits first of all in a queue that
        moves, or that may well take so long.

        How often a text gets farther is bounded by its length, and how long a queue takes by what is announced: nobody
        is believed for ever.
        """
        if pending.has_moved(reports, end, session.chunk):
            pending.moved = now
            return True
        for hop in session.hops:
            report = reports[hop.contact.peer_id]
            if report.waiting:
                seconds = self._believed + seconds_of_batch(hop, report)
                most = self._believed + seconds_of_queue(hop, report)
                return pending.queue_moves(hop.contact.peer_id, report, now, seconds=seconds, most=most)
        return False


def _unwilling(session: ChainSession) -> set[str]:
    """The hops that have said that they do not serve the session: so they have been heard."""
    return {
        peer_id
        for peer_id, error in session.faults.items()
        if isinstance(error, PeerRefused) and error.why != "unlawful"
    }
