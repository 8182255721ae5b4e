"""A generation at a peer that drafts: this client gives it the text, and receives tokens.

The peer runs the same loop over a chain of its own choice (see `specswarm.drafting`). What it says is checked before it
becomes text, state or figure. Should it fail, fall silent or say what cannot be, the tokens that came are text like any
other, and the loop goes on here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from client.excess import Trips
from client.loop import Context
from client.patience import TripTimer
from client.result import Statistics
from client.seats import Promise
from swarm import awake
from swarm.errors import BadMessage, PeerLost, PeerRefused
from swarm.model.source import ModelInfo
from swarm.span import Span
from swarm.tasks import end, owned
from swarm.transport import Stream, Transport
from swarm.wire import DRAFT_PROTOCOL, AnyMessage, Contact, Generate, Generated, Ping, Pong, Refused


class Elsewhere:
    """One generation at one peer."""

    def __init__(
        self,
        transport: Transport,
        contact: Contact,
        model: ModelInfo,
        timer: TripTimer,
        timeout: float,
        promise: Promise,
    ) -> None:
        """`timer` says how long to wait before the peer is asked whether it lives; `timeout`: seconds without a token
        after which it is left, even if it does; `promise`: of a round, as announced."""
        self.peer_id = contact.peer_id
        self.chain: list[tuple[str, Span]] = []
        """Peer id and layers of each hop."""
        self.reroutes = 0
        self.trips = Trips()
        """What verdicts were waited for, beside what was announced."""
        self.traffic = (0, 0)
        """Bytes this client has sent and received for it."""
        self._believed = 0.0  # seconds that verdicts have taken, as the peer says and as far as they have passed
        self._transport = transport
        self._contact = contact
        self._model = model
        self._timer = timer
        self._timeout = timeout
        self._promise = promise

    async def generate(
        self, request: Generate, context: Context, statistics: Statistics
    ) -> AsyncGenerator[list[int], None]:
        """Yield the committed tokens of verdict after verdict, until the text ends. Raises PeerError."""
        with awake.clock().kept(), contextlib.closing(await self._open()) as stream:
            begun = _now()
            await stream.send(request)
            while context.room:
                started = _now()
                news = await self._next(stream)
                seconds = _now() - started
                self._timer.note(seconds)
                if statistics.rounds:  # the first one brings the prompt
                    taken = self._promise.taken(seconds, len(news.tokens))
                    self.trips.note(self._promise.seconds, taken, at_least=True)
                self.traffic = (stream.bytes_sent, stream.bytes_received)
                self._take(news, statistics, _now() - begun)
                yield context.commit(news.tokens)

    async def _open(self) -> Stream:
        try:
            async with awake.timeout(self._timer.wait()):
                return await self._transport.open(self._contact, DRAFT_PROTOCOL)
        except TimeoutError:
            raise PeerLost(self.peer_id, "it cannot be reached in time") from None

    def _take(self, news: Generated, statistics: Statistics, elapsed: float) -> None:
        """Take note of a verdict, `elapsed` seconds after the request: no more are believed. Raises PeerLost."""
        self._check(news, statistics)
        self.reroutes = max(self.reroutes, news.reroutes)
        if news.chain:
            self.chain = [(peer_id, Span(start, stop)) for peer_id, start, stop in news.chain]
        left = max(elapsed - self._believed, 0.0)
        draft_seconds = min(news.draft_seconds, left)
        trip_seconds = min(news.trip_seconds, left - draft_seconds)
        self._believed += draft_seconds + trip_seconds
        statistics.count(
            len(news.tokens),
            news.drafted,
            news.accepted,
            draft_seconds=draft_seconds,
            trip_seconds=trip_seconds,
            compute_seconds=min(news.compute, elapsed),
        )

    def _check(self, news: Generated, statistics: Statistics) -> None:
        """Raise PeerLost for what cannot be, whoever says it."""
        if max(news.tokens) >= self._model.vocab_size:
            raise PeerLost(self.peer_id, "it names a token that does not exist")
        if statistics.accepted + news.accepted > statistics.drafted + news.drafted:
            raise PeerLost(self.peer_id, "more drafts stand than there were, it says")
        ends = [0, *(stop for _, _, stop in news.chain)]
        is_chain = all(start == end < stop for (_, start, stop), end in zip(news.chain, ends, strict=False))
        if news.chain and not (is_chain and ends[-1] == self._model.num_layers):
            raise PeerLost(self.peer_id, "the peers that it names are no chain")

    def _listening(self, stream: Stream) -> asyncio.Task[AnyMessage]:
        return owned(stream.receive(), f"listening to {self.peer_id}")

    async def _next(self, stream: Stream) -> Generated:
        """The next verdict's tokens; a peer that is silent is asked whether it lives. Raises PeerError."""
        asked, deadline = False, _now() + self._timeout
        listening = self._listening(stream)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with awake.timeout(self._timer.wait()):
                        await asyncio.wait([listening])
                if not listening.done() and asked:
                    raise PeerLost(self.peer_id, "it is silent")
                if not listening.done():
                    asked = True
                    await stream.send(Ping(0))
                    continue
                news, asked = _read(self.peer_id, listening), False
                if news is not None:
                    return news
                if _now() > deadline:
                    raise PeerLost(self.peer_id, f"it brought no token for {self._timeout:.0f} s")
                listening = self._listening(stream)
        finally:
            await end(listening)


def _read(peer_id: str, listening: asyncio.Task[AnyMessage]) -> Generated | None:
    """What has come; None for a sign of life. Raises PeerError."""
    try:
        message = listening.result()
    except BadMessage as error:
        raise PeerLost(peer_id, f"it sends nonsense: {error}") from None
    match message:
        case Generated():
            return message
        case Pong():
            return None
        case Refused(why=why, reason=reason):
            raise PeerRefused(peer_id, why, reason)
        case _:
            raise PeerLost(peer_id, f"it sends {type(message).__name__}, which is not for it to send")


def _now() -> float:
    return awake.clock().now()
