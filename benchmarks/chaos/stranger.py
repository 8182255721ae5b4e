"""A stranger all of whose messages are lawful, or nearly: each kind of wish that others might have to pay for.

As a program it attacks the peers of a chain as it is told, one JSON object a line on standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.jsonlines import say, standard_input
from swarm import records
from swarm.directory import Directory
from swarm.errors import BadMessage, PeerLost
from swarm.identity import Identity
from swarm.libp2p import Libp2pNetwork
from swarm.records import Announcement
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.tasks import end, owned
from swarm.transport import Stream, Transport
from swarm.wire import (
    MAX_AHEAD,
    MAX_MESSAGE,
    PUSH_PROTOCOL,
    SESSION_PROTOCOL,
    Ask,
    Copy,
    Introduction,
    Open,
    Progress,
    Relink,
    Round,
    new_session_id,
)

CHUNK = 512  # tokens of the text in one round
ANSWER_SECONDS = 60.0  # for a text to be run
TEXT = 1110  # tokens that are passed on again
HOARD, HOARDED = (
    16,
    2040,
)  # sessions, as many as a client may have, and tokens of each: the embedded model's context
FRAME = MAX_MESSAGE  # bytes that are announced, ...
STALLED = FRAME - 1  # ... and sent
FRAMES = 20
OF_ONE_NODE = 64  # streams that a peer takes
_PAUSE = 1.0  # seconds before what was refused is tried again


@dataclass(frozen=True, slots=True)
class Target:
    """A peer that is attacked."""

    introduction: Introduction
    span: Span


class Stranger:
    """A client with one session over a chain of peers, which holds a text."""

    def __init__(self, streams: Sequence[Stream], chain: Sequence[Target], session: bytes) -> None:
        self._streams = streams
        self._chain = chain
        self._session = session

    @classmethod
    @contextlib.asynccontextmanager
    async def with_text(
        cls, transport: Transport, fingerprint: str, chain: Sequence[Target], length: int
    ) -> AsyncIterator[Stranger]:
        """Open a session at all peers of the chain and have them run a text of so many tokens. Raises PeerLost, and
        TimeoutError if they do not run it."""
        async with contextlib.AsyncExitStack() as opened:
            streams = [
                opened.enter_context(closing(await transport.open(peer.introduction.contact, SESSION_PROTOCOL)))
                for peer in chain
            ]
            stranger = cls(streams, chain, new_session_id(transport.peer_id))
            await stranger._begin(fingerprint, length)
            reading = [owned(_read(stream), f"reading what {stream.peer_id} says") for stream in streams]
            try:
                yield stranger
            finally:
                await end(*reading)

    async def replay(self, chunk: int = 1) -> None:
        """Have the first peer pass the whole text on once more, in messages of so many tokens."""
        await self._streams[0].send(Relink(self._session, None, self._chain[1].introduction, 0, chunk))

    async def copy(self, to: Introduction, length: int, chunk: int = 1) -> None:
        """Have the first peer bring a text of `length` tokens to whoever has introduced itself so."""
        await self._streams[0].send(Copy(self._session, to, 0, length, chunk))

    async def _begin(self, fingerprint: str, length: int) -> None:
        for i, (stream, peer) in enumerate(zip(self._streams, self._chain, strict=True)):
            before = self._chain[i - 1].introduction.contact.peer_id if i else None
            after = self._chain[i + 1].introduction if i + 1 < len(self._chain) else None
            span = peer.span
            await stream.send(
                Open(self._session, fingerprint, span.start, span.end, before, after, 0, CHUNK, Sampling())
            )
        for start in range(0, length, CHUNK):
            if start >= MAX_AHEAD:
                await self._await_run(start - MAX_AHEAD)
            tokens = tuple((7 * i) % 50 + 5 for i in range(start, min(start + CHUNK, length)))
            await self._streams[0].send(Round(self._session, 0, start, tokens, 0, judged=False))
        await self._await_run(length)

    async def _await_run(self, position: int) -> None:
        """Wait until the last peer has run the text up to there."""
        last = self._streams[-1]
        await last.send(Ask(self._session, 0, position))
        async with asyncio.timeout(ANSWER_SECONDS):
            while not isinstance(await last.receive(), Progress):
                pass


@dataclass
class Attack:
    """The peers, and the identities under which they are attacked."""

    networks: Sequence[Libp2pNetwork]
    peers: Sequence[Announcement]
    """In the order of their layers."""
    address: str
    """The stranger's own."""
    done: dict[str, int] = field(default_factory=dict)
    """By kind: how often something was asked for."""

    @property
    def fingerprint(self) -> str:
        """Of the model."""
        return self.peers[0].fingerprint

    @property
    def chain(self) -> list[Target]:
        """All peers."""
        return [Target(peer.introduction, peer.span) for peer in self.peers]

    def note(self, kind: str) -> None:
        """One more."""
        self.done[kind] = self.done.get(kind, 0) + 1

    async def replays(self) -> None:
        """A text passed on again twice a second, token by token if that is done."""
        async with self._with_text() as stranger:
            while True:
                await stranger.replay()
                self.note("replays")
                await asyncio.sleep(0.5)

    async def copies(self) -> None:
        """The same to the next peer, twenty times a second."""
        async with self._with_text() as stranger:
            while True:
                await stranger.copy(self.peers[1].introduction, TEXT)
                self.note("copies")
                await asyncio.sleep(0.05)

    async def dials(self) -> None:
        """The same to peers that have introduced themselves, at an address where nobody speaks libp2p."""
        server = await asyncio.start_server(_keep_silent, self.address, 0)
        port = server.sockets[0].getsockname()[1]
        with tempfile.TemporaryDirectory() as folder:
            async with server, self._with_text() as stranger:
                for number in itertools.count():
                    with Identity.hold(Path(folder) / f"{number}") as identity:
                        found = _introduced(self.peers[1], identity, f"/ip4/{self.address}/tcp/{port}")
                    await stranger.copy(found, TEXT)
                    self.note("dials")
                    await asyncio.sleep(0.05)

    async def frames(self) -> None:
        """Long messages that begin, and do not end, on many streams."""
        async with asyncio.TaskGroup() as group:
            for number in range(FRAMES):
                peer = self.peers[number % len(self.peers)]
                group.create_task(self._again_and_again("frames", partial(self._stall, peer)))

    async def streams(self) -> None:
        """A byte each on as many streams as there are, from all identities to all peers."""
        async with asyncio.TaskGroup() as group:
            for network, peer, _ in itertools.product(self.networks, self.peers, range(OF_ONE_NODE)):
                group.create_task(self._again_and_again("streams", partial(self._occupy, network, peer)))

    async def hoards(self) -> None:
        """Many sessions with long texts."""
        async with asyncio.TaskGroup() as group:
            for _ in range(HOARD):
                group.create_task(self._again_and_again("hoards", self._hoard))

    async def _again_and_again(self, kind: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(PeerLost, TimeoutError, OSError):
                self.note(kind)
                await work()
            await asyncio.sleep(_PAUSE)

    async def _stall(self, peer: Announcement) -> None:
        with closing(await self.networks[0].dial(peer.contact, PUSH_PROTOCOL)) as stream:
            stream._writer.write(FRAME.to_bytes(4, "big"))
            for _ in range(STALLED >> 16):
                stream._writer.write(bytes(1 << 16))
                await stream._writer.drain()
            await _read(stream)

    async def _occupy(self, network: Libp2pNetwork, peer: Announcement) -> None:
        with closing(await network.dial(peer.contact, SESSION_PROTOCOL)) as stream:
            stream._writer.write(b"\0")
            await _read(stream)

    async def _hoard(self) -> None:
        async with Stranger.with_text(self.networks[0], self.fingerprint, self.chain, HOARDED):
            pass  # and begin anew

    @contextlib.asynccontextmanager
    async def _with_text(self) -> AsyncIterator[Stranger]:
        async with Stranger.with_text(self.networks[0], self.fingerprint, self.chain, TEXT) as stranger:
            yield stranger


KINDS: Mapping[str, Callable[[Attack], Awaitable[None]]] = {
    "replays": Attack.replays,
    "copies": Attack.copies,
    "dials": Attack.dials,
    "frames": Attack.frames,
    "streams": Attack.streams,
    "hoards": Attack.hoards,
}
"""What a stranger does, until cancelled."""


def _introduced(like: Announcement, identity: Identity, maddr: str) -> Introduction:
    """Of a peer that is like another one."""
    said = like.model_copy(update={"peer_id": identity.peer_id, "maddrs": (maddr,)})
    found = records.read(records.sign(said, identity))
    if not isinstance(found, Announcement):
        raise BadMessage("it speaks another version")
    return found.introduction


async def _keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer), contextlib.suppress(OSError):
        while await reader.read(1 << 16):
            pass


async def _read(stream: Stream) -> None:
    """Take what comes, to the stream's end."""
    with contextlib.suppress(PeerLost):
        while True:
            with contextlib.suppress(BadMessage):
                await stream.receive()


async def _kept_up(kind: str, attack: Attack) -> None:
    """Until cancelled; begun again, where what others wish of the same stranger has ended it."""
    while True:
        with contextlib.suppress(PeerLost, TimeoutError, OSError):
            await KINDS[kind](attack)
        await asyncio.sleep(_PAUSE)


async def _obey(orders: asyncio.StreamReader, attack: Attack) -> None:
    """Attack as told, until standard input ends; say how often something was asked for."""
    attacking: list[asyncio.Task[None]] = []
    async for line in orders:
        order = json.loads(line)
        await end(*attacking)
        attacking = [owned(_kept_up(kind, attack), kind) for kind in order["attack"]]
        say(done=attack.done)
    await end(*attacking)


async def main() -> None:
    """Join under two identities, then attack as told."""
    orders = await standard_input()
    job = json.loads(await orders.readline())
    async with AsyncExitStack() as joined:
        networks = [
            await joined.enter_async_context(Libp2pNetwork.join(None, initial_peers=job["initial_peers"]))
            for _ in range(2)
        ]
        found = await Directory(networks[0]).peers_of(job["fingerprint"])
        peers = sorted(found, key=lambda peer: peer.start)
        say(event="ready", peers=len(peers), peer_ids=[network.peer_id for network in networks])
        await _obey(orders, Attack(networks, peers, job["address"]))


if __name__ == "__main__":
    asyncio.run(main())
