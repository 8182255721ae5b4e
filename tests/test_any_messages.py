"""Whatever strangers send, in whatever order: a peer's counts stay right, others get their text, and it serves on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peer.outbox import Outbox
from swarm.codec import encode
from swarm.errors import PeerLost
from swarm.packing import pack
from swarm.speculation.sampling import Sampling
from swarm.speculation.semantic import Leniency
from swarm.wire import (
    PUSH_PROTOCOL,
    SESSION_PROTOCOL,
    AnyMessage,
    Ask,
    Broken,
    Contact,
    Copy,
    Hello,
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
from tests import faulty
from tests.faulty import FaultyStream
from tests.toy import VOCAB, reference
from tests.toy_chain import IDS, LAYERS, LIMITS, assert_consistent, hidden, id_of, open_at, snapshot, toy_chain
from tests.toy_swarm import FINGERPRINT, PROMPT, ToyClient, ToySwarm, introduction

ids = st.sampled_from([*IDS[:1] * 4, *IDS, *(id_of("mallory", number) for number in range(2))])
peer_ids = st.sampled_from(["first", "middle", "last", "eve", "mallory", "nobody"])
introductions = st.none() | peer_ids.map(introduction)
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


more = st.builds(
    lambda session, number, tokens, grown, parents: Round(
        session, number, 0, (1,) * tokens, tokens, True, tuple(parents[:tokens]), grown
    ),
    ids,
    st.sampled_from([1, 2, 2, 3]),
    st.integers(1, 3),
    st.sampled_from([1, 1, 2, 3]),
    st.lists(st.integers(-1, 0), min_size=3, max_size=3),
)


opens = st.builds(
    lambda session, fingerprint, start, length, upstream, downstream, holds, witness, sampling: Open(
        session, fingerprint, start, start + length, upstream, downstream, holds, 16, sampling, witness
    ),
    ids,
    st.sampled_from([FINGERPRINT] * 5 + ["0" * 64]),
    st.integers(0, 2),
    st.integers(1, 2),
    st.none() | peer_ids,
    introductions,
    counts,
    st.sampled_from([None, 7]),
    st.sampled_from([Sampling(), Sampling(eos_token_id=(VOCAB - 1,)), Sampling(eos_token_id=(VOCAB,))]),
)
lawful_opens = st.builds(
    lambda session, hop, upstream, rule, wire: Open(
        session,
        FINGERPRINT,
        hop,
        hop + 1,
        upstream if hop else None,
        introduction(["first", "middle", "last"][hop + 1]) if hop < 2 else None,
        0,
        16,
        Sampling(temperature=0.5 if rule == "rejection" else 0.0),
        7,
        rule,
        Leniency() if rule == "semantic" else None,
        wire,
    ),
    ids,
    st.sampled_from([0, 0, 0, 1, 2]),
    st.sampled_from(["eve", "eve", "mallory", "first"]),
    st.sampled_from(["match", "rejection", "semantic"]),
    st.sampled_from(["exact", "exact", "int8"]),
)
messages: st.SearchStrategy[AnyMessage] = st.one_of(
    lawful_opens,
    lawful_opens,
    opens,
    rounds,
    rounds,
    rounds,
    more,
    st.builds(
        hidden,
        st.one_of(rounds, more),
        st.integers(1, 2),
        st.integers(0, 3),
        st.sampled_from(["float32", "float32", "int8", "?"]),
        st.sampled_from([None, None, pack, lambda states, _: states]),
    ),
    st.builds(Proofs, ids, counts, st.just(((1, 2), (VOCAB,))), st.just(((1, 2), (3,)))),
    st.builds(Proofs, ids, st.integers(0, 3), st.just(((1, 2),)), st.just(((1, 2),)), st.integers(0, 2)),
    st.builds(Views, ids, counts, st.just(((1, 2), (VOCAB,))), st.just(((1, 2), (3,)))),
    st.builds(Views, ids, st.integers(0, 3), st.just(((1, 2),)), st.just(((1, 2),))),
    st.builds(Relink, ids, st.none() | peer_ids, introductions, counts, st.integers(1, 20), counts, counts),
    st.builds(Ask, ids, counts, counts),
    st.builds(Copy, ids, peer_ids.map(introduction), counts, counts, st.integers(1, 20)),
    st.builds(Leaving, st.just(1.0)),
    st.builds(Recall, ids, counts, counts, counts),
    st.builds(Recalled, ids, counts, st.binary(max_size=9)),
    st.builds(Hello, st.binary(max_size=9)),
    st.builds(Ping, counts),
    st.builds(Pong, counts),
    st.builds(Refused, ids, st.sampled_from(["gone", "rate"]), st.just("no")),
    st.builds(Broken, ids, peer_ids, st.just("no")),
    st.builds(Progress, ids, *[counts] * 8),
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


def whole(swarm: ToySwarm, name: str) -> Any:
    """All that a peer knows and holds."""
    table, service = swarm.tables[name], swarm.services[name]
    return (
        [snapshot(session) for session in table],
        table.free_tokens,
        dict(table.admission._opened._full_at),
        dict(service._replies),
        {session_id: list(jobs) for session_id, jobs in service._rounds._worker._queue._waiting.items()},
        list(service._links._links),
        list(service._links._results),
        service._early._senders.total(),
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
