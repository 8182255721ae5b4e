"""Latency: the round trip of a tiny message on an open stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import closing

from swarm.errors import BadMessage, PeerLost
from swarm.transport import Transport
from swarm.wire import SESSION_PROTOCOL, Contact, Ping, Pong

_PINGS = 3
_AT_ONCE = 16  # streams being measured at the same time
_TIMEOUT = 10.0  # seconds for all pings to one peer


async def round_trip(transport: Transport, contact: Contact) -> float:
    """Seconds to a peer and back: the least of a few pings. Raises PeerLost, or BadMessage for a senseless answer."""
    with closing(await transport.open(contact, SESSION_PROTOCOL)) as stream:
        best = float("inf")
        try:
            async with asyncio.timeout(_TIMEOUT):
                for nonce in range(_PINGS):
                    started = time.perf_counter()
                    await stream.send(Ping(nonce))
                    while await stream.receive() != Pong(nonce):
                        pass
                    best = min(best, time.perf_counter() - started)
        except TimeoutError:
            raise PeerLost(contact.peer_id, "it does not answer pings") from None
        return best


async def round_trips(transport: Transport, contacts: Iterable[Contact]) -> dict[str, float]:
    """Seconds to each peer that answers, by peer id; the others are left out."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def measure(contact: Contact) -> tuple[str, float] | None:
        async with gate:
            try:
                return contact.peer_id, await round_trip(transport, contact)
            except (PeerLost, BadMessage):
                return None

    measured = await asyncio.gather(*map(measure, contacts))
    return dict(found for found in measured if found is not None)
