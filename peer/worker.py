"""The torch thread and its queue: rounds in, outcomes out, one batch after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from peer.batching import next_batch
from peer.compute import Engine, Failure, Job, Outcome


class Worker:
    """Owns the queue; `deliver(job, result)` is called in the event loop."""

    def __init__(
        self,
        engine: Engine,
        thread: ThreadPoolExecutor,
        deliver: Callable[[Job, Outcome | Failure], None],
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
            batch = next_batch(self._waiting, self._max_batch_tokens)
            self._waiting = [job for job in self._waiting if job not in batch]
            if not self._waiting:
                self._arrived.clear()
            results = await loop.run_in_executor(self._thread, self._engine.run, batch)
            for job, result in zip(batch, results, strict=True):
                self._deliver(job, result)
