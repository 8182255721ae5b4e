"""The peer's side of the protocol: which message does what.

A client's stream brings Open, Round, Relink, Copy, Ask, Recall and Ping; the peer before pushes Hidden. What becomes of
rounds is for `peer.rounds` to see to. What cannot be done is answered with Refused, and what breaks around this peer
with Broken: neither ends the stream.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from functools import partial

from peer.compute import Engine
from peer.early import EarlyResults
from peer.intake import states_of
from peer.links import Links
from peer.metrics import LINKS_LOST, REFUSALS
from peer.outbox import Outbox
from peer.packer import UPLINK_MBIT, Packer
from peer.quota import Quota
from peer.rounds import Rounds
from peer.session import Neighbour, Refusal, Session, TooLong, check_neighbours
from peer.table import SessionTable
from swarm import awake
from swarm.errors import BadMessage, PeerLost, Why
from swarm.inspection import is_owners
from swarm.model.stage import Stage
from swarm.tasks import kept_up
from swarm.transport import Stream, Transport
from swarm.wire import (
    MAX_RECALLED,
    NO_SESSION,
    PUSH_PROTOCOL,
    SESSION_PROTOCOL,
    AnyMessage,
    Ask,
    Broken,
    Contact,
    Copy,
    Hidden,
    Inspect,
    Inspected,
    Introduction,
    Leaving,
    Open,
    Ping,
    Pong,
    Progress,
    Proofs,
    Recall,
    Recalled,
    Refused,
    Relink,
    Round,
    Views,
    is_session_of,
)

log = logging.getLogger("specswarm")

MAX_QUESTIONS = 8  # of one session, that wait to be answered; the oldest goes
_COMPLAINTS: Collection[Why] = ("full", "rate", "stranger", "unlawful")  # the others are nobody's doing


class PeerService:
    """Connects streams, sessions, rounds and links."""

    def __init__(
        self,
        transport: Transport,
        stage: Stage,
        table: SessionTable,
        engine: Engine,
        thread: Executor,
        max_batch_tokens: int,
        introduced: Callable[[Introduction, Contact | None], Neighbour],
        uplink_mbit: float = UPLINK_MBIT,
        prefill_tokens: int | None = None,
    ) -> None:
        """`engine` runs the stage's rounds, on `thread`; `introduced` checks who a next peer is; what is pushed
        is packed if that pays at `uplink_mbit`. `prefill_tokens`: see Worker."""
        self._transport = transport
        self._stage = stage
        self._table = table
        packer = Packer(uplink_mbit)
        self._links = Links(transport, self._on_link_lost, self._on_room, packer.pack, table.standing.is_new)
        self._introduced = introduced
        self._early = EarlyResults()
        self._complaints = transport.complaints
        self._quota = Quota(self._complaints)
        self._replies: dict[bytes, Outbox] = {}  # by session: the way to its client
        self._rounds = Rounds(
            transport.peer_id,
            stage,
            table,
            engine,
            thread,
            max_batch_tokens,
            self._links,
            self._replies,
            self._make_room,
            prefill_tokens or max_batch_tokens,
        )
        self._closed = asyncio.Event()  # a session has ended

    def load(self) -> float:
        """The share of the time since the last question in which the stage computed, 0..1."""
        return self._rounds.load()

    @property
    def num_links(self) -> int:
        """Ways to next peers that are open, or being opened."""
        return len(self._links)

    @property
    def num_clients(self) -> int:
        """That have sessions here."""
        return len(self._clients())

    def _clients(self) -> Counter[str]:
        return Counter(session.client for session in self._table)

    def _sources(self) -> Counter[str]:
        return Counter(session.source for session in self._table)

    async def try_round(self, tokens: int, patience: float) -> float:
        """Seconds that a round of so many tokens takes: see `peer.pace`."""
        return await self._rounds.try_one(tokens, patience)

    async def start(self) -> None:
        """Accept streams from now on."""
        await self._transport.serve(SESSION_PROTOCOL, self._serve_client, self._clients)
        await self._transport.serve(PUSH_PROTOCOL, self._serve_upstream, self._sources)

    async def run(self, idle_seconds: float) -> None:
        """Serve until cancelled. Sessions unused for `idle_seconds` end."""
        try:
            await kept_up(partial(self._expire, idle_seconds), "ending idle sessions")
        finally:
            self._rounds.stop()
            await self._links.close()

    async def drain(self, seconds: float) -> None:
        """Take no new sessions, tell the clients of the open ones, and wait for these to end, `seconds` at most."""
        self._table.is_leaving = True
        for replies in set(self._replies.values()):
            replies.post(Leaving(seconds))
        try:
            async with asyncio.timeout(seconds):
                while len(self._table):
                    self._closed.clear()
                    await self._closed.wait()
        except TimeoutError:
            log.warning("%d sessions are still open; leaving all the same", len(self._table))

    async def _serve_client(self, stream: Stream) -> None:
        """One client's stream; the sessions it opened end with it."""
        replies = Outbox()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(replies.run(stream))
                while True:
                    await self._quota.wait(stream.peer_id)
                    message = await self._receive(stream)
                    self._quota.note(stream.peer_id, message, self._table.num_sessions_of(stream.peer_id))
                    answer = self._answer(message, stream.peer_id, replies)
                    if answer is not None and not replies.post(answer):
                        self._complaints.about(
                            "answers", stream.peer_id, "it does not read its answers: it is cut off"
                        )
                        raise PeerLost(stream.peer_id, "it does not read its answers")
        except* PeerLost:
            pass  # how every stream ends
        finally:
            for session in [s for s in self._table if self._replies.get(s.id) is replies]:
                self._close(session.id)

    async def _serve_upstream(self, stream: Stream) -> None:
        """The stream on which another peer pushes its results.

        One who may not push is read nevertheless: if its stream ended, it would tell its clients that we are lost.
        """
        while True:
            if not self._table.is_fed_by(stream.peer_id):
                await self._quota.wait(stream.peer_id)
            message = await self._receive(stream)
            if not self._table.is_fed_by(stream.peer_id):
                self._quota.note(stream.peer_id, message, 0)
            if not isinstance(message, Hidden):
                name = type(message).__name__
                self._complaints.about("nonsense", stream.peer_id, f"it pushes {name}: ignored")
                continue
            if self._table.admission.is_denied(stream.peer_id):
                self._complaints.about("denied", stream.peer_id, "it pushes results: nothing is taken from it")
                continue
            self._take_hidden(message, stream.peer_id)

    async def _receive(self, stream: Stream) -> AnyMessage:
        """The next well-formed message; anything else is reported to the log and skipped."""
        while True:
            try:
                return await stream.receive()
            except BadMessage as error:
                self._complaints.about("nonsense", stream.peer_id, str(error))

    def _answer(self, message: AnyMessage, client: str, replies: Outbox) -> AnyMessage | None:
        """Do what a client's message asks for; what to answer at once, if anything."""
        try:
            return self._do(message, client, replies)
        except Refusal as refusal:
            self._note_refusal(refusal, client)
            return Refused(getattr(message, "session", NO_SESSION), refusal.why, str(refusal))

    def _do(self, message: AnyMessage, client: str, replies: Outbox) -> AnyMessage | None:
        """The same. Raises Refusal."""
        match message:
            case Ping(nonce):
                return Pong(nonce)
            case Open():
                self._open(message, client, replies)
            case Round():
                self._take_round(message, client)
            case Proofs():
                self._rounds.prove(self._opened_on(replies, message.session), message)
            case Views():
                self._table.tell(self._opened_on(replies, message.session), message)
            case Ask():
                return self._ask(message, replies)
            case Recall():
                return self._recall(message, replies)
            case Copy():
                self._copy(message, replies)
            case Relink():
                self._relink(message, replies)
            case Inspect():
                return self._inspect(message)
            case _:
                raise Refusal("unlawful", f"{type(message).__name__} is not for a client to send")
        return None

    def _note_refusal(self, refusal: Refusal, peer_id: str) -> None:
        """Count it; if it says something of who asked, complain."""
        REFUSALS.labels(refusal.why).inc()
        if refusal.why in _COMPLAINTS:
            self._complaints.about(refusal.why, peer_id, f"refused: {refusal}")

    def _open(self, message: Open, client: str, replies: Outbox) -> None:
        """Open a session, and take what came too early for it. Raises Refusal."""
        if not is_session_of(message.session, client):
            raise Refusal("unlawful", "the session's id is one of another client")
        downstream = self._next(message.downstream, client)
        session = self._table.open(message, client, downstream, self._give_place)
        self._rounds.drop(session.id)  # of a session that this one replaces
        self._links.leave(session.id)
        self._replies[session.id] = replies
        self._meet_neighbours(session)

    def _relink(self, message: Relink, replies: Outbox) -> None:
        """Give a session new neighbours, and pass on again what the next one lacks. Raises Refusal."""
        session = self._opened_on(replies, message.session)
        downstream = self._next(message.downstream, session.client, known=session.downstream)
        num_layers = self._stage.info.num_layers
        check_neighbours(session.span, message.upstream, downstream, num_layers)
        lacking = None
        if downstream is not None:
            chunk = downstream.chunk(message.chunk)
            lacking = session.sent.since(message.holds, chunk, message.judged, message.settled)
            self._table.admission.check_replay(session.client, lacking.num_tokens)
        session.relink(message, downstream, num_layers)
        if lacking is not None:
            self._rounds.pass_again(session, lacking)
        self._meet_neighbours(session)

    def _copy(self, message: Copy, replies: Outbox) -> None:
        """Bring another peer what the next one has. Raises Refusal."""
        session = self._opened_on(replies, message.session)
        to = self._named(message.to, session.client, known=None)
        again = session.sent.text(message.start, message.end, to.chunk(message.chunk))
        self._table.admission.check_replay(session.client, again.num_tokens)
        self._rounds.copy(session, to.contact, again)

    def _ask(self, message: Ask, replies: Outbox) -> Progress | None:
        """How far a session got, now or when it is far enough. Raises Refusal."""
        session = self._opened_on(replies, message.session)
        answer = self._rounds.progress(session, message)
        if answer is None:
            session.asked = [*session.asked[1 - MAX_QUESTIONS :], message]
        return answer

    def _recall(self, message: Recall, replies: Outbox) -> Recalled:
        """The sketches of what a session was given. Raises Refusal."""
        session = self._opened_on(replies, message.session)
        if session.witness is None:
            raise Refusal("unlawful", "the session was opened without a witness")
        end = min(message.end, message.start + MAX_RECALLED)
        return Recalled(session.id, message.nonce, session.witness.recall(message.start, end))

    def _inspect(self, message: Inspect) -> Inspected:
        """Whom this peer limits. Raises Refusal."""
        if not is_owners(message, self._transport.peer_id, time.time()):
            raise Refusal("stranger", "whom this peer limits is for its owner to see")
        return Inspected(tuple(self._complaints.recent))

    def _opened_on(self, replies: Outbox, session_id: bytes) -> Session:
        """The session, if this client's stream is the one it was opened on. Raises Refusal."""
        session = self._table.find(session_id)
        if self._replies[session_id] is not replies:
            raise Refusal("gone", "the session was opened on another stream")
        return session

    def _next(
        self, introduction: Introduction | None, client: str, known: Contact | None = None
    ) -> Neighbour | None:
        """The next peer that a client names, if there is one; `known` is the one before. Raises Refusal."""
        return None if introduction is None else self._named(introduction, client, known)

    def _named(self, introduction: Introduction, client: str, known: Contact | None) -> Neighbour:
        neighbour = self._introduced(introduction, known)
        self._links.check(client, neighbour.contact)
        return neighbour

    def _close(self, session_id: bytes) -> None:
        self._table.close(session_id)
        self._rounds.drop(session_id)
        self._links.leave(session_id)
        self._replies.pop(session_id, None)
        self._closed.set()

    def _end(self, session: Session, reason: str) -> None:
        """Close a session, and say so."""
        self._replies[session.id].post(Refused(session.id, "gone", reason))
        self._close(session.id)

    def _give_place(self, session: Session) -> None:
        self._make_room(session, "others need the place, and its client had most of them or did not use it")

    def _make_room(self, session: Session, reason: str) -> None:
        """Close a session for want of room."""
        self._complaints.about("room", session.client, f"a session of it was ended: {reason}")
        self._end(session, reason)

    def _meet_neighbours(self, session: Session) -> None:
        """Open the way to the next peer, and take what the one before has pushed too early."""
        self._links.lead(session)
        if self._table.admission.is_denied(session.source):
            reason = f"peer {self._transport.peer_id} takes nothing from it"
            self._replies[session.id].post(Broken(session.id, session.source, reason))
        for hidden in self._early.claim(session.id, session.source):
            self._take_hidden(hidden, session.source)

    def _take_round(self, round: Round, sender: str) -> None:
        """Token ids from the client, for the first hop. Raises Refusal."""
        session = self._table.find(round.session)
        if session.span.start != 0:
            raise Refusal("unlawful", "only the first hop takes token ids")
        self._rounds.submit(session, round, 0, sender, None, ())

    def _take_hidden(self, message: Hidden, sender: str) -> None:
        """Hidden states from the peer before; the client of the session is told if they cannot be taken.

        What comes for no session, or from somebody else, may be early: the client's word on it is still on its way.
        """
        session_id = message.round.session
        session = self._table.find(session_id) if session_id in self._table else None
        if session is None or session.source != sender:
            if not self._early.hold(message, sender):
                self._complaints.about("early", sender, "it brings more results than are kept for sessions to come")
            return
        try:
            self._take_states(session, message, sender)
        except Refusal as refusal:
            self._note_refusal(refusal, session.client)  # whose session, and whose chain it is
            self._replies[session_id].post(Refused(session_id, refusal.why, str(refusal)))

    def _take_states(self, session: Session, message: Hidden, sender: str) -> None:
        """Hidden states for an open session, from the one who feeds it, who knows what is taken here. Raises
        Refusal."""
        round = message.round
        try:
            self._table.check_length(round)
            states = states_of(message, session, sender, self._stage.info.hidden_size)
        except (BadMessage, TooLong) as error:
            self._replies[session.id].post(Broken(session.id, sender, str(error)))
            return
        self._rounds.submit(session, round, message.layer, sender, states, message.compute)

    def _on_link_lost(self, sessions: Collection[Session], error: PeerLost) -> None:
        """Tell the clients whose chains led over a lost peer."""
        LINKS_LOST.inc()
        for session in sessions:
            self._replies[session.id].post(Broken(session.id, error.peer_id, error.reason))

    def _on_room(self) -> None:
        """Results that waited for a neighbour have been sent."""
        self._rounds.go_on()

    async def _expire(self, idle_seconds: float) -> None:
        """End what is not used; not after a pause of this program, in which nobody could use anything."""
        with awake.clock().kept() as clock:
            while True:
                pauses = clock.pauses
                await asyncio.sleep(idle_seconds / 4)
                for session in self._table.idle(idle_seconds) if clock.pauses == pauses else []:
                    self._end(session, f"idle for {idle_seconds:.0f} s")
