"""The chain of one simulated request: opened, fed, waited for, and mended where hops are lost, as the client's own is.

What is a decision is the client's own code: the route (`client.roster`), from where a text is given again
(`client.mending`), how long is waited (`client.patience`), what is on its way (`Flight`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any

import simpy

from client.mending import resume_points
from client.patience import TripTimer
from client.roster import Roster
from client.routing import Hop
from simulator.hosts import Host, Network, Steps
from simulator.peer import Peer
from simulator.policies import Choice, chosen
from simulator.relief import Relief
from simulator.session import ChainSession
from swarm.errors import ChainLost, PeerLost
from swarm.speculation.flight import Flight
from swarm.speculation.tree import DraftTree
from swarm.wire import MAX_TAIL, Verdict

_PAUSE = 1.0  # seconds between attempts to find a chain where there is none


class Failed(Exception):
    """A request came to nothing: for so long, nobody could go on with it."""


class Chain:
    """Of one request."""

    def __init__(
        self,
        network: Network,
        host: Host,
        roster: Roster,
        peers: Callable[[str], Peer | None],
        refresh: Callable[[], None],
        timer: TripTimer,
        choose: Choice | None,
        *,
        round_tokens: int,
        timeout: float,
    ) -> None:
        """`peers`: by id, those that live; `refresh` has the roster know them.

        `choose`: who takes part, if that is not for the roster to say; `round_tokens`: of a usual round; `timeout`:
        seconds without a chain after which it is given up.
        """
        self.reroutes = 0
        self.stall_seconds = 0.0
        self.was_late = self.was_disturbed = True
        """Whether the last verdict took longer than such a one does, and whether it took other than a trip."""
        self._network = network
        self._env = network.env
        self._host = host
        self._roster = roster
        self._peers = peers
        self._refresh = refresh
        self._timer = timer
        self._choose = choose
        self._round_tokens = round_tokens
        self._timeout = timeout
        self._session: ChainSession | None = None
        self._number = 0  # of the newest round
        self._relief = Relief(self._env, self._substitutes, roster.note)

    @property
    def hops(self) -> list[Hop]:
        """The present chain; empty before the first round."""
        return self._session.hops if self._session else []

    @property
    def links(self) -> float:
        """Seconds of a trip over all links, without chance."""
        return self._session.links if self._session else 0.0

    @property
    def flight(self) -> Flight | None:
        """The tree of drafts that is on its way, if one is and nothing is wrong with the chain."""
        session = self._session
        return session.flight if session and session.is_whole else None

    @property
    def may_grow(self) -> bool:
        """Whether there is a tree on its way that may have more drafts; not when others are ready to take over: they do
        where no verdict is on its way."""
        return self.flight is not None and not self._relief.is_ready

    @property
    def seconds_alone(self) -> float:
        """What a round of one token takes if nothing else is on its way, by what is announced."""
        return self._roster.trip_seconds(self.hops, tokens=1)

    def judges(self, length: int) -> bool:
        """Whether a verdict on what follows a text of so many tokens is on its way."""
        flight = self.flight
        return flight is not None and flight.judges(range(length))

    def lacks(self, length: int) -> bool:
        """Whether there is something to be prefilled of a text of so many tokens."""
        return self._session is None or self._session.lacks(length) > MAX_TAIL

    def prefill(self, length: int) -> Steps:
        """Open the chain, if there is none, and send the text but its newest token ahead. Raises Failed."""
        session = self._session or (yield from self._open())
        if session.is_whole and session.lacks(length) > MAX_TAIL:
            session.prefill(self._number + 1, length)

    def send_more(self, more: DraftTree) -> None:
        """Have more drafts judged of the tree on its way, which may grow."""
        if self._session is not None:
            self._number += 1
            self._session.send_more(self._number, more)

    def verify(self, length: int, tree: DraftTree) -> Generator[simpy.Event, Any, Verdict]:
        """The verdict on the drafts of `tree` after a text of so many tokens, or on those on their way. Raises
        Failed."""
        started, is_sent = self._env.now, self.judges(length)
        is_first, was_on_its_way, has_gone_wrong = self._number == 0, is_sent, False
        number = self.flight.number if is_sent and self.flight else None
        session = self._session or (yield from self._open())
        while True:
            if not session.is_whole:
                session = yield from self._mended(session, length)
                has_gone_wrong, is_sent = True, False
            else:
                coming = number or self._number + 1
                self._relief.step(session, coming, length, self._timer.ceiling, may_move=not is_sent)
            if number is None or not is_sent:
                number = self._number = self._number + 1
                session.send(number, length, tree)
                is_sent = True
            patience = self._timer.wait(self._extra(length) if is_first else 0.0)
            verdict = yield from session.verdict(number, patience)
            if verdict is not None and session.take(verdict):
                break
            if session.is_whole:  # overdue
                yield from session.survey(self._timer.wait())
        self.was_late = is_first or has_gone_wrong
        self.was_disturbed = self.was_late or was_on_its_way
        seconds = self._env.now - started
        if has_gone_wrong:
            self.stall_seconds += max(seconds - self._timer.mean, 0.0)
        elif not self.was_disturbed:
            self._timer.note(seconds)
        return verdict

    def close(self) -> None:
        """End the session at all hops."""
        self._relief.end()
        if self._session is not None:
            self._session.close()
            self._session = None

    def _open(self) -> Generator[simpy.Event, Any, ChainSession]:
        """Another session, over the best chain. Raises Failed."""
        self.close()
        started = self._env.now
        while True:
            self._refresh()
            try:
                hops = self._plan()
            except ChainLost as error:
                if self._env.now - started > self._timeout:
                    raise Failed(str(error)) from None
                yield self._env.timeout(_PAUSE)
                continue
            session = ChainSession(self._network, self._host, self._peers)
            yield from session.reach(hops)
            if not session.lost:
                break
            self._note_lost(session.lost)
        session.lead_over(hops, [0] * len(hops))
        self._session = session
        return session

    def _plan(self) -> list[Hop]:
        """Raises ChainLost."""
        roster, excluded = self._roster, set[str]()
        if self._choose is not None:
            unwelcome = roster.cooldowns.active
            reachable = {peer: seconds for peer, seconds in roster.round_trips.items() if peer not in unwelcome}
            excluded = roster.peers.keys() - chosen(roster.peers, reachable, self._choose)
        return roster.plan(tokens=self._round_tokens, excluded=excluded)

    def _note_lost(self, peer_ids: Collection[str]) -> None:
        for peer_id in sorted(peer_ids):
            self._roster.note(PeerLost(peer_id, "it is gone"))

    def _mended(self, session: ChainSession, length: int) -> Generator[simpy.Event, Any, ChainSession]:
        """The session, or another one, with others in the place of hops that are gone, who are given what they lack.
        Raises Failed."""
        self._relief.end()
        yield from session.survey(self._timer.wait())
        self.reroutes += 1
        try:
            hops = yield from self._replaced(session)
        except ChainLost:
            return (yield from self._open())
        session.drop(session.lost)
        reports = [session.reports.get(hop.contact.peer_id) for hop in hops]
        session.lead_over(hops, resume_points(reports, session.limit(length), session.judged))
        session.drop(session.outside)
        return session

    def _replaced(self, session: ChainSession) -> Generator[simpy.Event, Any, list[Hop]]:
        """The chain with others, within reach, in the place of those that are lost. Raises ChainLost."""
        noted = set[str]()
        while True:
            self._note_lost(session.lost - noted)
            noted = {*session.lost}
            hops = self._substitutes(session.hops, noted)
            yield from session.reach(hops)
            if session.lost == noted:
                return hops

    def _substitutes(self, hops: Sequence[Hop], gone: Collection[str]) -> list[Hop]:
        """The chain with others in the place of those that are gone. Raises ChainLost."""
        self._refresh()
        return self._roster.fill(hops, gone, tokens=self._round_tokens)

    def _extra(self, length: int) -> float:
        """Seconds to give on top of a usual trip for a first one, with the prompt."""
        links = sum(hop.round_trip for hop in self.hops)
        return 3 * (links + sum(hop.seconds(length + self._round_tokens) for hop in self.hops))
