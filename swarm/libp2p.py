"""The real network: one libp2p daemon and one node of the DHT in this process's event loop.

hivemind's exceptions end here and in `swarm.calls`: what leaves is named in `swarm.errors`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from functools import partial
from typing import TypeVar

from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.utils.multiaddr import Multiaddr

from swarm import awake, daemon
from swarm.circuits import HOP_PROTOCOL, site_of
from swarm.clocks import Clocks
from swarm.complaints import Complaints
from swarm.daemon import BROKEN
from swarm.dht import Dht
from swarm.directory import CLOCK_TOLERANCE, Seen
from swarm.errors import BadMessage, DaemonEnded, LookupFailed, PeerLost, SwarmUnreachable, UsageError
from swarm.identity import Identity
from swarm.incoming import MAX_CLIENT_STREAMS, MAX_STREAMS, IncomingStreams, Known, nobody
from swarm.membership import PUBLIC, REFUSAL, Membership
from swarm.memory import MemoryNetwork
from swarm.neighbours import greet_any, stay_in
from swarm.relay import Relay, reserve
from swarm.streams import Libp2pStream
from swarm.tasks import end, kept_up, owned, report
from swarm.transport import Handler, Stream
from swarm.wire import MAX_MADDRS, MAX_SIZES, NO_SESSION, Contact, Hello, Refused

log = logging.getLogger("specswarm")

T = TypeVar("T")

CONNECT_SECONDS = 10.0  # to reach a node, its addresses tried in parallel by the daemon
_MAX_KNOWN = 4096  # nodes whose addresses the daemon need not be told again
_MAX_REACHED = 64  # contacts to go back to when no neighbour is left
_HELLO_SECONDS = 5.0  # for whoever opened a stream to show that it is a member


class Libp2pNetwork:
    """This node on the network: a Transport and a RecordStore in one, since both are the one daemon's."""

    def __init__(
        self,
        p2p: P2P,
        dht: Dht,
        incoming: IncomingStreams,
        complaints: Complaints,
        swarm: Membership,
        *,
        listens: bool,
        is_behind_nat: bool,
    ) -> None:
        self.peer_id: str = p2p.peer_id.to_base58()
        self.swarm = swarm
        self._listens = listens
        self._is_behind_nat = is_behind_nat
        self._own: list[str] | None = (
            None  # addresses at which the daemon listens, or which it was told to announce
        )
        self._relays: dict[str, Contact] = {}  # through which others reach this node
        self._p2p = p2p
        self._ended = asyncio.Event()  # the daemon has
        self._within = MemoryNetwork().join(self.peer_id)  # for streams to this node itself
        self._dht = dht
        self._initial: Sequence[Contact] = ()  # by whom this node came into the swarm
        self._incoming = incoming
        self.complaints = complaints
        self._known: dict[str, tuple[str, ...]] = {}  # addresses at which the daemon has reached a peer
        self._reached: dict[str, Contact] = {}  # the last ones, and where; still there when they cannot be any more

    @classmethod
    @contextlib.asynccontextmanager
    async def join(
        cls,
        identity: Identity | None,
        *,
        initial_peers: Sequence[str] = (),
        host_maddrs: Sequence[str] = (),
        announce_maddrs: Sequence[str] = (),
        max_streams: int = MAX_STREAMS,
        max_client_streams: int = MAX_CLIENT_STREAMS,
        swarm: Membership = PUBLIC,
        is_relay: bool = False,
        is_behind_nat: bool = False,
    ) -> AsyncIterator[Libp2pNetwork]:
        """Start the daemon, reach the swarm, and leave it at the end.

        Without `host_maddrs` the node listens nowhere and is a mere client. Streams beyond `max_streams` in all and
        `max_client_streams` of one node, and those of nodes outside `swarm`, are closed at once. A node that is behind
        NAT is reached through those of its initial peers that relay. Raises UsageError for an address that cannot be
        parsed or listened on, SwarmUnreachable if there are initial peers and none answers, or relays. From then on
        the node stays in by itself, whichever of them come and go.
        """
        initial = _contacts(initial_peers)
        daemon.check_ports(host_maddrs)
        is_server = bool(host_maddrs) and not is_behind_nat
        p2p = await daemon.start(identity, host_maddrs, announce_maddrs, is_server=is_server, is_relay=is_relay)
        try:
            complaints = Complaints()
            dht = Dht(p2p, is_server=is_server, swarm=swarm, complaints=complaints)
            network = cls(
                p2p,
                dht,
                IncomingStreams(max_streams, max_client_streams, complaints=complaints),
                complaints,
                swarm,
                listens=bool(host_maddrs),
                is_behind_nat=is_behind_nat,
            )
            watching = owned(network._watch(), "watching the network daemon")
            try:
                await network._take_part(relays=is_relay)
                async with network._staying_in(initial):
                    yield network
            finally:
                await end(watching)
        finally:
            await daemon.end(p2p)

    async def run(self) -> None:
        """Until cancelled. Raises DaemonEnded if the daemon ends by itself."""
        await self._ended.wait()
        self.check()

    def check(self) -> None:
        """Raises DaemonEnded if it has."""
        if self._ended.is_set():
            raise DaemonEnded

    async def maddrs(self) -> list[str]:
        """The addresses under which others can dial this node, peer id included: those of relays, QUIC, others.

        Once asked for, they only change when a relay is added.
        """
        if self._own is None:
            visible = await self._p2p.get_visible_maddrs(latest=True) if self._listens else []
            self._own = sorted(map(str, visible), key=lambda maddr: "quic" not in maddr)
        circuits = [
            f"{maddr}/p2p/{relay.peer_id}/p2p-circuit/p2p/{self.peer_id}"
            for relay in self._relays.values()
            for maddr in relay.maddrs
        ]
        return [*circuits, *self._own][:MAX_MADDRS]

    async def open(self, contact: Contact, protocol: str) -> Stream:
        """A new stream to another node, or to this one. Raises PeerLost if it cannot be reached in CONNECT_SECONDS."""
        is_own = contact.peer_id == self.peer_id
        return await (self._within.open(contact, protocol) if is_own else self.dial(contact, protocol))

    async def dial(self, contact: Contact, protocol: str) -> Libp2pStream:
        """The same, to another node."""
        self.check()
        try:
            async with awake.timeout(CONNECT_SECONDS):
                # the daemon soon forgets a relay's address, and looks in vain for another when that circuit has ended
                if contact.is_relayed or (contact.maddrs and self._known.get(contact.peer_id) != contact.maddrs):
                    await daemon.connect(self._p2p, contact)
                    _note_last(self._known, contact.peer_id, contact.maddrs, _MAX_KNOWN)
                    self._note_reached(contact)
                reader, writer = await daemon.open_stream(self._p2p, PeerID.from_base58(contact.peer_id), protocol)
        except (*BROKEN, ValueError) as error:
            self.check()
            self._known.pop(contact.peer_id, None)
            raise PeerLost(contact.peer_id, f"it cannot be reached ({daemon.first_line(error)})") from None
        stream = Libp2pStream(contact.peer_id, reader, writer, max_message=MAX_SIZES[protocol], is_own=True)
        if self.swarm.is_private:
            await stream.send(Hello(self.swarm.badge(self.peer_id)))
        return stream

    async def serve(self, protocol: str, handler: Handler, known: Known = nobody) -> None:
        """Accept streams of this protocol from now on; those of `known` nodes come before those of strangers."""

        async def handle(info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer_id, limits = info.peer_id.to_base58(), self._incoming
            stream = Libp2pStream(peer_id, reader, writer, max_message=MAX_SIZES[protocol], is_own=False)
            try:
                with limits.taken_by(peer_id, site_of(info.addr.to_bytes()), known, stream.abort) as guest:
                    if guest is None:
                        return
                    stream.limit(limits, guest)
                    if await self._is_member(stream):
                        await handler(stream)
            except PeerLost:
                pass  # the stream's natural end
            except BadMessage as error:
                self.complaints.about("nonsense", stream.peer_id, f"its stream is dropped: {error}")
            except Exception as error:  # hivemind would keep it to itself
                report(f"serving a stream of {stream.peer_id} failed", error)
            finally:
                stream.close()

        await self._within.serve(protocol, handler)
        await self._p2p.add_binary_stream_handler(protocol, handle)

    @property
    def clocks(self) -> Clocks:
        """What time it is at the nodes that answered lately."""
        return self._dht.clocks

    async def put(self, keys: Sequence[str], subkey: str, value: bytes, seen: Seen) -> bool:
        """Store a record on the nodes nearest to each key. Raises DaemonEnded."""
        self.check()
        return await self._dht.put(keys, subkey, value, seen)

    async def get(self, key: str) -> list[tuple[str, bytes, float]]:
        """The records under a key: (subkey, value, age in seconds). Raises LookupFailed or DaemonEnded.

        Nodes that were too busy to answer are forgotten soon: if nobody answers, those by which this one came are
        greeted, and asked once more.
        """
        try:
            return await self._dht.get(key)
        except LookupFailed:
            self.check()
            if not await greet_any(self._greet, [*self._initial, *self._reached.values()]):
                raise
            return await self._dht.get(key)

    async def _watch(self) -> None:
        """Note when the daemon ends: who is asked something afterwards is to know why there is no answer."""
        await daemon.ended(self._p2p)
        self._ended.set()

    @contextlib.asynccontextmanager
    async def _staying_in(self, initial: Sequence[Contact]) -> AsyncIterator[None]:
        """Reach the swarm, and keep reaching it. Raises SwarmUnreachable."""
        self._initial = initial
        if initial and not await greet_any(self._greet, initial):
            listed = ", ".join(f"{maddr}/p2p/{c.peer_id}" for c in initial for maddr in c.maddrs)
            if self._dht.met_strangers:
                hint = (
                    "is --swarm-key the right file?" if self.swarm.is_private else "is it private? give --swarm-key"
                )
                raise SwarmUnreachable(f"the initial peers belong to another swarm ({listed}): {hint}")
            does = "relays for this one" if self._is_behind_nat else "answers"
            raise SwarmUnreachable(f"no initial peer {does} ({listed}): check the address and that it is running")
        work = partial(
            stay_in,
            initial,
            self._greet,
            self._look_around,
            is_alone=lambda: self._dht.is_alone,
            reached=lambda: list(self._reached.values()),
        )
        staying = owned(kept_up(work, "staying in the swarm"), "staying in the swarm")
        try:
            yield
        finally:
            await end(staying)

    async def _greet(self, contact: Contact) -> bool:
        """Connect to a node and have it answer; whether it did, and relays for this one if it has to. One that is busy
        has as long for its answer as for the connection: whoever joins asks but once."""
        try:
            async with awake.timeout(CONNECT_SECONDS):
                await daemon.connect(self._p2p, contact)
        except (*BROKEN, ValueError):
            return False
        return await self._dht.ping(contact.peer_id, CONNECT_SECONDS) and (
            not self._is_behind_nat or await self._reserve(contact)
        )

    async def _look_around(self) -> None:
        """Get to know the neighbours, and what time it is there; a node that stays says so if it is another time."""
        await self._dht.look_around()
        if self._listens and (news := self.clocks.news()):
            log.warning("%s; up to %.0f s do no harm", news, CLOCK_TOLERANCE)

    async def _reserve(self, contact: Contact) -> bool:
        """Ask a node to relay for this one; whether it does."""
        try:
            async with awake.timeout(CONNECT_SECONDS):
                streams = await daemon.open_stream(self._p2p, PeerID.from_base58(contact.peer_id), HOP_PROTOCOL)
                with closing(streams[1]):
                    relays = await reserve(*streams)
        except (*BROKEN, ValueError):
            return False
        if relays and contact.peer_id not in self._relays:
            log.info("reachable through the relay %s", contact.peer_id)
            self._relays[contact.peer_id] = contact
        return relays

    async def _take_part(self, *, relays: bool) -> None:
        """Have the daemon hand over others' calls. Raises SwarmUnreachable if it has ended, or does not answer."""
        try:
            async with awake.timeout(CONNECT_SECONDS):
                if relays:
                    await self._relay_for_others()
                await self._dht.start()
        except BROKEN as error:
            raise SwarmUnreachable(f"the network daemon did not start: {daemon.first_line(error)}") from None

    async def _relay_for_others(self) -> None:
        """Take the place of the daemon's own relay."""
        relay = Relay(partial(daemon.open_stream, self._p2p), self._dht.knows_caller, complaints=self.complaints)

        async def handle(info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await relay.serve(info.peer_id, reader, writer, site_of(info.addr.to_bytes()))
            except Exception as error:  # hivemind would keep it to itself
                report(f"relaying for {info.peer_id} failed", error)

        await self._p2p.add_binary_stream_handler(HOP_PROTOCOL, handle)

    async def _is_member(self, stream: Libp2pStream) -> bool:
        """Whether the other end belongs to this swarm; if not, it has been told so. Raises PeerLost or BadMessage."""
        if not self.swarm.is_private:
            return True
        with contextlib.suppress(TimeoutError):
            async with awake.timeout(_HELLO_SECONDS):
                hello = await stream.receive()
                if isinstance(hello, Hello) and self.swarm.admits(stream.peer_id, hello.badge):
                    return True
                self.complaints.about(
                    "stranger", stream.peer_id, "it is no member of this swarm: its stream is closed"
                )
                await stream.send(Refused(NO_SESSION, "stranger", REFUSAL))
                await stream.receive()  # what is closed at once may not arrive: the other end is to close it
        return False

    def _note_reached(self, contact: Contact) -> None:
        _note_last(self._reached, contact.peer_id, contact, _MAX_REACHED)


def _contacts(maddrs: Sequence[str]) -> list[Contact]:
    """The nodes at these addresses, each with all of its own."""
    found: dict[str, tuple[str, ...]] = {}
    for contact in map(_contact, maddrs):
        found[contact.peer_id] = (*found.get(contact.peer_id, ()), *contact.maddrs)
    return [Contact(peer_id, addresses) for peer_id, addresses in found.items()]


def _contact(maddr: str) -> Contact:
    """Split /ip4/.../p2p/PEER_ID. Raises UsageError if it is no such address."""
    address, _, peer_id = maddr.rpartition("/p2p/")
    try:
        Multiaddr(maddr)
        if not address or not peer_id:
            raise UsageError(f"initial peer {maddr!r} lacks its end: write it as /ip4/ADDRESS/tcp/PORT/p2p/PEER_ID")
        PeerID.from_base58(peer_id)
    except ValueError as error:
        raise UsageError(f"initial peer {maddr!r} is no multiaddr: {error}") from None
    return Contact(peer_id, (address,))


def _note_last(known: dict[str, T], peer_id: str, value: T, most: int) -> None:
    """Put a node behind all others, of which there may be so many."""
    known.pop(peer_id, None)
    known[peer_id] = value
    if len(known) > most:
        del known[next(iter(known))]
