"""The torch thread and its queue: rounds in, outcomes out, one batch after the other.

But for short rounds: they do not wait for the end of others' prefill, they run between two of its layers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from peer.batching import PrefillPass, is_prefill, next_batch
from peer.compute import FAILED, Break, Engine, Failure, Job, Outcome
from peer.queue import Queue, num_tokens
from swarm.tasks import report

_WORKED = 1 << 30  # tokens, at which their count begins anew


@dataclass(frozen=True, slots=True)
class _Trial:
    """Work that is timed when nothing better is to be done, or from `due` on."""

    work: Callable[[], float]
    due: float
    result: asyncio.Future[float]


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
        """`prefill_tokens`: most of a pass beside which others decode, None: as many as otherwise (see PrefillPass);
        `held_up`: sessions none of whose rounds are to be run for now; `go_on` when there are fewer."""
        self._engine = engine
        self._thread = thread
        self._deliver = deliver
        self._max_batch_tokens = max_batch_tokens
        self._prefill = PrefillPass(min(prefill_tokens or max_batch_tokens, max_batch_tokens))
        self._held_up = held_up
        self._queue = queue or Queue()
        self._is_busy = self._is_stopped = False
        self._running: list[Job] = []
        self._between: list[Job] = []  # short rounds that are run between two layers of those, or are to be
        self._handed = deque[list[Job]]()  # the same, until the torch thread has taken them
        self._busy_seconds = 0.0
        self.worked = 0
        """Tokens of the rounds that have been run, up to _WORKED and then from 0 on again."""
        self._asked = (time.perf_counter(), 0.0)  # for the load: when, and what had been computed by then
        self._trial: _Trial | None = None

    def check_room(self, client: str, size: int) -> None:
        """Raise Refusal unless there is room for so many more bytes of hidden states of a client."""
        self._queue.check_room(client, size)

    def submit(self, job: Job) -> None:
        """Queue an admitted round; it starts at once if the torch thread is free."""
        self._queue.add(job)
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

    def leave_out(self, session_id: bytes, is_stale: Callable[[Job], bool]) -> list[Job]:
        """Forget waiting rounds of a session that are not wanted any more; which these were."""
        return self._queue.leave_out(session_id, is_stale)

    def stop(self) -> None:
        """Start nothing more."""
        self._is_stopped = True

    def go_on(self) -> None:
        """Hand the next batch to the torch thread, unless none may run; or a trial, whose turn it is. While it is busy
        with prefill, short rounds may go between."""
        if self._is_stopped:
            return
        if self._is_busy:
            self._break()
            return
        if self._between:  # they came too late for the pass that is done
            self._handed.clear()
            batch, self._between = self._between, []
            self._start(batch)
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
        self._thread.submit(self._run, batch, asyncio.get_running_loop())

    def _break(self) -> None:
        """Hand over the short rounds that need not wait for what is run to be done, if that is prefill."""
        if self._between or not (
            self._queue and self._running and all(is_prefill(job.round) for job in self._running)
        ):
            return
        ready = self._queue.breaking(self._running, self._held_up())
        self._between = self._queue.take(next_batch(ready, self._max_batch_tokens), self._max_batch_tokens)
        if self._between:
            self._handed.append(self._between)

    def _next(self, ready: Sequence[Job], now: float) -> list[Job]:
        """What is run of these: where some decode, and others' prefill would make them wait, either, as it is the turn
        of one or the other."""
        if not self._queue.is_disturbing(ready, now):
            return self._queue.take(next_batch(ready, self._max_batch_tokens), self._max_batch_tokens)
        prefill = [job for job in ready if is_prefill(job.round)]
        decode = [job for job in ready if not is_prefill(job.round)]
        most = self._prefill.tokens
        chosen = prefill if is_prefill(ready[0].round) else decode
        return self._queue.take(next_batch(chosen, self._max_batch_tokens, most), most)

    def _run(self, batch: list[Job], loop: asyncio.AbstractEventLoop) -> None:
        """On the torch thread: compute, and wake the event loop with what came of it."""
        self._compute(batch, loop, self._finish, Break(partial(self._run_between, loop)))

    def _run_between(self, loop: asyncio.AbstractEventLoop) -> None:
        """The same, within a pass and between two of its layers, if there is anything."""
        if self._handed:
            self._compute(self._handed.popleft(), loop, self._finish_between)

    def _compute(
        self,
        batch: list[Job],
        loop: asyncio.AbstractEventLoop,
        finish: Callable[[list[Job], list[Outcome | Failure], float], None],
        between: Break | None = None,
    ) -> None:
        started = time.perf_counter()
        results: list[Outcome | Failure] = [FAILED] * len(batch)
        try:
            results = self._engine.run(batch, between)
        except BaseException as error:  # nothing may end the thread's work but the program
            report("computing failed", error)
        seconds = time.perf_counter() - started - (between.seconds if between else 0.0)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the program has ended meanwhile
            loop.call_soon_threadsafe(finish, batch, results, seconds)

    def _try(self, trial: _Trial, loop: asyncio.AbstractEventLoop) -> None:
        """On the torch thread."""
        try:
            outcome: float | Exception = trial.work()
        except Exception as error:
            outcome = error
        with contextlib.suppress(RuntimeError):  # as above
            loop.call_soon_threadsafe(self._finish_trial, trial, outcome)

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
        self._is_busy, self._running = False, []
        self._bring_all(batch, results, seconds)
        self.go_on()

    def _finish_between(self, batch: list[Job], results: list[Outcome | Failure], seconds: float) -> None:
        self._between = []
        self._bring_all(batch, results, seconds)
        self.go_on()

    def _bring_all(self, batch: list[Job], results: list[Outcome | Failure], seconds: float) -> None:
        """Take note of what was run, and deliver what came of it."""
        self._busy_seconds += seconds
        tokens = num_tokens(batch)
        if not any(is_prefill(job.round) for job in batch):
            self._prefill.note_decode(seconds)
        elif all(is_prefill(job.round) for job in batch) and tokens <= self._prefill.most:
            self._prefill.note_prefill(tokens, seconds)
        self.worked = (self.worked + tokens) % _WORKED
        self._queue.charge(batch, seconds, asyncio.get_running_loop().time())
        for job, result in zip(batch, results, strict=True):
            self._bring(job, result)

    def _bring(self, job: Job, result: Outcome | Failure) -> None:
        """Deliver a result; if that fails, the others are delivered all the same."""
        try:
            self._deliver(job, result)
        except Exception as error:
            report("delivering a round's result failed", error)
