"""One session over a chain: rounds go to its first peer, verdicts come from its last, and hops can be exchanged.

The client holds a stream to every peer of the chain, so that each can say at once what is wrong; a session ends at a
peer when its stream closes. What the peers send is kept as state, one slot for each thing, and who waits looks there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from client.news import News
from client.patience import seconds_of_work
from client.questions import Questions
from client.rounds import num_provable, prefill_rounds, proofs
from client.routing import Hop
from client.streams import HopStreams
from client.terms import Terms
from swarm import awake
from swarm.errors import PeerError, PeerLost, PeerRefused
from swarm.speculation.flight import Flight
from swarm.speculation.tree import DraftTree
from swarm.transport import Transport
from swarm.wire import (
    MAX_AHEAD,
    MAX_ROUND_TOKENS,
    MAX_TAIL,
    AnyMessage,
    Broken,
    Copy,
    Introduction,
    Leaving,
    Open,
    Progress,
    Recalled,
    Refused,
    Relink,
    Round,
    Verdict,
    Views,
    new_session_id,
)

Near = Callable[[int], Awaitable[None]]
"""Waits until every hop has run the text up to a position, or raises what is wrong with one."""


class ChainSession:
    """A session at every hop of a chain."""

    def __init__(
        self,
        transport: Transport,
        fingerprint: str,
        terms: Terms,
    ) -> None:
        """Nothing is opened yet: see `lead_over`."""
        self.hops: tuple[Hop, ...] = ()
        self.peer_ids: frozenset[str] = frozenset()
        """The peers of the chain."""
        self.cached = 0
        """Positions of the text that are in the first hop's cache."""
        self.complete = 0
        """Positions that are in all the caches."""
        self.settled: int | None = None
        """One past the last position of which every hop has, since the last verdict, the rows of the text; beyond
        it they may have those of drafts that did not stand. None before the first verdict of this session."""
        self.judged = 0
        """The newest round that began a tree and on which there is a verdict: every hop took it."""
        self.faults: dict[str, PeerError] = {}
        """By peer: what it has reported of itself, or how its stream ended."""
        self.accused: dict[str, tuple[str, PeerError]] = {}
        """By peer: which neighbour says that it is lost."""
        self.leaving: set[str] = set()
        """Peers that will be gone soon."""
        self._news = News()
        self._streams = HopStreams(transport, self._note, self._note_end, self._news.fail)
        self._fingerprint = fingerprint
        self._terms = terms
        self._id = new_session_id(transport.peer_id)
        self._questions = Questions(self._id, self._streams, self._news, self.faults)
        self.evidence_bytes = 0
        """That went to last hops as proofs."""
        self.flight: Flight | None = None
        """The drafts on their way; None once anything has gone wrong with them."""
        self._start = 0  # the position of the round that began them
        self._base = 0  # up to where no hop can lack the text without being heard of, ...
        self._number = 0  # ... and the verdict for which it was sent from there on
        self._verdicts: dict[int, Verdict] = {}

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received by this client."""
        return self._streams.traffic

    @property
    def missing(self) -> frozenset[str]:
        """The hops that are not part of the session, or not any more."""
        return self.peer_ids - self._streams.peer_ids

    @property
    def silent(self) -> frozenset[str]:
        """The hops that did not answer the last survey, and of which nothing else is known."""
        return self.peer_ids - self._questions.reports.keys() - self.faults.keys() - self.missing

    @property
    def outside(self) -> set[str]:
        """Peers that take part in the session, but are no hops of the chain."""
        return self._streams.peer_ids - self.peer_ids

    @property
    def is_whole(self) -> bool:
        """Whether every hop takes part and nothing is wrong with any."""
        return not (self.faults.keys() & self.peer_ids or self.accused or self.missing)

    @property
    def trouble(self) -> PeerError:
        """One of the things that are wrong with a session that is not whole."""
        errors = [error for peer, error in self.faults.items() if peer in self.peer_ids]
        errors += [*(error for _, error in self.accused.values())]
        return errors[0] if errors else PeerLost(next(iter(self.missing)), "it takes no part in the session")

    async def lead_over(self, hops: Sequence[Hop], points: Sequence[int]) -> None:
        """From now on the chain is `hops`; each of them gets its input (again) from the position in `points` on.

        Hops that take part already are told their neighbours and go on, the others open the session; nothing is
        awaited but the streams to these. A hop that refuses says so before its first verdict is due. Raises PeerLost.
        """
        fresh = await self._join(hops)
        self.hops, self.peer_ids = tuple(hops), frozenset(hop.contact.peer_id for hop in hops)
        for peer_id in self.accused.keys() - self.peer_ids:  # of one that was left meanwhile
            del self.accused[peer_id]
        self.cached = self._base = points[0]
        self.complete = min(points)
        self.flight = None
        if hops[-1] in fresh:  # it judges anew
            self._verdicts.clear()
        last = len(hops) - 1
        for i, hop in enumerate(hops):
            upstream = hops[i - 1].contact.peer_id if i else None
            downstream, holds = (hops[i + 1].introduction, points[i + 1]) if i < last else (None, 0)
            if hop in fresh:
                await self._send(hop, self._open(hop, upstream, downstream, holds, self.chunk))
            else:
                settled = self.settled or 0
                message = Relink(self._id, upstream, downstream, holds, self.chunk, self.judged, settled)
                await self._send(hop, message)

    async def prepare(self, hops: Sequence[Hop], number: int, tokens: Sequence[int], seconds: float) -> bool:
        """Have those of `hops` that are no part of the session yet hold as much of the text `tokens` as the others do.

        They are fed by the hops before them, or by this client, while the chain goes on as it is; `lead_over` can then
        take them in. Returns when they hold the text, or False when they do not after `seconds` and what the work may
        take: whoever feeds them may not have kept it. Raises PeerError.
        """
        fresh = await self._join(hops)
        end, chunk = self.limit(len(tokens)), chunk_of(hops)
        for i, hop in enumerate(hops):
            if hop in fresh:
                after = hops[i + 1] if i + 1 < len(hops) else None
                holds = 0 if after in fresh else end
                upstream, downstream = (
                    hops[i - 1].contact.peer_id if i else None,
                    after.introduction if after else None,
                )
                await self._send(hop, self._open(hop, upstream, downstream, holds, chunk))
        for low in range(0, max(end, 1), MAX_AHEAD):
            high = min(low + MAX_AHEAD, end)
            for hop, before in zip(hops, [None, *hops], strict=False):
                if hop in fresh and before not in fresh:
                    await self._feed(hop, before, number, tokens[: high + 1], low, chunk)
            patience = seconds + seconds_of_work(fresh, high - low)
            if not await self._questions.await_prepared(fresh, high, patience):
                return False
        return True

    async def _feed(
        self, hop: Hop, before: Hop | None, number: int, tokens: Sequence[int], start: int, chunk: int
    ) -> None:
        """Have a hop be given the text `tokens` without its newest one, from position `start` on, so much at a time: by
        the hop before it, or by this client where there is none. Raises PeerLost."""
        if before is not None:
            await self._send(before, Copy(self._id, hop.introduction, start, len(tokens) - 1, chunk))
            return
        for round in prefill_rounds(self._id, number, tokens, start, chunk, base=0):
            await self._send(hop, round)

    def drop(self, peer_ids: Collection[str]) -> None:
        """End the session at these peers; those that have none are no error."""
        for peer_id in peer_ids:
            self.leaving.discard(peer_id)
            self._questions.forget_prepared(peer_id)
            self._streams.drop(peer_id)

    async def close(self) -> None:
        """End the session at all hops."""
        await self._streams.close()

    def limit(self, length: int) -> int:
        """One past the last position of a text of so many tokens that hops can have in their caches already."""
        return length - 1 if self.settled is None else min(self.settled, length - 1)

    def lacks(self, tokens: Sequence[int]) -> int:
        """How much of the text before its newest token the first hop has not been sent."""
        return max(len(tokens) - 1 - self.cached, 0)

    def take(self, verdict: Verdict) -> bool:
        """Take note of the verdict that was waited for; False if it does not fit the drafts."""
        if self.flight is None or not self.flight.advance(verdict.tokens):
            return False
        self.settled = self.cached = self._base = self.complete = self.flight.settled
        self.judged = self.flight.first_number
        self._verdicts = {number: later for number, later in self._verdicts.items() if number > verdict.number}
        return True

    async def prefill(self, number: int, tokens: Sequence[int], seconds: float, near: Near) -> None:
        """Bring the caches up to the text `tokens` without its newest one, for verdict `number`.

        Nothing is awaited, unless the text is so long that peers would have to keep too much of it waiting: then the
        slowest hop is, by `near`. Raises PeerError; after `seconds` also if a hop does not read.
        """
        self._work_for(number)
        for round in prefill_rounds(self._id, number, tokens, self.cached, self.chunk, base=self._base):
            end = round.position + len(round.tokens)
            if end - MAX_AHEAD > self.complete:
                await near(end - MAX_AHEAD)
                self.complete = end - MAX_AHEAD
            await self._send_within(seconds, round)
            self.cached = max(self.cached, end)

    def _work_for(self, number: int) -> None:
        """Send again what was sent ahead for another verdict: that a hop lost some of it shows by its number alone."""
        if number != self._number:
            self.cached, self._number = self._base, number
            self.complete = min(self.complete, self._base)

    async def send(self, number: int, tokens: Sequence[int], tree: DraftTree, seconds: float, near: Near) -> None:
        """Have as many drafts as fit a round judged after the text `tokens`, by verdict `number`.

        A few tokens of text that the caches lack go with them, more go ahead. Raises PeerError.
        """
        self._work_for(number)
        if self.lacks(tokens) > min(MAX_TAIL, self.chunk - 1 - len(tree)):
            await self.prefill(number, tokens, seconds, near)
        start = len(tokens) - 1 - self.lacks(tokens)
        tree = tree.cut(self.chunk - len(tokens) + start)
        if self._terms.rule == "rejection":
            tree = tree.cut(num_provable(tree))
        parents = () if tree.is_chain else tree.parents
        judged = (*tokens[start:], *tree.tokens)
        self.flight, self._start = Flight(number, len(tokens), tree), start
        await self._tell(number, tree, seconds)
        round = Round(self._id, number, start, judged, len(tree), True, parents, continues=start > self._base)
        await self._send_within(seconds, round)
        if self._terms.rule == "rejection":
            await self._prove(number, tree, seconds)

    async def _prove(self, number: int, tree: DraftTree, seconds: float) -> None:
        """Tell the last hop what the drafts were drawn from, while the round is on its way to it. Raises PeerLost."""
        before = self.traffic[0]
        for message in proofs(self._id, number, tree):
            await self._send_within(seconds, message, self.hops[-1])
        self.evidence_bytes += self.traffic[0] - before

    async def send_more(self, number: int, more: DraftTree, seconds: float) -> None:
        """Have more drafts of the tree that is on its way judged, by verdict `number`. Raises PeerLost."""
        if self.flight is None or not len(self.flight):
            return
        grown, more = len(self.flight), more.cut(self.chunk)
        self.flight.extend(number, more)
        await self._tell(number, more, seconds)
        tokens, parents = more.tokens, more.parents
        await self._send_within(
            seconds, Round(self._id, number, self._start, tokens, len(tokens), True, parents, grown)
        )

    async def _tell(self, number: int, tree: DraftTree, seconds: float) -> None:
        """Under the rule `semantic`, tell the last hop ahead of round `number` what the drafter holds of its drafts.
        Raises PeerLost."""
        if self._terms.rule == "semantic" and tree.views:
            ids, weights = tuple(view.ids for view in tree.views), tuple(view.weights for view in tree.views)
            await self._send_within(seconds, Views(self._id, number, ids, weights), self.hops[-1])

    async def verdict(self, number: int, seconds: float) -> Verdict | None:
        """The last hop's verdict `number`; None if it is not there after `seconds`.

        Raises what was reported of a hop, or how its stream ended.
        """
        await self._news.until(lambda: number in self._verdicts or not self.is_whole, seconds)
        if number in self._verdicts:
            return self._verdicts[number]
        if not self.is_whole:
            raise self.trouble
        return None

    async def survey(self, seconds: float) -> dict[str, Progress]:
        """How far the session got at each hop: see Questions."""
        return await self._questions.survey(self.hops, 0, seconds)

    async def has_run(self, position: int, seconds: float) -> bool:
        """Whether every hop has run the text up to `position`, as soon as that is so, or after `seconds`. Raises what
        is wrong with one."""
        await self._questions.survey(self.hops, position, seconds, is_over=lambda: not self.is_whole)
        if not self.is_whole:
            raise self.trouble
        return not self.silent

    async def recall(self, start: int, end: int, seconds: float) -> dict[int, bytes]:
        """What each hop but the first was given: see Questions."""
        return await self._questions.recall(self.hops[1:], start, end, seconds)

    @property
    def chunk(self) -> int:
        """Most tokens that all hops take at a time."""
        return chunk_of(self.hops)

    async def _join(self, hops: Sequence[Hop]) -> list[Hop]:
        """Open streams to those hops that take no part yet; which these are. Raises PeerLost."""
        fresh = [hop for hop in hops if hop.contact.peer_id not in self._streams.peer_ids]
        await self._streams.open(fresh)
        for hop in fresh:
            self.faults.pop(hop.contact.peer_id, None)
        return fresh

    def _open(
        self, hop: Hop, upstream: str | None, downstream: Introduction | None, holds: int, chunk: int
    ) -> Open:
        terms = self._terms
        return Open(
            session=self._id,
            fingerprint=self._fingerprint,
            start=hop.span.start,
            end=hop.span.end,
            upstream=upstream,
            downstream=downstream,
            holds=holds,
            chunk=chunk,
            sampling=terms.sampling,
            witness=terms.witness(hop.span.start) if terms.witness else None,
            rule=terms.rule,
            leniency=terms.leniency,
            wire=terms.wire,
        )

    async def _send_within(self, seconds: float, message: AnyMessage, to: Hop | None = None) -> None:
        """Send to the first hop, or to another one. Raises PeerLost, after `seconds` also if it does not read."""
        hop = to or self.hops[0]
        try:
            async with awake.timeout(seconds):
                await self._send(hop, message)
        except TimeoutError:
            raise PeerLost(hop.contact.peer_id, "it does not read what it is sent") from None

    async def _send(self, hop: Hop, message: AnyMessage) -> None:
        await self._streams.send(hop.contact.peer_id, message)

    def _note_end(self, error: PeerLost) -> None:
        self.faults[error.peer_id] = error
        self._news.come()

    def _note(self, peer_id: str, message: AnyMessage) -> None:
        self._news.come()
        match message:
            case Verdict() if peer_id == self.hops[-1].contact.peer_id:
                self._note_verdict(message)
            case Progress() | Recalled():
                self._questions.note(peer_id, message)
            case Leaving():
                self.leaving.add(peer_id)
            case Refused(why=why, reason=reason):
                self._note_refusal(PeerRefused(peer_id, why, reason))
            case Broken(peer_id=culprit, reason=reason) if culprit == peer_id:
                self.faults.setdefault(peer_id, PeerLost(peer_id, reason))
            case Broken(peer_id=culprit, reason=reason) if self._are_neighbours(peer_id, culprit):
                self.accused.setdefault(culprit, (peer_id, PeerLost(culprit, reason)))

    def _note_refusal(self, refusal: PeerRefused) -> None:
        """Keep the first thing that a hop refuses, for it tells why, unless that was one round of a session."""
        known = self.faults.get(refusal.peer_id)
        if known is None or (isinstance(known, PeerRefused) and known.why == "unlawful"):
            self.faults[refusal.peer_id] = refusal

    def _note_verdict(self, verdict: Verdict) -> None:
        """Keep it, if it is one that may be waited for, and its peer has not said before that it failed."""
        has_failed = isinstance(self.faults.get(self.hops[-1].contact.peer_id), PeerLost)
        if has_failed or self.flight is None:
            return
        if self.flight.first_number <= verdict.number <= self.flight.last_number:
            self._verdicts[verdict.number] = verdict

    def _are_neighbours(self, one: str, other: str) -> bool:
        ids = [hop.contact.peer_id for hop in self.hops]
        return one in ids and other in ids and abs(ids.index(one) - ids.index(other)) == 1


def chunk_of(hops: Sequence[Hop]) -> int:
    """Most tokens that all these hops take at a time."""
    return min(MAX_ROUND_TOKENS, *[hop.max_round for hop in hops])
