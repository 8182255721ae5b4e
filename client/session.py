"""One chain, opened: rounds go to its first peer, verdicts come from its last.

The client holds a stream to every peer of the chain, so that each can say at once what is wrong; a session ends at all
of them when the streams close.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import TypeVar

from client.routing import Hop
from swarm.errors import BadMessage, PeerError, PeerLost, PeerRefused
from swarm.speculation.sampling import Sampling
from swarm.transport import Stream, Transport
from swarm.wire import (
    MAX_ROUND_TOKENS,
    SESSION_PROTOCOL,
    Broken,
    Open,
    Ping,
    Pong,
    Refused,
    Round,
    Verdict,
)

T = TypeVar("T", Pong, Verdict)

_PONG_SECONDS = 2.0  # for a peer to show that it is alive, once a verdict is overdue


class ChainSession:
    """A session at every hop of a fixed chain. `cached` positions of the text are in all their caches."""

    def __init__(self, hops: Sequence[Hop], streams: Sequence[Stream], timeout: float) -> None:
        self.hops = tuple(hops)
        self.cached = 0
        self._streams = tuple(streams)
        self._timeout = timeout
        self._chunk = min(MAX_ROUND_TOKENS, *(hop.max_round for hop in hops))
        self._id = secrets.token_bytes(16)
        self._number = 0
        self._inbox: asyncio.Queue[tuple[Hop, Pong | Verdict | PeerError]] = asyncio.Queue()
        self._listeners = [
            asyncio.create_task(self._listen(hop, stream)) for hop, stream in zip(hops, streams, strict=True)
        ]

    @classmethod
    async def open(
        cls, transport: Transport, hops: Sequence[Hop], fingerprint: str, sampling: Sampling, timeout: float
    ) -> ChainSession:
        """Ask all hops at once to take part; a wait for a verdict will be at most `timeout` seconds.

        No answer is awaited: a hop that refuses says so before its first verdict is due. Raises PeerLost.
        """
        session = cls(hops, await _open_streams(transport, hops), timeout)
        upstreams = [None, *(hop.contact.peer_id for hop in hops[:-1])]
        downstreams = [*(hop.contact for hop in hops[1:]), None]
        try:
            for hop, stream, before, after in zip(hops, session._streams, upstreams, downstreams, strict=True):
                span = hop.span
                await stream.send(Open(session._id, fingerprint, span.start, span.end, before, after, sampling))
        except BaseException:
            await session.close()
            raise
        return session

    @property
    def bytes_sent(self) -> int:
        """By this client, to all hops."""
        return sum(stream.bytes_sent for stream in self._streams)

    @property
    def bytes_received(self) -> int:
        """By this client, from all hops."""
        return sum(stream.bytes_received for stream in self._streams)

    async def prefill(self, tokens: Sequence[int]) -> None:
        """Bring the caches up to the text `tokens` without its newest one; nothing is awaited. Raises PeerLost."""
        try:
            async with asyncio.timeout(self._timeout):
                for round in prefill_rounds(self._id, self._number, tokens, self.cached, self._chunk):
                    await self._send(round)
        except TimeoutError:
            raise PeerLost(self.hops[0].contact.peer_id, "it does not read what it is sent") from None
        self.cached = max(self.cached, len(tokens) - 1)

    async def verify(self, tokens: Sequence[int], drafts: Sequence[int]) -> Verdict:
        """Have `drafts`, as many as fit a round, judged after the text `tokens`. Raises PeerLost or PeerRefused."""
        await self.prefill(tokens)
        drafts = drafts[: self._chunk - 1]
        round = Round(self._id, self._number, len(tokens) - 1, (tokens[-1], *drafts), len(drafts), judged=True)
        try:
            async with asyncio.timeout(self._timeout):
                await self._send(round)
                verdict = await self._verdict(round.number)
        except TimeoutError:
            raise await self._overdue() from None
        accepted = len(verdict.tokens) - 1
        if list(verdict.tokens[:-1]) != list(drafts[:accepted]):
            raise PeerLost(self.hops[-1].contact.peer_id, "its verdict does not fit the round")
        self.cached = len(tokens) + accepted
        return verdict

    async def _send(self, round: Round) -> None:
        self._number = round.number + 1
        await self._streams[0].send(round)

    async def close(self) -> None:
        """End the session at all hops."""
        for listener in self._listeners:
            listener.cancel()
        await asyncio.gather(*self._listeners, return_exceptions=True)
        for stream in self._streams:
            stream.close()

    async def _verdict(self, number: int) -> Verdict:
        """The last hop's verdict on a round; verdicts on older ones are passed over."""
        while True:
            hop, verdict = await self._next(Verdict)
            if hop is self.hops[-1] and verdict.number == number:
                return verdict

    async def _overdue(self) -> PeerError:
        """Who is to blame for a missing verdict: the first hop that does not answer a ping, or else the last hop."""
        silent = {hop.contact.peer_id: hop for hop in self.hops}
        try:
            async with asyncio.timeout(_PONG_SECONDS):
                for stream in self._streams:
                    await stream.send(Ping(self._number))
                while silent:
                    hop, _ = await self._next(Pong)
                    silent.pop(hop.contact.peer_id, None)
        except PeerError as error:
            return error
        except TimeoutError:
            return PeerLost(next(iter(silent)), f"it is silent, and no verdict came in {self._timeout:.0f} s")
        reason = f"no verdict in {self._timeout:.0f} s, though all hops answer: if they are slow, raise --timeout"
        return PeerLost(self.hops[-1].contact.peer_id, reason)

    async def _next(self, kind: type[T]) -> tuple[Hop, T]:
        """The next message of a kind, and who sent it; others are passed over. Raises what a hop reports."""
        while True:
            hop, message = await self._inbox.get()
            if isinstance(message, PeerError):
                raise message
            if isinstance(message, kind):
                return hop, message

    async def _listen(self, hop: Hop, stream: Stream) -> None:
        """Bring what one hop sends into the inbox, its faults as errors, until its stream ends."""
        peer_id = hop.contact.peer_id
        while True:
            try:
                message = await stream.receive()
            except PeerLost as error:
                self._inbox.put_nowait((hop, error))
                return
            except BadMessage as error:
                self._inbox.put_nowait((hop, PeerLost(peer_id, f"it sends nonsense: {error}")))
                return
            match message:
                case Verdict() | Pong():
                    self._inbox.put_nowait((hop, message))
                case Refused(reason=reason):
                    self._inbox.put_nowait((hop, PeerRefused(peer_id, reason)))
                case Broken(peer_id=culprit, reason=reason):
                    self._inbox.put_nowait((hop, PeerLost(culprit, reason)))


def prefill_rounds(session: bytes, number: int, tokens: Sequence[int], cached: int, chunk: int) -> list[Round]:
    """The rounds, none of them judged, that bring caches of `cached` positions up to `tokens` without its newest one.

    They are numbered from `number` on and hold at most `chunk` tokens each.
    """
    return [
        Round(
            session, number + i, start, tuple(tokens[start : min(start + chunk, len(tokens) - 1)]), 0, judged=False
        )
        for i, start in enumerate(range(cached, len(tokens) - 1, chunk))
    ]


async def _open_streams(transport: Transport, hops: Sequence[Hop]) -> list[Stream]:
    """A stream to every hop, opened at once. Raises PeerLost, with none left open."""
    tasks = [asyncio.create_task(transport.open(hop.contact, SESSION_PROTOCOL)) for hop in hops]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(result, BaseException):
                result.close()
        raise
