"""One session over a simulated chain: what goes to its hops, and what comes back, as `client.session` has it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any

import simpy

from client.rounds import prefill_rounds
from client.routing import Hop
from simulator.hosts import Host, Network, Steps, after
from simulator.peer import HEADER, TOKEN, Peer
from swarm.errors import PeerLost
from swarm.speculation.flight import Flight
from swarm.speculation.sampling import Sampling
from swarm.speculation.tree import DraftTree
from swarm.wire import MAX_ROUND_TOKENS, MAX_TAIL, Ask, Copy, Introduction, Open, Progress, Relink, Round, Verdict

_FINGERPRINT = "0" * 64
_GREEDY = Sampling()
_SETUP_ROUND_TRIPS = 1.0  # that opening a stream to a peer takes
_PREPARING = 0  # the nonce of questions to peers that are prepared; surveys begin with 1


class ChainSession:
    """A session at every hop of a chain."""

    _ids = itertools.count(1)

    def __init__(self, network: Network, host: Host, peers: Callable[[str], Peer | None]) -> None:
        """Nothing is opened yet: see `lead_over`. `peers`: by id, those that live."""
        self.host = host
        self.hops: list[Hop] = []
        self.links = 0.0
        """Seconds of a trip over all links, without chance."""
        self.flight: Flight | None = None
        self.judged = 0
        """The newest round that began a tree and on which there is a verdict."""
        self.lost: set[str] = set()
        """Peers to which there is no stream any more, or to which none could be opened."""
        self.leaving: set[str] = set()
        """Peers that will be gone soon."""
        self.reports: dict[str, Progress] = {}
        """By hop: its answer to the last survey."""
        self._network = network
        self._env = network.env
        self._peers = peers
        self._id = next(self._ids).to_bytes(16)
        self._open_at: dict[str, Peer] = {}
        self._start = 0  # the position of the round that began the tree on its way
        self._cached = 0
        self._settled: int | None = None
        self._verdicts: dict[int, Verdict] = {}
        self._surveys = 0
        self._prepared: dict[str, int] = {}  # by peer that is no hop yet: positions of the text that it holds
        self._news: simpy.Event | None = None
        self._alarm = 0.0  # when it rings next

    def take_verdict(self, peer_id: str, verdict: Verdict) -> None:
        """The last hop's."""
        if self.flight is not None and self.flight.first_number <= verdict.number <= self.flight.last_number:
            self._verdicts[verdict.number] = verdict
            self._wake()

    def take_progress(self, peer_id: str, progress: Progress) -> None:
        """An answer to a question."""
        if progress.nonce == _PREPARING:
            self._prepared[peer_id] = progress.held
        elif progress.nonce == self._surveys:
            self.reports[peer_id] = progress
        self._wake()

    def take_loss(self, peer_id: str) -> None:
        """The stream to a peer has ended."""
        if peer_id in self._open_at:
            self.lost.add(peer_id)
            self._wake()

    def take_leaving(self, peer_id: str) -> None:
        """A peer is about to leave."""
        self.leaving.add(peer_id)

    @property
    def peer_ids(self) -> set[str]:
        """The peers of the chain."""
        return {hop.contact.peer_id for hop in self.hops}

    @property
    def outside(self) -> set[str]:
        """Peers that take part in the session, but are no hops of the chain."""
        return self._open_at.keys() - self.peer_ids

    @property
    def is_whole(self) -> bool:
        """Whether there is a stream to every hop, as far as is known."""
        return not self.lost or self.lost.isdisjoint(self.peer_ids)

    def limit(self, length: int) -> int:
        """One past the last position of a text of so many tokens that hops can have in their caches already."""
        return length - 1 if self._settled is None else min(self._settled, length - 1)

    def lacks(self, length: int) -> int:
        """How much of a text before its newest token the first hop has not been sent."""
        return length - 1 - self._cached

    def take(self, verdict: Verdict) -> bool:
        """Take note of the verdict that was waited for; False if it does not fit the drafts."""
        if self.flight is None or not self.flight.advance(verdict.tokens):
            return False
        self._settled = self._cached = self.flight.settled
        self.judged = self.flight.first_number
        self._verdicts = {number: later for number, later in self._verdicts.items() if number > verdict.number}
        return True

    def reach(self, hops: Sequence[Hop]) -> Steps:
        """Open streams to those hops that have none, all at once."""
        fresh = self._fresh(hops)
        if fresh:
            yield self._env.timeout(_SETUP_ROUND_TRIPS * max(hop.round_trip for hop in fresh))
        self.lost |= {hop.contact.peer_id for hop in fresh if self._peers(hop.contact.peer_id) is None}

    def lead_over(self, hops: Sequence[Hop], points: Sequence[int]) -> None:
        """From now on the chain is `hops`, all within reach; each of them gets its input (again) from the position in
        `points` on."""
        fresh = self._fresh(hops)
        self.hops = list(hops)
        self._cached = points[0]
        self.flight = None
        for i, hop in enumerate(hops):
            upstream = hops[i - 1] if i else None
            downstream, holds = (hops[i + 1], points[i + 1]) if i + 1 < len(hops) else (None, 0)
            tell = self._open if hop in fresh else self._relink
            tell(hop, upstream, downstream, holds)
        found = [self._peers(hop.contact.peer_id) for hop in hops]
        hosts = [self.host, *(peer.host for peer in found if peer is not None), self.host]
        self.links = sum(self._network.delay(one, other) for one, other in itertools.pairwise(hosts))

    def prepare(self, hops: Sequence[Hop], number: int, length: int, seconds: float) -> Steps:
        """Have those of `hops` that are no part of the session yet hold as much of the text as the others do, while
        the chain goes on as it is. Raises PeerLost, after `seconds` also if they do not."""
        fresh, end = self._fresh(hops), self.limit(length)
        yield from self.reach(fresh)
        for i, hop in enumerate(hops):
            if hop not in fresh:
                continue
            before, behind = hops[i - 1] if i else None, hops[i + 1] if i + 1 < len(hops) else None
            self._open(hop, before, behind, 0 if behind in fresh else end)
            chunk = min(self._chunk, hop.max_round)
            if before is None:
                for round in prefill_rounds(self._id, number, range(end + 1), 0, chunk):
                    self._send_round(hop, round)
            elif before not in fresh:
                self._copy(before, hop, end, chunk)
            self._ask(hop.contact.peer_id, Ask(self._id, _PREPARING, end))
        names = {hop.contact.peer_id for hop in fresh}
        yield from self._until(lambda: self._prepared.keys() | self.lost >= names, seconds)
        for name in sorted(names - self._prepared.keys() | names & self.lost):
            raise PeerLost(name, "it does not hold the text")

    def prefill(self, number: int, length: int) -> None:
        """Bring the caches up to a text without its newest token, for verdict `number`."""
        for round in prefill_rounds(self._id, number, range(length), self._cached, self._chunk):
            self._send_round(self.hops[0], round)
            self._cached = round.position + len(round.tokens)

    def send(self, number: int, length: int, tree: DraftTree) -> None:
        """Have as many drafts as fit a round judged after a text of so many tokens, by verdict `number`."""
        if self.lacks(length) > min(MAX_TAIL, self._chunk - 1 - len(tree)):
            self.prefill(number, length)
        start = min(self._cached, length - 1)
        tree = tree.cut(self._chunk - length + start)
        parents = () if tree.is_chain else tree.parents
        self.flight, self._start = Flight(number, length, tree), start
        tokens = (*range(start, length), *tree.tokens)
        self._send_round(self.hops[0], Round(self._id, number, start, tokens, len(tree), True, parents))

    def send_more(self, number: int, more: DraftTree) -> None:
        """Have more drafts of the tree that is on its way judged, by verdict `number`."""
        if self.flight is None:
            return
        grown, more = len(self.flight), more.cut(self._chunk)
        self.flight.extend(number, more)
        round = Round(self._id, number, self._start, more.tokens, len(more), True, more.parents, grown)
        self._send_round(self.hops[0], round)

    def verdict(self, number: int, seconds: float) -> Generator[simpy.Event, Any, Verdict | None]:
        """The last hop's verdict `number`; None if it is not there after `seconds`, or a hop is lost."""
        yield from self._until(lambda: number in self._verdicts or not self.is_whole, seconds)
        return self._verdicts.get(number)

    def survey(self, seconds: float) -> Steps:
        """Ask all hops how far they got; those that do not answer in time are lost."""
        self._surveys += 1
        self.reports.clear()
        asked = dict.fromkeys(peer_id for hop in self.hops if (peer_id := hop.contact.peer_id) not in self.lost)
        for peer_id in asked:
            self._ask(peer_id, Ask(self._id, self._surveys, 0))
        yield from self._until(lambda: self.reports.keys() | self.lost >= asked.keys(), seconds)
        self.lost |= asked.keys() - self.reports.keys()

    def drop(self, peer_ids: Collection[str]) -> None:
        """End the session at these, if they are still there."""
        for peer_id in sorted(peer_ids):
            self.lost.discard(peer_id)
            self.leaving.discard(peer_id)
            self._prepared.pop(peer_id, None)
            peer = self._open_at.pop(peer_id, None)
            if peer is not None:
                self._network.send(self.host, peer.host, HEADER, peer.close, self._id)

    def close(self) -> None:
        """End it at all hops."""
        self.drop([*self._open_at])

    @property
    def _chunk(self) -> int:
        return min(MAX_ROUND_TOKENS, *(hop.max_round for hop in self.hops))

    def _fresh(self, hops: Sequence[Hop]) -> list[Hop]:
        """Those that take no part yet."""
        return [hop for hop in hops if hop.contact.peer_id not in self._open_at]

    def _open(self, hop: Hop, upstream: Hop | None, downstream: Hop | None, holds: int) -> None:
        """Have a peer take part."""
        peer = self._found(hop)
        if peer is None:
            return
        message = Open(
            session=self._id,
            fingerprint=_FINGERPRINT,
            start=hop.span.start,
            end=hop.span.end,
            upstream=_id(upstream),
            downstream=_introduction(downstream),
            holds=holds,
            chunk=self._chunk,
            sampling=_GREEDY,
        )
        self._open_at[peer.peer_id] = peer
        self._network.send(self.host, peer.host, HEADER, peer.open, message, self, self._next(downstream))

    def _relink(self, hop: Hop, upstream: Hop | None, downstream: Hop | None, holds: int) -> None:
        """Tell a peer that takes part who its neighbours are."""
        peer = self._found(hop)
        if peer is not None:
            message = Relink(self._id, _id(upstream), _introduction(downstream), holds, self._chunk)
            self._network.send(self.host, peer.host, HEADER, peer.relink, message, self._next(downstream))

    def _found(self, hop: Hop) -> Peer | None:
        """A hop's peer; if it is gone since its stream was opened, it is lost."""
        peer = self._peers(hop.contact.peer_id)
        if peer is None:
            self.lost.add(hop.contact.peer_id)
        return peer

    def _copy(self, hop: Hop, to: Hop, end: int, chunk: int) -> None:
        """Have a hop bring another peer the text up to position `end`."""
        peer, receiver = self._open_at[hop.contact.peer_id], self._next(to)
        if receiver is not None:
            message = Copy(self._id, to.introduction, 0, end, chunk)
            self._network.send(self.host, peer.host, HEADER, peer.copy, message, receiver)

    def _ask(self, peer_id: str, question: Ask) -> None:
        peer = self._open_at.get(peer_id)
        if peer is not None:
            self._network.send(self.host, peer.host, HEADER, peer.ask, question)

    def _send_round(self, hop: Hop, round: Round) -> None:
        peer = self._open_at.get(hop.contact.peer_id)
        if peer is not None:
            size = HEADER + TOKEN * len(round.tokens)
            self._network.send(self.host, peer.host, size, peer.take, round, ())

    def _next(self, hop: Hop | None) -> Peer | None:
        return self._peers(hop.contact.peer_id) if hop else None

    def _until(self, is_so: Callable[[], bool], seconds: float) -> Steps:
        """Wait until something is so, or for `seconds`."""
        end = self._env.now + seconds
        while not is_so() and self._env.now < end:
            if not self._env.now < self._alarm <= end:  # one that rings before the end is followed by another one
                self._alarm = end
                after(self._env, end - self._env.now, self._wake)
            if self._news is None:
                self._news = self._env.event()
            yield self._news

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.succeed()


def _id(hop: Hop | None) -> str | None:
    return hop.contact.peer_id if hop else None


def _introduction(hop: Hop | None) -> Introduction | None:
    return hop.introduction if hop else None
