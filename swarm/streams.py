"""Messages in frames on a raw stream of the daemon."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import closing

from swarm import awake
from swarm.codec import decode, encode
from swarm.daemon import BROKEN
from swarm.errors import PeerLost
from swarm.incoming import SMALL, Guest, IncomingStreams, seconds_for
from swarm.sockets import check_open
from swarm.tasks import owned
from swarm.wire import AnyMessage

_HEADER = 4  # bytes of a frame's length
_GOODBYE_SECONDS = 10.0  # for the other end to close a stream
_TURN = 16  # messages of one stream, after which others have their turn
_CHUNK = 1 << 16  # bytes read at a time of what nobody waits for any more
_SOON = 1.0  # seconds after which it is asked again whether a node has to wait


class Libp2pStream:
    """Frames on a raw stream of the daemon: four bytes of length, then the message; length 0 says goodbye.

    The end that accepted a stream closes it first, and is asked to by a goodbye: a QUIC stream that is closed from the
    end that opened it may stay counted as open, and when a few hundred are, the connection opens no more.
    """

    def __init__(
        self,
        peer_id: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        max_message: int,
        is_own: bool,
    ) -> None:
        """`max_message`: bytes of the longest message that is taken; `is_own`: this node opened the stream."""
        self.peer_id = peer_id
        self._max_message = max_message
        self._is_own = is_own
        self._goodbye: asyncio.Task[None] | None = None
        self._limits: tuple[IncomingStreams, Guest] | None = None
        self.bytes_sent = 0
        self.bytes_received = 0
        self._received = 0  # messages
        self._reader = reader
        self._writer = writer

    async def send(self, *messages: AnyMessage) -> None:
        """Hand the messages to the daemon, in one write; waits only while its buffer is full."""
        data = b"".join(map(_framed, messages))
        if self._goodbye:
            raise PeerLost(self.peer_id, "its stream broke")
        self.bytes_sent += len(data)
        try:
            check_open(self._writer)
            self._writer.write(data)
            await self._writer.drain()
        except BROKEN:
            raise PeerLost(self.peer_id, "its stream broke") from None

    def send_at_once(self, message: AnyMessage) -> bool:
        """Hand a message to the daemon now, if it has taken all before it; whether that was so."""
        transport = self._writer.transport
        if self._goodbye or transport.is_closing() or transport.get_write_buffer_size():
            return False
        data = _framed(message)
        self.bytes_sent += len(data)
        self._writer.write(data)
        return True

    def limit(self, limits: IncomingStreams, guest: Guest) -> None:
        """From now on large messages are taken within these limits."""
        self._limits = (limits, guest)

    async def receive(self) -> AnyMessage:
        """The next message that there is room for."""
        self._received += 1
        if self._received % _TURN == 0:  # what is there already comes without any waiting
            await asyncio.sleep(0)
        data = None
        while data is None:
            try:
                size = int.from_bytes(await self._reader.readexactly(_HEADER), "big")
                if size > self._max_message:  # nothing after it can be made sense of
                    reason = f"it sends a message of {size} bytes; at most {self._max_message} are taken"
                    if self._limits is not None:
                        limits, guest = self._limits
                        limits.complain(guest, reason)
                    raise PeerLost(self.peer_id, reason)
                if size == 0:
                    raise EOFError
                data = await self._body(size)
            except BROKEN:
                raise PeerLost(self.peer_id, "its stream has ended") from None
            self.bytes_received += _HEADER + size
        return decode(data)

    async def _body(self, size: int) -> bytes | None:
        """The next bytes; None if there is no room for so many, and they were thrown away."""
        if self._limits is None:
            return await self._reader.readexactly(size)
        limits, guest = self._limits
        if size <= SMALL:
            data = await self._reader.readexactly(size)
            limits.note_use(guest)
            return data
        with limits.room_for(guest, size) as is_taken:
            async with awake.timeout(seconds_for(size)):
                parts = [part async for part in self._at_pace(size, limits, guest) if is_taken]
                return b"".join(parts) if is_taken else None

    async def _at_pace(self, size: int, limits: IncomingStreams, guest: Guest) -> AsyncIterator[bytes]:
        while size:
            part = await self._reader.readexactly(min(size, _CHUNK))
            due = limits.due(guest, len(part))
            yield part
            size -= len(part)
            while pause := limits.pause(guest, due):  # noqa: ASYNC110  # time alone ends it, or that its node is known
                await asyncio.sleep(min(pause, _SOON))

    def close(self) -> None:
        """End the stream, both ways; calling it again does nothing."""
        if not self._is_own or self._writer.is_closing():
            self._writer.close()
        elif self._goodbye is None:
            self._goodbye = owned(self._say_goodbye(), f"ending a stream to {self.peer_id}")

    def abort(self) -> None:
        """End the stream at once, whether or not the other end reads what was written to it."""
        self._writer.transport.abort()

    async def _say_goodbye(self) -> None:
        with closing(self._writer), contextlib.suppress(*BROKEN):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                check_open(self._writer)
                self._writer.write(bytes(_HEADER))
                while await self._reader.read(_CHUNK):
                    pass


def _framed(message: AnyMessage) -> bytes:
    data = encode(message)
    return len(data).to_bytes(_HEADER, "big") + data
