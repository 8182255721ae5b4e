"""All open sessions of a peer, and the memory they may use. Paired verbs: open / close, reserve inside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from peer.admission import Admission
from peer.limits import DEFAULTS, Limits
from peer.room import Holding, giving_way
from peer.sent import SentStore
from peer.session import Growing, Neighbour, Refusal, Session, TooLong, check_neighbours, check_sampling
from peer.standing import Standing
from peer.witness import Witness
from swarm.model.cache import KVCache
from swarm.model.stage import Stage
from swarm.span import Span
from swarm.wire import MAX_ROUND_TOKENS, Compute, Open, Round, Views

MAX_JUDGED = 16
"""Rounds of a session that wait to be judged, each of which holds the text up to it."""
MAX_WAITING = 256 << 20
"""Bytes of hidden states that wait to be computed."""
_NOTHING: Mapping[bytes, int] = MappingProxyType({})


class SessionTable:
    """Opens sessions within the limits, reserves their memory as they grow, and forgets them."""

    def __init__(
        self,
        stage: Stage,
        fingerprint: str,
        *,
        max_cache_bytes: int,
        max_sessions: int,
        max_round: int = MAX_ROUND_TOKENS,
        max_sent_bytes: int = 256 << 20,
        limits: Limits = DEFAULTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stage = stage
        self._fingerprint = fingerprint
        self._max_cache_bytes = max_cache_bytes
        self._max_sessions = max_sessions
        self._max_round = max_round
        self._clock = clock
        self._limits = limits
        self.admission = Admission(limits, clock)
        self.standing = Standing(clock)
        self._sent = SentStore(max_sent_bytes, self.standing.is_new)
        self.is_leaving = False
        """Whether new sessions are refused, because this peer is about to go."""
        self._sessions: dict[bytes, Session] = {}
        self._reserved: dict[bytes, int] = {}  # bytes, by session

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session_id: bytes) -> bool:
        return session_id in self._sessions

    def has(self, session: Session) -> bool:
        """Whether this very session is open, and not another one in its place."""
        return self._sessions.get(session.id) is session

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    @property
    def free_tokens(self) -> int:
        """Tokens, through the whole span, for which there is memory left."""
        free = self._max_cache_bytes - sum(self._reserved.values())
        return max(free, 0) // max(self._stage.cache_bytes_per_token, 1)

    def num_sessions_of(self, client: str) -> int:
        """That a client has open here."""
        return sum([session.client == client for session in self._sessions.values()])

    def is_fed_by(self, peer_id: str) -> bool:
        """Whether it is the hop before, or the client, of any session."""
        return peer_id in [session.source for session in self._sessions.values()]

    def open(
        self,
        request: Open,
        client: str,
        downstream: Neighbour | None = None,
        note_end: Callable[[Session], object] = lambda session: None,
    ) -> Session:
        """Make a session that feeds `downstream`, in place of one that the same client has open already under its id.

        `note_end` is told of the session of another that has to end for it. Raises Refusal, changing nothing, if the
        client may not, or if the model, the layers or the room are not there.
        """
        other = self.in_the_way(request, client, downstream)
        if other is not None:
            note_end(other)
            self.close(other.id)
        self.admission.note(client)
        span = Span(request.start, request.end)
        session = Session(
            id=request.session,
            client=client,
            span=span,
            source=request.upstream or client,
            downstream=downstream.contact if downstream else None,
            holds=request.holds,
            chunk=downstream.chunk(request.chunk) if downstream else request.chunk,
            sampling=request.sampling,
            rule=request.rule,
            leniency=request.leniency,
            wire=request.wire,
            witness=Witness(request.witness, self._stage.info.hidden_size) if request.witness is not None else None,
            cache=KVCache(span),
            sent=self._sent.open(request.session, client),
            last_used=self._clock(),
        )
        self._sessions[session.id] = session
        self._reserved[session.id] = 0
        return session

    def in_the_way(self, request: Open, client: str, downstream: Neighbour | None = None) -> Session | None:
        """The session that has to end before this one may be opened; None if there is room. Raises Refusal if it may
        not be opened."""
        if self.is_leaving:
            raise Refusal("leaving", "this peer is about to leave")
        others = [session for session in self if session.id != request.session]
        self.admission.check(client, sum(session.client == client for session in others))
        if request.fingerprint != self._fingerprint:
            raise Refusal(
                "model", f"this peer serves model {self._fingerprint[:12]}, not {request.fingerprint[:12]}"
            )
        span = Span(request.start, request.end)
        if span not in self._stage.span:
            raise Refusal("model", f"this peer serves layers {self._stage.span}, not {span}")
        check_neighbours(span, request.upstream, downstream, self._stage.info.num_layers)
        check_sampling(request.sampling, request.rule, self._stage.info)
        before = self._sessions.get(request.session)
        if before is not None and before.client != client:
            raise Refusal("unlawful", "the session is open already")
        if len(others) < self._max_sessions:
            return None
        limit = self._clock() - self._limits.unused_seconds
        unused = [session for session in others if session.last_number < 0 and session.last_used <= limit]
        if unused:
            return min(unused, key=lambda session: session.last_used)
        places = [self._holding(session, 1) for session in others]
        chosen = giving_way(places, client, 1, 1, self.standing.is_new)
        if chosen is None:
            raise Refusal("full", f"full: {len(others)} sessions are open")
        return self._sessions[chosen[0]]

    def find(self, session_id: bytes) -> Session:
        """The open session of that id. Raises Refusal if there is none."""
        try:
            return self._sessions[session_id]
        except KeyError:
            raise Refusal("gone", "no such session is open here") from None

    def check(self, session: Session, round: Round, layer: int, sender: str) -> Growing:
        """The tree of drafts that the round makes or grows. Raises Refusal unless it may run now, memory apart."""
        self.check_length(round)
        tree = session.check(round, layer, sender, self._stage.info)
        self._check_limits(session, round, tree.slots)
        return tree

    def admit(
        self,
        session: Session,
        round: Round,
        layer: int,
        sender: str,
        waiting: Mapping[bytes, int] = _NOTHING,
        size: int = 0,
    ) -> list[Session]:
        """Check the round, reserve memory for its tokens, and take note of it. Returns the sessions that have to end
        now, for want of memory. Raises Refusal, changing nothing, also if its client has most of the memory already.

        `waiting`: by session, bytes of hidden states that wait to be computed; the round brings `size` more.
        """
        tree = self.check(session, round, layer, sender)
        wanted = self._memory_for(session, tree.slots)
        others = self._giving_way(session, self._reserved, wanted, self._max_cache_bytes, "cache memory is left")
        if size:
            size += waiting.get(session.id, 0)
            others += self._giving_way(session, waiting, size, MAX_WAITING, "room to wait is left", gone=others)
        self._reserved[session.id] = wanted
        session.cache.reserve(tree.slots)  # a number so far; the torch thread takes the memory as it writes
        session.last_used = self._clock()
        session.admit(round, tree)
        return others

    def _giving_way(
        self,
        session: Session,
        held: Mapping[bytes, int],
        wanted: int,
        most: int,
        what: str,
        gone: Sequence[Session] = (),
    ) -> list[Session]:
        """Who ends, beside those who are `gone` already, so that a session may have `wanted` bytes of `most`, of which
        sessions have those that are `held`. Raises Refusal if nobody has to."""
        lacking = sum(held.values()) + wanted - most - sum([held.get(one.id, 0) for one in (session, *gone)])
        if lacking <= 0:
            return []
        others = [one for one in self if one is not session and one not in gone]
        holdings = [self._holding(one, held.get(one.id, 0)) for one in others]
        chosen = giving_way(holdings, session.client, wanted, lacking, self.standing.is_new)
        if chosen is None:
            raise Refusal("full", f"full: no {what} for these tokens")
        return [self._sessions[session_id] for session_id in chosen]

    def _memory_for(self, session: Session, slots: int) -> int:
        """Bytes that the session's cache takes with so many slots."""
        capacity = session.cache.capacity_for(slots)
        per_layer = self._stage.cache_bytes_per_token / len(self._stage.span)
        return max(int(capacity * per_layer * len(session.span)), self._reserved[session.id])

    def _holding(self, session: Session, size: int) -> Holding:
        unused = 0.0 if session.waiting else self._clock() - session.last_used
        return Holding(session.id, session.client, size, unused)

    def check_length(self, round: Round) -> None:
        """Raise Refusal if the round has more tokens than this peer takes at a time."""
        size = len(round.tokens)
        if size > self._max_round:
            raise TooLong("unlawful", f"a round of {size} tokens; this peer takes {self._max_round} at a time")

    def _check_limits(self, session: Session, round: Round, slots: int) -> None:
        """Raise Refusal if the round, with which the cache has so many slots, is more than one session may have."""
        limits = self._limits
        if round.num_drafts > limits.max_drafts:
            raise Refusal("unlawful", f"{round.num_drafts} drafts; this peer takes {limits.max_drafts} at a time")
        if limits.max_session_tokens is not None and slots > limits.max_session_tokens:
            raise Refusal("full", f"full: a session may have {limits.max_session_tokens} tokens here")
        if session.to_be_judged >= MAX_JUDGED:
            raise Refusal("unlawful", f"{session.to_be_judged} rounds of this session have not been judged yet")
        if session.in_flight + len(round.tokens) > limits.max_in_flight:
            raise Refusal("unlawful", f"{session.in_flight} tokens of this session have not run yet")

    def tell(self, session: Session, views: Views) -> None:
        """Take note of what the draft of a session's client holds. Raises Refusal, changing nothing."""
        session.check_views(views, self._stage.info)
        if len(views.ids) > self._limits.max_drafts:
            raise Refusal(
                "unlawful", f"views of {len(views.ids)} drafts; this peer takes {self._limits.max_drafts}"
            )
        session.told.keep(views)

    def keep(self, round: Round, states: bytes, compute: Compute) -> None:
        """Take note of the result of an open session's round, for it may have to be passed on again. More of a tree is
        not.
        """
        if not round.grown:
            self._sent.keep(round, states, compute)

    def close(self, session_id: bytes) -> None:
        """Forget a session and free its memory; one that is not open is no error."""
        self._sent.close(session_id)
        self._sessions.pop(session_id, None)
        self._reserved.pop(session_id, None)

    def idle(self, seconds: float) -> list[Session]:
        """The sessions unused for that long."""
        limit = self._clock() - seconds
        return [session for session in self if session.last_used < limit]
