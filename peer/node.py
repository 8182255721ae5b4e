"""A peer's life: find the model, join the swarm, choose a span, load it, announce it, serve it, leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from peer import placement
from peer.announcer import Announcer
from peer.compute import Engine
from peer.config import PeerConfig
from peer.fit import layers_that_fit
from peer.introductions import Introductions
from peer.metrics import FREE_TOKENS, LINKS, SESSIONS
from peer.pace import Pace
from peer.service import PeerService
from peer.table import SessionTable
from peer.worker import NICENESS
from swarm import VERSION
from swarm.directory import Directory, insist
from swarm.errors import SwarmUnreachable, UsageError
from swarm.identity import Identity
from swarm.libp2p import Libp2pNetwork
from swarm.lifetime import run_until, torch_thread
from swarm.membership import Membership
from swarm.metrics import served
from swarm.model import speed, threads
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.speed import Speed
from swarm.model.stage import Stage
from swarm.records import Announcement
from swarm.rows import most_rows
from swarm.span import Span
from swarm.tasks import Alongside, kept_up
from swarm.tensors import DTYPES
from swarm.transport import Network

log = logging.getLogger("specswarm")

_WITHDRAW_SECONDS, _HASTE_SECONDS = 3.0, 0.5
_LEAST_PREFILL = 16  # tokens: what a model of any size takes at a time without much ado
_CHOICES = 10  # rounds in which peers that join together agree on their layers
_SETTLE_SECONDS = 0.5  # for the others' choices to reach the directory


@dataclass(frozen=True, slots=True)
class Ready:
    """The peer serves from now on."""

    peer_id: str
    maddrs: tuple[str, ...]
    span: Span
    model: str


Beside = Callable[[Network, ThreadPoolExecutor], AbstractAsyncContextManager[dict[str, Any]]]
"""What else a peer does on its network and its torch thread while it serves, and what its announcement says of that."""


def nothing_else(network: Network, thread: ThreadPoolExecutor) -> AbstractAsyncContextManager[dict[str, Any]]:
    """It serves its layers alone."""
    return contextlib.nullcontext({})


async def serve(
    config: PeerConfig, on_ready: Callable[[Ready], None], stop: asyncio.Event, beside: Beside = nothing_else
) -> None:
    """Be a peer until `stop` is set. Raises UsageError, ModelUnsupported or SwarmUnreachable if it cannot start."""
    with Identity.hold(config.identity) as identity, served(config):
        async with Libp2pNetwork.join(
            identity,
            initial_peers=config.initial_peers,
            host_maddrs=config.host_maddrs,
            announce_maddrs=config.announce_maddrs,
            swarm=Membership.read(config.swarm_key),
            max_streams=config.max_streams,
            max_client_streams=config.max_client_streams,
            is_behind_nat=config.behind_nat,
        ) as network:
            await serve_on(network, config, identity, on_ready, stop, beside)


async def serve_on(
    network: Network,
    config: PeerConfig,
    identity: Identity,
    on_ready: Callable[[Ready], None],
    stop: asyncio.Event,
    beside: Beside = nothing_else,
) -> None:
    """The same on a network that is up already."""
    announcer = Announcer(Directory(network, network.swarm), network, identity, config.announce_seconds)
    async with _withdrawing(announcer):
        await _load_and_serve(network, config, announcer, on_ready, stop, beside)


async def _load_and_serve(
    network: Network,
    config: PeerConfig,
    announcer: Announcer,
    on_ready: Callable[[Ready], None],
    stop: asyncio.Event,
    beside: Beside,
) -> None:
    loop = asyncio.get_running_loop()
    with torch_thread(NICENESS) as thread:
        source, fingerprint = await loop.run_in_executor(thread, _find_model, config)
        offer = _offer(config, source, fingerprint, network.peer_id, tuple(await network.maddrs()))
        if config.layers is None:
            offer = await _choose_layers(announcer, offer, _num_layers(config, source))
        span = offer.span
        log.info("loading layers %s of %s", span, source.name)
        async with _announcing(announcer):  # the choice must stand however long loading takes
            stage, first = await loop.run_in_executor(thread, _load, config, source, span)
        table = SessionTable(
            stage,
            fingerprint,
            max_cache_bytes=config.cache_mib << 20,
            max_sessions=config.max_sessions,
            max_round=offer.max_round,
            max_sent_bytes=config.replay_mib << 20,
            limits=config,
        )
        SESSIONS.set_function(lambda: len(table))
        LINKS.set_function(lambda: service.num_links)
        FREE_TOKENS.set_function(lambda: table.free_tokens)
        service = PeerService(
            network,
            stage,
            table,
            Engine(stage),
            thread,
            config.max_batch_tokens,
            Introductions(fingerprint, network.swarm).neighbour,
            config.uplink_mbit,
            _prefill_tokens(first),
        )
        await service.start()
        pace = Pace(first)
        async with beside(network, thread) as also:
            offer = offer.model_copy(update={"state": "serving", **asdict(pace.speed), **also})
            await announcer.publish(offer)
            on_ready(Ready(network.peer_id, offer.maddrs, span, source.name))
            left = asyncio.Event()

            await run_until(
                left,
                network.run(),
                service.run(config.idle_seconds),
                kept_up(partial(pace.keep, service.try_round), "measuring"),
                kept_up(partial(announcer.run, partial(_figures, table, service, pace)), "announcing"),
                _leave_well(stop, left, service, announcer, offer, config.drain_seconds),
            )


def _prefill_tokens(speed: Speed) -> int:
    """Of others' prefill beside rounds of one token: as many as make those take twice as long, or a few more."""
    return max(_LEAST_PREFILL, int(speed.step_seconds / max(speed.token_seconds, 1e-9)))


@contextlib.asynccontextmanager
async def _withdrawing(announcer: Announcer) -> AsyncIterator[None]:
    """Say in the end that the peer has left, if that is done in time: in haste, if it is broken off or fails."""
    seconds = _HASTE_SECONDS
    try:
        yield
        seconds = _WITHDRAW_SECONDS
    finally:
        with contextlib.suppress(TimeoutError, SwarmUnreachable):
            async with asyncio.timeout(seconds):
                await announcer.withdraw()


@contextlib.asynccontextmanager
async def _announcing(announcer: Announcer) -> AsyncIterator[None]:
    """Meanwhile renew what is published, if anything is."""
    if announcer.is_published:
        async with Alongside(kept_up(partial(announcer.run, dict), "announcing"), "announcing"):
            yield
    else:
        yield


def _figures(table: SessionTable, service: PeerService, pace: Pace) -> dict[str, Any]:
    """What the announcement says anew each time."""
    return {"free_tokens": table.free_tokens, "load": round(service.load(), 3), **asdict(pace.speed)}


async def _leave_well(
    stop: asyncio.Event,
    left: asyncio.Event,
    service: PeerService,
    announcer: Announcer,
    offer: Announcement,
    seconds: float,
) -> None:
    """Once `stop` is set, serve whoever is there until they have moved on, `seconds` at most; then set `left`."""
    await stop.wait()
    clients = service.num_clients
    log.info("leaving, %d client%s, at most %.0f s; again to stop at once", clients, "s" * (clients != 1), seconds)
    async with Alongside(announcer.publish(offer.model_copy(update={"state": "draining"})), "announcing"):
        await service.drain(seconds)
    left.set()


def _find_model(config: PeerConfig) -> tuple[ModelSource, str]:
    """On the torch thread, for it may hash large files: the model and its fingerprint."""
    source = ModelSource.resolve(config.model, config.revision)
    return source, source.own_fingerprint()


def _num_layers(config: PeerConfig, source: ModelSource) -> int:
    """As many layers as were asked for, or as memory holds."""
    return config.num_layers or layers_that_fit(
        source,
        device=config.device,
        dtype=DTYPES[config.dtype],
        quantize=config.quantize,
        cache_bytes=config.cache_mib << 20,
    )


async def _choose_layers(announcer: Announcer, offer: Announcement, num_layers: int) -> Announcement:
    """The offer, with the least-served layers, and published as joining.

    Peers that join at the same moment must not all take the same ones. So each publishes its choice and looks again:
    of those that are choosing, whoever has the smaller peer id keeps it, the others make room, until nothing changes
    any more. Those that have settled, or serve, stay where they are.
    """
    chosen: Span | None = None
    for _ in range(_CHOICES):
        others = await insist(partial(announcer.directory.peers_of, offer.fingerprint, joining=True))
        fixed = [
            other.span
            for other in others
            if other.state != "choosing" or chosen is None or other.peer_id < offer.peer_id
            if other.peer_id != offer.peer_id
        ]
        span = placement.place(offer.num_layers, fixed, num_layers)
        if span == chosen:
            break
        chosen = span
        offer = offer.model_copy(update={"start": span.start, "end": span.end, "state": "choosing"})
        await announcer.publish(offer)
        await asyncio.sleep(_SETTLE_SECONDS)
    offer = offer.model_copy(update={"state": "joining"})
    await announcer.publish(offer)
    return offer


def _load(config: PeerConfig, source: ModelSource, span: Span) -> tuple[Stage, Speed]:
    """On the torch thread: load the span and time it."""
    threads.limit(config.threads)
    stage = load_stage(
        source,
        span,
        device=config.device,
        dtype=DTYPES[config.dtype],
        quantize=config.quantize,
        choose_threads=config.threads is None,
    )
    log.info("computing with %d of %d cores", torch.get_num_threads(), threads.num_cores())
    return stage, speed.measure(stage)


def _offer(
    config: PeerConfig, source: ModelSource, fingerprint: str, peer_id: str, maddrs: tuple[str, ...]
) -> Announcement:
    """What the peer announces, as far as it is known before anything is loaded."""
    span = config.layers or Span(0, source.info.num_layers)
    if span.end > source.info.num_layers:
        raise UsageError(f"layers {span} do not exist: {source.name} has {source.info.num_layers} layers")
    return Announcement(
        peer_id=peer_id,
        maddrs=maddrs,
        model=source.label,
        fingerprint=fingerprint,
        config_hash=source.info.config_hash,
        num_layers=source.info.num_layers,
        start=span.start,
        end=span.end,
        dtype=config.dtype,
        quantize=config.quantize,
        draft_seconds=None,
        step_seconds=0,
        token_seconds=0,
        load=0.0,
        free_tokens=0,
        max_round=min(config.max_batch_tokens, most_rows(config.dtype, source.info.hidden_size)),
        links={},
        version=VERSION,
        started=time.time(),
        state="joining",
        expires=0,
    )
