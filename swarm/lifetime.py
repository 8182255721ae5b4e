"""How long a program runs: until a signal asks it to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


def stop_on_signals() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set, instead of killing the process; a second one of them kills it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    return stop


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended: a library may swallow a cancellation that comes just as its call ends."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=1.0)


async def run_until(stop: asyncio.Event, *work: Coroutine[Any, Any, None]) -> None:
    """Run coroutines side by side until `stop` is set, then cancel them; if one fails, all end and it raises."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in work]
        await stop.wait()
        for task in tasks:
            task.cancel()
        for task in tasks:
            await end(task)
