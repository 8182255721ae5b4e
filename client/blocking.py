"""The same for a script without an event loop of its own: one runs in a background thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Generic, TypeVar

import uvloop

from client.api import AsyncSwarmModel
from client.config import ClientConfig
from client.generation import Generation
from client.prompt import Prompt
from client.result import Result
from swarm import config
from swarm.errors import UsageError
from swarm.tasks import owned

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread; what is still running when it stops is cancelled."""

    def __init__(self) -> None:
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="specswarm", daemon=True)
        self._thread.start()
        self._loop, self._stop = self._started.result()

    def call(self, work: Awaitable[T]) -> T:
        """Run to the end in the loop, and wait for it; Ctrl-C cancels it, and waits until it has cleaned up.

        Raises UsageError once the loop has been stopped.
        """
        if self._is_stopped:
            if asyncio.iscoroutine(work):
                work.close()
            raise UsageError("the model was left: use it, and what it streams, within its `with` block")
        call = _Call(work)
        try:
            self._loop.call_soon_threadsafe(call.start)
            return call.ended.result().result()
        except KeyboardInterrupt:  # wherever it came: from here on, the call has begun
            self._loop.call_soon_threadsafe(call.cancel)
            call.ended.result()
            raise

    def stop(self) -> None:
        """End the loop and its thread."""
        self._is_stopped = True
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as error:  # whoever waits for the loop would wait for ever
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        stop = asyncio.Event()
        self._started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()


class _Call(Generic[T]):
    """Work that a thread waits for; all but the waiting is done in the loop."""

    def __init__(self, work: Awaitable[T]) -> None:
        self.ended: Future[asyncio.Task[T]] = Future()
        """Its task, when that has ended."""
        self._work = work
        self._task: asyncio.Task[T] | None = None

    def start(self) -> asyncio.Task[T]:
        """Begin, if it has not begun."""
        if self._task is None:
            self._task = owned(self._result(), "a call", outcomes=(Exception,))
            self._task.add_done_callback(self.ended.set_result)
        return self._task

    def cancel(self) -> None:
        """Break it off after its first step: what never began would not clean up."""
        asyncio.get_running_loop().call_soon(self.start().cancel)

    async def _result(self) -> T:
        return await self._work


class BlockingGeneration:
    """A Generation for a plain `for` loop."""

    def __init__(
        self, generation: Generation, thread: LoopThread, streaming: set[AsyncGenerator[str, None]]
    ) -> None:
        """`streaming`: the texts that are not at their end; whoever takes one out of it closes it."""
        self._generation = generation
        self._thread = thread
        self._streaming = streaming

    def __iter__(self) -> Iterator[str]:
        pieces = aiter(self._generation)
        self._streaming.add(pieces)
        try:
            while (piece := self._thread.call(_next(pieces))) is not None:
                yield piece
        finally:
            if pieces in self._streaming:
                self._streaming.remove(pieces)
                self._thread.call(pieces.aclose())

    @property
    def result(self) -> Result:
        """Text and figures of the finished generation."""
        return self._generation.result


class SwarmModel:
    """AsyncSwarmModel without `await`; a context manager."""

    def __init__(self, settings: ClientConfig) -> None:
        self._settings = settings

    @classmethod
    def connect(cls, model: str, *, initial_peers: Sequence[str] = (), **options: Any) -> SwarmModel:
        """Joins the swarm as a client when entered; options and errors are those of AsyncSwarmModel.connect."""
        return cls(
            config.load(ClientConfig, "client", None, {"model": model, "initial_peers": initial_peers, **options})
        )

    def stream(self, prompt: Prompt | None = None, **options: Any) -> BlockingGeneration:
        """The new text, piece by piece."""
        return BlockingGeneration(self._model.stream(prompt, **options), self._thread, self._streaming)

    def generate(self, prompt: Prompt | None = None, **options: Any) -> Result:
        """The whole new text, with its figures."""
        return self._thread.call(self._model.generate(prompt, **options))

    def refresh(self) -> int:
        """Look at the swarm again now; how many peers of the target can be reached."""
        return self._thread.call(self._model.refresh())

    def __enter__(self) -> SwarmModel:
        self._thread = LoopThread()
        self._streaming: set[AsyncGenerator[str, None]] = set()
        self._connection = AsyncSwarmModel.connect_with(self._settings)
        try:
            self._model = self._thread.call(self._connection.__aenter__())
        except BaseException:
            self._thread.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._streaming:
                with contextlib.suppress(RuntimeError):  # another thread is in it: its call is cancelled below
                    self._thread.call(self._streaming.pop().aclose())
            self._thread.call(self._connection.__aexit__(kind, error, trace))
        finally:
            self._thread.stop()


async def _next(pieces: AsyncGenerator[str, None]) -> str | None:
    """The next piece, asked for in the loop; None at the end."""
    return await anext(pieces, None)
