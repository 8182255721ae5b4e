"""The libp2p daemon: started, asked, ended."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon import P2PDaemonError
from hivemind.p2p.p2p_daemon_bindings.utils import raise_if_failed, read_pbmsg_safe, write_pbmsg
from hivemind.proto import p2pd_pb2
from hivemind.utils.multiaddr import Multiaddr

from swarm.circuits import address_of
from swarm.errors import SwarmUnreachable, UsageError
from swarm.identity import Identity
from swarm.lifetime import gone, remains
from swarm.tasks import end as end_tasks
from swarm.tasks import owned, report
from swarm.wire import Contact

BROKEN = (P2PDaemonError, OSError, EOFError, TimeoutError)  # IncompleteReadError is an EOFError
"""What goes wrong with a stream, or with reaching a peer."""

_LEAVE_SECONDS = 5.0  # for the daemon to end
_LOOK_SECONDS = 5.0  # between looks at what hivemind has running
_SETSID = ("setsid",) if shutil.which("setsid") else ()


class Daemon(P2P):  # type: ignore[misc]  # hivemind is untyped
    """A daemon in a session of its own: Ctrl-C in a terminal is for this program, which needs it in order to leave."""

    def __init__(self) -> None:
        super().__init__()
        self._serving: set[asyncio.Task[None]] = set()  # the streams that it has handed over
        remains(self.kill)
        _made.get().append(self)

    def kill(self) -> None:
        """End it at once, and remove its sockets."""
        gone(self.kill)
        self._terminate()
        if self._child is not None and self._child.returncode is None:
            self._child.kill()

    def own_streams(self) -> None:
        """Have what serves a stream end with the daemon, and its socket be closed: hivemind sees to neither."""
        control = self._client.control
        serve = control._handler

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            def note_end(task: asyncio.Task[None]) -> None:
                self._serving.discard(task)
                writer.close()

            task = owned(serve(reader, writer), "serving a stream", outcomes=BROKEN)
            self._serving.add(task)
            task.add_done_callback(note_end)

        control._handler = accept

    async def end_streams(self) -> None:
        """End what serves the streams that were handed over, and close them."""
        await end_tasks(*self._serving)

    async def reaped(self) -> None:
        """Wait for its end, once it was killed: the event loop must not close before it has heard of that."""
        if self._child is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await self._child.wait()

    def _terminate(self) -> None:
        """As hivemind does, which also calls it when nobody can catch what it raises."""
        with contextlib.suppress(OSError):  # its sockets were never there, say, or cannot be removed
            super()._terminate()

    @staticmethod
    def _make_process_args(*args: Any, **options: Any) -> list[str]:
        return [*_SETSID, *P2P._make_process_args(*args, **options)]


_made: ContextVar[list[Daemon]] = ContextVar("daemons that are being started")


async def start(
    identity: Identity | None,
    host_maddrs: Sequence[str],
    announce_maddrs: Sequence[str],
    *,
    is_server: bool,
    is_relay: bool,
) -> Daemon:
    """A new daemon, of which nothing is left if it does not start. Raises SwarmUnreachable or UsageError."""
    made: list[Daemon] = []
    _made.set(made)
    try:
        daemon: Daemon = await Daemon.create(
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
        daemon.own_streams()
        return daemon
    except BaseException as error:
        for one in made:
            one.kill()
            await one.reaped()
        if isinstance(error, BROKEN):
            raise SwarmUnreachable(f"the network daemon did not start: {first_line(error)}") from None
        if isinstance(error, ValueError):
            raise UsageError(f"not a multiaddr: {error}") from None
        raise


async def end(p2p: Daemon) -> None:
    """Have the daemon end, by itself or by force."""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await p2p.shutdown()
    finally:
        p2p.kill()
        await p2p.end_streams()
        for task in _running(p2p):
            if task.done() and not task.cancelled():
                task.exception()  # `ended` has told of it, or nobody relies on it any more


def _running(p2p: P2P) -> set[asyncio.Task[Any]]:
    """What hivemind has running for a daemon; the last of them begins with the first protocol that is served."""
    control = p2p._client.control
    return {control._read_task, control._write_task, p2p._listen_task} - {None}


async def ended(p2p: P2P) -> None:
    """Wait until the daemon ends, or one of the tasks that hivemind has running for it: it is of no use then."""
    child = owned(p2p._child.wait(), "waiting for the network daemon")
    try:
        while True:
            running = {child, *_running(p2p)}
            done, _ = await asyncio.wait(running, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task is not child and not task.cancelled() and (error := task.exception()):
                    report("the connection to the network daemon broke", error)
            if done:
                return
    finally:
        await end_tasks(child)


def check_ports(maddrs: Sequence[str]) -> None:
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


async def connect(p2p: P2P, contact: Contact) -> None:
    """Tell the daemon where a peer is, and have it connect."""
    addresses = [address_of(maddr) for maddr in contact.maddrs]
    request = p2pd_pb2.ConnectRequest(peer=PeerID.from_base58(contact.peer_id).to_bytes(), addrs=addresses)
    _, _, writer = await _ask(p2p, p2pd_pb2.Request(type=p2pd_pb2.Request.CONNECT, connect=request))
    writer.close()


async def connected(p2p: P2P) -> list[tuple[PeerID, bytes]]:
    """The peers that the daemon is connected to, and the address of each, a multiaddr in its binary form."""
    response, _, writer = await _ask(p2p, p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS))
    writer.close()
    await writer.wait_closed()
    return [(PeerID(peer.id), bytes(maddr)) for peer in response.peers for maddr in peer.addrs[:1]]


async def open_stream(
    p2p: P2P, peer_id: PeerID, protocol: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw stream to a peer that the daemon knows how to reach."""
    request = p2pd_pb2.StreamOpenRequest(peer=peer_id.to_bytes(), proto=[protocol])
    _, reader, writer = await _ask(p2p, p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=request))
    return reader, writer


async def _ask(
    p2p: P2P, request: p2pd_pb2.Request
) -> tuple[p2pd_pb2.Response, asyncio.StreamReader, asyncio.StreamWriter]:
    """What hivemind's own calls do; but those leave their socket open when they fail or are cancelled.

    The consent, and the socket it was asked over. Raises what is in BROKEN.
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
    return response, reader, writer


def first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or "no answer"
