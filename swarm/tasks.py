"""Background work has an owner: whatever ends otherwise than it should is logged at once, and has a consequence.

- `owned` starts a task for whoever keeps it. An error that is no outcome of such work is a bug of ours: it is logged
  the moment it happens, not when somebody looks, and the owner is told.
- `kept_up` is for work that never ends: it starts again after a pause.
- `Alongside` is for work that serves a block: if it fails, the block is broken off and raises its error.
- `report_strays` is for what libraries start: nobody of ours owns it, but the log has it.

A task is started nowhere else, but for those of an `asyncio.TaskGroup`, which raises what they raise.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

from swarm.errors import SpecswarmError

log = logging.getLogger("specswarm")

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds before work that failed starts again

Outcomes = tuple[type[BaseException], ...]
"""Errors that are a task's result like any other: whoever started it deals with them."""


def owned(
    work: Coroutine[Any, Any, T],
    name: str,
    *,
    outcomes: Outcomes = (SpecswarmError,),
    on_failure: Callable[[Exception], object] | None = None,
) -> asyncio.Task[T]:
    """Start a task for the caller, who keeps it, and awaits or ends it. `name` says what it does, for the log.

    An error beside `outcomes` is logged at once, and `on_failure` gets it.
    """
    task = asyncio.create_task(work, name=name)

    def note_end(_: asyncio.Task[T]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception) and not isinstance(error, outcomes):
            report(f"{name} failed", error)
            if on_failure is not None:
                on_failure(error)

    task.add_done_callback(note_end)
    return task


async def kept_up(work: Callable[[], Awaitable[object]], name: str) -> NoReturn:
    """Do what has no end, until cancelled: if it fails, or returns, that is logged, and after a pause it starts again.

    The pause doubles from a second to a minute, and is a second again after a minute in which all went well.
    """
    clock, pause = asyncio.get_running_loop().time, _FIRST_PAUSE
    while True:
        started = clock()
        try:
            await work()
            log.error("%s has ended, which it never should; it starts again in %.0f s", name, pause)
        except Exception as error:
            report(f"{name} failed; it starts again in {pause:.0f} s", error)
        has_lasted = clock() - started > _LONGEST_PAUSE
        await asyncio.sleep(_FIRST_PAUSE if has_lasted else pause)
        pause = 2 * _FIRST_PAUSE if has_lasted else min(2 * pause, _LONGEST_PAUSE)


class Alongside(Generic[T]):
    """Work for a block, ended with it: `async with Alongside(work, name) as task`. If it fails, the block is broken off
    and raises that error; one of `outcomes` is for the block to look at."""

    def __init__(self, work: Coroutine[Any, Any, T], name: str, *, outcomes: Outcomes = (SpecswarmError,)) -> None:
        self._work, self._name, self._outcomes = work, name, outcomes
        self._failure: Exception | None = None
        self._is_over = self._is_broken_off = False

    async def __aenter__(self) -> asyncio.Task[T]:
        self._block = asyncio.current_task()
        self._task = owned(self._work, self._name, outcomes=self._outcomes, on_failure=self._break_off)
        return self._task

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        await end(self._task)
        is_cancelled_besides = self._is_broken_off and self._block is not None and self._block.uncancel() > 0
        if self._failure is not None and not is_cancelled_besides:
            raise self._failure from None

    def _break_off(self, error: Exception) -> None:
        self._failure = error
        if not self._is_over and self._block is not None:
            self._is_broken_off = self._block.cancel()


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended: a library may swallow a cancellation that comes just as its call ends."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=1.0)


def report(what: str, error: BaseException) -> None:
    """A line for the log; with a trace, if the error is a bug of ours."""
    if isinstance(error, SpecswarmError):
        log.error("%s: %s", what, error)
    else:
        log.error("%s, by a fault of this program: %s", what, error or type(error).__name__, exc_info=error)


def report_strays(loop: asyncio.AbstractEventLoop) -> None:
    """Have the log tell what ends, in this loop or in a thread, without an owner to notice."""

    def stray(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        log.error("%s", context.get("message", "a callback failed"), exc_info=context.get("exception"))

    def stray_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None:
            report(f"the thread {arguments.thread.name if arguments.thread else ''} ended", arguments.exc_value)

    loop.set_exception_handler(stray)
    threading.excepthook = stray_thread
