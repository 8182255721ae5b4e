"""A stranger all of whose messages are lawful: each kind of wish that others might have to pay for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from secrets import token_bytes

from swarm.errors import BadMessage, PeerLost
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.tasks import end, owned
from swarm.transport import Stream, Transport
from swarm.wire import MAX_AHEAD, SESSION_PROTOCOL, Ask, Copy, Introduction, Open, Progress, Relink, Round

CHUNK = 512  # tokens of the text in one round
ANSWER_SECONDS = 60.0  # for a text to be run


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
            stranger = cls(streams, chain, token_bytes(16))
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


async def _read(stream: Stream) -> None:
    """Take what comes, to the stream's end."""
    with contextlib.suppress(PeerLost):
        while True:
            with contextlib.suppress(BadMessage):
                await stream.receive()
