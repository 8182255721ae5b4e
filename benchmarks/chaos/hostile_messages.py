"""What a hostile stranger sends: well-formed messages out of place, and what is no message at all. Pure.

`any_message` and `any_request` are well formed; `any_frame` and `any_payload` are what goes out in their place: whole,
cut, spoilt, made up, too long, or something that was sent before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from hivemind.proto import dht_pb2
from msgspec import structs

from swarm.codec import encode
from swarm.packing import pack
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.wire import (
    MAX_ROUND_TOKENS,
    MAX_SIZES,
    PUSH_PROTOCOL,
    AnyMessage,
    Ask,
    Broken,
    Contact,
    Copy,
    Hello,
    Hidden,
    Introduction,
    Leaving,
    Open,
    Ping,
    Pong,
    Progress,
    Proofs,
    Recall,
    Recalled,
    Refused,
    Relink,
    Round,
    Verdict,
    Views,
)

CALLS = ("rpc_ping", "rpc_store", "rpc_find")
"""What nodes of the DHT ask each other."""
NOBODY = "12D3KooWQhUesA5R5gKgJq4kNcHyK9C2KsYjoz8SBnp26gWzYcBD"
_BOMB = pack(bytes(1 << 24), 1)  # a few hundred bytes that say they are many
_LARGE = 1 << 18  # bytes of what is too long for a session's stream, and is sent whole


@dataclass(frozen=True, slots=True)
class Aim:
    """What the stranger knows of the peer that he sends to."""

    fingerprint: str
    span: Span
    """The peer's layers."""
    num_layers: int
    hidden_size: int
    vocab_size: int
    sender: str
    """The stranger's own peer id."""
    victims: Collection[bytes] = ()
    """Ids of sessions that others have opened there."""
    introductions: Sequence[Introduction] = ()
    """What peers have signed of themselves."""


def lawful_open(aim: Aim, session: bytes) -> Open:
    """A session over all of the peer's layers that the stranger himself feeds; nobody comes after it."""
    upstream = aim.sender if aim.span.start else None
    return Open(session, aim.fingerprint, aim.span.start, aim.span.end, upstream, None, 0, 512, Sampling(0.5))


def _introduction(chance: Random) -> Introduction:
    """Of a peer that has not signed it."""
    contact = Contact(_peer(chance), ("/ip4/127.0.0.1/tcp/1",) * chance.randrange(3))
    return Introduction(contact, 1 + _number(chance) % 512, chance.random() * 4e9, bytes(32), chance.randbytes(64))


def any_message(chance: Random, aim: Aim, session: bytes) -> AnyMessage:
    """A well-formed message, of `session` or of a victim's, where it most likely does not belong."""
    session = chance.choice([session, session, session, *aim.victims])
    round = any_round(chance, aim, session)
    upstream = chance.choice([None, _peer(chance), aim.sender])
    downstream = chance.choice([None, _introduction(chance), *aim.introductions])
    known = chance.choice([_introduction(chance), *aim.introductions])
    start = chance.randrange(aim.num_layers)
    end = start + 1 + _number(chance)
    messages: list[AnyMessage] = [
        Open(session, aim.fingerprint, start, end, upstream, downstream, _number(chance), 1, Sampling(0.5)),
        Open(session, aim.fingerprint, 0, aim.span.end, None, known, 0, 512, Sampling(), 7),
        lawful_open(aim, session),
        structs.replace(lawful_open(aim, session), wire="int8"),
        round,
        any_hidden(chance, aim, round),
        Relink(session, upstream, downstream, _number(chance), 1, _number(chance), _number(chance)),
        Ask(session, _number(chance), _number(chance)),
        Copy(session, known, _number(chance), _number(chance), 1),
        Leaving(1.0),
        Ping(_number(chance)),
        Pong(_number(chance)),
        Refused(session, "full", "no"),
        Broken(session, _peer(chance), "no"),
        Verdict(session, _number(chance), round.tokens, ()),
        Progress(session, *(_number(chance) for _ in range(8))),
        Recall(session, _number(chance), _number(chance), _number(chance)),
        Proofs(session, _number(chance), (round.tokens,), (tuple([1] * len(round.tokens)),), chance.randrange(3)),
        Recalled(session, _number(chance), bytes(64)),
        Hello(bytes(32)),
        Views(session, _number(chance), ((1, aim.vocab_size),), ((5, 6),)),
    ]
    return chance.choice(messages)


def any_round(chance: Random, aim: Aim, session: bytes) -> Round:
    """A round: of an old number or a far one, at a position that is taken or leaves a gap, of tokens that may not be.

    Long ones are rare, for it is not the links that are to be filled.
    """
    vocab = chance.choice([1, 2]) * aim.vocab_size
    tokens = tuple(chance.randrange(vocab) for _ in range(_length(chance)))
    drafts = chance.randrange(min(len(tokens), 512))
    return Round(session, _number(chance), _number(chance), tokens, drafts, chance.random() < 0.5)


def any_hidden(chance: Random, aim: Aim, round: Round) -> Hidden:
    """States for a round: of the right size or not, packed or said to be, and not always numbers."""
    values = np.full((len(round.tokens), aim.hidden_size), chance.uniform(-1, 1), "f4")
    values[-1, 0] = chance.choice([0.0, np.nan, np.inf, 3e38])
    whole = values.tobytes()
    states = chance.choice(
        [whole, whole, whole[:-1], pack(whole, 4), pack(whole, 4)[:-1], _BOMB, b"", chance.randbytes(64)]
    )
    layer = chance.choice([aim.span.start, aim.span.start, _number(chance)])
    form = chance.choice(["float32", "float32", "bfloat16", "int8", "object"])
    return Hidden(round, layer, form, states, (0.1,), packed=chance.random() < 0.4)  # type: ignore[arg-type]


def frame(data: bytes, length: int | None = None) -> bytes:
    """The message with its length, or with another one."""
    return (len(data) if length is None else length).to_bytes(4, "big") + data


def any_frame(chance: Random, protocol: str, aim: Aim, session: bytes, earlier: Sequence[bytes] = ()) -> bytes:
    """What is sent next on a stream of this protocol; `earlier` is what was sent before."""
    if earlier and chance.randrange(8) == 0:
        return chance.choice(earlier)
    message = any_message(chance, aim, session)
    if protocol == PUSH_PROTOCOL and chance.random() < 0.7:
        message = any_hidden(chance, aim, any_round(chance, aim, chance.choice([session, *aim.victims])))
    data = encode(message)
    kind = chance.randrange(200)
    if kind == 0:
        return frame(data, MAX_SIZES[protocol] + 1)  # too long: refused before it is read
    if kind == 1:
        return frame(chance.randbytes(10), 1 << 20)  # the rest never comes: what follows is taken for it
    if kind < 50:
        return frame(chance.randbytes(_LARGE if _is_rare(chance) else chance.randrange(1, 300)))
    return frame(_spoilt(chance, data) if kind < 120 else data)


def any_request(chance: Random, name: str) -> Any:
    """A well-formed request to a node of the DHT, with nothing in it that belongs there."""
    info = dht_pb2.NodeInfo(node_id=_bytes(chance))
    keys = [_bytes(chance) for _ in range(100 if _is_rare(chance) else chance.choice([0, 1, 1, 3]))]
    if name == "rpc_ping":
        return dht_pb2.PingRequest(peer=info, validate=chance.random() < 0.5)
    if name == "rpc_find":
        return dht_pb2.FindRequest(keys=keys, peer=info)
    count = len(keys) + chance.choice([0, 0, -1, 1])
    times = [chance.choice([0.0, -1.0, 1e12, float("nan"), float("inf")]) for _ in keys]
    return dht_pb2.StoreRequest(
        keys=keys,
        subkeys=[chance.choice([NOBODY.encode(), _bytes(chance)]) for _ in range(count)],
        values=[_bytes(chance) for _ in range(count)],
        expiration_time=times,
        peer=info,
    )


def any_payload(chance: Random, name: str, earlier: Sequence[bytes] = ()) -> bytes:
    """What is sent next to this call of a node of the DHT."""
    if earlier and chance.randrange(8) == 0:
        return chance.choice(earlier)
    kind = chance.randrange(40)
    if kind < 10:
        return chance.randbytes(_LARGE if _is_rare(chance) else chance.randrange(300))
    data = bytes(any_request(chance, name).SerializeToString())
    return _spoilt(chance, data) if kind < 20 and data else data


def _spoilt(chance: Random, data: bytes) -> bytes:
    """The same, cut somewhere or with a bit that is wrong."""
    if chance.random() < 0.7:
        return data[: chance.randrange(1, len(data) + 1)]
    spoilt = bytearray(data)
    spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


def _number(chance: Random) -> int:
    return chance.choice([0, 0, 1, 2, 3, chance.randrange(1 << 31)])


def _peer(chance: Random) -> str:
    return chance.choice(["nobody", "x" * 128, NOBODY])


def _bytes(chance: Random) -> bytes:
    """A key, a subkey or a value: of the usual length, or of another."""
    return chance.randbytes(5000 if _is_rare(chance) else chance.choice([20, 20, 32, 0, 1]))


def _length(chance: Random) -> int:
    if not _is_rare(chance):
        return chance.choice([1, 1, 2, 5])
    return chance.choice([500, 600, 600, MAX_ROUND_TOKENS])


def _is_rare(chance: Random) -> bool:
    return chance.randrange(64) == 0
