"""The torch thread and its queue: rounds in, outcomes out, one batch after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from peer.batching import next_batch
from peer.compute import Engine, Job, Outcome

log = logging.getLogger("specswarm")


class Worker:
    """Owns the queue. `deliver(job, outcome)` is called in the event loop; an outcome of None means our own fault."""

    def __init__(
        self,
        engine: Engine,
        thread: ThreadPoolExecutor,
        deliver: Callable[[Job, Outcome | None], None],
        max_batch_tokens: int,
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._deliver = deliver
        self._max_batch_tokens = max_batch_tokens
        self._waiting: list[Job] = []
        self._arrived = asyncio.Event()

    def submit(self, job: Job) -> None:
        """Queue an admitted round."""
        self._waiting.append(job)
        self._arrived.set()

    def drop(self, session_id: bytes) -> None:
        """Forget the waiting rounds of a session that ended."""
        self._waiting = [job for job in self._waiting if job.session.id != session_id]

    async def run(self) -> None:
        """Serve the queue until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = next_batch(self._waiting, self._max_batch_tokens) if self._waiting else []
            self._waiting = [job for job in self._waiting if job not in batch]
            if not self._waiting:
                self._arrived.clear()
            if not batch:
                continue
            outcomes = await loop.run_in_executor(self._thread, self._compute, batch)
            for job, outcome in zip(batch, outcomes, strict=True):
                self._deliver(job, outcome)

    def _compute(self, batch: list[Job]) -> list[Outcome | None]:
        try:
            return list(self._engine.run(batch))
        except Exception:  # a bug of ours, or no memory: these rounds fail, the peer lives, nobody else is blamed
            log.exception("a batch of %d rounds failed", len(batch))
            return [None] * len(batch)
