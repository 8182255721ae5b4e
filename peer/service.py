"""The peer's side of the protocol: which message does what.

A client's stream brings Open, Round and Ping; the peer before pushes Hidden. An admitted round goes to the
worker; what comes of it goes to the next peer or, as a verdict, to the client. What cannot be done is answered with
Refused, and what breaks behind this peer with Broken: neither ends the stream.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from peer.compute import Engine, Failure, Job, Outcome, States
from peer.early import EarlyResults
from peer.links import Links, Outbox
from peer.session import Refusal, Session
from peer.table import SessionTable
from peer.worker import Worker
from swarm.errors import BadMessage, PeerLost
from swarm.model.stage import Stage
from swarm.tensors import DTYPES, dtype_name
from swarm.transport import Stream, Transport
from swarm.wire import (
    NO_SESSION,
    PUSH_PROTOCOL,
    SESSION_PROTOCOL,
    AnyMessage,
    Broken,
    Hidden,
    Open,
    Ping,
    Pong,
    Refused,
    Round,
    Verdict,
)

log = logging.getLogger("specswarm")


class PeerService:
    """Connects streams, sessions, worker and links."""

    def __init__(
        self,
        transport: Transport,
        stage: Stage,
        table: SessionTable,
        thread: ThreadPoolExecutor,
        max_batch_tokens: int,
    ) -> None:
        self._transport = transport
        self._stage = stage
        self._table = table
        self._dtype = dtype_name(stage.dtype)
        self._worker = Worker(Engine(stage), thread, self._deliver, max_batch_tokens)
        self._links = Links(transport, self._on_link_lost)
        self._early = EarlyResults()
        self._replies: dict[bytes, Outbox] = {}  # by session: the way to its client

    async def start(self) -> None:
        """Accept streams from now on."""
        await self._transport.serve(SESSION_PROTOCOL, self._serve_client)
        await self._transport.serve(PUSH_PROTOCOL, self._serve_upstream)

    async def run(self, idle_seconds: float) -> None:
        """Serve until cancelled. Sessions unused for `idle_seconds` end."""
        try:
            await self._expire(idle_seconds)
        finally:
            self._worker.stop()
            await self._links.close()

    async def _serve_client(self, stream: Stream) -> None:
        """One client's stream; the sessions it opened end with it."""
        replies = Outbox()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(replies.run(stream))
                while True:
                    answer = self._answer(await self._receive(stream), stream.peer_id, replies)
                    if answer is not None and not replies.post(answer):
                        raise PeerLost(stream.peer_id, "it does not read its answers")
        except* PeerLost:
            pass  # how every stream ends
        finally:
            for session in [s for s in self._table if self._replies.get(s.id) is replies]:
                self._close(session.id)

    async def _serve_upstream(self, stream: Stream) -> None:
        """The stream on which another peer pushes its results."""
        while True:
            message = await self._receive(stream)
            if not isinstance(message, Hidden):
                log.warning("peer %s pushes %s: ignored", stream.peer_id, type(message).__name__)
                continue
            try:
                self._take_hidden(message, stream.peer_id)
            except Refusal as refusal:
                reply = self._replies.get(message.round.session)
                if reply is not None and self._is_fed_by(message.round.session, stream.peer_id):
                    reply.post(Refused(message.round.session, str(refusal)))

    async def _receive(self, stream: Stream) -> AnyMessage:
        """The next well-formed message; anything else is reported to the log and skipped."""
        while True:
            try:
                return await stream.receive()
            except BadMessage as error:
                log.warning("peer %s: %s", stream.peer_id, error)

    def _answer(self, message: AnyMessage, client: str, replies: Outbox) -> AnyMessage | None:
        """Do what a client's message asks for; what to answer at once, if anything."""
        try:
            match message:
                case Ping(nonce):
                    return Pong(nonce)
                case Open():
                    self._open(message, client, replies)
                case Round():
                    self._take_round(message, client)
                case _:
                    return Refused(NO_SESSION, f"{type(message).__name__} is not for a client to send")
        except Refusal as refusal:
            return Refused(getattr(message, "session", NO_SESSION), str(refusal))
        return None

    def _open(self, message: Open, client: str, replies: Outbox) -> None:
        """Open a session, and take what came too early for it. Raises Refusal."""
        session = self._table.open(message, client)
        self._replies[session.id] = replies
        if session.downstream is not None:
            self._links.prepare(session.downstream)
        for hidden, sender in self._early.claim(session.id):
            self._take_hidden(hidden, sender)

    def _close(self, session_id: bytes) -> None:
        self._table.close(session_id)
        self._worker.drop(session_id)
        self._replies.pop(session_id, None)

    def _take_round(self, round: Round, sender: str) -> None:
        """Token ids from the client, for the first hop. Raises Refusal."""
        session = self._table.find(round.session)
        if session.span.start != 0:
            raise Refusal("only the first hop takes token ids")
        self._submit(session, round, sender, None, ())

    def _take_hidden(self, message: Hidden, sender: str) -> None:
        """Hidden states from the peer before. Raises Refusal."""
        if message.round.session not in self._table:
            self._early.hold(message, sender)
            return
        session = self._table.find(message.round.session)
        if session.span.start == 0:
            raise Refusal("the first hop takes token ids")
        if message.dtype not in DTYPES:
            raise Refusal(f"hidden states are {message.dtype}; this peer reads {', '.join(DTYPES)}")
        dtype = DTYPES[message.dtype]
        expected = len(message.round.tokens) * self._stage.info.hidden_size * dtype.itemsize
        if len(message.states) != expected:
            raise Refusal(f"{len(message.states)} bytes of hidden states; {expected} belong to this round")
        self._submit(session, message.round, sender, States(message.states, dtype), message.compute)

    def _submit(
        self, session: Session, round: Round, sender: str, states: States | None, compute: tuple[float, ...]
    ) -> None:
        self._table.admit(session, round, sender)
        judged_here = round.judged and session.downstream is None
        context = tuple(session.tokens[: len(session.tokens) - round.num_drafts]) if judged_here else ()
        self._worker.submit(Job(session, round, states, compute, context))

    def _deliver(self, job: Job, result: Outcome | Failure) -> None:
        """Bring a result on its way; the session may have ended meanwhile."""
        session, round = job.session, job.round
        reply = self._replies.get(session.id)
        if reply is None:
            return
        if isinstance(result, Failure):
            reply.post(Broken(session.id, result.culprit or self._transport.peer_id, result.reason))
            return
        compute = (*job.compute, result.seconds)
        if session.downstream is not None and result.states is not None:
            self._links.push(session.downstream, Hidden(round, self._dtype, result.states, compute))
        elif result.tokens:
            reply.post(Verdict(session.id, round.number, result.tokens, compute))

    def _on_link_lost(self, error: PeerLost) -> None:
        """Tell the clients whose chains led over a lost peer."""
        for session in self._table:
            if session.downstream is not None and session.downstream.peer_id == error.peer_id:
                self._replies[session.id].post(Broken(session.id, error.peer_id, error.reason))

    def _is_fed_by(self, session_id: bytes, peer_id: str) -> bool:
        try:
            return self._table.find(session_id).source == peer_id
        except Refusal:
            return False

    async def _expire(self, idle_seconds: float) -> None:
        while True:
            await asyncio.sleep(idle_seconds / 4)
            for session in self._table.idle(idle_seconds):
                self._replies[session.id].post(Refused(session.id, f"idle for {idle_seconds:.0f} s"))
                self._close(session.id)
