"""A chain of three toy peers, and what strangers bring to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from peer.limits import Limits
from peer.queue import num_tokens
from peer.session import Session
from swarm.blockwise import to_int8
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.tensors import to_bytes
from swarm.wire import PUSH_PROTOCOL, SESSION_PROTOCOL, Contact, Hidden, Open, Round, new_session_id
from tests.faulty import FaultyNetwork, FaultyStream
from tests.toy_swarm import FINGERPRINT, ToySwarm, introduction

LAYERS = 3
LIMITS = Limits.model_construct(max_client_sessions=4, max_in_flight=64, max_drafts=8, max_session_tokens=100)


def id_of(client: str, number: int) -> bytes:
    """Of a session of that client."""
    return new_session_id(client)[:8] + bytes([number]) * 8


IDS = [id_of("eve", number) for number in range(1, 6)]


async def toy_chain(seed: int = 1, **options: Any) -> ToySwarm:
    """first, middle and last, with a layer each."""
    swarm = ToySwarm(FaultyNetwork(seed), LAYERS, **options)
    for i, name in enumerate(["first", "middle", "last"]):
        await swarm.start(name, Span(i, i + 1))
    return swarm


def assert_consistent(swarm: ToySwarm) -> None:
    """Table, logs, queue and memory of every peer say the same."""
    for name, table in swarm.tables.items():
        service = swarm.services[name]
        sessions = {session.id: session for session in table}
        assert service._replies.keys() == sessions.keys() == table._reserved.keys() == table._sent._logs.keys()
        assert table._sent.num_bytes == sum(log.num_bytes for log in table._sent._logs.values())
        assert table._sent.num_bytes <= 1 << 20
        assert sum(table._reserved.values()) <= 1 << 20
        assert all(0 <= session.in_flight <= LIMITS.max_in_flight for session in sessions.values())
        assert all(len(session.tokens) <= 100 for session in sessions.values())
        assert service._rounds._unproven.keys() <= sessions.keys()
        queue = service._rounds._worker._queue
        waiting = {session_id: len(jobs) for session_id, jobs in queue._waiting.items()}
        assert queue.num_tokens == sum(num_tokens(jobs) for jobs in queue._waiting.values())
        assert queue.num_bytes == {
            session_id: sum(job.num_bytes for job in jobs) for session_id, jobs in queue._waiting.items()
        }
        assert all(waiting.values())
        assert waiting.keys() <= sessions.keys()
        assert all(sessions[id_].waiting >= count for id_, count in waiting.items())
        per_client = Counter(session.client for session in sessions.values())
        assert max(per_client.values(), default=0) <= 4
        assert service._early._senders.total() <= 64 << 20


def snapshot(session: Session) -> dict[str, Any]:
    fields = {name: getattr(session, name) for name in Session.__slots__ if name != "sent"}
    return fields | {"tokens": list(session.tokens), "sent": (session.sent.first, session.sent.end)}


async def opened(swarm: ToySwarm, receiver: str, request: Open, client: str = "eve") -> FaultyStream:
    """A stream of the client, with a session opened on it."""
    node = swarm.network.nodes.get(client) or swarm.network.join(client)
    stream = await node.open(Contact(receiver), SESSION_PROTOCOL)
    await stream.send(request)
    await asyncio.sleep(0.1)
    return stream


async def fed_by_a_liar(request: Open) -> tuple[ToySwarm, FaultyStream, FaultyStream]:
    """A chain whose first peer is another program now: its client's stream to the middle one, and the liar's."""
    swarm = await toy_chain()
    swarm.kill("first")
    client = await opened(swarm, "middle", request)
    return swarm, client, await swarm.network.join("first").open(Contact("middle"), PUSH_PROTOCOL)


def open_at(hop: int, id_: bytes = IDS[0]) -> Open:
    names = ["first", "middle", "last"]
    upstream = names[hop - 1] if hop else None
    downstream = introduction(names[hop + 1]) if hop < 2 else None
    return Open(id_, FINGERPRINT, hop, hop + 1, upstream, downstream, 0, 16, Sampling())


def hidden(
    round: Round, layer: int, spoilt: int, dtype: str, pack: Callable[[bytes, int], bytes] | None = None
) -> Hidden:
    """States for a round; of the wrong size, or not finite, where spoilt; said to be packed if there is a `pack`."""
    values = torch.ones(len(round.tokens) + (spoilt == 1), 1)
    values[-1] = torch.nan if spoilt == 2 else 1
    states, width = (to_int8(values), 1) if dtype == "int8" else (to_bytes(values), 4)
    return Hidden(round, layer, dtype, pack(states, width) if pack else states, (), packed=pack is not None)
