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
        self._idle: Stream | None = None  # on which all has been sent that was taken

    def post(self, message: AnyMessage) -> bool:
        """Send a message, or queue it; False if the client reads too slowly to take more."""
        if self._idle is not None and self._queue.empty() and self._idle.send_at_once(message):
            return True
        size = size_of(message)
        if self._queue.full() or self._bytes + size > MAX_BYTES:
            return False
        self._queue.put_nowait(message)
        self._bytes += size
        return True

    async def run(self, stream: Stream) -> None:
        """Send what is posted, in order: what waits together in one write. Raises PeerLost when the stream breaks."""
        while True:
            self._idle = stream
            first = await self._queue.get()
            self._idle = None
            await stream.send(*self._with(first))

    def _with(self, first: AnyMessage) -> list[AnyMessage]:
        """A message, and of those that wait behind it as many as fit into one write."""
        messages, size = [first], 0
        while (size := size + size_of(messages[-1])) < WRITE_BYTES and not self._queue.empty():
            messages.append(self._queue.get_nowait())
        self._bytes -= size
        return messages
