"""A network inside one process: the same streams, bytes and records, without sockets.

Every message still goes through the codec, so that what works here is what works on the wire. For what a node sends to
itself, for tests and for trials.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from weakref import WeakSet

from swarm import records
from swarm.clocks import Clocks
from swarm.codec import decode, encode
from swarm.complaints import Complaints
from swarm.directory import Seen
from swarm.errors import BadMessage, PeerLost
from swarm.incoming import Known, nobody
from swarm.membership import PUBLIC
from swarm.tasks import owned
from swarm.transport import Handler
from swarm.wire import MAX_SIZES, AnyMessage, Contact

_END = b""  # no message encodes to nothing


def _now() -> float:
    """The event loop's time, which in a simulation is virtual."""
    return asyncio.get_running_loop().time()


def _issued(record: bytes) -> float:
    """When a record was issued; what is none counts as the oldest."""
    try:
        return records.read(record).issued
    except BadMessage:
        return 0.0


class MemoryStream:
    """One end of a pair of queues."""

    def __init__(
        self, peer_id: str, inbox: asyncio.Queue[bytes], outbox: asyncio.Queue[bytes], max_message: int
    ) -> None:
        """`max_message`: bytes of the longest message that is taken."""
        self.peer_id = peer_id
        self._max_message = max_message
        self.bytes_sent = 0
        self.bytes_received = 0
        self._inbox = inbox
        self._outbox = outbox
        self._ended = False

    async def send(self, *messages: AnyMessage) -> None:
        """Queue the messages' bytes at the other end."""
        if self._ended:
            raise PeerLost(self.peer_id, "its stream has ended")
        for data in map(encode, messages):
            self.bytes_sent += len(data)
            self._outbox.put_nowait(data)

    def send_at_once(self, message: AnyMessage) -> bool:
        """Queue a message's bytes at the other end, unless the stream has ended."""
        if self._ended:
            return False
        data = encode(message)
        self.bytes_sent += len(data)
        self._outbox.put_nowait(data)
        return True

    async def receive(self) -> AnyMessage:
        """The next message of the other end."""
        data = await self._inbox.get()
        if data == _END:
            self._ended = True
            self._inbox.put_nowait(_END)  # the end stays the end, however often it is asked for
            raise PeerLost(self.peer_id, "its stream has ended")
        if len(data) > self._max_message:
            raise PeerLost(self.peer_id, f"it sends a message of {len(data)} bytes")
        self.bytes_received += len(data)
        return decode(data)

    def close(self) -> None:
        """End both directions."""
        if not self._ended:
            self._ended = True
            self._outbox.put_nowait(_END)
            self._inbox.put_nowait(_END)


class MemoryNetwork:
    """The switchboard: who is there, and the records they stored."""

    def __init__(self, clock: Callable[[], float] = _now) -> None:
        """`clock`: by which records grow older."""
        self.clocks = Clocks()
        self._clock = clock
        self._nodes: dict[str, MemoryTransport] = {}
        self._records: dict[str, dict[str, tuple[bytes, float]]] = {}  # and when each came

    def join(self, peer_id: str) -> MemoryTransport:
        """A new node's transport."""
        node = self._nodes[peer_id] = MemoryTransport(self, peer_id)
        return node

    def leave(self, peer_id: str) -> None:
        """The node dies: its streams end, and it cannot be reached any more."""
        for stream in list(self._nodes.pop(peer_id).streams):
            stream.close()

    def find(self, peer_id: str) -> MemoryTransport:
        """The node of that id. Raises PeerLost if it is not there."""
        if peer_id not in self._nodes:
            raise PeerLost(peer_id, "it cannot be reached")
        return self._nodes[peer_id]

    async def put(self, keys: Sequence[str], subkey: str, value: bytes, seen: Seen) -> bool:
        """RecordStore.put"""
        for key in keys:
            entries = self._records.setdefault(key, {})
            held = entries.get(subkey)
            if held is not None:
                seen(held[0])
            if held is None or _issued(held[0]) < _issued(value):
                entries[subkey] = (value, self._clock())
        return True

    async def get(self, key: str) -> list[tuple[str, bytes, float]]:
        """RecordStore.get"""
        now = self._clock()
        return [(subkey, value, now - came) for subkey, (value, came) in self._records.get(key, {}).items()]


class MemoryTransport:
    """One node's end of a MemoryNetwork: a `swarm.transport.Network`."""

    def __init__(self, network: MemoryNetwork, peer_id: str) -> None:
        self.peer_id = peer_id
        self.swarm = PUBLIC
        self.complaints = Complaints()
        self.streams: WeakSet[MemoryStream] = WeakSet()
        self._network = network
        self._handlers: dict[str, Handler] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def protocols(self) -> set[str]:
        """Those of which it accepts streams."""
        return set(self._handlers)

    async def serve(self, protocol: str, handler: Handler, _: Known = nobody) -> None:
        """Accept streams of this protocol from now on; there is room for all."""
        self._handlers[protocol] = handler

    def check(self) -> None:
        """Nothing ends it."""

    async def open(self, contact: Contact, protocol: str) -> MemoryStream:
        """A new stream to another node of the network."""
        other = self._network.find(contact.peer_id)
        if protocol not in other.protocols:
            raise PeerLost(contact.peer_id, "it does not serve that")
        there: asyncio.Queue[bytes] = asyncio.Queue()
        here: asyncio.Queue[bytes] = asyncio.Queue()
        stream = MemoryStream(other.peer_id, here, there, MAX_SIZES[protocol])
        self.streams.add(stream)
        other.accept(protocol, MemoryStream(self.peer_id, there, here, MAX_SIZES[protocol]))
        return stream

    @property
    def clocks(self) -> Clocks:
        """There is one clock here."""
        return self._network.clocks

    async def put(self, keys: Sequence[str], subkey: str, value: bytes, seen: Seen) -> bool:
        """Store a record for all to see."""
        return await self._network.put(keys, subkey, value, seen)

    async def get(self, key: str) -> list[tuple[str, bytes, float]]:
        """The records under a key."""
        return await self._network.get(key)

    async def run(self) -> None:
        """Nothing ends it."""
        await asyncio.Event().wait()

    async def maddrs(self) -> list[str]:
        """None: a peer id is address enough here."""
        return []

    def accept(self, protocol: str, stream: MemoryStream) -> None:
        """Hand an incoming stream to its handler."""
        self.streams.add(stream)
        task = owned(self._handle(self._handlers[protocol], stream), f"serving a stream of {stream.peer_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, handler: Handler, stream: MemoryStream) -> None:
        try:
            await handler(stream)
        except PeerLost:
            pass  # the stream's natural end
        finally:
            stream.close()
