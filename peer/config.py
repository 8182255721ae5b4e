"""What a peer can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from peer.limits import Limits
from peer.packer import UPLINK_MBIT
from swarm.config import Threads, expanded
from swarm.errors import UsageError
from swarm.identity import PEER_KEY
from swarm.incoming import MAX_CLIENT_STREAMS, MAX_STREAMS
from swarm.membership import KeyFile
from swarm.metrics import Observed
from swarm.span import Span

DEFAULT_HOST_MADDRS = ("/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0")


class PeerConfig(Limits, Observed):
    """Options of `specswarm join`; sizes in MiB, times in seconds."""

    model: str
    initial_peers: tuple[str, ...] = Field(min_length=1)
    swarm_key: KeyFile = None
    """The private swarm's; without it, the peer belongs to the public one."""
    revision: str | None = None
    layers: Span | None = None
    num_layers: Annotated[int, Field(ge=1)] | None = None
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantize: Literal["int8", "nf4"] | None = None
    draft: str | None = None
    """A model with the target's tokenizer, to draft for clients and run their generations here."""
    max_generations: Annotated[int, Field(ge=1)] = 4
    """Of clients, that run here at a time, ..."""
    max_client_generations: Annotated[int, Field(ge=1)] = 2
    """... and of one client."""
    host_maddrs: tuple[str, ...] = DEFAULT_HOST_MADDRS
    announce_maddrs: tuple[str, ...] = ()
    behind_nat: bool = False
    """Whether no connection from outside arrives here: others come through those initial peers that relay."""
    identity: Path = Field(PEER_KEY, validate_default=True)
    threads: Threads | None = None
    """Processor threads for computing; if not given, as many as are free and pay when the layers are loaded."""
    cache_mib: Annotated[int, Field(ge=1)] = 1024
    max_streams: Annotated[int, Field(ge=1)] = MAX_STREAMS
    """Open at once, from all other nodes; more are closed as they come."""
    max_client_streams: Annotated[int, Field(ge=1)] = MAX_CLIENT_STREAMS
    """From one other node."""
    replay_mib: Annotated[int, Field(ge=1)] = 256
    """For what open sessions have passed on, so that it can be passed on again when the next peer dies."""
    max_sessions: Annotated[int, Field(ge=1)] = 256
    max_batch_tokens: Annotated[int, Field(ge=1, le=2048)] = 512
    idle_seconds: Annotated[float, Field(gt=0)] = 300.0
    drain_seconds: Annotated[float, Field(ge=0, le=30)] = 30.0
    """How long a peer that was told to stop serves the sessions it has."""
    uplink_mbit: Annotated[float, Field(gt=0)] = UPLINK_MBIT
    """Upload speed, in 10^6 bits a second: hidden states are packed, without loss, if that saves time by it."""
    announce_seconds: Annotated[float, Field(ge=1, le=20)] = 15.0
    """Between renewals of the announcement, which lasts three of them: a dead peer's is gone within a minute."""

    @field_validator("layers", mode="before")
    @classmethod
    def _parse_layers(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return Span.parse(value)
        except UsageError as error:
            raise ValueError(str(error)) from None

    @field_validator("identity")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return expanded(value)

    @model_validator(mode="after")
    def _one_way_to_choose_layers(self) -> PeerConfig:
        if self.layers is not None and self.num_layers is not None:
            raise ValueError("give either --layers or --num-layers")
        return self
