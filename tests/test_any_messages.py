"""Whatever strangers send, in whatever order: a peer's counts stay right, others get their text, and it serves on."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peer.early import EarlyResults
from peer.limits import Limits
from peer.links import Outbox
from peer.session import Session
from swarm.errors import PeerLost
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.wire import (
    MAX_SESSION_MESSAGE,
    NO_SESSION,
    PUSH_PROTOCOL,
    SESSION_PROTOCOL,
    AnyMessage,
    Ask,
    Broken,
    Contact,
    Copy,
    Hello,
    Hidden,
    Leaving,
    Open,
    Ping,
    Pong,
    Progress,
    Recall,
    Recalled,
    Refused,
    Relink,
    Round,
    Verdict,
    encode,
)
from tests import faulty
from tests.faulty import FaultyNetwork, FaultyStream
from tests.toy import VOCAB, reference
from tests.toy_swarm import FINGERPRINT, PROMPT, ToyClient, ToySwarm

LAYERS = 3
LIMITS = Limits.model_construct(max_client_sessions=4, max_in_flight=64, max_drafts=8, max_session_tokens=100)
IDS = [bytes([i]) * 16 for i in range(1, 6)]

ids = st.sampled_from([*IDS[:1] * 4, *IDS])
peer_ids = st.sampled_from(["first", "middle", "last", "eve", "mallory", "nobody"])
contacts = st.none() | st.builds(Contact, peer_ids)
counts = st.integers(0, 40)
rounds = st.builds(
    lambda session, number, position, tokens, drafts, judged: Round(
        session, number, position, tuple(tokens), min(drafts, len(tokens) - 1), judged
    ),
    ids,
    st.sampled_from([0, 1, 1, 2]),
    st.sampled_from([0, 0, 0, 1, 5, 40]),
    st.lists(st.sampled_from([*range(VOCAB)] * 2 + [VOCAB]), min_size=1, max_size=20),
    st.integers(0, 10),
    st.booleans(),
)


def hidden(round: Round, layer: int, spoilt: int, dtype: str) -> Hidden:
    """States for a round; of the wrong size, or not finite, where spoilt."""
    values = np.ones(len(round.tokens) + (spoilt == 1), "f4")
    values[-1] = np.nan if spoilt == 2 else 1
    return Hidden(round, layer, dtype, values.tobytes(), ())


opens = st.builds(
    lambda session, fingerprint, start, length, upstream, downstream, holds, witness: Open(
        session, fingerprint, start, start + length, upstream, downstream, holds, 16, Sampling(), witness
    ),
    ids,
    st.sampled_from([FINGERPRINT] * 5 + ["0" * 64]),
    st.integers(0, 2),
    st.integers(1, 2),
    st.none() | peer_ids,
    contacts,
    counts,
    st.sampled_from([None, 7]),
)
lawful_opens = st.builds(
    lambda session, hop, upstream: Open(
        session,
        FINGERPRINT,
        hop,
        hop + 1,
        upstream if hop else None,
        Contact(["first", "middle", "last"][hop + 1]) if hop < 2 else None,
        0,
        16,
        Sampling(),
        7,
    ),
    ids,
    st.sampled_from([0, 0, 0, 1, 2]),
    st.sampled_from(["eve", "eve", "mallory", "first"]),
)
messages: st.SearchStrategy[AnyMessage] = st.one_of(
    lawful_opens,
    lawful_opens,
    opens,
    rounds,
    rounds,
    rounds,
    st.builds(hidden, rounds, st.integers(1, 2), st.integers(0, 3), st.sampled_from(["float32", "float32", "?"])),
    st.builds(Relink, ids, st.none() | peer_ids, contacts, counts, st.integers(1, 20)),
    st.builds(Ask, ids, counts, counts),
    st.builds(Copy, ids, st.builds(Contact, peer_ids), counts, counts, st.integers(1, 20)),
    st.builds(Leaving, st.just(1.0)),
    st.builds(Recall, ids, counts, counts, counts),
    st.builds(Recalled, ids, counts, st.binary(max_size=9)),
    st.builds(Hello, st.binary(max_size=9)),
    st.builds(Ping, counts),
    st.builds(Pong, counts),
    st.builds(Refused, ids, st.sampled_from(["gone", "rate"]), st.just("no")),
    st.builds(Broken, ids, peer_ids, st.just("no")),
    st.builds(Progress, ids, counts, counts, counts, counts, counts),
    st.builds(lambda session, number: Verdict(session, number, (1,), ()), ids, counts),
)


@dataclass(frozen=True)
class Act:
    """Somebody sends something to some peer, on a stream of some protocol, or closes that stream."""

    sender: str
    receiver: str
    protocol: str
    what: AnyMessage | bytes | None
    pause: float


acts = st.builds(
    Act,
    st.sampled_from(["eve", "eve", "eve", "mallory"]),
    st.sampled_from(["first", "first", "first", "middle", "last"]),
    st.sampled_from([SESSION_PROTOCOL, SESSION_PROTOCOL, SESSION_PROTOCOL, PUSH_PROTOCOL]),
    st.one_of(messages, messages, messages, messages, st.binary(min_size=1, max_size=80), st.none()),
    st.sampled_from([0.0, 0.0, 0.01, 0.2, 12.0]),
)


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
        waiting = Counter(job.session.id for job in service._worker._waiting)
        assert waiting.keys() <= sessions.keys()
        assert all(sessions[id_].waiting >= count for id_, count in waiting.items())
        per_client = Counter(session.client for session in sessions.values())
        assert max(per_client.values(), default=0) <= 4
        assert service._early._bytes.total() <= 64 << 20


async def perform(swarm: ToySwarm, history: list[Act]) -> None:
    """Have it all happen, looking at the peers in between."""
    streams: dict[tuple[str, str, str], FaultyStream] = {}
    for act in history:
        key = (act.sender, act.receiver, act.protocol)
        if key not in streams:
            streams[key] = await swarm.network.nodes[act.sender].open(Contact(act.receiver), act.protocol)
        try:
            match act.what:
                case None:
                    streams.pop(key).close()
                case bytes(data):
                    streams[key].deliver(data)
                case message:
                    await streams[key].send(message)
        except PeerLost:
            del streams[key]
        await asyncio.sleep(act.pause)
        assert_consistent(swarm)
    await asyncio.sleep(1)
    for table in swarm.tables.values():
        assert all(session.waiting == session.in_flight == 0 for session in table)
    for stream in streams.values():
        stream.close()
    await asyncio.sleep(1)
    for name, table in swarm.tables.items():
        assert_consistent(swarm)
        assert len(table) == 0, name
        assert table.free_tokens == (1 << 20) // 4


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1 << 32), st.lists(acts, min_size=30, max_size=60))
def test_any_messages_leave_all_counts_right_and_the_peers_serving(seed: int, history: list[Act]) -> None:
    async def run() -> None:
        swarm = await toy_chain(seed, limits=LIMITS)
        for name in ("eve", "mallory"):
            swarm.network.join(name)
        running = {name: set(swarm.network.nodes[name].tasks) for name in swarm.tables}
        lawful = Act("eve", "first", SESSION_PROTOCOL, open_at(0), 0.1)
        await perform(swarm, [lawful, *history])
        assert all(not task.done() for tasks in running.values() for task in tasks)
        client = ToyClient(swarm, window=3)
        assert await client.generate(8) == reference(PROMPT, 8, LAYERS)
        assert client.chain.reroutes == 0

    faulty.run(run())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1 << 32), st.lists(acts, min_size=20, max_size=80))
def test_an_honest_client_beside_any_messages_gets_its_text_undisturbed(seed: int, history: list[Act]) -> None:
    async def run() -> None:
        swarm = await toy_chain(seed)
        for name in ("eve", "mallory"):
            swarm.network.join(name)
        client = ToyClient(swarm, window=3)
        honest = asyncio.create_task(client.generate(30))
        streams: dict[tuple[str, str, str], FaultyStream] = {}
        for act in history:
            key = (act.sender, act.receiver, act.protocol)
            if key not in streams:
                streams[key] = await swarm.network.nodes[act.sender].open(Contact(act.receiver), act.protocol)
            if act.what is not None:
                streams[key].deliver(act.what if isinstance(act.what, bytes) else encode(act.what))
        assert await honest == reference(PROMPT, 30, LAYERS)
        assert client.chain.reroutes == 0

    faulty.run(run())


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


def open_at(hop: int, id_: bytes = IDS[0]) -> Open:
    names = ["first", "middle", "last"]
    upstream = names[hop - 1] if hop else None
    downstream = Contact(names[hop + 1]) if hop < 2 else None
    return Open(id_, FINGERPRINT, hop, hop + 1, upstream, downstream, 0, 16, Sampling())


def whole(swarm: ToySwarm, name: str) -> Any:
    """All that a peer knows and holds."""
    table, service = swarm.tables[name], swarm.services[name]
    return (
        [snapshot(session) for session in table],
        table.free_tokens,
        dict(table.admission._opened._full_at),
        dict(service._replies),
        list(service._worker._waiting),
        list(service._links._outboxes),
        service._early._bytes.total(),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["first", "middle", "last"]),
    st.lists(st.tuples(st.sampled_from(["eve", "mallory"]), messages), max_size=60),
)
def test_a_refused_message_leaves_everything_as_it_was(name: str, history: list[tuple[str, AnyMessage]]) -> None:
    async def run() -> None:
        swarm = await toy_chain(limits=LIMITS, max_sessions=3)
        service, outboxes = swarm.services[name], {"eve": Outbox(), "mallory": Outbox()}
        for sender, message in history:
            before = whole(swarm, name)
            answer = service._answer(message, sender, outboxes[sender])
            if answer is not None:
                assert whole(swarm, name) == before
                assert isinstance(answer, Refused | Pong | Progress | Recalled)

    faulty.run(run())


@pytest.mark.parametrize("sender", ["eve", "mallory", "last"])
def test_pushes_into_anothers_session_do_nothing(sender: str) -> None:
    """Not even those of the session's own client, or of the next peer: only the peer before may."""

    async def run() -> None:
        swarm = await toy_chain()
        client = await opened(swarm, "middle", open_at(1))
        node = swarm.network.nodes.get(sender) or swarm.network.join(sender)
        push = await node.open(Contact("middle"), PUSH_PROTOCOL)
        [session] = swarm.tables["middle"]
        before = snapshot(session)
        for number in range(5):
            await push.send(hidden(Round(IDS[0], number, 0, (1, 2), 1, True), 1, 0, "float32"))
        await asyncio.sleep(1)
        assert snapshot(session) == before
        assert swarm.engines["middle"].computed == 0
        assert client._inbox.empty()  # nor is it told of what others do

    faulty.run(run())


def test_a_session_that_ends_leaves_none_of_its_rounds_waiting() -> None:
    async def run() -> None:
        swarm = await toy_chain()
        stream = await opened(swarm, "first", open_at(0))
        worker = swarm.services["first"]._worker
        worker._is_busy = True  # with something long
        for _ in range(3):
            await stream.send(Round(IDS[0], 0, 0, (1,) * 16, 0, False))
        await asyncio.sleep(0.5)
        assert len(worker._waiting) == 3
        stream.close()
        await asyncio.sleep(0.5)
        assert not worker._waiting

    faulty.run(run())


def test_states_that_are_not_finite_are_blamed_on_who_sent_them() -> None:
    async def run() -> None:
        swarm = await toy_chain()
        swarm.kill("first")
        liar = swarm.network.join("first")
        client = await opened(swarm, "middle", open_at(1))
        push = await liar.open(Contact("middle"), PUSH_PROTOCOL)
        [session] = swarm.tables["middle"]
        before = snapshot(session)
        await push.send(hidden(Round(IDS[0], 0, 0, (1, 2), 1, True), 1, 2, "float32"))
        assert await client.receive() == Broken(IDS[0], "first", "its hidden states are not finite")
        assert snapshot(session) == before

    faulty.run(run())


def test_a_flood_of_early_results_does_not_displace_an_honest_one() -> None:
    early = EarlyResults(max_bytes=100_000, clock=lambda: 0.0)
    honest = hidden(Round(IDS[0], 0, 0, (1,), 0, True), 1, 0, "float32")
    early.hold(honest, "first")
    for i in range(1000):
        flood = Hidden(Round(i.to_bytes(16, "big"), 0, 0, (1,), 0, True), 1, "float32", bytes(5000), ())
        early.hold(flood, f"sybil{i % 10}")
    assert early.claim(IDS[0], "first") == [honest]


def test_in_a_full_peer_one_who_waits_gets_the_place_of_a_session_that_was_never_used() -> None:
    async def run() -> None:
        swarm = await toy_chain(max_sessions=3)
        idle = await opened(swarm, "first", open_at(0, IDS[0]))
        for i in (1, 2):
            used = await opened(swarm, "first", open_at(0, IDS[i]))
            await used.send(Round(IDS[i], 0, 0, (1,), 0, True))
        refused = await opened(swarm, "first", open_at(0, IDS[3]), "late")
        assert (await refused.receive()).why == "full"  # type: ignore[union-attr]
        await asyncio.sleep(11)
        await opened(swarm, "first", open_at(0, IDS[3]), "late")
        ended = await idle.receive()
        assert isinstance(ended, Refused)
        assert (ended.session, ended.why) == (IDS[0], "gone")
        assert {session.id for session in swarm.tables["first"]} == set(IDS[1:4])
        assert_consistent(swarm)

    faulty.run(run())


def test_a_peer_whose_memory_is_taken_refuses_and_holds_no_more_than_it_may() -> None:
    async def run() -> None:
        memory = 4 * 1024  # bytes: 1,024 tokens
        swarm = await toy_chain(max_cache_bytes=memory)
        table = swarm.tables["first"]
        why = Counter[str]()
        for i in range(10):
            stream = await opened(swarm, "first", open_at(0, bytes([i]) * 16))
            for start in range(0, 320, 16):
                await stream.send(Round(bytes([i]) * 16, 0, start, (1,) * 16, 0, False))
                await asyncio.sleep(0.05)
                assert sum(table._reserved.values()) <= memory
            await asyncio.sleep(1)
            while not stream._inbox.empty():
                why[(await stream.receive()).why] += 1  # type: ignore[union-attr]
        assert why["full"] > 0
        assert why.keys() <= {"full", "unlawful"}  # the rounds after the first refused one would leave a gap
        assert len(table) == 10

    faulty.run(run())


def test_messages_of_a_client_are_small() -> None:
    """All that a client or its peers may say on a session's stream fits its limit."""
    largest = [
        Round(NO_SESSION, 1 << 31, 1 << 31, (1 << 31,) * 2048, 512, True),
        Verdict(NO_SESSION, 1 << 31, (1 << 31,) * 2048, (1.0,) * 256),
        Open(
            NO_SESSION,
            "f" * 64,
            0,
            1 << 31,
            "p" * 128,
            Contact("p" * 128, ("m" * 256,) * 32),
            1 << 31,
            2048,
            Sampling(),
        ),
        Broken(NO_SESSION, "p" * 128, "\N{SNOWMAN}" * 1024),
    ]
    assert all(len(encode(message)) <= MAX_SESSION_MESSAGE for message in largest)
