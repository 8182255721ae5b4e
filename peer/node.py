"""A peer's life: find the model, join the swarm, choose a span, load it, announce it, serve it, leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from peer import placement, speed
from peer.announcer import Announcer
from peer.config import PeerConfig
from peer.service import PeerService
from peer.speed import Speed
from peer.table import SessionTable
from swarm import VERSION
from swarm.directory import Directory
from swarm.errors import UsageError
from swarm.identity import Identity
from swarm.libp2p import Libp2pNetwork
from swarm.lifetime import run_until
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Stage
from swarm.records import Announcement
from swarm.span import Span
from swarm.tensors import DTYPES
from swarm.transport import Network

log = logging.getLogger("specswarm")

_WITHDRAW_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Ready:
    """The peer serves from now on."""

    peer_id: str
    maddrs: tuple[str, ...]
    span: Span
    model: str


async def serve(config: PeerConfig, on_ready: Callable[[Ready], None], stop: asyncio.Event) -> None:
    """Be a peer until `stop` is set. Raises UsageError, ModelUnsupported or SwarmUnreachable if it cannot start."""
    with Identity.hold(config.identity) as identity:
        async with Libp2pNetwork.join(
            identity,
            initial_peers=config.initial_peers,
            host_maddrs=config.host_maddrs,
            announce_maddrs=config.announce_maddrs,
        ) as network:
            await serve_on(network, config, identity, on_ready, stop)


async def serve_on(
    network: Network,
    config: PeerConfig,
    identity: Identity,
    on_ready: Callable[[Ready], None],
    stop: asyncio.Event,
) -> None:
    """The same on a network that is up already."""
    loop = asyncio.get_running_loop()
    directory = Directory(network)
    with ThreadPoolExecutor(1, "torch") as thread:
        source, fingerprint = await loop.run_in_executor(thread, _find_model, config)
        span = config.layers or await _choose_span(config, source, directory, fingerprint)
        log.info("loading layers %s of %s", span, source.name)
        stage, pace = await loop.run_in_executor(thread, _load, config, source, span)
        table = SessionTable(
            stage, fingerprint, max_cache_bytes=config.cache_mib << 20, max_sessions=config.max_sessions
        )
        service = PeerService(network, stage, table, thread, config.max_batch_tokens)
        maddrs = tuple(await network.maddrs())
        offer = _offer(config, source, fingerprint, span, pace, network.peer_id, maddrs)
        announcer = Announcer(
            directory, network, identity, offer, lambda: table.free_tokens, config.announce_seconds
        )
        await service.start()
        await announcer.publish()
        on_ready(Ready(network.peer_id, maddrs, span, source.name))
        await run_until(stop, service.run(config.idle_seconds), announcer.run())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WITHDRAW_SECONDS):
                await announcer.withdraw()


def _find_model(config: PeerConfig) -> tuple[ModelSource, str]:
    """On the torch thread, for it may hash large files: the model and its fingerprint."""
    source = ModelSource.resolve(config.model, config.revision)
    fingerprint = source.fingerprint()
    if fingerprint is None:
        raise UsageError(f"{source.name} has no weights here: a peer needs model.safetensors or its shards")
    return source, fingerprint


async def _choose_span(config: PeerConfig, source: ModelSource, directory: Directory, fingerprint: str) -> Span:
    """The least-served layers, as many as were asked for or as memory holds."""
    length = config.num_layers or speed.layers_that_fit(
        source,
        device=config.device,
        dtype=DTYPES[config.dtype],
        quantize=config.quantize,
        cache_bytes=config.cache_mib << 20,
    )
    others = await directory.peers_of(fingerprint)
    return placement.place(source.info.num_layers, [other.span for other in others], length)


def _load(config: PeerConfig, source: ModelSource, span: Span) -> tuple[Stage, Speed]:
    """On the torch thread: load the span and time it."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    stage = load_stage(source, span, device=config.device, dtype=DTYPES[config.dtype], quantize=config.quantize)
    return stage, speed.measure(stage)


def _offer(
    config: PeerConfig,
    source: ModelSource,
    fingerprint: str,
    span: Span,
    pace: Speed,
    peer_id: str,
    maddrs: tuple[str, ...],
) -> Announcement:
    """The announcement; the announcer fills in what changes."""
    return Announcement(
        peer_id=peer_id,
        maddrs=maddrs,
        model=source.name,
        fingerprint=fingerprint,
        config_hash=source.info.config_hash,
        num_layers=source.info.num_layers,
        start=span.start,
        end=span.end,
        dtype=config.dtype,
        quantize=config.quantize,
        step_seconds=pace.step_seconds,
        token_seconds=pace.token_seconds,
        free_tokens=0,
        max_round=config.max_batch_tokens,
        links={},
        version=VERSION,
        expires=0,
    )
