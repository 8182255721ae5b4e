"""A simulated peer: the real sessions, batches and logs of what was passed on, around a stage that only takes time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import simpy

from peer.session import Neighbour, Session
from simulator.hosts import Host, Network, after
from simulator.texts import following
from swarm.model.speed import MANY
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.speculation.tree import ROOT
from swarm.wire import Ask, Contact, Copy, Open, Progress, Relink, Round, Verdict, beyond

HEADER = 100  # bytes of a message beside its tokens and states
TOKEN = 4  # bytes of a token's id, with its parent
_EARLY_SECONDS = 10.0  # for which rounds are kept whose session is not open yet


@dataclass(frozen=True, slots=True)
class DraftSpeed:
    """What drafting takes, in seconds."""

    start: float = 0.0
    """For a forward pass, ..."""
    per_node: float = 0.0
    """... and for each guess that it works out."""

    def seconds(self, nodes: int) -> float:
        """Of one pass."""
        return self.start + self.per_node * nodes


@dataclass(frozen=True, slots=True)
class StageSpeed:
    """What the stage's work takes, in seconds."""

    start: float
    """For a batch, ..."""
    per_token: float
    """... for each of its tokens, ..."""
    several: float = 0.0
    """... if there is more than one of them, ..."""
    per_round: float = 0.0
    """... for each of its rounds after the first, ..."""
    per_context: float = 0.0
    """... and, for each token, for each position before it."""

    def seconds(self, rounds: Sequence[Round], share: float) -> float:
        """Of a batch, through this share of the layers."""
        tokens = sum(len(round.tokens) for round in rounds)
        context = sum(len(round.tokens) * round.position for round in rounds)
        work = self.per_token * tokens + self.per_round * (len(rounds) - 1) + self.per_context * context
        return share * (self.start + work + (self.several if tokens > 1 else 0.0))

    def announced(self) -> tuple[float, float]:
        """Of one token, and of each further one of a round, as a peer would measure it."""
        return self.start + self.per_token, self.per_token + self.several / (MANY - 1)


class Client(Protocol):
    """To whom verdicts go."""

    host: Host

    def take_verdict(self, peer_id: str, verdict: Verdict) -> None:
        """The last hop's."""

    def take_progress(self, peer_id: str, progress: Progress) -> None:
        """An answer to a question."""

    def take_loss(self, peer_id: str) -> None:
        """The stream to a peer has ended."""

    def take_leaving(self, peer_id: str) -> None:
        """A peer is about to leave."""


@dataclass(slots=True, eq=False)
class Job:
    """One admitted round that waits for the stage."""

    session: Session
    round: Round
    compute: tuple[float, ...]


Batching = Callable[[Sequence[Job], int], list[Job]]
"""Which of the waiting rounds run together, of at most so many tokens."""


@dataclass(slots=True)
class _Seat:
    """A session, and what the simulator knows beside it."""

    session: Session
    client: Client
    downstream: Peer | None
    walk: tuple[int, int, int] = (-1, ROOT, 0)
    """At the last hop: of which round, at which node the target is, and which token of the text it says after it."""


class Peer:
    """Serves a span."""

    def __init__(
        self,
        network: Network,
        host: Host,
        span: Span,
        num_layers: int,
        speed: StageSpeed,
        row_bytes: int,
        max_batch_tokens: int,
        batching: Batching,
        draft_speed: DraftSpeed | None,
    ) -> None:
        """`row_bytes`: of one token between two hops; `draft_speed`: if it drafts for clients."""
        self.host = host
        self.span = span
        self.speed = speed
        self.draft_speed = draft_speed
        self.is_silent = False
        self.guests: dict[simpy.Process, None] = {}
        """Generations that are drafted here; interrupted when it dies."""
        self.contact = Contact(host.name)
        self.joined = network.env.now
        self._network = network
        self._num_layers = num_layers
        self._row_bytes = row_bytes
        self._max_batch_tokens = max_batch_tokens
        self._batching = batching
        self._seats: dict[bytes, _Seat] = {}
        self._early: dict[bytes, list[tuple[Round, tuple[float, ...]]]] = {}
        self._waiting: list[Job] = []
        self._is_busy = False
        self._busy_seconds = 0.0
        self._asked = (self.joined, 0.0)  # for its load: when, and what it had computed by then
        self._empty: simpy.Event | None = None  # while it leaves

    @property
    def peer_id(self) -> str:
        """Its name."""
        return self.host.name

    @property
    def num_waiting(self) -> int:
        """Rounds that wait for the stage, or are in it."""
        return len(self._waiting) + self._is_busy

    def load(self) -> float:
        """The share of the time since the last question in which its stage has computed."""
        now, busy = self._network.env.now, self._busy_seconds
        (since, before), self._asked = self._asked, (now, busy)
        return min((busy - before) / (now - since), 1.0) if now > since else 0.0

    def open(self, message: Open, client: Client, downstream: Peer | None) -> None:
        """Take part in a chain."""
        span = Span(message.start, message.end)
        session = Session(
            message.session,
            client.host.name,
            span,
            message.upstream or client.host.name,
            downstream.contact if downstream else None,
            Sampling(),
            None,  # type: ignore[arg-type]  # nothing is computed
            message.holds,
            message.chunk,
        )
        self._seats[session.id] = _Seat(session, client, downstream)
        for round, compute in self._early.pop(session.id, ()):
            self.take(round, compute)

    def relink(self, message: Relink, downstream: Peer | None) -> None:
        """Give a session new neighbours, and pass on again what the next one lacks."""
        seat = self._seats.get(message.session)
        if seat is None:
            return
        after = Neighbour(downstream.contact, downstream._max_batch_tokens) if downstream else None
        seat.session.relink(message, after, self._num_layers)
        seat.downstream = downstream
        if downstream is not None:
            for round, _, compute in seat.session.sent.since(message.holds, message.chunk):
                self._push(downstream, round, compute)

    def copy(self, message: Copy, to: Peer) -> None:
        """Bring another peer what was passed on of a session."""
        seat = self._seats.get(message.session)
        if seat is not None:
            for round, _, compute in seat.session.sent.text(message.start, message.end, message.chunk):
                self._push(to, round, compute)

    def ask(self, message: Ask) -> None:
        """Say how far a session got, now or when it is far enough."""
        seat = self._seats.get(message.session)
        if seat is None:
            return
        progress = seat.session.progress(message)
        if progress is None:
            seat.session.asked.append(message)
        else:
            self._network.send(
                self.host, seat.client.host, HEADER, seat.client.take_progress, self.peer_id, progress
            )

    def close(self, session_id: bytes) -> None:
        """Forget a session."""
        self._seats.pop(session_id, None)
        self._early.pop(session_id, None)
        self._waiting = [job for job in self._waiting if job.session.id != session_id]
        if self._empty is not None and not self._seats and not self._empty.triggered:
            self._empty.succeed()

    def _forget_early(self, session_id: bytes) -> None:
        self._early.pop(session_id, None)

    def leave(self) -> simpy.Event:
        """Tell all clients that it is about to leave; happens when they have moved on."""
        self._empty = self._network.env.event()
        if not self._seats:
            self._empty.succeed()
        for client in self._clients():
            self._network.send(self.host, client.host, HEADER, client.take_leaving, self.peer_id)
        return self._empty

    def crash(self) -> None:
        """Die; the streams to its clients end, and they are told by their own machines."""
        self._end()
        for client in self._clients():
            delay = self._network.delay(self.host, client.host)
            after(self._network.env, delay, client.take_loss, self.peer_id)
        self._seats.clear()

    def hang(self) -> None:
        """Fall silent for ever."""
        self.is_silent = True
        self._end()

    def _end(self) -> None:
        self.host.is_up = False
        for process in self.guests:
            process.interrupt()
        self.guests.clear()

    def _clients(self) -> list[Client]:
        return list({id(seat.client): seat.client for seat in self._seats.values()}.values())

    def take(self, round: Round, compute: tuple[float, ...]) -> None:
        """A round, from the client or from the hop before."""
        seat = self._seats.get(round.session)
        if seat is None:
            if round.session not in self._early:
                self._early[round.session] = []
                after(self._network.env, _EARLY_SECONDS, self._forget_early, round.session)
            self._early[round.session].append((round, compute))
            return
        session = seat.session
        if session.is_stale(round) or (not round.grown and round.position > len(session.tokens)):
            return
        session.admit(round, session.tree_with(round))
        for job in [job for job in self._waiting if job.session is session] if self._waiting else ():
            if session.is_given_up(job.round):
                self._waiting.remove(job)
                session.ran(job.round)
        self._waiting.append(Job(session, round, compute))
        self._start()

    def _start(self) -> None:
        if self._is_busy or not self._waiting:
            return
        if len(self._waiting) == 1:
            batch, self._waiting = self._waiting, []
        else:
            batch = self._batching(self._waiting, self._max_batch_tokens)
            self._waiting = [job for job in self._waiting if job not in batch]
        self._is_busy = True
        share = len(batch[0].session.span) / len(self.span)
        seconds = self.speed.seconds([job.round for job in batch], share)
        self._busy_seconds += seconds
        self.host.thread.run(seconds, self._finish, batch, seconds)

    def _finish(self, batch: Sequence[Job], seconds: float) -> None:
        self._is_busy = False
        if not self.host.is_up:
            return
        for job in batch:
            self._deliver(job, seconds)
        self._start()

    def _deliver(self, job: Job, seconds: float) -> None:
        session, round = job.session, job.round
        session.ran(round)
        seat = self._seats.get(session.id)
        if seat is None or seat.session is not session or session.is_given_up(round):
            return
        compute = (*job.compute, seconds)
        if session.span.end < self._num_layers:
            if not round.grown:
                session.sent.keep(round, bytes(len(round.tokens)), compute)
            rest = beyond(round, session.holds)
            if rest is not None and seat.downstream is not None:
                self._push(seat.downstream, rest, compute)
        elif round.judged and (tokens := _judged(seat, round)):
            verdict = Verdict(session.id, round.number, tokens, compute)
            size = HEADER + TOKEN * len(tokens)
            self._network.send(self.host, seat.client.host, size, seat.client.take_verdict, self.peer_id, verdict)
        for question in list(session.asked):
            if session.progress(question) is not None:
                session.asked.remove(question)
                self.ask(question)

    def _push(self, to: Peer, round: Round, compute: tuple[float, ...]) -> None:
        size = HEADER + (self._row_bytes + TOKEN) * len(round.tokens)
        self._network.send(self.host, to.host, size, to.take, round, compute)


def _judged(seat: _Seat, round: Round) -> tuple[int, ...]:
    """The verdict's tokens; none, where more of a tree does not go on from the verdict before."""
    if round.grown:
        number, here, end = seat.walk
        if number != round.number - 1:
            return ()
    else:
        here, end = ROOT, round.position + round.num_text
    drafts = round.tokens[round.num_text :]
    parents = round.parents or range(-1, len(drafts) - 1)
    nodes = list(following(drafts, parents, round.grown, here, end))
    if round.grown and not nodes:
        seat.walk = (round.number, here, end)
        return ()
    seat.walk = (round.number, nodes[-1] if nodes else here, end + len(nodes))
    first = end + 1 if round.grown else end
    return tuple(range(first, end + len(nodes) + 1))
