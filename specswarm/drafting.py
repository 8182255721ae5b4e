"""A peer that drafts: it runs a client's loop for clients that are farther from the chain, or draft slower.

A client's stream brings Generate, and each verdict's tokens go back on it. The generation is like that of any client,
over this peer's own view of the swarm, by its own network and on its torch thread, and ends with the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from client.api import AsyncSwarmModel
from client.config import ClientConfig
from client.generation import Generation
from peer.config import PeerConfig
from peer.node import Beside
from swarm import awake
from swarm.errors import BadMessage, PeerLost, PeerRefused, SpecswarmError, UsageError
from swarm.permits import permits
from swarm.transport import Network, Stream
from swarm.wire import DRAFT_PROTOCOL, NO_SESSION, Generate, Generated, Ping, Pong, Refused

_READ_SECONDS = 30.0  # for the client to take a verdict
_GOODBYE_SECONDS = 10.0  # for the client to close its stream when it has all tokens


def drafting(settings: PeerConfig) -> Beside:
    """For a peer with a draft model: what it does beside serving its layers, see `peer.node`."""

    @contextlib.asynccontextmanager
    async def beside(network: Network, thread: ThreadPoolExecutor) -> AsyncIterator[dict[str, Any]]:
        own = ClientConfig(
            model=settings.model,
            revision=settings.revision,
            initial_peers=settings.initial_peers,
            draft=settings.draft or "none",
            draft_device=settings.device,
            draft_at="client",
            deny=settings.deny,
        )
        async with AsyncSwarmModel.connect_over(network, own, thread) as model:
            service = DraftingService(model, settings)
            await network.serve(DRAFT_PROTOCOL, service.serve, service.clients)
            yield {"draft_seconds": await model.draft_seconds()}

    return beside


class DraftingService:
    """Generates for those who ask, so many at a time."""

    def __init__(self, model: AsyncSwarmModel, settings: PeerConfig) -> None:
        self._model = model
        self._settings = settings
        self._running = Counter[str]()  # generations, by client

    def clients(self) -> Mapping[str, int]:
        """For whom it generates, and how many texts of each."""
        return self._running

    async def serve(self, stream: Stream) -> None:
        """One client's stream: one generation, and pings meanwhile."""
        request = await stream.receive()
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(_answer_pings(stream))
                await _send(stream, await self._ended(request, stream))
                await asyncio.wait([listening], timeout=_GOODBYE_SECONDS)  # what is closed at once may not arrive
                listening.cancel()
        except* (PeerLost, BadMessage):
            pass  # how a stream ends, or is ended

    async def _ended(self, request: object, stream: Stream) -> Refused:
        """Generate; why there is no more to come. Raises PeerLost when the stream ends."""
        try:
            with self._place_for(stream.peer_id):
                await self._generate(request, stream)
        except PeerRefused as error:
            transport = self._model.target.transport
            if error.peer_id == transport.peer_id:
                transport.complaints.about(error.why, stream.peer_id, f"refused: {error.reason}")
            return Refused(NO_SESSION, error.why, str(error))
        except SpecswarmError as error:
            return Refused(NO_SESSION, "gone", str(error))
        return Refused(NO_SESSION, "gone", "the text has come to its end")

    async def _generate(self, request: object, stream: Stream) -> None:
        """Send the tokens of one verdict after the other. Raises SpecswarmError."""
        own = self._model.target.transport.peer_id
        if not isinstance(request, Generate):
            raise PeerRefused(own, "unlawful", f"{type(request).__name__} is not for a peer that drafts")
        if request.fingerprint != self._model.target.fingerprint:
            raise PeerRefused(own, "model", f"it drafts for {self._model.target.fingerprint[:12]}")
        try:
            generation = self._model.go_on(request.text, request.sampling, **_options(request))
        except UsageError as error:
            raise PeerRefused(own, "unlawful", str(error)) from None
        async with contextlib.aclosing(_verdicts(generation)) as verdicts:
            async for verdict in verdicts:
                await _send(stream, verdict)

    @contextlib.contextmanager
    def _place_for(self, client: str) -> Iterator[None]:
        """Count a generation while it runs. Raises PeerRefused if there is no room for one more."""
        settings, own = self._settings, self._model.target.transport.peer_id
        if not permits(client, settings.allow, settings.deny):
            raise PeerRefused(own, "stranger", "its owner would have to allow this client")
        if (
            self._running.total() >= settings.max_generations
            or self._running[client] >= settings.max_client_generations
        ):
            raise PeerRefused(own, "full", f"it drafts for {self._running.total()} generations")
        self._running[client] += 1
        try:
            yield
        finally:
            self._running[client] -= 1
            self._running += Counter()  # forgets those that have none


async def _send(stream: Stream, message: Generated | Refused) -> None:
    """Raises PeerLost if the client does not take it."""
    try:
        async with awake.timeout(_READ_SECONDS):
            await stream.send(message)
    except TimeoutError:
        raise PeerLost(stream.peer_id, "it does not read what was generated for it") from None


async def _answer_pings(stream: Stream) -> None:
    """Until the stream ends. Raises PeerLost, or BadMessage."""
    while True:
        message = await stream.receive()
        if isinstance(message, Ping):
            await stream.send(Pong(message.nonce))


def _options(request: Generate) -> dict[str, Any]:
    """Those of a generation, its sampling apart."""
    return {
        "max_new_tokens": request.count,
        "acceptance": request.rule,
        **({"semantic": msgspec.to_builtins(request.leniency)} if request.leniency else {}),
        "window": request.window,
        "tree": request.tree,
        "in_flight": request.in_flight,
        "evidence_k": request.evidence_k,
    }


async def _verdicts(generation: Generation) -> AsyncGenerator[Generated, None]:
    """What each verdict of a generation brought."""
    before, chain = generation.result, tuple[tuple[str, int, int], ...]()
    async with contextlib.aclosing(aiter(generation)) as pieces:
        async for _ in pieces:
            now = generation.result
            tokens = tuple(now.token_ids[len(before.token_ids) :])
            if not tokens:  # the text's last bytes
                continue
            hops = tuple((peer_id, span.start, span.end) for peer_id, span in now.chain)
            yield Generated(
                tokens=tokens,
                drafted=now.drafted - before.drafted,
                accepted=now.accepted - before.accepted,
                draft_seconds=now.draft_seconds - before.draft_seconds,
                trip_seconds=now.trip_seconds[-1],
                compute=now.compute_seconds[-1],
                reroutes=now.reroutes,
                chain=() if hops == chain else hops,
            )
            before, chain = now, hops
