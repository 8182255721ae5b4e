"""The torch thread and its queue: rounds in, outcomes out, one batch after the other.

Short rounds do not wait for the end of others' prefill: they run before or after the attention of one of its layers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from peer.batching import PrefillPass, is_prefill, next_batch
from peer.compute import FAILED, Break, Engine, Failure, Job, Outcome
from peer.queue import Queue, num_tokens
from peer.sent import CHUNK
from swarm.tasks import report

NICENESS = 5  # of the torch thread: messages for others go first, and what the peer's owner does
_LONG = 8  # times as many tokens of prefill where nobody decodes: enough for a pass, and the next hop begins early
_WORKED = 1 << 30  # tokens, at which their count begins anew
_SHORT = 128  # tokens of rounds that run together within others' pass


@dataclass(frozen=True, slots=True)
class _Trial:
    """Work that is timed when nothing better is to be done, or from `due` on."""

    work: Callable[[], float]
    due: float
    result: asyncio.Future[float]


class _Handed:
    """Rounds that one thread leaves for another, which may come too late: who takes them has them."""

    def __init__(self) -> None:
        self._batches = deque[list[Job]]()

    def put(self, batch: list[Job]) -> None:
        """Leave them there; nothing may be there."""
        self._batches.append(batch)

    def take(self) -> list[Job]:
        """What is there; no jobs if nothing is."""
        try:
            return self._batches.popleft()
        except IndexError:
            return []


class Worker:
    """Owns the queue; `deliver(job, result)` is called in the event loop."""

    def __init__(
        self,
        engine: Engine,
        thread: Executor,
        deliver: Callable[[Job, Outcome | Failure], None],
        max_batch_tokens: int,
        prefill_tokens: int | None = None,
        queue: Queue | None = None,
        held_up: Callable[[], Collection[bytes]] = tuple,
    ) -> None:
        """`prefill_tokens`: most of a pass beside which others decode, None: `max_batch_tokens` (see PrefillPass);
        `held_up`: sessions none of whose rounds are to be run for now; `go_on` when there are fewer."""
        self._engine = engine
        self._thread = thread
        self._deliver = deliver
        self._max_batch_tokens = max_batch_tokens
        self._prefill = PrefillPass(min(prefill_tokens or max_batch_tokens, max_batch_tokens))
        self._long_prefill = min(max(CHUNK, _LONG * self._prefill.most), max_batch_tokens)
        self._held_up = held_up
        self._queue = queue or Queue()
        self._is_busy = self._is_stopped = False
        self._running: list[Job] = []
        self._is_breakable = False  # whether that is prefill, all of it
        self._between: list[Job] = []  # short rounds that are run in the middle of those, or are to be, ...
        self._handed = _Handed()  # ... which the torch thread has not begun with yet
        self._busy_seconds = 0.0
        self.worked = 0
        """Tokens of the rounds that have been run, up to _WORKED and then from 0 on again."""
        self._asked = (time.perf_counter(), 0.0)  # for the load: when, and what had been computed by then
        self._trial: _Trial | None = None

    @property
    def waiting_bytes(self) -> Mapping[bytes, int]:
        """By session: bytes of hidden states that wait."""
        return self._queue.num_bytes

    def submit(self, job: Job) -> None:
        """Queue an admitted round; it starts at once if the torch thread is free."""
        self._queue.add(job)
        if self._is_busy and not is_prefill(job.round):
            self._break()
        self.go_on()

    async def time(self, work: Callable[[], float], patience: float) -> float:
        """What `work` returns, on the torch thread: as soon as no round waits for it, or after `patience` seconds
        between two batches. One at a time; raises what `work` raises."""
        loop = asyncio.get_running_loop()
        trial = self._trial = _Trial(work, loop.time() + patience, loop.create_future())
        self.go_on()
        return await trial.result

    def load(self) -> float:
        """The share of the time since the last question in which rounds were computed, 0..1."""
        now, busy = time.perf_counter(), self._busy_seconds
        (since, before), self._asked = self._asked, (now, busy)
        return min((busy - before) / max(now - since, 1e-9), 1.0)

    @property
    def queued(self) -> int:
        """Tokens of the rounds that wait or are run."""
        return num_tokens(self._running) + num_tokens(self._between) + self._queue.num_tokens

    def drop(self, session_id: bytes) -> None:
        """Forget the waiting rounds of a session that ended."""
        self._queue.forget(session_id)
        handed = self._handed.take()
        if handed:
            self._between = []
            self._hand_over([job for job in handed if job.session.id != session_id])

    def leave_out(self, session_id: bytes, is_stale: Callable[[Job], bool]) -> list[Job]:
        """Forget waiting rounds of a session that are not wanted any more; which these were."""
        return self._queue.leave_out(session_id, is_stale)

    def stop(self) -> None:
        """Start nothing more."""
        self._is_stopped = True
        self._handed.take()

    def go_on(self) -> None:
        """Hand the next batch to the torch thread, unless it has one or none may run; or a trial, whose turn it is."""
        if self._is_busy or self._is_stopped:
            return
        if self._between and (late := self._handed.take()):  # for the pass that is done
            self._between = []
            self._start(late)
            return
        loop, trial = asyncio.get_running_loop(), self._trial
        ready = self._queue.heads(self._held_up()) if self._queue else []
        if trial is not None and (not ready or loop.time() >= trial.due):
            self._trial, self._is_busy = None, True
            self._thread.submit(self._try, trial, loop)
            return
        if ready:
            self._start(self._next(ready, loop.time()))

    def _start(self, batch: list[Job]) -> None:
        self._is_busy, self._running = True, batch
        self._is_breakable = self._engine.can_break and _is_prefill(batch)
        self._thread.submit(self._run, batch, asyncio.get_running_loop())
        self._break()

    def _break(self) -> None:
        """Hand over the short rounds that need not wait for the end of what is run, if that is prefill."""
        if not self._is_breakable or self._is_stopped or self._between:
            return
        short = self._queue.breaking(self._running, _SHORT)
        if short:
            held_up = self._held_up()
            batch = next_batch([job for job in short if job.session.id not in held_up], _SHORT)
            self._hand_over(self._queue.take(batch, _SHORT))

    def _hand_over(self, batch: list[Job]) -> None:
        if batch:
            self._between = batch
            self._handed.put(batch)

    def _next(self, ready: Sequence[Job], now: float) -> list[Job]:
        """What is run of these: where some decode, and others' prefill would make them wait, either, as it is the turn
        of one or the other."""
        if not self._queue.is_disturbing(ready, now):
            return self._queue.take(
                next_batch(ready, self._max_batch_tokens, self._long_prefill), self._long_prefill
            )
        prefill = [job for job in ready if is_prefill(job.round)]
        decode = [job for job in ready if not is_prefill(job.round)]
        most = self._prefill.tokens
        chosen = prefill if is_prefill(ready[0].round) else decode
        return self._queue.take(next_batch(chosen, self._max_batch_tokens, most), most)

    def _run(self, batch: list[Job], loop: asyncio.AbstractEventLoop) -> None:
        """On the torch thread: compute, and wake the event loop with what came of it."""
        between = Break(partial(self._run_between, loop))
        results = self._results(batch, between if self._is_breakable else None)
        _tell(loop, self._finish, batch, results, between.own_seconds)

    def _run_between(self, loop: asyncio.AbstractEventLoop) -> None:
        """The same within a pass, of what was handed over for that; the loop hears of it before it does of the pass."""
        batch = self._handed.take()
        if batch:
            started = time.perf_counter()
            results = self._results(batch)
            _tell(loop, self._finish_between, batch, results, time.perf_counter() - started)

    def _results(self, batch: list[Job], between: Break | None = None) -> list[Outcome | Failure]:
        try:
            return self._engine.run(batch, between)
        except BaseException as error:  # nothing may end the thread's work but the program
            report("computing failed", error)
            return [FAILED] * len(batch)

    def _try(self, trial: _Trial, loop: asyncio.AbstractEventLoop) -> None:
        """On the torch thread."""
        try:
            outcome: float | Exception = trial.work()
        except Exception as error:
            outcome = error
        _tell(loop, self._finish_trial, trial, outcome)

    def _finish_trial(self, trial: _Trial, outcome: float | Exception) -> None:
        self._is_busy = False
        if trial.result.done():
            pass  # whoever wanted it has gone
        elif isinstance(outcome, Exception):
            trial.result.set_exception(outcome)
        else:
            trial.result.set_result(outcome)
        self.go_on()

    def _finish(self, batch: list[Job], results: list[Outcome | Failure], seconds: float) -> None:
        self._running, self._is_breakable = [], False
        self._busy_seconds += seconds
        self._bring_all(batch, results)
        self._is_busy = False
        if self._queue:
            self._account(batch, seconds)
        else:  # nobody waits for that, and the results leave at the end of this turn of the event loop
            asyncio.get_running_loop().call_soon(self._account, batch, seconds)
        self.go_on()

    def _finish_between(self, batch: list[Job], results: list[Outcome | Failure], seconds: float) -> None:
        self._between = []
        self._busy_seconds += seconds
        self._bring_all(batch, results)
        self._account(batch, seconds)
        self._break()

    def _account(self, batch: list[Job], seconds: float) -> None:
        """Take note of what was run."""
        tokens = num_tokens(batch)
        kinds = {is_prefill(job.round) for job in batch}
        if kinds == {False}:
            self._prefill.note_decode(seconds)
        elif kinds == {True} and tokens <= self._prefill.most:
            self._prefill.note_prefill(tokens, seconds)
        self._queue.charge(batch, seconds, asyncio.get_running_loop().time(), self._running)

    def _bring_all(self, batch: list[Job], results: list[Outcome | Failure]) -> None:
        """Deliver what came of these rounds."""
        self.worked = (self.worked + num_tokens(batch)) % _WORKED  # which the answers to questions tell
        for job, result in zip(batch, results, strict=True):
            self._bring(job, result)

    def _bring(self, job: Job, result: Outcome | Failure) -> None:
        """Deliver a result; if that fails, the others are delivered all the same."""
        try:
            self._deliver(job, result)
        except Exception as error:
            report("delivering a round's result failed", error)


def _is_prefill(batch: Sequence[Job]) -> bool:
    """Whether a pass has some rounds, and all of them are prefill."""
    return {is_prefill(job.round) for job in batch} == {True}


def _tell(loop: asyncio.AbstractEventLoop, finish: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the program has ended meanwhile
        loop.call_soon_threadsafe(finish, *arguments)
