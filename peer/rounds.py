"""What becomes of rounds: they wait for their proofs, are admitted and computed, and the result goes on its way.

Its way is to the next peer or, as a verdict, to the client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial, reduce

from peer.compute import FAILED, Engine, Failure, Job, Outcome
from peer.intake import States
from peer.links import Links
from peer.metrics import COMPUTE_SECONDS, FAILURES, LAYER_TOKENS, REPLAYED_BYTES, ROUNDS, STALE
from peer.outbox import Outbox
from peer.queue import Queue
from peer.sent import CHUNK, Again
from peer.session import Session
from peer.table import SessionTable
from peer.worker import Worker
from swarm.model.speed import round_seconds
from swarm.model.stage import Stage
from swarm.rows import form_of
from swarm.tasks import report
from swarm.wire import (
    Ask,
    Broken,
    Compute,
    Contact,
    Hidden,
    Progress,
    Proofs,
    Refused,
    Round,
    Verdict,
    beyond,
    fitting,
    joined,
)


class Rounds:
    """Of all sessions of a peer."""

    def __init__(
        self,
        peer_id: str,
        stage: Stage,
        table: SessionTable,
        engine: Engine,
        thread: Executor,
        max_batch_tokens: int,
        links: Links,
        replies: Mapping[bytes, Outbox],
        make_room: Callable[[Session, str], None],
        prefill_tokens: int,
    ) -> None:
        """`engine` runs them, on `thread`; `replies`: by session, the way to its client; `make_room` ends a session,
        and says why. `prefill_tokens`: see Worker."""
        self._peer_id = peer_id
        self._stage = stage
        self._table = table
        self._worker = Worker(
            engine,
            thread,
            self._deliver,
            max_batch_tokens,
            prefill_tokens,
            Queue(table.standing),
            lambda: links.full,
        )
        self._make_room = make_room
        self._links = links
        self._replies = replies
        self._unproven: dict[bytes, tuple[Round, Callable[[], None]]] = {}  # by session: what waits for its proofs

    def load(self) -> float:
        """The share of the time since the last question in which the stage computed, 0..1."""
        return self._worker.load()

    async def try_one(self, tokens: int, patience: float) -> float:
        """Seconds that a round of so many tokens takes, when no other waits, or after `patience` seconds. Raises what
        the stage raises."""
        return await self._worker.time(partial(round_seconds, self._stage, tokens), patience)

    def progress(self, session: Session, question: Ask) -> Progress | None:
        """How far a session got, if it is as far as the question says."""
        return session.progress(question, self._worker.worked, self._worker.queued)

    def go_on(self) -> None:
        """Some results that waited have been sent."""
        self._worker.go_on()

    def stop(self) -> None:
        """Start nothing more."""
        self._worker.stop()

    def drop(self, session_id: bytes) -> None:
        """Forget those of a session that ended."""
        self._worker.drop(session_id)
        self._unproven.pop(session_id, None)

    def submit(
        self, session: Session, round: Round, layer: int, sender: str, states: States | None, compute: Compute
    ) -> None:
        """One that is to run from `layer` on; states [n, hidden], or None where it has token ids. Raises Refusal."""
        if session.is_stale(round):
            STALE.inc()
            return
        if session.lacks_proofs(round, self._stage.info):
            self._table.check(session, round, layer, sender)
            again = partial(self.submit, session, round, layer, sender, states, compute)
            self._unproven[session.id] = (round, again)
            return
        size, before = 0 if states is None else states.num_bytes, session.last_number
        for other in self._table.admit(session, round, layer, sender, self._worker.waiting_bytes, size):
            self._make_room(other, "others need the memory, and its client had most of it or did not use it")
        if session.waiting > 1:
            self._leave_out_stale(session)
        judged_here = round.judged and not round.grown and session.span.end == self._stage.info.num_layers
        context = tuple(session.tokens[: round.position + round.num_text]) if judged_here else ()
        tree = session.tree if round.parents else None
        proofs, views = session.proven.of(round), session.told.of(round)
        self._worker.submit(Job(session, round, states, compute, context, tree, proofs, views, before))

    def prove(self, session: Session, part: Proofs) -> None:
        """What a round's drafts were drawn from; the round may be here already. Raises Refusal."""
        session.prove(part, self._stage.info)
        waiting = self._unproven.pop(session.id, None)
        if waiting is not None and waiting[0].number >= session.proven.number:
            waiting[1]()

    def pass_again(self, session: Session, again: Again) -> None:
        """Bring the next peer what was passed on before, and is not there."""
        self._links.push_again(session, self._replayed(session, again))

    def copy(self, session: Session, to: Contact, again: Again) -> None:
        """Bring another peer, too, what was passed on before."""
        self._links.copy(session, to, self._replayed(session, again))

    def _leave_out_stale(self, session: Session) -> None:
        """Do not run what waits of a tree that was given up with the newest round."""
        for job in self._worker.leave_out(session.id, lambda job: session.is_given_up(job.round)):
            session.ran(job.round)
            STALE.inc()

    def _deliver(self, job: Job, result: Outcome | Failure) -> None:
        """Bring a result on its way; the session may have ended, or been replaced, meanwhile."""
        session = job.session
        session.ran(job.round)
        if not self._table.has(session):
            return
        if isinstance(result, Outcome):
            try:
                self._bring(job, result)
                return
            except Exception as error:
                report("bringing a result on its way failed", error)
                result = FAILED
        self._take_back(job, result.culprit or self._peer_id, result.reason)

    def _take_back(self, job: Job, culprit: str, reason: str) -> None:
        """Nothing came of a round: it is as if it had not come, and none after it.

        Who is to blame is named, if it is this peer, or if he still feeds the session; else its client just sends the
        round again.
        """
        session = job.session
        if session.is_given_up(job.round):
            STALE.inc()
            return
        self._pass_on_parts(session, job.compute)
        later = self._worker.leave_out(session.id, lambda _: True)
        for other in later:
            session.ran(other.round)
        session.take_back([job.round, *(other.round for other in later)], job.last_number)
        self._unproven.pop(session.id, None)
        if culprit == self._peer_id:
            FAILURES.inc()
        if culprit in (session.source, self._peer_id):
            self._replies[session.id].post(Broken(session.id, culprit, reason))
        else:
            self._replies[session.id].post(Refused(session.id, "unlawful", f"of the hop before: {reason}"))

    def _bring(self, job: Job, result: Outcome) -> None:
        """To the next peer or, as a verdict, to the client; and answer the questions that waited for it."""
        session, round = job.session, job.round
        reply = self._replies[session.id]
        if session.is_given_up(round):
            STALE.inc()
            return
        ROUNDS.inc()
        LAYER_TOKENS.inc(len(round.tokens) * len(session.span))
        COMPUTE_SECONDS.inc(result.seconds)
        compute = (*job.compute, result.seconds)
        if result.states is not None:
            self._table.keep(round, result.states, compute)
            if session.parts and session.parts[-1][0].end != round.position:
                self._pass_on_parts(session, job.compute)
            session.parts.append((round, result.states, result.seconds))
            if not job.has_rest or sum(len(part.tokens) for part, *_ in session.parts) >= CHUNK:
                self._pass_on_parts(session, job.compute)
        elif result.tokens:
            reply.post(Verdict(session.id, round.number, result.tokens, compute, result.margin))
        for question in list(session.asked):
            if (answer := self.progress(session, question)) is not None:
                session.asked.remove(question)
                reply.post(answer)

    def _pass_on_parts(self, session: Session, earlier: Compute) -> None:
        """What was computed of one round in parts, in one message, for each takes time here and there; `earlier`:
        seconds of the stages before."""
        parts, session.parts = session.parts, []
        if parts:
            rounds, rows, seconds = zip(*parts, strict=True)
            self._pass_on(session, reduce(joined, rounds), b"".join(rows), (*earlier, sum(seconds)))

    def _pass_on(self, session: Session, round: Round, states: bytes, compute: Compute) -> None:
        """Push a result, as far as the next peer lacks it, and at most as much at a time as that one takes."""
        rest = beyond(round, session.holds)
        if rest is None or session.downstream is None:
            return
        row_bytes = len(states) // len(round.tokens)
        for part in fitting(rest, session.chunk):
            start = (part.position - round.position) * row_bytes
            rows = states[start : start + len(part.tokens) * row_bytes]
            self._links.push(session, self._hidden(session, part, rows, compute))

    def _replayed(self, session: Session, again: Again) -> Iterator[Hidden]:
        for round, rows, compute in again:
            REPLAYED_BYTES.inc(len(rows))
            self._table.admission.note_replay(session.client, len(round.tokens))
            yield self._hidden(session, round, rows, compute)

    def _hidden(self, session: Session, round: Round, states: bytes, compute: Compute) -> Hidden:
        return Hidden(round, session.span.end, form_of(session.wire, self._stage.dtype), states, compute)
