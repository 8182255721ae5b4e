"""The torch thread and its queue: rounds in, outcomes out, one batch after the other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Executor

from peer.batching import next_batch
from peer.compute import FAILED, Engine, Failure, Job, Outcome
from swarm.tasks import report


class Worker:
    """Owns the queue; `deliver(job, result)` is called in the event loop."""

    def __init__(
        self,
        engine: Engine,
        thread: Executor,
        deliver: Callable[[Job, Outcome | Failure], None],
        max_batch_tokens: int,
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._deliver = deliver
        self._max_batch_tokens = max_batch_tokens
        self._waiting: list[Job] = []
        self._is_busy = self._is_stopped = False
        self._busy_seconds = 0.0
        self._asked = (time.perf_counter(), 0.0)  # for the load: when, and what had been computed by then

    def submit(self, job: Job) -> None:
        """Queue an admitted round; it starts at once if the torch thread is free."""
        self._waiting.append(job)
        self._start()

    def load(self) -> float:
        """The share of the time since the last question in which rounds were computed, 0..1."""
        now, busy = time.perf_counter(), self._busy_seconds
        (since, before), self._asked = self._asked, (now, busy)
        return min((busy - before) / max(now - since, 1e-9), 1.0)

    def drop(self, session_id: bytes) -> None:
        """Forget the waiting rounds of a session that ended."""
        self._waiting = [job for job in self._waiting if job.session.id != session_id]

    def leave_out(self, is_stale: Callable[[Job], bool]) -> list[Job]:
        """Forget waiting rounds that are not wanted any more; which these were."""
        left_out = [job for job in self._waiting if is_stale(job)]
        self._waiting = [job for job in self._waiting if job not in left_out]
        return left_out

    def stop(self) -> None:
        """Start nothing more."""
        self._is_stopped = True

    def _start(self) -> None:
        """Hand the next batch to the torch thread, unless it has one or none waits."""
        if self._is_busy or self._is_stopped or not self._waiting:
            return
        batch = next_batch(self._waiting, self._max_batch_tokens)
        self._waiting = [job for job in self._waiting if job not in batch]
        self._is_busy = True
        self._thread.submit(self._run, batch, asyncio.get_running_loop())

    def _run(self, batch: list[Job], loop: asyncio.AbstractEventLoop) -> None:
        """On the torch thread: compute, and wake the event loop with what came of it."""
        started = time.perf_counter()
        results: list[Outcome | Failure] = [FAILED] * len(batch)
        try:
            results = self._engine.run(batch)
        except BaseException as error:  # nothing may end the thread's work but the program
            report("computing failed", error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the program has ended meanwhile
            loop.call_soon_threadsafe(self._finish, batch, results, time.perf_counter() - started)

    def _finish(self, batch: list[Job], results: list[Outcome | Failure], seconds: float) -> None:
        self._is_busy = False
        self._busy_seconds += seconds
        for job, result in zip(batch, results, strict=True):
            self._bring(job, result)
        self._start()

    def _bring(self, job: Job, result: Outcome | Failure) -> None:
        """Deliver a result; if that fails, the others are delivered all the same."""
        try:
            self._deliver(job, result)
        except Exception as error:
            report("delivering a round's result failed", error)
