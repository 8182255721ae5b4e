"""libp2p's circuits, version 2: their addresses, and the messages by which they are reserved and opened.

The messages are protobuf: Hop to and from a relay, Stop between a relay and the peer that it relays for. Fields that
nothing here needs are left out. Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md
"""

from __future__ import annotations

import asyncio
import functools
from enum import IntEnum
from ipaddress import IPv6Network
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import read_unsigned_varint, write_pbmsg
from hivemind.utils.multiaddr import Multiaddr

from swarm.sockets import check_open

HOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/hop"
STOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/stop"

_P2P, _CIRCUIT = b"\xa5\x03", b"\xa2\x02"  # protocols in a multiaddr
_SIZE_BITS = 12  # of a message's length in bytes
_PACKAGE = "specswarm.circuits"
_FIELDS = {  # name and type of each message's fields, by number from 1 on
    "Peer": [("id", "TYPE_BYTES")],
    "Reservation": [("expire", "TYPE_UINT64")],
    "Limit": [("duration", "TYPE_UINT32"), ("data", "TYPE_UINT64")],
    "Hop": [
        ("type", "TYPE_UINT32"),
        ("peer", "Peer"),
        ("reservation", "Reservation"),
        ("limit", "Limit"),
        ("status", "TYPE_UINT32"),
    ],
    "Stop": [("type", "TYPE_UINT32"), ("peer", "Peer"), ("limit", "Limit"), ("status", "TYPE_UINT32")],
}


def host_of(maddr: str) -> str:
    """The host to which dialling an address sends something: `ip4/192.0.2.1`; behind a relay, the relay's."""
    return "/".join(maddr.split("/", 3)[1:3])


@functools.lru_cache(maxsize=1024)
def site_of(address: bytes) -> str:
    """Whence a stream comes, by its address, a multiaddr in its binary form: its host, but of IPv6 the first 64 bits.
    Who has one of those addresses has them all."""
    host = host_of(str(Multiaddr(address)))
    kind, _, name = host.partition("/")
    return str(IPv6Network((name, 64), strict=False)) if kind == "ip6" else host


class HopType(IntEnum):
    """What a Hop is."""

    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class StopType(IntEnum):
    """What a Stop is."""

    CONNECT = 0
    STATUS = 1


class Status(IntEnum):
    """What a request comes to."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400


def _message_classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, start=1):
            of = {"type": kind} if kind not in _FIELDS else {"type_name": f".{_PACKAGE}.{kind}"}
            message.field.add(name=field, number=number, label="LABEL_OPTIONAL", **of)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _FIELDS
    }


_CLASSES = _message_classes()
Hop: Any = _CLASSES["Hop"]
Stop: Any = _CLASSES["Stop"]


def address_of(maddr: str) -> bytes:
    """The address in a peer's multiaddr, a circuit or not, as the daemon takes it. Raises ValueError if it is none.

    hivemind writes ids into addresses as CIDs; the daemon wants the bare multihash.
    """
    address, _, rest = maddr.partition("/p2p/")
    relay, circuit, _ = rest.partition("/p2p-circuit")
    if not circuit:
        return bytes(Multiaddr(address).to_bytes())
    relay_id = PeerID.from_base58(relay).to_bytes()
    return b"".join((Multiaddr(address).to_bytes(), _P2P, bytes([len(relay_id)]), relay_id, _CIRCUIT))


async def send(writer: asyncio.StreamWriter, message: Any) -> None:
    """Write a Hop or a Stop. Raises OSError at the end of the stream."""
    check_open(writer)
    await write_pbmsg(writer, message)


async def receive(reader: asyncio.StreamReader, kind: Any) -> Any:
    """The next Hop or Stop. Raises ValueError for what is none, EOFError or OSError at the end of the stream."""
    message = kind()
    try:
        message.ParseFromString(await reader.readexactly(await read_unsigned_varint(reader, _SIZE_BITS)))
    except DecodeError as error:
        raise ValueError(f"no message of a circuit: {error}") from None
    return message
