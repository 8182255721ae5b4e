"""The rounds that wait for the stage, and in which order sessions have their turn.

Its law: the stage's time is shared by client, and a client's by session; all newcomers (see `peer.standing`) have one
client's share together. Rounds of one session keep their order, so only its first can be next. While a session decodes,
others' prefill runs in short passes beside it, and its rounds go first as long as its client has had less: they do not
even wait for the end of a pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

from peer.batching import is_prefill
from peer.compute import Job
from peer.shares import Turns
from peer.standing import Standing

_LATELY = 1.0  # seconds in which a session that decodes sends its next round, most often


class Queue:
    """Owns the waiting rounds."""

    def __init__(self, standing: Standing | None = None) -> None:
        """`standing`: who is no newcomer."""
        self._standing = standing or Standing()
        self._waiting: dict[bytes, deque[Job]] = {}  # by session, those that have some
        self._turns = Turns()
        self._decoded: dict[bytes, float] = {}  # by session: when it last had a short round; the oldest first
        self.num_tokens = 0
        """Of all."""
        self.num_bytes: dict[bytes, int] = {}
        """By session: of hidden states."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: Job) -> None:
        """One more, behind those of its session."""
        session_id = job.session.id
        self._waiting.setdefault(session_id, deque()).append(job)
        self.num_tokens += len(job.round.tokens)
        self.num_bytes[session_id] = self.num_bytes.get(session_id, 0) + job.num_bytes

    def heads(self, held_up: Collection[bytes] = ()) -> list[Job]:
        """The first round of each session that is not held up, in the order in which they should run."""
        heads = [jobs[0] for session_id, jobs in self._waiting.items() if session_id not in held_up]
        return sorted(heads, key=self._turn) if len(heads) > 1 else heads

    def breaking(self, batch: Sequence[Job], max_tokens: int) -> list[Job]:
        """The short rounds, of `max_tokens` at most, that need not wait for the end of this pass of others.

        Their turn is not after that of any round in it.
        """
        running = {job.session.id for job in batch}
        heads = (jobs[0] for session_id, jobs in self._waiting.items() if session_id not in running)
        short = [job for job in heads if not is_prefill(job.round) and len(job.round.tokens) <= max_tokens]
        return sorted((job for job in short if not any(self._is_after(job, one) for one in batch)), key=self._turn)

    def _turn(self, job: Job) -> tuple[float, float]:
        return self._turns.so_far(job.session.client, job.session.id)

    def _is_after(self, job: Job, other: Job) -> bool:
        """Whether the other's turn is first; what sessions have had compares within a client alone."""
        (client, session), (others_client, others_session) = self._turn(job), self._turn(other)
        if job.session.client == other.session.client:
            return session > others_session
        return client > others_client

    def take(self, batch: Sequence[Job], prefill_tokens: int) -> list[Job]:
        """These, each the first of its session, as they are to be run: of a longer prefill so many tokens, and the rest
        of it waits on."""
        return [self._take(job, prefill_tokens) for job in batch]

    def _take(self, job: Job, prefill_tokens: int) -> Job:
        jobs = self._waiting[job.session.id]
        jobs.popleft()
        taken = job
        if is_prefill(job.round) and job.round.num_text > prefill_tokens:
            taken, rest = job.parted(prefill_tokens)
            job.session.part()
            jobs.appendleft(rest)
        self._note_gone(job.session.id, [taken])
        return taken

    def is_disturbing(self, batch: Iterable[Job], now: float) -> bool:
        """Whether others wait for short rounds while these run: sessions that have decoded lately, or do so now."""
        prefill, decode = list[bytes](), list[bytes]()
        for job in batch:
            (prefill if is_prefill(job.round) else decode).append(job.session.id)
        if not prefill:
            return False
        self._forget_old(now)
        decoding = self._decoded.keys() | decode
        return any(decoding - {session} for session in prefill)

    def leave_out(self, session_id: bytes, is_stale: Callable[[Job], bool]) -> list[Job]:
        """Forget those rounds of a session that are not wanted any more; which these were."""
        jobs = self._waiting.get(session_id, deque())
        left_out = [job for job in jobs if is_stale(job)]
        if left_out:
            self._waiting[session_id] = deque(job for job in jobs if not is_stale(job))
            self._note_gone(session_id, left_out)
        return left_out

    def _note_gone(self, session_id: bytes, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.num_tokens -= len(job.round.tokens)
            self.num_bytes[session_id] -= job.num_bytes
        if not self._waiting[session_id]:
            del self._waiting[session_id], self.num_bytes[session_id]

    def forget(self, session_id: bytes) -> None:
        """One that ended."""
        self.leave_out(session_id, lambda _: True)
        self._decoded.pop(session_id, None)

    def charge(self, batch: Sequence[Job], seconds: float, now: float, beside: Sequence[Job] = ()) -> None:
        """The stage has worked so long for these, each of another session: each pays by its tokens. `beside`: what is
        still run."""
        tokens = num_tokens(batch)
        costs = {job.session: seconds * len(job.round.tokens) / tokens for job in batch}
        for session, cost in costs.items():
            self._standing.note(session.client, cost)
        for job in batch:
            if not is_prefill(job.round):
                self._decoded.pop(job.session.id, None)
                self._decoded[job.session.id] = now
        self._forget_old(now)
        if not self._waiting and not beside:
            self._turns.begin_anew()
            return
        waiting = [jobs[0] for jobs in self._waiting.values()]
        present = {job.session.client for job in (*waiting, *beside)}
        crowd = sum(map(self._standing.is_new, present | {session.client for session in costs}))
        self._turns.charge(
            {
                (session.client, session.id): cost * (crowd if self._standing.is_new(session.client) else 1)
                for session, cost in costs.items()
            }
        )
        self._turns.keep(present)

    def _forget_old(self, now: float) -> None:
        """Whoever has not decoded lately; also sessions that ended while their rounds were run."""
        while self._decoded and next(iter(self._decoded.values())) <= now - _LATELY:
            del self._decoded[next(iter(self._decoded))]


def num_tokens(jobs: Iterable[Job]) -> int:
    """Of the rounds together."""
    return sum([len(job.round.tokens) for job in jobs])
