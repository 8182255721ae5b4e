"""Latency: the round trip of a tiny message on an open stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import closing

from swarm import awake
from swarm.errors import BadMessage, PeerLost
from swarm.transport import Stream, Transport
from swarm.wire import SESSION_PROTOCOL, Contact, Ping, Pong

_PINGS = 3
_AT_ONCE = 16  # streams being measured at the same time
_TIMEOUT = 10.0  # seconds for all pings to one peer


async def round_trip(transport: Transport, contact: Contact) -> float:
    """Seconds to a peer and back: the least of a few pings. Raises PeerLost, or BadMessage for a senseless answer."""
    with closing(await transport.open(contact, SESSION_PROTOCOL)) as stream:
        best = float("inf")
        try:
            async with awake.timeout(_TIMEOUT):
                for nonce in range(_PINGS):
                    best = min(best, await _pinged(stream, nonce))
        except TimeoutError:
            raise PeerLost(contact.peer_id, "it does not answer pings") from None
        return best


async def _pinged(stream: Stream, nonce: int) -> float:
    """Seconds until a ping is answered, by one at least in which this program did not stand still. Raises PeerLost or
    BadMessage."""
    while True:
        pauses, started = awake.clock().pauses, time.perf_counter()
        await stream.send(Ping(nonce))
        while await stream.receive() != Pong(nonce):
            pass
        seconds = time.perf_counter() - started
        if awake.clock().pauses == pauses:
            return seconds


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
