"""Announcements as records: read back as signed, and refused when anything at all is wrong with them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from swarm import PROTOCOL, records
from swarm.errors import BadMessage
from swarm.foreign import cleaned
from swarm.identity import Identity
from swarm.records import MAX_RECORD, Announcement, Envelope
from swarm.span import Span
from swarm.wire import Contact
from tests.test_foreign import NASTY, is_printable, texts

DOMAIN = b"specswarm announcement 2:"


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Identity]:
    with Identity.hold(tmp_path_factory.mktemp("keys") / "peer.key") as held:
        yield held


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Identity]:
    with Identity.hold(tmp_path_factory.mktemp("keys") / "stranger.key") as held:
        yield held


def announcement(peer_id: str, **changes: Any) -> Announcement:
    return Announcement.model_validate(
        {
            "peer_id": peer_id,
            "maddrs": ("/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/udp/4001/quic-v1"),
            "model": "some/model",
            "fingerprint": "a" * 64,
            "config_hash": "b" * 64,
            "num_layers": 8,
            "start": 2,
            "end": 5,
            "dtype": "bfloat16",
            "quantize": None,
            "draft_seconds": None,
            "step_seconds": 0.01,
            "token_seconds": 0.001,
            "load": 0.25,
            "free_tokens": 4096,
            "max_round": 512,
            "links": {"12D3KooWneighbour": 0.05},
            "version": "0.1.0",
            "started": 5.0,
            "expires": 2e9,
            **changes,
        }
    )


def signed(payload: bytes, identity: Identity) -> bytes:
    """A record whose signature is right, whatever the payload."""
    return identity.sign(to_sign(payload)) + payload


def to_sign(payload: bytes) -> bytes:
    """For what the signature of a record is made; of what is none, for the payload."""
    try:
        said = cleaned(json.loads(payload))
        if said.get("protocol", 5) <= 5:
            return b"specswarm announcement 1:" + payload
        contact = {"peer_id": said["peer_id"], "maddrs": said["maddrs"]}
        issued = said["expires"] - said.get("lifetime", 45.0)
        unsigned = [contact, said["max_round"], issued, hashlib.sha256(payload).digest(), b""]
        return DOMAIN + msgspec.msgpack.encode([said["protocol"], said["fingerprint"], unsigned])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return payload


def fields(identity: Identity) -> dict[str, Any]:
    """A good announcement as plain JSON values."""
    return announcement(identity.peer_id).model_dump(mode="json")


def test_signed_record_is_read_back(identity: Identity) -> None:
    for changes in (
        {},
        {"quantize": "nf4"},
        {"state": "left"},
        {"state": "joining"},
        {"state": "choosing"},
        {"maddrs": (), "links": {}, "start": 0, "end": 8},
        {"shared_key": True, "lifetime": 3.0},
    ):
        original = announcement(identity.peer_id, **changes)
        assert records.read(records.sign(original, identity)) == original


def test_announcement_states_span_and_contact(identity: Identity) -> None:
    original = announcement(identity.peer_id)
    assert original.span == Span(2, 5)
    assert original.contact == Contact(identity.peer_id, original.maddrs)


def test_any_flipped_bit_is_refused(identity: Identity) -> None:
    record = records.sign(announcement(identity.peer_id), identity)
    for place in range(len(record)):
        flipped = bytearray(record)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(BadMessage):
            records.read(bytes(flipped))


def test_shortened_or_prolonged_record_is_refused(identity: Identity) -> None:
    record = records.sign(announcement(identity.peer_id), identity)
    for wrong in (b"", record[:64], record[:-1], record[1:], record + b" ", record[:63]):
        with pytest.raises(BadMessage):
            records.read(wrong)


def test_record_about_another_peer_is_refused(identity: Identity, stranger: Identity) -> None:
    with pytest.raises(BadMessage, match="not signed by it"):
        records.read(records.sign(announcement(identity.peer_id), stranger))


def test_signature_made_for_another_purpose_is_refused(identity: Identity) -> None:
    payload = announcement(identity.peer_id).model_dump_json().encode()
    with pytest.raises(BadMessage, match="not signed by it"):
        records.read(identity.sign(payload) + payload)


def test_oversized_record_is_refused_though_signed(identity: Identity) -> None:
    payload = json.dumps(fields(identity)).encode()
    largest = payload + b" " * (MAX_RECORD - 64 - len(payload))
    assert records.read(signed(largest, identity)).peer_id == identity.peer_id
    with pytest.raises(BadMessage, match="bytes"):
        records.read(signed(largest + b" ", identity))


@pytest.mark.parametrize(
    "changes",
    [
        {"start": 5, "end": 5},
        {"start": 6, "end": 5},
        {"start": -1},
        {"end": 9},
        {"num_layers": 4},
        {"num_layers": 10**9, "end": 10**9},
        {"model": ""},
        {"model": "m" * 257},
        {"fingerprint": "a" * 63},
        {"fingerprint": "A" * 64},
        {"fingerprint": "a" * 64 + "\n"},
        {"config_hash": "x" * 64},
        {"dtype": "float8"},
        {"quantize": "int2"},
        {"step_seconds": -1},
        {"step_seconds": 1e9},
        {"token_seconds": None},
        {"free_tokens": -1},
        {"load": -0.1},
        {"load": 1.1},
        {"load": float("nan")},
        {"free_tokens": 1.5},
        {"max_round": 0},
        {"links": {"peer": -0.1}},
        {"links": {f"peer {i}": 0.1 for i in range(65)}},
        {"links": [0.1]},
        {"maddrs": ["/ip4/1.2.3.4/tcp/1"] * 33},
        {"maddrs": ["/" * 257]},
        {"maddrs": [1]},
        {"version": "v" * 33},
        {"state": "perhaps"},
        {"expires": -1},
        {"expires": "later"},
        {"lifetime": 0},
        {"lifetime": 61},
        {"lifetime": float("nan")},
        {"shared_key": "perhaps"},
        {"started": 10**400},
    ],
    ids=str,
)
def test_announcement_beyond_the_schema_is_refused_though_signed(
    changes: dict[str, Any], identity: Identity
) -> None:
    assert records.read(signed(json.dumps(fields(identity)).encode(), identity))
    with pytest.raises(BadMessage, match="malformed"):
        records.read(signed(json.dumps(fields(identity) | changes).encode(), identity))


def test_announcement_without_a_field_is_refused(identity: Identity) -> None:
    for name in fields(identity).keys() - {"state", "protocol", "lifetime", "shared_key"}:
        rest = {key: value for key, value in fields(identity).items() if key != name}
        with pytest.raises(BadMessage, match="malformed"):
            records.read(signed(json.dumps(rest).encode(), identity))


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b"[]",
        b"null",
        b"no JSON",
        b"\xff\xfe",
        b"{" * 5000,
        b"[" * 5000,
        b'{"start": ' + b"9" * 6000 + b"}",
        b'{"peer_id": "\\ud800"}',
        b'{"expires": NaN}',
    ],
    ids=lambda payload: payload[:14].decode(errors="replace"),
)
def test_payload_that_is_no_announcement_is_refused_though_signed(payload: bytes, identity: Identity) -> None:
    with pytest.raises(BadMessage, match="malformed"):
        records.read(signed(payload, identity))


def test_times_that_are_no_numbers_are_refused_though_signed(identity: Identity) -> None:
    for name in ("expires", "step_seconds", "token_seconds"):
        for value in (float("nan"), float("inf")):
            payload = json.dumps(
                fields(identity) | {name: value}
            ).encode()  # NaN, Infinity: JSON as Python writes it
            with pytest.raises(BadMessage, match="malformed"):
                records.read(signed(payload, identity))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_raise_nothing_but_bad_message(identity: Identity, data: bytes, is_signed: bool) -> None:
    with contextlib.suppress(BadMessage):
        records.read(signed(data, identity) if is_signed else data)


def of_another_version(identity: Identity, protocol: int) -> dict[str, Any]:
    """What is in a record of a version that has its own notion of an offer."""
    envelope = {name: value for name, value in fields(identity).items() if name in Envelope.model_fields}
    return {**envelope, "protocol": protocol, "state": "resting", "offer": [{"experts": 7}], "dtype": "float4"}


@pytest.mark.parametrize("protocol", [0, PROTOCOL - 1, PROTOCOL + 1, 1000])
def test_record_of_another_protocol_is_read_as_far_as_its_envelope(protocol: int, identity: Identity) -> None:
    record = signed(json.dumps(of_another_version(identity, protocol)).encode(), identity)
    found = records.read(record)
    assert type(found) is Envelope
    assert (found.peer_id, found.protocol, found.state) == (identity.peer_id, protocol, "resting")
    assert (found.model, found.fingerprint, found.contact.maddrs) == ("some/model", "a" * 64, found.maddrs)
    with pytest.raises(BadMessage):
        records.read(record[:-1] + b" ")


def test_record_of_the_time_before_there_was_a_number_is_read_as_far_as_its_envelope(identity: Identity) -> None:
    old = {k: v for k, v in fields(identity).items() if k not in ("protocol", "lifetime", "shared_key")}
    found = records.read(signed(json.dumps(old).encode(), identity))
    assert type(found) is Envelope
    assert found.protocol == 5


def test_field_that_is_not_known_is_ignored(identity: Identity) -> None:
    later = fields(identity) | {"unknown": {"deep": [1, None]}}
    assert records.read(signed(json.dumps(later).encode(), identity)) == announcement(identity.peer_id)


@pytest.mark.parametrize("protocol", [-1, 1 << 17, "six", None, [6], 6.5])
def test_record_whose_protocol_is_no_number_is_refused(protocol: Any, identity: Identity) -> None:
    with pytest.raises(BadMessage, match="malformed"):
        records.read(signed(json.dumps(fields(identity) | {"protocol": protocol}).encode(), identity))


def free_text(kind: type[BaseModel]) -> dict[str, Any]:
    """A value with nasty text for each field of a record where there may be text that no pattern or list of words
    rules out. A field of another type has to be thought of here."""
    nasty = NASTY[:20]
    values: dict[str, Any] = {}
    for name, schema in kind.model_json_schema()["properties"].items():
        match schema:
            case {"type": "string"} if not schema.keys() & {"pattern", "enum"}:
                values[name] = nasty[: schema["maxLength"] // 10]
            case {"type": "array", "items": {"type": "string"}}:
                values[name] = [nasty]
            case {"type": "object", "additionalProperties": {"type": "number"}}:
                values[name] = {nasty: 0.5}
            case {"type": "string" | "integer" | "number" | "boolean"}:
                pass
            case {"anyOf": [{"enum": _} | {"type": "number"}, {"type": "null"}]}:
                pass
            case _:
                pytest.fail(f"{name}: can there be text in {schema}?")
    return values


@pytest.mark.parametrize("protocol", [PROTOCOL, PROTOCOL + 1])
def test_all_text_in_a_record_is_printable(protocol: int, identity: Identity) -> None:
    nasty = free_text(Announcement if protocol == PROTOCOL else Envelope)
    assert nasty.keys() >= {"model", "version", "maddrs"}
    del nasty["peer_id"]  # nobody can sign for it
    for is_escaped in (True, False):
        payload = json.dumps(fields(identity) | nasty | {"protocol": protocol}, ensure_ascii=is_escaped).encode()
        found = records.read(signed(payload, identity))
        assert all(map(is_printable, texts(found.model_dump())))
    with pytest.raises(BadMessage) as caught:
        records.read(signed(json.dumps(fields(identity) | {"peer_id": NASTY[:20]}).encode(), identity))
    assert is_printable(str(caught.value))


def test_names_of_any_language_are_read_as_they_are(identity: Identity) -> None:
    for name in ("modèle", "模型", "👍🏽 model"):
        assert records.read(records.sign(announcement(identity.peer_id, model=name), identity)).model == name
