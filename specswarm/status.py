"""What the swarm looks like from outside: models, who serves which layers, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from swarm.config import Config
from swarm.directory import Directory
from swarm.libp2p import Libp2pNetwork
from swarm.membership import KeyFile, Membership
from swarm.records import Announcement


class StatusConfig(Config):
    """How to reach the swarm."""

    initial_peers: Annotated[tuple[str, ...], Field(min_length=1)]
    swarm_key: KeyFile = None


@dataclass(frozen=True)
class ModelStatus:
    """One model, as its peers announce it."""

    model: str
    fingerprint: str
    num_layers: int
    peers: tuple[Announcement, ...]

    @property
    def missing(self) -> list[int]:
        """The layers nobody serves."""
        served = {layer for peer in self.peers for layer in range(peer.start, peer.end)}
        return [layer for layer in range(self.num_layers) if layer not in served]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "num_layers": self.num_layers,
            "missing_layers": self.missing,
            "peers": [
                {
                    "peer_id": peer.peer_id,
                    "span": [peer.start, peer.end],
                    "maddrs": list(peer.maddrs),
                    "dtype": peer.dtype,
                    "quantize": peer.quantize,
                    "step_seconds": peer.step_seconds,
                    "load": peer.load,
                    "free_tokens": peer.free_tokens,
                    "draft_seconds": peer.draft_seconds,
                    "version": peer.version,
                }
                for peer in self.peers
            ],
        }


async def look(settings: StatusConfig) -> list[ModelStatus]:
    """Ask the directory."""
    swarm = Membership.read(settings.swarm_key)
    async with Libp2pNetwork.join(None, initial_peers=settings.initial_peers, swarm=swarm) as network:
        peers = await Directory(network, swarm).all_peers()
    by_model: dict[str, list[Announcement]] = {}
    for peer in peers:
        by_model.setdefault(peer.fingerprint, []).append(peer)
    return [
        ModelStatus(found[0].model, fingerprint, found[0].num_layers, tuple(found))
        for fingerprint, found in by_model.items()
    ]


def show(models: list[ModelStatus]) -> None:
    """A table for a person, on standard output."""
    console = Console()
    if not models:
        console.print("the swarm is there, and nobody serves a model in it")
    for model in models:
        table = Table(title=f"{escape(model.model)} ({model.fingerprint[:12]}), {model.num_layers} layers")
        for heading in ("peer", "layers", "dtype", "ms per step", "load", "free tokens", "drafts"):
            table.add_column(heading)
        for peer in model.peers:
            kind = peer.quantize or peer.dtype
            table.add_row(
                peer.peer_id,
                str(peer.span),
                kind,
                f"{peer.step_seconds * 1e3:.1f}",
                f"{peer.load:.0%}",
                str(peer.free_tokens),
                "no" if peer.draft_seconds is None else "yes",
            )
        console.print(table)
        if model.missing:
            console.print(f"nobody serves layers {', '.join(map(str, model.missing))}")
