"""What a peer says of itself on the DHT, signed by the identity it speaks about.

A record is a 64-byte Ed25519 signature, then the announcement as JSON. The signature covers everything, the end of
its life included: nobody can publish in another's name, change a record, or make an old one live longer.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from swarm.errors import BadMessage
from swarm.identity import Identity, verify
from swarm.membership import PUBLIC, Membership
from swarm.span import Span
from swarm.wire import MAX_MADDRS, Contact

MAX_RECORD = 8 << 10  # bytes; a peer with 32 links and a dozen addresses needs 4 KiB
_DOMAIN = b"specswarm announcement 1:"  # a signature made for anything else is none here
_SIGNATURE = 64

PeerId = Annotated[str, Field(min_length=1, max_length=128)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Layers = Annotated[int, Field(ge=0, le=10_000)]


class Announcement(BaseModel):
    """One peer's offer: these layers of that model, at this speed, until `expires` (seconds since 1970)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peer_id: PeerId
    maddrs: Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=MAX_MADDRS)]
    model: Name
    fingerprint: Digest
    config_hash: Digest
    num_layers: Layers
    start: Layers
    end: Layers
    dtype: Literal["float32", "bfloat16", "float16"]
    quantize: Literal["int8", "nf4"] | None
    step_seconds: Seconds
    """One token through the whole span."""
    token_seconds: Seconds
    """Each further token of the same round."""
    load: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    """Share of its time, of late, in which its stage has computed."""
    free_tokens: Annotated[int, Field(ge=0)]
    """Room left in the caches, in tokens."""
    max_round: Annotated[int, Field(ge=1, le=1 << 20)]
    """Most tokens of one round."""
    draft_seconds: Seconds | None
    """A draft model's step, if the peer drafts for clients; it knows the target's tokenizer."""
    links: Annotated[dict[PeerId, Seconds], Field(max_length=64)]
    """Round-trip seconds to other peers of this model, as measured from here."""
    version: Annotated[str, Field(max_length=32)]
    started: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """When the peer's program began, in seconds since 1970: another time means that it lost all it had."""
    state: Literal["joining", "serving", "draining", "left"] = "serving"
    """It has chosen its layers and loads them, serves them, serves only those who are there already, or is gone."""
    expires: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _span_within_the_model(self) -> Announcement:
        if not self.start < self.end <= self.num_layers:
            raise ValueError(f"layers {self.start}:{self.end} of {self.num_layers}")
        return self

    @property
    def span(self) -> Span:
        """The layers on offer."""
        return Span(self.start, self.end)

    @property
    def contact(self) -> Contact:
        """Where to dial the peer."""
        return Contact(self.peer_id, self.maddrs)


def sign(announcement: Announcement, identity: Identity, swarm: Membership = PUBLIC) -> bytes:
    """The record for the DHT of that swarm."""
    payload = announcement.model_dump_json().encode()
    return identity.sign(_DOMAIN + swarm.records_secret + payload) + payload


def read(record: bytes, swarm: Membership = PUBLIC) -> Announcement:
    """The announcement in a record. Raises BadMessage unless it is well formed and signed by the peer it names, for
    this swarm."""
    if not _SIGNATURE < len(record) <= MAX_RECORD:
        raise BadMessage(f"record of {len(record)} bytes")
    payload = record[_SIGNATURE:]
    try:
        announcement = Announcement.model_validate_json(payload)
    except ValidationError as error:
        raise BadMessage(f"malformed record: {error.errors()[0]['msg']}") from None
    if not verify(announcement.peer_id, _DOMAIN + swarm.records_secret + payload, record[:_SIGNATURE]):
        raise BadMessage(f"record about {announcement.peer_id} is not signed by it")
    return announcement
