"""The chain that a generation sees: it verifies drafts, whatever happens to single peers.

Whatever goes wrong, the remedy is the same: ask every hop how far it got, put others in the place of those that are
lost, tell the hops who their neighbours are, and send the round again under the same number. What the new hops lack,
they get from the hop before them. With the rule `match` the tokens come out as if nothing had happened, as far as the
rows are the same.

    a hop is about to leave                 another one is prepared meanwhile, and takes over between two rounds
    trips take much longer than announced   others are, if they promise to be much faster
    a hop's stream ends, or it fails        it is lost
    a hop refuses                           it is replaced; against the session's law: only if it goes on doing so
    a hop says that its neighbour is lost   that one is lost; if it answers us nevertheless: the next time, the accuser
    all hops are gone, or none opens        if nobody else answers: we are cut off
    the verdict is overdue: some are silent the silent ones are lost; if all are, and others too: we are cut off
                            some compute    wait on, as long as the text gets farther, or the queues it waits in
                            nothing moves   send again; the next time, whoever has not passed it on is lost, and with
                                            it the hop before it, if that one says it has: one of the two lies
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence

from client import metrics
from client.diagnosis import Astray, Diagnosis
from client.excess import Trips
from client.history import History
from client.mending import resume_points
from client.patience import TripTimer
from client.pending import Pending
from client.relief import Relief
from client.routes import Routes
from client.routing import Hop
from client.session import ChainSession, Near
from client.target import Target
from client.terms import Terms
from swarm import awake
from swarm.errors import ChainLost, DaemonEnded, PeerError, PeerLost, PeerRefused, SwarmUnreachable
from swarm.speculation.flight import Flight
from swarm.speculation.tree import DraftTree
from swarm.wire import MAX_TAIL, Progress, Verdict

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between attempts, at random below a bound that doubles
_FRESH_STARTS = 3  # of one verdict: where this program stands still all the time, it is given up, too
_EXTRA = 3.0  # times the announced compute that first trips and prefills are given

log = logging.getLogger("specswarm")


class Chain:
    """Opens a session when one is needed and mends it when hops fail."""

    def __init__(
        self,
        target: Target,
        terms: Terms,
        routes: Routes,
        *,
        timer: TripTimer,
        timeout: float,
    ) -> None:
        """`timeout`: seconds without any progress after which a verdict is given up."""
        self.history = History()
        self.reroutes = 0
        self.stall_seconds = 0.0
        """By how much disturbed trips were longer than the others."""
        self._target = target
        self._terms = terms
        self._routes = routes
        self._timer = timer
        self._diagnosis = Diagnosis(target, timer, timeout=timeout)
        self._timeout = timeout
        self._session: ChainSession | None = None
        self._past = (0, 0)  # bytes sent and received by sessions that ended
        self._past_evidence = 0  # and of those sent, as proofs
        self._pending = Pending(0, 0.0)
        self._last_number = 0  # of the newest round
        self._relief = Relief(routes.known, routes.faster, target.roster.note)
        self._trips = Trips()
        self._is_stale = False
        self._pauses = 0  # of this program, so far
        self._is_astray = False  # whether a part of a prefill got lost
        self._chunk = 0  # most tokens that the hops took at a time when the newest round was sent
        self.has_begun = False
        """Whether some of the text was generated elsewhere: then nobody is asked at once what to do without a chain."""

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The present chain; empty before the first round."""
        return self._session.hops if self._session else ()

    @property
    def seconds_alone(self) -> float:
        """What a round of one token takes if nothing else is on its way, by what links and stages are announced as."""
        return self._target.roster.trip_seconds(self.hops, tokens=1)

    def patience(self, tokens: int) -> float:
        """Seconds after which the verdict on a round that brings so many tokens would be overdue here."""
        return self._timer.wait(self._work(self.hops, tokens))

    @property
    def was_late(self) -> bool:
        """Whether the last verdict took longer than such a one does: it brought the prompt, or something went wrong."""
        return self._pending.is_disturbed or self._pending.is_first

    @property
    def was_disturbed(self) -> bool:
        """Whether the last verdict took other than a trip: it was late, or on its way already."""
        return self.was_late or self._pending.was_on_its_way

    @property
    def settled(self) -> int:
        """One past the last position of which all hops had the text's rows at the last verdict."""
        return (self._session.settled if self._session else None) or 0

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes this client has sent and received for this generation."""
        sent, received = self._session.traffic if self._session else (0, 0)
        return self._past[0] + sent, self._past[1] + received

    @property
    def evidence_bytes(self) -> int:
        """Of the bytes sent, those that told the last hop what drafts were drawn from."""
        return self._past_evidence + (self._session.evidence_bytes if self._session else 0)

    async def recall(self, start: int, end: int) -> dict[int, bytes]:
        """By first layer, the sketches of what hops were given at the positions start..end: of all that answer."""
        return await self._session.recall(start, end, self._timer.wait()) if self._session else {}

    def start_anew(self) -> None:
        """Before the next verdict, open another session: nothing in the caches is to be used any more."""
        self._is_stale = True

    async def prefill(self, tokens: Sequence[int]) -> None:
        """Send the text but its newest token ahead of the round that needs it, unless it lacks little of it. Raises
        ChainLost."""
        try:
            if self._session is None or self._is_stale:
                self._session = await self._opened_anew()
            session, number = self._session, self._last_number + 1
            if session.is_whole and session.lacks(tokens) > MAX_TAIL:
                near = self._near(session, Pending(number, _now()), len(tokens))
                await session.prefill(number, tokens, self._timer.ceiling, near)
        except PeerError as error:  # the round itself will mend the chain
            with contextlib.suppress(SwarmUnreachable):
                await self._charge(error)
        except SwarmUnreachable as error:  # it will also try again
            self._is_astray = isinstance(error, Astray)

    @property
    def flight(self) -> Flight | None:
        """The tree of drafts that is on its way, if one is and nothing is wrong with the chain."""
        session = self._session
        return session.flight if session and session.is_whole and not self._is_stale else None

    def judges(self, tokens: Sequence[int]) -> bool:
        """Whether a verdict on what follows the text `tokens` is on its way."""
        return self.flight is not None and self.flight.judges(tokens)

    async def send_more(self, more: DraftTree) -> None:
        """Have more drafts judged of the tree on its way: see Flight. Whatever goes wrong, `verify` will mend."""
        session = self._session
        if self.flight is None or session is None or self._relief.is_ready:
            return
        self._last_number += 1
        try:
            await session.send_more(self._last_number, more, self._timer.ceiling)
        except PeerError as error:
            self._blame(error)

    async def verify(self, tokens: Sequence[int], tree: DraftTree) -> Verdict:
        """The verdict on the drafts of `tree` after the text `tokens`; on those on their way, if they go on with it.

        Raises ChainLost, before the first verdict of a text at once and later after `timeout`, or else what went wrong
        last; DaemonEnded at once.
        """
        is_first, is_sent = self._last_number == 0, self.judges(tokens)
        number = self.flight.number if is_sent and self.flight else None
        number = number or self._last_number + 1
        pending = Pending(number, _now(), is_first=is_first, is_sent=is_sent, is_astray=self._is_astray)
        self._pending, self._is_astray = pending, False
        with awake.clock().kept() as clock:
            pauses = self._pauses = clock.pauses
            verdict = await self._verdict(tokens, tree)
            seconds = _now() - pending.started
            pending.is_disturbed |= clock.pauses != pauses
        if pending.is_disturbed:
            stalled = max(seconds - self._timer.mean, 0.0)
            self.stall_seconds += stalled
            metrics.STALL_SECONDS.inc(stalled)
        elif not self.was_disturbed:
            self._timer.note(seconds)
        if not self.was_late:
            self._note_trip(1 + len(tree), seconds)
        return verdict

    async def close(self) -> None:
        """End the open session, if any."""
        await self._relief.end()
        if self._session is not None:
            self._past, self._past_evidence = self.traffic, self.evidence_bytes
            session, self._session = self._session, None
            await session.close()

    def _note_trip(self, tokens: int, seconds: float) -> None:
        """The verdict on a round of so many tokens has taken that long, or was waited for that long."""
        roster, was_sent = self._target.roster, self._pending.was_on_its_way
        trips, tokens = self._trips.of(self.hops), self._routes.round_tokens if was_sent else tokens
        trips.note(roster.expected_seconds(self.hops, tokens=tokens), seconds, at_least=was_sent)
        if (excess := trips.excess) is not None:
            roster.excess.note([hop.contact.peer_id for hop in self.hops], excess)

    def _count_reroute(self) -> None:
        self.reroutes += 1
        metrics.MENDED.inc()

    async def _verdict(self, tokens: Sequence[int], tree: DraftTree) -> Verdict:
        """One attempt after the other, as long as there is hope; the pauses between them are drawn at random, that not
        all clients of a lost peer come back at once."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._attempt(tokens, tree)
            except _PASSING as error:
                if not self._may_pass(error) or self._is_hopeless():
                    raise
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311  # no secret
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _may_pass(self, error: BaseException) -> bool:
        """Whether it may be over at the next attempt. That some layers are served by nobody may only if they were."""
        if isinstance(error, ChainLost):
            return self.has_begun or not self._pending.is_first
        return not isinstance(error, DaemonEnded)

    def _is_hopeless(self) -> bool:
        """Whether nothing has gone on for too long. After a pause of this program, everything is tried once more."""
        pending, pauses = self._pending, awake.clock().pauses
        if self._pauses != pauses and pending.fresh_starts < _FRESH_STARTS:
            pending.fresh_starts += 1
            self._pauses, pending.hopeful = pauses, _now()
        return _now() - pending.hopeful > self._timeout

    async def _attempt(self, tokens: Sequence[int], tree: DraftTree) -> Verdict:
        try:
            return await self._try(tokens, tree)
        except PeerError as error:
            self._pending.is_sent, self._pending.is_disturbed = False, True
            await self._charge(error)
            raise
        except _PASSING as error:
            pending = self._pending
            pending.is_sent, pending.is_disturbed = False, True
            pending.is_astray |= isinstance(error, SwarmUnreachable)  # what was sent may be lost
            if isinstance(error, ChainLost) and (self.has_begun or not pending.is_first) and not pending.is_told:
                pending.is_told = True
                log.info("%s; waiting up to %.0f s for one", error, self._timeout)
            raise

    async def _charge(self, error: PeerError) -> None:
        """As `_blame`; where a chain cannot be opened, only if it is not us. Raises SwarmUnreachable if it is."""
        if self._session is None and isinstance(error, PeerLost):
            await self._diagnosis.check_network({error.peer_id})
        self._blame(error)

    def _blame(self, error: PeerError) -> None:
        """Have the chain mended, if the peer is one of its hops."""
        self._pending.is_disturbed = True
        self._diagnosis.blame(self._session, error)

    async def _try(self, tokens: Sequence[int], tree: DraftTree) -> Verdict:
        pending = self._pending
        if self._session is None or self._is_stale:
            self._session = await self._opened_anew()
        elif pending.is_astray or not self._session.is_whole:
            pending.is_disturbed = True
            self._session = await self._mended(self._session, tokens)
        elif await self._relief.step(
            self._session,
            pending.number,
            tokens,
            self._timer.ceiling,
            may_move=not pending.is_sent,
            trip=trips.seconds if (trips := self._trips.of(self.hops)).excess else None,
        ):
            self._count_reroute()
        pending.is_astray = False
        session = self._session
        self.history.note(session, session.hops, len(tokens))
        wait = self._timer.wait(self._extra(session, tokens))
        if not pending.is_sent or session.flight is None:
            await self._send(session, tokens, tree)
        while True:
            verdict = await session.verdict(pending.number, wait)
            if verdict is not None:
                self._take(verdict, session)
                return verdict
            await self._diagnosis.look_for_the_round(session, pending, len(tokens))
            wait = min(2 * wait, self._timer.ceiling)

    async def _send(self, session: ChainSession, tokens: Sequence[int], tree: DraftTree) -> None:
        """Begin a tree: again under the same number, unless more of it, or of another one, was sent since, or it may be
        cut elsewhere now: a verdict on what was sent before would be one on other drafts."""
        pending, is_cut_alike = self._pending, session.chunk == self._chunk
        is_new = pending.number > self._last_number
        if pending.was_on_its_way or not (is_new or (pending.number == self._last_number and is_cut_alike)):
            pending.number, pending.was_on_its_way = self._last_number + 1, False
        self._last_number, self._chunk = pending.number, session.chunk
        near = self._near(session, pending, len(tokens))
        await session.send(pending.number, tokens, tree, self._timer.ceiling, near)

    def _near(self, session: ChainSession, pending: Pending, end: int) -> Near:
        """What waits for the slowest hop of a text of `end` tokens, as long as work goes on. Raises PeerError or
        Astray."""

        async def near(position: int) -> None:
            while not await session.has_run(position, self._timer.ceiling):
                await self._diagnosis.look_for_the_round(session, pending, end)

        return near

    def _take(self, verdict: Verdict, session: ChainSession) -> None:
        """Take note of a verdict. Raises PeerLost, of the last hop, for one that cannot be."""
        last = session.hops[-1].contact.peer_id
        if verdict.tokens[-1] >= self._target.info.vocab_size:
            raise PeerLost(last, "its verdict names a token that does not exist")
        if not session.take(verdict):
            raise PeerLost(last, "its verdict does not fit the round")

    def _extra(self, session: ChainSession, tokens: Sequence[int]) -> float:
        """Seconds to give on top of a usual trip, for what must be prefilled and for a chain that is not known yet."""
        prefill = max(len(tokens) - session.complete, 0)
        if prefill <= self._routes.round_tokens and self._timer.mean:
            return 0.0
        return self._work(session.hops, prefill + self._routes.round_tokens)

    def _work(self, hops: Sequence[Hop], tokens: int) -> float:
        return _EXTRA * sum(hop.round_trip + hop.seconds(tokens) for hop in hops)

    async def _opened_anew(self) -> ChainSession:
        """The first session, or another one in place of one that is not to be used any more."""
        await self.close()
        session = await self._open()
        self._is_stale = False
        return session

    async def _open(self) -> ChainSession:
        """A session over the best chain, none of whose hops has anything yet. Raises ChainLost or PeerLost."""
        hops = await self._routes.best()
        target = self._target
        session = ChainSession(target.transport, target.fingerprint, self._terms)
        try:
            await session.lead_over(hops, [0] * len(hops))
        except BaseException:
            await session.close()
            raise
        return session

    async def _mended(self, session: ChainSession, tokens: Sequence[int]) -> ChainSession:
        """The session, or another one, with all its hops there. Raises ChainLost, PeerError or SwarmUnreachable."""
        self._target.transport.check()  # or all the hops would be blamed
        started = _now()
        await self._relief.end()
        session.drop(session.outside)
        reports = await self._drop_lost(session)
        gone = session.missing
        try:
            hops = await self._routes.filled(session.hops, gone)
        except ChainLost:
            return await self._moved()
        ordered = [reports.get(peer) if (peer := hop.contact.peer_id) not in gone else None for hop in hops]
        new = ", ".join(hop.contact.peer_id for hop, report in zip(hops, ordered, strict=True) if report is None)
        if gone:
            log.info("mending by %s", new)
        await session.lead_over(hops, resume_points(ordered, session.limit(len(tokens)), session.judged))
        session.drop(session.outside)
        if gone:
            self._count_reroute()
            log.info("mended in %.0f ms by %s", (_now() - started) * 1e3, new)
        return session

    async def _drop_lost(self, session: ChainSession) -> dict[str, Progress]:
        """Take the lost hops out of the session; how far the others got. Raises SwarmUnreachable."""
        reports = await self._diagnosis.survey(session)
        lost = self._diagnosis.lost(session, reports, self._pending)
        for error in lost.values():
            is_its_fault = self._target.roster.note(error)
            if isinstance(error, PeerRefused):
                metrics.REFUSED.labels(error.why).inc()
                log.info("refused by %s", error)
            elif not is_its_fault:
                log.info("this program stood still or was cut off, and its way to peer %s is gone", error.peer_id)
            else:
                metrics.LOST.inc()
                log.info("lost %s", error)
        session.drop({*lost, *session.missing})
        session.faults.clear()
        session.accused.clear()
        return reports

    async def _moved(self) -> ChainSession:
        """Another session, over another chain: nobody can take the places of the lost. Raises ChainLost or PeerLost."""
        await self.close()
        session = await self._open()
        self._count_reroute()
        log.info("moved to another chain of %d peers", len(session.hops))
        return session


def _now() -> float:
    """Seconds in which this program ran."""
    return awake.clock().now()


_PASSING = (PeerError, SwarmUnreachable, ChainLost)
