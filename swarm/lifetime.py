"""How long a program runs: to its end, or until a signal asks it to stop.

The first signal has a program that serves leave well; any other, and one that is not ready yet, is broken off and
cleans up. The second one ends the process at once. Threads that still compute are not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn, TypeVar

from swarm.tasks import end, owned, report_strays

T = TypeVar("T")

_remains: set[Callable[[], object]] = set()


class Stopped(Exception):
    """A signal has ended the program; all is cleaned up, and the process should end with `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stopped: {code}")
        self.code = code


class Signals:
    """What signals do to a program."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        """Set when the program should leave well."""
        self.number = 0
        """Of the first signal that came."""
        self.serves = False
        """Whether the program heeds `stop`, which is for the program to say."""
        self.task: asyncio.Task[Any] | None = None
        """The program's."""
        self._breaking_off: asyncio.Task[None] | None = None

    def note(self, number: int) -> None:
        """A signal has come."""
        if self.number:
            end_at_once(128 + number)
        self.number = number
        if self.serves:
            self.stop.set()
        elif self.task is not None:
            self._breaking_off = owned(end(self.task), "breaking off")


async def obeying_signals(program: Callable[[Signals], Coroutine[Any, Any, T]]) -> T:
    """Run a program; what it returns or raises. Raises Stopped if a signal has ended it."""
    loop = asyncio.get_running_loop()
    report_strays(loop)
    signals = Signals()
    signals.task = task = owned(program(signals), "the program", outcomes=(Exception,))
    for number in heeded():
        loop.add_signal_handler(number, signals.note, number)
    await asyncio.wait([task])
    if task.cancelled() and signals.number:
        raise Stopped(128 + signals.number)
    result = task.result()
    if signals.number:
        raise Stopped(0)
    return result


def heeded() -> list[signal.Signals]:
    """The signals that ask a program to stop: the terminal's end is one, unless it was started to outlive that."""
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *hangup]


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Those that ask a program to stop are heeded afterwards. They are not blocked: programs that are started meanwhile
    would inherit that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda new, _: came.append(new)) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for new in came:
            signal.raise_signal(new)


def remains(clean_up: Callable[[], object]) -> Callable[[], object]:
    """Something outside this process is here until `gone` is told; `clean_up` takes it away, at once."""
    _remains.add(clean_up)
    return clean_up


def gone(clean_up: Callable[[], object]) -> None:
    """It is away."""
    _remains.discard(clean_up)


def end_at_once(code: int) -> NoReturn:
    """End the process, and leave nothing behind."""
    for clean_up in list(_remains):
        with contextlib.suppress(Exception):
            clean_up()
    os._exit(code)


@contextlib.contextmanager
def torch_thread(niceness: int = 0) -> Iterator[ThreadPoolExecutor]:
    """The thread of a program that computes; who leaves does not wait for what it is at: loading may take minutes.

    `niceness`: by how much all else goes before it, other threads of this program too, where a thread has a priority of
    its own.
    """
    thread = ThreadPoolExecutor(1, "torch", initializer=partial(_lower_priority, niceness))
    try:
        yield thread
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


def _lower_priority(niceness: int) -> None:
    if sys.platform == "linux":  # elsewhere it is the whole process's
        os.nice(niceness)


async def run_until(stop: asyncio.Event, *work: Coroutine[Any, Any, object]) -> None:
    """Run coroutines side by side until `stop` is set, then cancel them; if one fails, or ends before, all end and it
    raises."""

    async def endless(coroutine: Coroutine[Any, Any, object]) -> None:
        await coroutine
        if not stop.is_set():
            raise RuntimeError(f"{coroutine} has ended by itself")

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(endless(coroutine)) for coroutine in work]
        await stop.wait()
        await end(*tasks)
