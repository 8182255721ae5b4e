"""A client's streams to the hops of a chain, one for each, and who listens to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from client.routing import Hop
from swarm import awake
from swarm.errors import BadMessage, PeerLost
from swarm.tasks import owned
from swarm.transport import Stream, Transport
from swarm.wire import SESSION_PROTOCOL, AnyMessage

_OPEN_ROUND_TRIPS = 4  # that opening a stream may take, ...
_OPEN_SECONDS = 1.0  # ... and at least so long


@dataclass(frozen=True, slots=True)
class _End:
    """This client's end of a stream, and the task that listens to it."""

    stream: Stream
    listener: asyncio.Task[None]


class HopStreams:
    """Opens, listens, sends and closes; paired verbs: open / drop."""

    def __init__(
        self,
        transport: Transport,
        on_message: Callable[[str, AnyMessage], None],
        on_lost: Callable[[PeerLost], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        """`on_message` is given what a peer, by its id, sends; `on_lost` is told when a stream ends that was not
        dropped; `on_failure`, when nobody listens any more by a fault of this program."""
        self._transport = transport
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_failure = on_failure
        self._ends: dict[str, _End] = {}
        self._past = [0, 0]  # bytes sent and received on streams that were closed

    @property
    def peer_ids(self) -> set[str]:
        """To whom there is a stream."""
        return set(self._ends)

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received."""
        streams = [end.stream for end in self._ends.values()]
        sent, received = self._past
        return sent + sum(s.bytes_sent for s in streams), received + sum(s.bytes_received for s in streams)

    async def open(self, hops: Sequence[Hop]) -> None:
        """Open a stream to every hop, at once, and listen. Raises PeerLost, with none of them left open."""
        for hop, stream in zip(hops, await _open_streams(self._transport, hops), strict=True):
            peer_id = hop.contact.peer_id
            self._ends[peer_id] = _End(stream, self._listening(peer_id, stream))

    async def send(self, peer_id: str, message: AnyMessage) -> None:
        """Raises PeerLost."""
        end = self._ends.get(peer_id)
        if end is None:
            raise PeerLost(peer_id, "its stream has ended")
        await end.stream.send(message)

    def drop(self, peer_id: str) -> None:
        """Close the stream to a peer; that there is none is no error."""
        end = self._ends.pop(peer_id, None)
        if end is not None:
            self._past[0] += end.stream.bytes_sent
            self._past[1] += end.stream.bytes_received
            end.listener.cancel()
            end.stream.close()

    async def close(self) -> None:
        """Close all of them."""
        listeners = [end.listener for end in self._ends.values()]
        for peer_id in list(self._ends):
            self.drop(peer_id)
        await asyncio.gather(*listeners, return_exceptions=True)

    def _listening(self, peer_id: str, stream: Stream) -> asyncio.Task[None]:
        return owned(self._listen(peer_id, stream), f"listening to {peer_id}", on_failure=self._on_failure)

    async def _listen(self, peer_id: str, stream: Stream) -> None:
        try:
            while True:
                self._on_message(peer_id, await stream.receive())
        except PeerLost as error:
            self._on_lost(error)
        except BadMessage as error:
            self._on_lost(PeerLost(peer_id, f"it sends nonsense: {error}"))


async def _open_streams(transport: Transport, hops: Sequence[Hop]) -> list[Stream]:
    """A stream to every hop, opened at once. Raises PeerLost, with none left open."""
    tasks = [owned(_open_stream(transport, hop), f"opening a stream to {hop.contact.peer_id}") for hop in hops]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(result, BaseException):
                result.close()
        raise


async def _open_stream(transport: Transport, hop: Hop) -> Stream:
    try:
        async with awake.timeout(max(_OPEN_SECONDS, _OPEN_ROUND_TRIPS * hop.round_trip)):
            return await transport.open(hop.contact, SESSION_PROTOCOL)
    except TimeoutError:
        raise PeerLost(hop.contact.peer_id, "it cannot be reached in time") from None
