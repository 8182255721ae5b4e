"""Staying in the swarm: who was cut off comes back by itself, and a bootstrap that was away learns who is there.

When a node dies, the others forget it. If it returns with its old address, nobody would ever speak to it again: so
everybody keeps greeting the initial peers it was given.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from swarm.tasks import end, owned
from swarm.wire import Contact

PERIOD_SECONDS = 15.0  # between greetings while there are neighbours
_FIRST_SECONDS = 0.5  # of waiting while there are none; doubles up to the period

Greet = Callable[[Contact], Coroutine[Any, Any, bool]]
"""Connect to a node and ask whether it is there; both know each other afterwards. Never raises."""


async def greet_any(greet: Greet, contacts: Iterable[Contact]) -> bool:
    """Greet all at the same time; True as soon as one answers, when the rest are left to `stay_in`."""
    waiting = {owned(greet(contact), f"greeting {contact.peer_id}") for contact in contacts}
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result() for task in done):
                return True
        return False
    finally:
        await end(*waiting)


async def stay_in(
    initial: Sequence[Contact],
    greet: Greet,
    look_around: Callable[[], Awaitable[None]],
    is_alone: Callable[[], bool],
    reached: Callable[[], Sequence[Contact]],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Greet and look around until cancelled: the initial peers always, those once `reached` while nobody is left."""
    alone_for = 0
    while True:
        await asyncio.gather(*map(greet, initial))
        if is_alone():
            await asyncio.gather(*map(greet, reached()))
        if is_alone():
            wait = min(_FIRST_SECONDS * 2**alone_for, PERIOD_SECONDS)
            alone_for += 1
        else:
            await look_around()
            wait, alone_for = PERIOD_SECONDS, 0
        # not all at the same moment, or a bootstrap that comes back meets the whole swarm at once
        await sleep(wait * random.uniform(0.75, 1.0))  # noqa: S311  # no secret
