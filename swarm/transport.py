"""Streams of messages between nodes, whatever carries them.

Two implementations: `swarm.libp2p` for the real network, `swarm.memory` for tests and simulations. Both put every
message through the codec. A stream's faults have names: PeerLost when the other end is gone, BadMessage when it sends
something that is no message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from swarm.complaints import Complaints
from swarm.directory import RecordStore
from swarm.incoming import Known, nobody
from swarm.membership import Membership
from swarm.wire import AnyMessage, Contact


class Stream(Protocol):
    """One open two-way stream; messages arrive whole and in order."""

    peer_id: str
    """The other end, as the transport authenticated it."""
    bytes_sent: int
    bytes_received: int

    async def send(self, *messages: AnyMessage) -> None:
        """Hand the messages to the network, all at once. Raises PeerLost."""

    def send_at_once(self, message: AnyMessage) -> bool:
        """Hand a message to the network now, if none before it waits here; whether that was so."""

    async def receive(self) -> AnyMessage:
        """The next message. Raises PeerLost at the end of the stream, BadMessage for anything else."""

    def close(self) -> None:
        """End the stream, both ways; calling it again does nothing."""


Handler = Callable[[Stream], Awaitable[None]]
"""Serves one incoming stream until it ends; the transport closes the stream afterwards."""


class Transport(Protocol):
    """A node's way to open streams and to accept them."""

    peer_id: str
    complaints: Complaints
    """Of other nodes."""

    def check(self) -> None:
        """Raises DaemonEnded if nothing can be reached from here any more, which is nobody else's fault."""

    async def open(self, contact: Contact, protocol: str) -> Stream:
        """A new stream to another node. Raises PeerLost if it cannot be reached in time, and what `check` does."""

    async def serve(self, protocol: str, handler: Handler, known: Known = nobody) -> None:
        """Accept streams of this protocol from now on; those of `known` nodes come before those of strangers."""


class Network(Transport, RecordStore, Protocol):
    """All that a node needs of the network: streams to other nodes, and the records that all share."""

    swarm: Membership
    """To which this node belongs."""

    async def run(self) -> None:
        """Until cancelled. Raises DaemonEnded when the network cannot be used any more."""

    async def maddrs(self) -> list[str]:
        """The addresses under which others can dial this node, peer id included."""
