"""Outgoing messages: each neighbour has a queue and a task of its own, so that nobody waits for a slow one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial

from swarm.errors import BadMessage, PeerLost
from swarm.tasks import end, owned
from swarm.transport import Stream, Transport
from swarm.wire import PUSH_PROTOCOL, AnyMessage, Contact, size_of

MAX_QUEUED = 1024  # messages that wait for one neighbour, ...
MAX_BYTES = 128 << 20  # ... and what they take; one that lags further behind counts as lost
WRITE_BYTES = 1 << 16  # that go out in one write, if the last message does not take more

Change = Callable[[AnyMessage], Awaitable[AnyMessage]]
"""What becomes of a message before it is sent."""


class Outbox:
    """The messages that wait for one stream."""

    def __init__(self) -> None:
        self.wanted = -math.inf
        """When somebody last asked for the way there, in the event loop's time."""
        self._queue: asyncio.Queue[AnyMessage] = asyncio.Queue(MAX_QUEUED)
        self._bytes = 0

    def post(self, message: AnyMessage) -> bool:
        """Queue a message; False if the neighbour reads too slowly to take more."""
        size = size_of(message)
        if self._queue.full() or self._bytes + size > MAX_BYTES:
            return False
        self._queue.put_nowait(message)
        self._bytes += size
        return True

    async def run(self, stream: Stream, change: Change | None = None) -> None:
        """Send what is posted, in order: what waits together in one write. Raises PeerLost when the stream breaks."""
        while True:
            messages = await self._next()
            await stream.send(*[await change(message) for message in messages] if change else messages)

    async def _next(self) -> list[AnyMessage]:
        """The messages that wait, or the first to come; as many as fit into one write."""
        messages, size = [await self._queue.get()], 0
        while (size := size + size_of(messages[-1])) < WRITE_BYTES and not self._queue.empty():
            messages.append(self._queue.get_nowait())
        self._bytes -= size
        return messages


class Links:
    """Streams to next peers, one for each, shared by all sessions."""

    def __init__(
        self,
        transport: Transport,
        on_lost: Callable[[Contact, float, PeerLost], None],
        change: Change | None = None,
    ) -> None:
        """`on_lost` is told who was lost, and for whom: for those who asked for the way there before that time.
        `change` makes of each message what is sent."""
        self._transport = transport
        self._change = change
        self._on_lost = on_lost
        self._outboxes: dict[Contact, Outbox] = {}  # a peer that came back elsewhere is another contact
        self._tasks: dict[Contact, asyncio.Task[None]] = {}

    def prepare(self, contact: Contact) -> float:
        """Open the stream to a peer, unless it is open, so that the first push finds it ready. Returns the time of this
        call: the event loop's, in seconds."""
        outbox = self._outboxes.get(contact) or self._begin(contact)
        outbox.wanted = asyncio.get_running_loop().time()
        return outbox.wanted

    def push(self, contact: Contact, message: AnyMessage) -> None:
        """Queue a message for a peer. If it cannot be brought there, `on_lost` is told and the queue is dropped."""
        outbox = self._outboxes.get(contact) or self._begin(contact)
        if not outbox.post(message):
            self._tasks[contact].cancel()
            self._drop(contact, PeerLost(contact.peer_id, "it does not read what it is sent"))

    async def close(self) -> None:
        """End all streams."""
        await end(*self._tasks.values())

    def _begin(self, contact: Contact) -> Outbox:
        outbox = self._outboxes[contact] = Outbox()
        failed = partial(self._fail, contact, outbox)
        name = f"the link to {contact.peer_id}"
        self._tasks[contact] = owned(self._serve(contact, outbox), name, on_failure=failed)
        return outbox

    async def _serve(self, contact: Contact, outbox: Outbox) -> None:
        try:
            with closing(await self._open(contact, outbox)) as stream:
                async with asyncio.TaskGroup() as group:
                    group.create_task(outbox.run(stream, self._change))
                    await stream.receive()  # nothing comes back: this returns when the stream ends
                    raise PeerLost(contact.peer_id, "it answers what needs no answer")
        except* (PeerLost, BadMessage) as errors:
            if self._outboxes.get(contact) is outbox:
                error = errors.exceptions[0]
                self._drop(contact, error if isinstance(error, PeerLost) else PeerLost(contact.peer_id, str(error)))

    async def _open(self, contact: Contact, outbox: Outbox) -> Stream:
        """Raises PeerLost when it cannot be opened for those who asked last.

        A dial to a dead host takes long to fail, and the peer may be back by then: it says nothing to those who asked
        after it had begun.
        """
        while True:
            began = asyncio.get_running_loop().time()
            try:
                return await self._transport.open(contact, PUSH_PROTOCOL)
            except PeerLost as error:
                if outbox.wanted <= began:
                    raise
                self._on_lost(contact, began, error)

    def _fail(self, contact: Contact, outbox: Outbox, _: Exception) -> None:
        """What was to go there is lost by a fault of this peer, and the neighbour is not to blame."""
        if self._outboxes.get(contact) is outbox:
            self._drop(contact, PeerLost(self._transport.peer_id, "it failed inside; its log has the cause"))

    def _drop(self, contact: Contact, error: PeerLost) -> None:
        self._outboxes.pop(contact, None)
        self._tasks.pop(contact, None)
        self._on_lost(contact, math.inf, error)
