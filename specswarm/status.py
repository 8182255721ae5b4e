"""What the swarm looks like from outside: models, who serves which layers, and what is missing.

A record outlives its peer by up to a minute, so whoever is announced is asked whether it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import to_builtins
from pydantic import Field, field_validator
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from specswarm.tables import standard_output
from swarm import PROTOCOL, awake
from swarm.config import Config, expanded
from swarm.directory import Directory, Sighting, insist, other_versions
from swarm.errors import BadMessage, PeerLost, UsageError
from swarm.identity import PEER_KEY, Identity
from swarm.inspection import inspect
from swarm.libp2p import Libp2pNetwork
from swarm.membership import PUBLIC, KeyFile, Membership
from swarm.ping import round_trip
from swarm.records import Announcement, Envelope
from swarm.tasks import end, owned
from swarm.transport import Network, Transport
from swarm.wire import Complaint, Contact

_ANSWER_SECONDS = 5.0  # for a peer to be reached and to answer
_MAX_ASKED = 256  # peers; those beyond count as there while they renew their records
_AT_ONCE = 64  # being asked at the same time
_ASKING_SECONDS = 15.0  # for all of them
_OVERDUE = 0.5  # of a record's life; a third is when it should have been renewed
_CLOCK_SECONDS = 5.0  # by which clocks may differ without a word


class StatusConfig(Config):
    """How to reach the swarm."""

    initial_peers: Annotated[tuple[str, ...], Field(min_length=1)]
    swarm_key: KeyFile = None
    identity: Path | None = None
    """The key file of one's own peer, which is asked whom it limits; None: the usual one, if there is one."""

    @field_validator("identity")
    @classmethod
    def _expand(cls, path: Path | None) -> Path | None:
        return path and expanded(path)

    @property
    def owner(self) -> Identity | None:
        """Of one's own peer. Raises UsageError if that cannot be read."""
        if self.identity is not None:
            return Identity.read(self.identity)
        with contextlib.suppress(UsageError, ValueError):  # no such file, or no home folder
            return Identity.read(expanded(PEER_KEY))
        return None


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A peer that is announced."""

    said: Announcement
    age: float
    """Seconds since it said so."""
    ahead: float
    """Seconds by which its clock is ahead of this machine's."""
    is_silent: bool
    """It does not answer."""
    complaints: tuple[Complaint, ...] | None = None
    """What it has refused others, if it is one's own and says so."""

    @property
    def note(self) -> str:
        """What is wrong with it, in words; empty if nothing is."""
        notes = []
        if self.is_silent:
            notes.append(f"silent for {self.age:.0f} s")
        if self.said.shared_key:
            notes.append("another program uses its key: whoever runs them must give one an --identity of its own")
        if abs(self.ahead) > _CLOCK_SECONDS:
            notes.append(f"clock {abs(self.ahead):.0f} s {'ahead' if self.ahead > 0 else 'behind'}")
        return ", ".join(notes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "peer_id": self.said.peer_id,
            "span": [self.said.start, self.said.end],
            "maddrs": list(self.said.maddrs),
            "dtype": self.said.dtype,
            "quantize": self.said.quantize,
            "step_seconds": self.said.step_seconds,
            "load": self.said.load,
            "free_tokens": self.said.free_tokens,
            "draft_seconds": self.said.draft_seconds,
            "version": self.said.version,
            "silent_seconds": round(self.age, 1) if self.is_silent else None,
            "clock_ahead_seconds": round(self.ahead, 1),
            "shared_key": self.said.shared_key,
            "complaints": None if self.complaints is None else [to_builtins(one) for one in self.complaints],
        }


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model, as its peers announce it."""

    model: str
    fingerprint: str
    num_layers: int
    peers: tuple[PeerStatus, ...]

    @property
    def missing(self) -> list[int]:
        """The layers that nobody serves who answers."""
        return self._without(peer for peer in self.peers if not peer.is_silent)

    @property
    def unannounced(self) -> list[int]:
        """Those of them that nobody announces."""
        return self._without(self.peers)

    def _without(self, peers: Iterable[PeerStatus]) -> list[int]:
        served = {layer for peer in peers for layer in range(peer.said.start, peer.said.end)}
        return [layer for layer in range(self.num_layers) if layer not in served]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "num_layers": self.num_layers,
            "missing_layers": self.missing,
            "silent_layers": sorted(set(self.missing) - set(self.unannounced)),
            "peers": [peer.as_dict() for peer in self.peers],
        }


@dataclass(frozen=True, slots=True)
class Status:
    """All that was found."""

    models: tuple[ModelStatus, ...]
    others: tuple[Envelope, ...]
    """Peers that speak another version of the protocol."""
    clock: str
    """What is wrong with this machine's clock, or those of the others."""
    own: str = ""
    """Why one's own peer did not say whom it limits, where that was asked for."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "protocol": PROTOCOL,
            "models": [model.as_dict() for model in self.models],
            "other_versions": [
                other.model_dump(include={"peer_id", "protocol", "version", "model", "fingerprint"})
                for other in self.others
            ],
            "clock": self.clock or None,
            "own": self.own or None,
        }


async def look(settings: StatusConfig) -> Status:
    """Ask the directory, and those whom it names."""
    swarm = Membership.read(settings.swarm_key)
    owner = settings.owner
    async with Libp2pNetwork.join(None, initial_peers=settings.initial_peers, swarm=swarm) as network:
        status = await look_on(network, swarm, owner)
    told = any(peer.complaints is not None for model in status.models for peer in model.peers)
    if settings.identity is None or told:
        return status
    return replace(status, own=f"no peer with the key {settings.identity} is here, or it does not answer")


async def look_on(network: Network, swarm: Membership = PUBLIC, owner: Identity | None = None) -> Status:
    """The same on a network that is up already; `owner`: of the peer that is to say whom it limits."""
    directory = Directory(network, swarm)
    found = await insist(directory.look)
    serving = [one for one in found if isinstance(one.said, Announcement) and one.said.state == "serving"]
    peers = [await _with_complaints(network, peer, owner) for peer in await _ask(network, serving)]
    by_model: dict[str, list[PeerStatus]] = {}
    for peer in peers:
        by_model.setdefault(peer.said.fingerprint, []).append(peer)
    return Status(
        tuple(
            ModelStatus(same[0].said.model, fingerprint, same[0].said.num_layers, tuple(same))
            for fingerprint, same in by_model.items()
        ),
        tuple(one.said for one in found if not isinstance(one.said, Announcement) and one.said.state != "left"),
        directory.clocks.trouble,
    )


def show(status: Status) -> None:
    """Tables for a person, on standard output."""
    console = standard_output(soft_wrap=True)
    if not status.models:
        console.print("the swarm is there, and nobody serves a model in it")
    for model in status.models:
        console.print(_table(model), soft_wrap=False)
        for peer in model.peers:
            if peer.note:
                console.print(f"peer {peer.said.peer_id}, layers {peer.said.span}: {peer.note}")
            if peer.complaints is not None:
                _show_complaints(console, peer.said.peer_id, peer.complaints)
        silent = set(model.missing) - set(model.unannounced)
        for layers, what in ((model.unannounced, "serves"), (sorted(silent), "answers for")):
            if layers:
                console.print(f"nobody {what} layers {', '.join(map(str, layers))}")
    for text in (other_versions(status.others), status.clock, status.own):
        if text:
            console.print(text)


def _show_complaints(console: Console, peer_id: str, complaints: Sequence[Complaint]) -> None:
    """Whom one's own peer limits."""
    if not complaints:
        console.print(f"peer {peer_id} is yours: it has refused nobody anything in the last hour")
        return
    table = Table(title="what your peer has refused others in the last hour")
    for heading in ("node", "kind", "times", "last", "what"):
        table.add_column(heading, overflow="fold")
    for one in complaints:
        table.add_row(one.peer_id, one.kind, str(one.times), f"{one.seconds:.0f} s ago", escape(one.text))
    console.print(table, soft_wrap=False)


async def _with_complaints(network: Transport, peer: PeerStatus, owner: Identity | None) -> PeerStatus:
    """Of one's own peer, what it has refused others."""
    if owner is None or peer.said.peer_id != owner.peer_id or peer.is_silent:
        return peer
    try:
        return replace(peer, complaints=await inspect(network, peer.said.contact, owner, _ANSWER_SECONDS))
    except PeerLost:
        return peer


def _table(model: ModelStatus) -> Table:
    table = Table(title=f"{escape(model.model)} ({model.fingerprint[:12]}), {model.num_layers} layers")
    for heading in ("peer", "layers", "dtype", "ms per step", "load", "free tokens", "drafts"):
        table.add_column(heading)
    for peer in model.peers:
        said = peer.said
        table.add_row(
            said.peer_id,
            str(said.span),
            said.quantize or said.dtype,
            f"{said.step_seconds * 1e3:.1f}",
            f"{said.load:.0%}",
            str(said.free_tokens),
            "no" if said.draft_seconds is None else "yes",
        )
    return table


async def _ask(network: Transport, found: Sequence[Sighting]) -> list[PeerStatus]:
    """Who of these is there. Those that were heard of longest ago are asked first."""
    gate = asyncio.Semaphore(_AT_ONCE)
    asking = {
        one.said.peer_id: owned(_answers(network, one.said.contact, gate), "asking a peer whether it is there")
        for one in sorted(found, key=lambda one: -one.age)[:_MAX_ASKED]
    }
    if asking:
        _, unfinished = await asyncio.wait(asking.values(), timeout=_ASKING_SECONDS)
        await end(*unfinished)

    def is_silent(one: Sighting) -> bool:
        task = asking.get(one.said.peer_id)
        if task is None or task.cancelled():
            return one.age > _OVERDUE * one.said.lifetime
        return not task.result()

    return [
        PeerStatus(one.said, one.age, one.ahead, is_silent(one))
        for one in found
        if isinstance(one.said, Announcement)
    ]


async def _answers(network: Transport, contact: Contact, gate: asyncio.Semaphore) -> bool:
    """Whether a peer does; asked when it is its turn."""
    async with gate:
        try:
            async with awake.timeout(_ANSWER_SECONDS):
                await round_trip(network, contact)
        except (PeerLost, BadMessage, TimeoutError):
            return False
        return True
