"""What a peer says of itself on the DHT, signed by the identity it speaks about.

A record is a 64-byte Ed25519 signature, then the announcement as JSON. The signature covers everything: nobody can
publish in another's name, or change a record. It is made for the introduction, which says where the peer is, and the
digest of the JSON: so the introduction can be shown, and checked, without the rest. Part of the JSON is the envelope,
which nodes of every version can read; the rest is for those that speak the same protocol. Unknown fields are for later
versions, and ignored.

A peer's records follow each other by its own clock (`issued`). How long one lives is counted from its arrival, by the
clock of whoever keeps it (`swarm.ages`).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from swarm import PROTOCOL
from swarm.errors import BadMessage
from swarm.foreign import cleaned
from swarm.identity import Identity, verify
from swarm.membership import PUBLIC, Membership
from swarm.span import MAX_LAYERS, Span
from swarm.wire import MAX_MADDRS, MAX_PEER_ROUND, Contact, Introduction

MAX_RECORD = 8 << 10  # bytes; a peer with 32 links and a dozen addresses needs 4 KiB
MAX_LIFETIME = 60.0  # seconds
_DOMAIN = b"specswarm announcement 2:"  # a signature made for anything else is none here
_DOMAIN_UNNUMBERED = b"specswarm announcement 1:"  # of records that were signed as they are
_SIGNATURE = 64
_UNNUMBERED = 5  # the last protocol whose records did not say which it is

PeerId = Annotated[str, Field(min_length=1, max_length=128)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Layers = Annotated[int, Field(ge=0, le=MAX_LAYERS)]


class Envelope(BaseModel):
    """Who is there, for which model, and in which version: what nodes of all versions understand of each other.

    Its fields are never taken away, nor do they get another meaning.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    peer_id: PeerId
    maddrs: Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=MAX_MADDRS)]
    model: Name
    fingerprint: Digest
    config_hash: Digest
    protocol: Annotated[int, Field(ge=0, le=1 << 16)] = PROTOCOL
    """What it speaks: see `swarm.PROTOCOL`."""
    max_round: Annotated[int, Field(ge=1, le=MAX_PEER_ROUND)]
    """Most tokens of one round."""
    version: Annotated[str, Field(max_length=32)]
    """Of its program; for people."""
    started: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """When the peer's program began, in seconds since 1970: another time means that it lost all it had."""
    state: Annotated[str, Field(max_length=16)]
    lifetime: Annotated[float, Field(gt=0, le=MAX_LIFETIME)] = 45.0
    """Seconds that the record lives."""
    expires: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """When that is over, by the peer's own clock, in seconds since 1970."""

    @property
    def issued(self) -> float:
        """When the record was made, by the peer's own clock, in seconds since 1970; the later replaces the earlier."""
        return self.expires - self.lifetime

    @property
    def contact(self) -> Contact:
        """Where to dial the peer."""
        return Contact(self.peer_id, self.maddrs)


class Announcement(Envelope):
    """One peer's offer: these layers of that model, at this speed."""

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
    draft_seconds: Seconds | None
    """A draft model's step, if the peer drafts for clients; it knows the target's tokenizer."""
    links: Annotated[dict[PeerId, Seconds], Field(max_length=64)]
    """Round-trip seconds to other peers of this model, as measured from here."""
    state: Literal["choosing", "joining", "serving", "draining", "left"] = "serving"
    """It would take these layers and may still make room, has settled on them and loads them, serves them, serves only
    those who are there already, or is gone."""
    shared_key: bool = False
    """Another node publishes under the same key: a copy of the key file is in use elsewhere."""
    _seal: tuple[bytes, bytes] = (bytes(32), bytes(_SIGNATURE))
    """Digest and signature of the record in which this was read."""

    @model_validator(mode="after")
    def _span_within_the_model(self) -> Announcement:
        if not self.start < self.end <= self.num_layers:
            raise ValueError(f"layers {self.start}:{self.end} of {self.num_layers}")
        return self

    def __eq__(self, other: object) -> bool:
        """Whether the same is said, signed or not."""
        if not isinstance(other, Announcement):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((self.peer_id, self.expires))

    @property
    def span(self) -> Span:
        """The layers on offer."""
        return Span(self.start, self.end)

    @property
    def introduction(self) -> Introduction:
        """By which others are told where the peer is."""
        return Introduction(self.contact, self.max_round, self.issued, *self._seal)


def sign(announcement: Announcement, identity: Identity, swarm: Membership = PUBLIC) -> bytes:
    """The record for the DHT of that swarm."""
    payload = announcement.model_dump_json().encode()
    return identity.sign(_signed(announcement, payload, swarm)) + payload


def read(record: bytes, swarm: Membership = PUBLIC) -> Envelope:
    """The Announcement in a record or, if its peer speaks another protocol, the envelope alone.

    All text in it is printable. Raises BadMessage unless it is well formed and signed by the peer it names, for this
    swarm.
    """
    if not _SIGNATURE < len(record) <= MAX_RECORD:
        raise BadMessage(f"record of {len(record)} bytes")
    return _read(record, swarm)


@lru_cache(
    maxsize=1024
)  # a look-up brings what most nodes have, and it is read again and again until it is renewed
def _read(record: bytes, swarm: Membership) -> Envelope:
    signature, payload = record[:_SIGNATURE], record[_SIGNATURE:]
    try:
        found = _parsed(payload)
    except ValidationError as error:
        raise BadMessage(f"malformed record: {error.errors()[0]['msg']}") from None
    except ValueError as error:
        raise BadMessage(f"malformed record: {error}") from None
    if not verify(found.peer_id, _signed(found, payload, swarm), signature):
        raise BadMessage(f"record about {found.peer_id} is not signed by it")
    if isinstance(found, Announcement):
        found._seal = (sha256(payload).digest(), signature)
    return found


def is_genuine(introduction: Introduction, fingerprint: str, swarm: Membership = PUBLIC) -> bool:
    """Whether the peer that it names has signed it, as one that serves this model, in this swarm and this protocol."""
    signed = _head(introduction, PROTOCOL, fingerprint, swarm)
    return verify(introduction.contact.peer_id, signed, introduction.signature)


def _signed(said: Envelope, payload: bytes, swarm: Membership) -> bytes:
    """What the signature of a record is made for."""
    if said.protocol <= _UNNUMBERED:
        return _DOMAIN_UNNUMBERED + swarm.records_secret + payload
    unsigned = Introduction(said.contact, said.max_round, said.issued, sha256(payload).digest(), b"")
    return _head(unsigned, said.protocol, said.fingerprint, swarm)


def _head(introduction: Introduction, protocol: int, fingerprint: str, swarm: Membership) -> bytes:
    unsigned = msgspec.structs.replace(introduction, signature=b"")
    return _DOMAIN + swarm.records_secret + msgspec.msgpack.encode((protocol, fingerprint, unsigned))


def _parsed(payload: bytes) -> Envelope:
    fields = from_json(payload)
    if not _is_plain(payload):
        fields = cleaned(fields)
    if not isinstance(fields, dict):
        raise ValueError("no object")
    fields.setdefault("protocol", _UNNUMBERED)
    return (Announcement if fields["protocol"] == PROTOCOL else Envelope).model_validate(fields)


def _is_plain(payload: bytes) -> bool:
    """Whether JSON can have no text that is not printable: as nearly all has, in look-ups that read thousands."""
    return payload.isascii() and b"\\" not in payload and payload.decode("ascii").isprintable()
