"""The real network: one libp2p daemon and one node of the DHT in this process's event loop.

hivemind's exceptions end here and in `swarm.calls`: what leaves is named in `swarm.errors`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import closing

from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon import P2PDaemonError
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.p2p.p2p_daemon_bindings.utils import raise_if_failed, read_pbmsg_safe, write_pbmsg
from hivemind.proto import p2pd_pb2
from hivemind.utils.multiaddr import Multiaddr

from swarm.circuits import HOP_PROTOCOL, address_of
from swarm.dht import Dht
from swarm.errors import BadMessage, PeerLost, SwarmUnreachable, UsageError
from swarm.identity import Identity
from swarm.incoming import IncomingStreams
from swarm.lifetime import end
from swarm.neighbours import greet_any, stay_in
from swarm.relay import Relay, reserve
from swarm.transport import Handler
from swarm.wire import MAX_MADDRS, MAX_SIZES, AnyMessage, Contact, decode, encode

log = logging.getLogger("specswarm")

CONNECT_SECONDS = 10.0  # to reach a node, its addresses tried in parallel by the daemon
_HEADER = 4  # bytes of a frame's length
_MAX_REACHED = 64  # contacts to go back to when no neighbour is left
_GOODBYE_SECONDS = 10.0  # for the other end to close a stream
_CHUNK = 1 << 16  # bytes read at a time of what nobody waits for any more
_BROKEN = (P2PDaemonError, OSError, EOFError, TimeoutError)  # IncompleteReadError is an EOFError


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
        self.bytes_sent = 0
        self.bytes_received = 0
        self._reader = reader
        self._writer = writer

    async def send(self, message: AnyMessage) -> None:
        """Hand the message to the daemon; waits only while its buffer is full."""
        data = encode(message)
        if (
            self._goodbye or self._writer.is_closing()
        ):  # the daemon has reset it; to write would be an error of another kind
            raise PeerLost(self.peer_id, "its stream broke")
        self.bytes_sent += _HEADER + len(data)
        try:
            self._writer.write(len(data).to_bytes(_HEADER, "big") + data)
            await self._writer.drain()
        except _BROKEN:
            raise PeerLost(self.peer_id, "its stream broke") from None

    async def receive(self) -> AnyMessage:
        """The next message."""
        try:
            size = int.from_bytes(await self._reader.readexactly(_HEADER), "big")
            if size > self._max_message:  # nothing after it can be made sense of
                raise PeerLost(
                    self.peer_id, f"it sends a message of {size} bytes; at most {self._max_message} are taken"
                )
            if size == 0:
                raise EOFError
            data = await self._reader.readexactly(size)
        except _BROKEN:
            raise PeerLost(self.peer_id, "its stream has ended") from None
        self.bytes_received += _HEADER + size
        return decode(data)

    def close(self) -> None:
        """End the stream, both ways; calling it again does nothing."""
        if not self._is_own or self._writer.is_closing():
            self._writer.close()
        elif self._goodbye is None:
            self._goodbye = asyncio.get_running_loop().create_task(self._say_goodbye())

    async def _say_goodbye(self) -> None:
        with closing(self._writer), contextlib.suppress(*_BROKEN):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                self._writer.write(bytes(_HEADER))
                while await self._reader.read(_CHUNK):
                    pass


class Libp2pNetwork:
    """This node on the network: a Transport and a RecordStore in one, since both are the one daemon's."""

    def __init__(
        self, p2p: P2P, dht: Dht, incoming: IncomingStreams, *, listens: bool, is_behind_nat: bool
    ) -> None:
        self.peer_id: str = p2p.peer_id.to_base58()
        self._listens = listens
        self._is_behind_nat = is_behind_nat
        self._own: list[str] | None = (
            None  # addresses at which the daemon listens, or which it was told to announce
        )
        self._relays: dict[str, Contact] = {}  # through which others reach this node
        self._p2p = p2p
        self._dht = dht
        self._incoming = incoming
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
        incoming: IncomingStreams | None = None,
        is_relay: bool = False,
        is_behind_nat: bool = False,
    ) -> AsyncIterator[Libp2pNetwork]:
        """Start the daemon, reach the swarm, and leave it at the end.

        Without `host_maddrs` the node listens nowhere and is a mere client; streams beyond what `incoming` takes are
        closed at once. A node that is behind NAT is reached through those of its initial peers that relay. Raises
        UsageError for an address that cannot be parsed or listened on, SwarmUnreachable if there are initial peers and
        none answers, or relays. From then on the node stays in by itself, whichever of them come and go.
        """
        initial = _contacts(initial_peers)
        _check_ports(host_maddrs)
        is_server = bool(host_maddrs) and not is_behind_nat
        p2p = await _start_daemon(identity, host_maddrs, announce_maddrs, is_server=is_server, is_relay=is_relay)
        try:
            dht = Dht(p2p, is_server=is_server)
            network = cls(
                p2p,
                dht,
                incoming or IncomingStreams(),
                listens=bool(host_maddrs),
                is_behind_nat=is_behind_nat,
            )
            if is_relay:
                await network._relay_for_others()
            await dht.start()
            try:
                async with network._staying_in(initial):
                    yield network
            finally:
                await dht.stop()
        finally:
            await p2p.shutdown()

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

    async def open(self, contact: Contact, protocol: str) -> Libp2pStream:
        """A new stream to another node. Raises PeerLost if it cannot be reached in CONNECT_SECONDS."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                # the daemon soon forgets a relay's address, and looks in vain for another when that circuit has ended
                if contact.is_relayed or (contact.maddrs and self._known.get(contact.peer_id) != contact.maddrs):
                    await _connect(self._p2p, contact)
                    self._known[contact.peer_id] = contact.maddrs
                    self._note_reached(contact)
                reader, writer = await _open_stream(self._p2p, PeerID.from_base58(contact.peer_id), protocol)
        except (*_BROKEN, ValueError) as error:
            self._known.pop(contact.peer_id, None)
            raise PeerLost(contact.peer_id, f"it cannot be reached ({_first_line(error)})") from None
        return Libp2pStream(contact.peer_id, reader, writer, max_message=MAX_SIZES[protocol], is_own=True)

    async def serve(self, protocol: str, handler: Handler) -> None:
        """Accept streams of this protocol from now on."""

        async def handle(info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer_id = info.peer_id.to_base58()
            stream = Libp2pStream(peer_id, reader, writer, max_message=MAX_SIZES[protocol], is_own=False)
            try:
                with self._incoming.taken_by(peer_id) as is_within_limits:
                    if is_within_limits:
                        await handler(stream)
            except PeerLost:
                pass  # the stream's natural end
            except BadMessage as error:
                log.warning("dropped a stream of %s: %s", stream.peer_id, error)
            finally:
                stream.close()

        await self._p2p.add_binary_stream_handler(protocol, handle)

    async def put(self, keys: Sequence[str], subkey: str, value: bytes, expires: float) -> bool:
        """Store a record on the nodes nearest to each key."""
        return await self._dht.put(keys, subkey, value, expires)

    async def get(self, key: str) -> list[tuple[str, bytes, float]]:
        """The live records under a key: (subkey, value, expires)."""
        return await self._dht.get(key)

    @contextlib.asynccontextmanager
    async def _staying_in(self, initial: Sequence[Contact]) -> AsyncIterator[None]:
        """Reach the swarm, and keep reaching it. Raises SwarmUnreachable."""
        if initial and not await greet_any(self._greet, initial):
            listed = ", ".join(f"{maddr}/p2p/{c.peer_id}" for c in initial for maddr in c.maddrs)
            does = "relays for this one" if self._is_behind_nat else "answers"
            raise SwarmUnreachable(f"no initial peer {does} ({listed}): check the address and that it is running")
        staying = asyncio.create_task(
            stay_in(
                initial,
                self._greet,
                self._dht.look_around,
                is_alone=lambda: self._dht.is_alone,
                reached=lambda: list(self._reached.values()),
            )
        )
        try:
            yield
        finally:
            await end(staying)

    async def _greet(self, contact: Contact) -> bool:
        """Connect to a node and have it answer; whether it did, and relays for this one if it has to."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await _connect(self._p2p, contact)
        except (*_BROKEN, ValueError):
            return False
        return await self._dht.ping(contact.peer_id) and (not self._is_behind_nat or await self._reserve(contact))

    async def _reserve(self, contact: Contact) -> bool:
        """Ask a node to relay for this one; whether it does."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                streams = await _open_stream(self._p2p, PeerID.from_base58(contact.peer_id), HOP_PROTOCOL)
                with closing(streams[1]):
                    relays = await reserve(*streams)
        except (*_BROKEN, ValueError):
            return False
        if relays and contact.peer_id not in self._relays:
            log.info("reachable through the relay %s", contact.peer_id)
            self._relays[contact.peer_id] = contact
        return relays

    async def _relay_for_others(self) -> None:
        """Take the place of the daemon's own relay."""
        relay = Relay(lambda peer, protocol: _open_stream(self._p2p, peer, protocol))

        async def handle(info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await relay.serve(info.peer_id, reader, writer)

        await self._p2p.add_binary_stream_handler(HOP_PROTOCOL, handle)

    def _note_reached(self, contact: Contact) -> None:
        self._reached.pop(contact.peer_id, None)
        self._reached[contact.peer_id] = contact
        if len(self._reached) > _MAX_REACHED:
            del self._reached[next(iter(self._reached))]


async def _start_daemon(
    identity: Identity | None,
    host_maddrs: Sequence[str],
    announce_maddrs: Sequence[str],
    *,
    is_server: bool,
    is_relay: bool,
) -> P2P:
    try:
        return await P2P.create(
            identity_path=str(identity.path) if identity else None,
            host_maddrs=[Multiaddr(maddr) for maddr in host_maddrs],
            announce_maddrs=[Multiaddr(maddr) for maddr in announce_maddrs] or None,
            no_listen=not host_maddrs,
            dht_mode="server" if is_server else "client",
            # else the daemon starts another relay of its own, in place of ours, once others say that it is public
            force_reachability="public" if is_relay else None,
            auto_nat=False,
            nat_port_map=False,
            startup_timeout=30,
        )
    except P2PDaemonError as error:
        raise SwarmUnreachable(f"the network daemon did not start: {_first_line(error)}") from None
    except ValueError as error:
        raise UsageError(f"not a multiaddr: {error}") from None


def _check_ports(maddrs: Sequence[str]) -> None:
    """Raise UsageError if a port is taken: the daemon itself would share it silently."""
    for text in maddrs:
        try:
            maddr = Multiaddr(text)
            family = socket.AF_INET6 if "ip6" in maddr else socket.AF_INET
            kind = socket.SOCK_DGRAM if "udp" in maddr else socket.SOCK_STREAM
            host, port = maddr["ip6" if "ip6" in maddr else "ip4"], int(maddr["udp" if "udp" in maddr else "tcp"])
            with socket.socket(family, kind) as probe:
                if kind == socket.SOCK_STREAM:
                    probe.setsockopt(
                        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
                    )  # a restart may find it in TIME_WAIT
                probe.bind((host, port))
        except (ValueError, KeyError) as error:
            raise UsageError(f"cannot listen on {text!r}: {error}; write /ip4/ADDRESS/tcp/PORT or so") from None
        except OSError as error:
            raise UsageError(f"cannot listen on {text}: {error.strerror}; choose another --host-maddr") from None


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
        Multiaddr(maddr), PeerID.from_base58(peer_id)
    except ValueError as error:
        raise UsageError(f"initial peer {maddr!r} is no multiaddr: {error}") from None
    if not address or not peer_id:
        raise UsageError(f"initial peer {maddr!r} lacks its end: write it as /ip4/ADDRESS/tcp/PORT/p2p/PEER_ID")
    return Contact(peer_id, (address,))


async def _connect(p2p: P2P, contact: Contact) -> None:
    """Tell the daemon where a peer is, and have it connect."""
    addresses = [address_of(maddr) for maddr in contact.maddrs]
    request = p2pd_pb2.ConnectRequest(peer=PeerID.from_base58(contact.peer_id).to_bytes(), addrs=addresses)
    _, writer = await _ask_daemon(p2p, p2pd_pb2.Request(type=p2pd_pb2.Request.CONNECT, connect=request))
    writer.close()


async def _open_stream(
    p2p: P2P, peer_id: PeerID, protocol: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw stream to a peer that the daemon knows how to reach."""
    request = p2pd_pb2.StreamOpenRequest(peer=peer_id.to_bytes(), proto=[protocol])
    return await _ask_daemon(p2p, p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=request))


async def _ask_daemon(p2p: P2P, request: p2pd_pb2.Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """What hivemind's own calls do; but those leave their socket open when they fail or are cancelled.

    The socket it was asked over, after its consent. Raises what is in _BROKEN.
    """
    reader, writer = await p2p._client.control.daemon_connector.open_connection()
    try:
        await write_pbmsg(writer, request)
        response = p2pd_pb2.Response()
        await read_pbmsg_safe(reader, response)
        raise_if_failed(response)
    except BaseException:
        writer.close()
        raise
    return reader, writer


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or "no answer"
