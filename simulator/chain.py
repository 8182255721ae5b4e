"""The chain of one simulated request: opened, fed, waited for, and mended where hops are lost, as the client's own is.

What is a decision is the client's own code: the route (`client.roster`), from where a text is given again
(`client.mending`), how long is waited (`client.patience`), what is on its way (`Flight`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any

import simpy

from client.mending import resume_points
from client.patience import TripTimer
from client.roster import Roster
from client.rounds import prefill_rounds
from client.routing import Hop
from simulator.hosts import Host, Network, Steps, after
from simulator.peer import HEADER, TOKEN, Peer
from simulator.policies import Choice, chosen
from swarm.errors import ChainLost, PeerLost, PeerRefused
from swarm.speculation.flight import Flight
from swarm.speculation.sampling import Sampling
from swarm.speculation.tree import DraftTree
from swarm.wire import MAX_ROUND_TOKENS, MAX_TAIL, Ask, Message, Open, Progress, Relink, Round, Verdict

_FINGERPRINT = "0" * 64
_GREEDY = Sampling()
_SETUP_ROUND_TRIPS = 1.0  # that opening a stream to a peer takes
_PAUSE = 1.0  # seconds between attempts to find a chain where there is none


class Failed(Exception):
    """A request came to nothing: for so long, nobody could go on with it."""


class Chain:
    """Of one request."""

    _ids = itertools.count(1)

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
        self.host = host
        self.hops: list[Hop] = []
        self.links = 0.0
        """Seconds of a trip over all links, without chance."""
        self.flight: Flight | None = None
        self.reroutes = 0
        self.stall_seconds = 0.0
        self.was_late = self.was_disturbed = True
        """Whether the last verdict took longer than such a one does, and whether it took other than a trip."""
        self._network = network
        self._env = network.env
        self._roster = roster
        self._peers = peers
        self._refresh = refresh
        self._timer = timer
        self._choose = choose
        self._round_tokens = round_tokens
        self._timeout = timeout
        self._id = b""
        self._open_at: dict[str, Peer] = {}
        self._number = 0  # of the newest round
        self._start = 0
        self._cached = 0
        self._settled: int | None = None
        self._judged = 0
        self._verdicts: dict[int, Verdict] = {}
        self._lost: set[str] = set()
        self._leaving: set[str] = set()
        self._reports: dict[str, Progress] = {}
        self._asked = 0
        self._news: simpy.Event | None = None
        self._alarm = 0.0  # when it rings next

    def take_verdict(self, peer_id: str, verdict: Verdict) -> None:
        """The last hop's."""
        flight = self.flight
        if verdict.session != self._id or flight is None:
            return
        if flight.first_number <= verdict.number <= flight.last_number:
            self._verdicts[verdict.number] = verdict
            self._wake()

    def take_progress(self, peer_id: str, progress: Progress) -> None:
        """An answer to a survey."""
        if progress.session == self._id and progress.nonce == self._asked:
            self._reports[peer_id] = progress
            self._wake()

    def take_loss(self, peer_id: str) -> None:
        """The stream to a hop has ended."""
        if any(hop.contact.peer_id == peer_id for hop in self.hops):
            self._lost.add(peer_id)
            self._wake()

    def take_leaving(self, peer_id: str) -> None:
        """A hop is about to leave."""
        self._leaving.add(peer_id)

    def judges(self, length: int) -> bool:
        """Whether a verdict on what follows a text of so many tokens is on its way."""
        flight = self.flight if not self._lost else None
        return flight is not None and flight.judges(range(length))

    @property
    def may_grow(self) -> bool:
        """Whether there is a tree on its way that may have more drafts; not while hops are about to leave: others take
        over where no verdict is on its way."""
        return self.flight is not None and not self._lost and not self._leaving

    @property
    def seconds_alone(self) -> float:
        """What a round of one token takes if nothing else is on its way, by what is announced."""
        return self._roster.trip_seconds(self.hops, tokens=1)

    def lacks(self, length: int) -> bool:
        """Whether there is something to be prefilled of a text of so many tokens."""
        return not self.hops or length - 1 - self._cached > MAX_TAIL

    def prefill(self, length: int) -> Steps:
        """Open the chain, if there is none, and send the text but its newest token ahead. Raises Failed."""
        if not self.hops:
            yield from self._open()
        if not self._lost and self.lacks(length):
            self._prefill(self._number + 1, length)

    def send_more(self, more: DraftTree) -> None:
        """Have more drafts judged of the tree on its way, which may grow."""
        if self.flight is None:
            return
        self._number += 1
        grown, more = len(self.flight), more.cut(self._chunk)
        self.flight.extend(self._number, more)
        round = Round(self._id, self._number, self._start, more.tokens, len(more), True, more.parents, grown)
        self._to_first(round)

    def verify(self, length: int, tree: DraftTree) -> Generator[simpy.Event, Any, Verdict]:
        """The verdict on the drafts of `tree` after a text of so many tokens, or on those on their way. Raises
        Failed."""
        started, is_sent = self._env.now, self.judges(length)
        is_first, was_on_its_way, has_gone_wrong = self._number == 0, is_sent, False
        number = self.flight.number if is_sent and self.flight is not None else None
        while True:
            if self._lost or (self._leaving and not is_sent):
                has_gone_wrong = has_gone_wrong or bool(self._lost)
                yield from self._mend(length)
                is_sent = False
            if not is_sent:
                number = self._number = self._number + 1
                self._send(number, length, tree)
                is_sent = True
            patience = self._timer.wait(self._extra(length) if is_first else 0.0)
            yield from self._until(lambda: number in self._verdicts or bool(self._lost), patience)  # noqa: B023
            verdict = self._verdicts.get(number or 0)
            if verdict is not None and self._take(verdict):
                break
            if not self._lost:  # overdue
                yield from self._survey()
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
        self._drop([*self._open_at])
        self.hops = []

    @property
    def _chunk(self) -> int:
        return min(MAX_ROUND_TOKENS, *(hop.max_round for hop in self.hops))

    def _take(self, verdict: Verdict) -> bool:
        if self.flight is None or not self.flight.advance(verdict.tokens):
            return False
        self._settled = self._cached = self.flight.settled
        self._judged = self.flight.first_number
        self._verdicts = {number: later for number, later in self._verdicts.items() if number > verdict.number}
        return True

    def _send(self, number: int, length: int, tree: DraftTree) -> None:
        if length - 1 - self._cached > min(MAX_TAIL, self._chunk - 1 - len(tree)):
            self._prefill(number, length)
        start = min(self._cached, length - 1)
        tree = tree.cut(self._chunk - length + start)
        parents = () if tree.is_chain else tree.parents
        self.flight, self._start = Flight(number, length, tree), start
        tokens = (*range(start, length), *tree.tokens)
        self._to_first(Round(self._id, number, start, tokens, len(tree), True, parents))

    def _prefill(self, number: int, length: int) -> None:
        for round in prefill_rounds(self._id, number, range(length), self._cached, self._chunk):
            self._to_first(round)
            self._cached = round.position + len(round.tokens)

    def _to_first(self, round: Round) -> None:
        peer = self._open_at.get(self.hops[0].contact.peer_id)
        if peer is not None:
            size = HEADER + TOKEN * len(round.tokens)
            self._network.send(self.host, peer.host, size, peer.take, round, ())

    def _open(self) -> Steps:
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
            yield from self._reach(hops)
            if not self._lost:
                break
            self._drop(self._lost)
            self._note_gone()
        self._id = next(Chain._ids).to_bytes(16)
        self._settled, self.flight = None, None
        self._verdicts.clear()
        self._lead_over(hops, [0] * len(hops), set())

    def _plan(self) -> list[Hop]:
        """Raises ChainLost."""
        roster, excluded = self._roster, set[str]()
        if self._choose is not None:
            unwelcome = roster.cooldowns.active
            reachable = {peer: seconds for peer, seconds in roster.round_trips.items() if peer not in unwelcome}
            excluded = roster.peers.keys() - chosen(roster.peers, reachable, self._choose)
        return roster.plan(tokens=self._round_tokens, excluded=excluded)

    def _reach(self, hops: Sequence[Hop]) -> Steps:
        """Open streams to those hops that have none, all at once."""
        fresh = [hop for hop in hops if hop.contact.peer_id not in self._open_at]
        if fresh:
            yield self._env.timeout(_SETUP_ROUND_TRIPS * max(hop.round_trip for hop in fresh))
        self._lost |= {hop.contact.peer_id for hop in fresh if self._peers(hop.contact.peer_id) is None}

    def _note_gone(self) -> None:
        """Have those left alone that are gone, and those that are about to go."""
        for peer_id in sorted(self._leaving - self._lost):
            self._roster.note(PeerRefused(peer_id, "leaving", "it is about to leave"))
        for peer_id in sorted(self._lost):
            self._roster.note(PeerLost(peer_id, "it is gone"))
        self._leaving.clear()
        self._lost.clear()

    def _drop(self, peer_ids: Collection[str]) -> None:
        """End the session at these, if they are still there."""
        for peer_id in sorted(peer_ids):
            peer = self._open_at.pop(peer_id, None)
            if peer is not None:
                self._network.send(self.host, peer.host, HEADER, peer.close, self._id)

    def _lead_over(self, hops: Sequence[Hop], points: Sequence[int], known: set[str]) -> None:
        """Tell all hops who their neighbours are; those that are `known` have the session open."""
        self.hops = list(hops)
        self._cached = points[0]
        self.flight = None
        found = [self._peers(hop.contact.peer_id) for hop in hops]
        for i, (hop, peer) in enumerate(zip(hops, found, strict=True)):
            if peer is None:  # gone since the streams were opened
                self._lost.add(hop.contact.peer_id)
                continue
            upstream = hops[i - 1].contact.peer_id if i else None
            downstream = found[i + 1] if i + 1 < len(hops) else None
            holds = points[i + 1] if i + 1 < len(hops) else 0
            contact = hops[i + 1].contact if i + 1 < len(hops) else None
            message: Message
            if hop.contact.peer_id in known:
                message = Relink(self._id, upstream, contact, holds, self._chunk)
                self._network.send(self.host, peer.host, HEADER, peer.relink, message, downstream)
            else:
                message = Open(
                    session=self._id,
                    fingerprint=_FINGERPRINT,
                    start=hop.span.start,
                    end=hop.span.end,
                    upstream=upstream,
                    downstream=contact,
                    holds=holds,
                    chunk=self._chunk,
                    sampling=_GREEDY,
                )
                self._network.send(self.host, peer.host, HEADER, peer.open, message, self, downstream)
            self._open_at[peer.peer_id] = peer
        hosts = [self.host, *(peer.host for peer in found if peer is not None), self.host]
        self.links = sum(self._network.delay(one, other) for one, other in itertools.pairwise(hosts))

    def _mend(self, length: int) -> Steps:
        """Put others in the place of hops that are gone, or about to go, and have them given what they lack. Raises
        Failed."""
        yield from self._survey()
        gone, were_lost = self._lost | self._leaving, bool(self._lost)
        self._note_gone()
        try:
            hops = yield from self._substitutes(gone)
        except ChainLost:
            if were_lost:  # else who leaves is of use as long as it is there
                yield from self._open()
                self.reroutes += 1
            return
        self._drop(gone)
        known = {hop.contact.peer_id for hop in self.hops} - gone
        limit = length - 1 if self._settled is None else min(self._settled, length - 1)
        reports = [self._reports.get(peer) if (peer := hop.contact.peer_id) in known else None for hop in hops]
        self._lead_over(hops, resume_points(reports, limit, self._judged), known)
        self.reroutes += were_lost

    def _substitutes(self, gone: set[str]) -> Generator[simpy.Event, Any, list[Hop]]:
        """The chain with others, within reach, in the place of those that are gone; who goes meanwhile is added to
        them. Raises ChainLost."""
        while True:
            self._refresh()
            hops = self._roster.fill(self.hops, gone, tokens=self._round_tokens)
            yield from self._reach(hops)
            if not self._lost:
                return hops
            gone |= self._lost
            self._note_gone()

    def _survey(self) -> Steps:
        """Ask all hops how far they got; those that do not answer in time are lost."""
        self._asked += 1
        self._reports.clear()
        asked = dict.fromkeys(peer_id for hop in self.hops if (peer_id := hop.contact.peer_id) not in self._lost)
        for peer_id in asked:
            peer = self._open_at[peer_id]
            self._network.send(self.host, peer.host, HEADER, peer.ask, Ask(self._id, self._asked, 0))
        yield from self._until(lambda: self._reports.keys() | self._lost >= asked.keys(), self._timer.wait())
        self._lost |= asked.keys() - self._reports.keys()

    def _extra(self, length: int) -> float:
        """Seconds to give on top of a usual trip for a first one, with the prompt."""
        links = sum(hop.round_trip for hop in self.hops)
        return 3 * (links + sum(hop.seconds(length + self._round_tokens) for hop in self.hops))

    def _until(self, is_so: Callable[[], bool], seconds: float) -> Steps:
        """Wait until something is so, or for `seconds`."""
        end = self._env.now + seconds
        while not is_so() and self._env.now < end:
            if not self._env.now < self._alarm <= end:  # one that rings before the end is followed by another one
                self._alarm = end
                after(self._env, end - self._env.now, self._wake)
            self._news = self._env.event()
            yield self._news
        self._news = None

    def _wake(self) -> None:
        if self._news is not None and not self._news.triggered:
            self._news.succeed()
