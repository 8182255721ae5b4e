"""Answers on their way to one client."""

from __future__ import annotations

import asyncio

from swarm.transport import Stream
from swarm.wire import AnyMessage, size_of

MAX_QUEUED = 1024  # messages that wait for one client, ...
MAX_BYTES = 4 << 20  # ... and what they take; one that lags further behind counts as lost
WRITE_BYTES = 1 << 16  # that go out in one write, if the last message does not take more


class Outbox:
    """The messages that wait for one stream."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[AnyMessage] = asyncio.Queue(MAX_QUEUED)
        self._bytes = 0

    def post(self, message: AnyMessage) -> bool:
        """Queue a message; False if the client reads too slowly to take more."""
        size = size_of(message)
        if self._queue.full() or self._bytes + size > MAX_BYTES:
            return False
        self._queue.put_nowait(message)
        self._bytes += size
        return True

    async def run(self, stream: Stream) -> None:
        """Send what is posted, in order: what waits together in one write. Raises PeerLost when the stream breaks."""
        while True:
            await stream.send(*await self._next())

    async def _next(self) -> list[AnyMessage]:
        """The messages that wait, or the first to come; as many as fit into one write."""
        messages, size = [await self._queue.get()], 0
        while (size := size + size_of(messages[-1])) < WRITE_BYTES and not self._queue.empty():
            messages.append(self._queue.get_nowait())
        self._bytes -= size
        return messages
