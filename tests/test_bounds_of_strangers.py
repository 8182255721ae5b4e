"""Single messages and floods of them: who may push where, and that nobody takes more than there is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from msgspec.structs import replace

from peer.compute import FAILED
from peer.early import MAX_RESULTS, EarlyResults
from peer.quota import Quota
from swarm.codec import encode
from swarm.complaints import Complaints
from swarm.speculation.sampling import Sampling
from swarm.tensors import to_bytes
from swarm.wire import (
    MAX_PEER_ROUND,
    MAX_SESSION_MESSAGE,
    NO_SESSION,
    PUSH_PROTOCOL,
    SESSION_PROTOCOL,
    Broken,
    Contact,
    Hidden,
    Introduction,
    Open,
    Ping,
    Pong,
    Refused,
    Round,
    Verdict,
)
from tests import faulty
from tests.toy_chain import (
    IDS,
    assert_consistent,
    fed_by_a_liar,
    hidden,
    id_of,
    open_at,
    opened,
    snapshot,
    toy_chain,
)


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
        worker = swarm.services["first"]._rounds._worker
        worker._is_busy = True  # with something long
        for _ in range(3):
            await stream.send(Round(IDS[0], 0, 0, (1,) * 16, 0, False))
        await asyncio.sleep(0.5)
        assert worker.queued == 48
        stream.close()
        await asyncio.sleep(0.5)
        assert not worker.queued

    faulty.run(run())


def test_states_that_are_not_finite_are_blamed_on_who_sent_them() -> None:
    async def run() -> None:
        swarm, client, push = await fed_by_a_liar(open_at(1))
        [session] = swarm.tables["middle"]
        await push.send(hidden(Round(IDS[0], 0, 0, (1, 2), 0, False), 1, 0, "float32"))
        spoilt = Round(IDS[0], 1, 2, (3, 4, 5), 0, False)
        await push.send(hidden(spoilt, 1, 2, "float32"))
        await push.send(hidden(Round(IDS[0], 1, 5, (6,), 0, True, continues=True), 1, 0, "float32"))
        assert await client.receive() == Broken(IDS[0], "first", "its hidden states are not finite")
        await asyncio.sleep(1)
        assert (session.tokens, session.computed, session.in_flight) == ([1, 2], 2, 0)
        assert_consistent(swarm)
        await push.send(hidden(spoilt, 1, 0, "float32"))
        await asyncio.sleep(1)
        assert (session.tokens, session.computed) == ([1, 2, 3, 4, 5], 5)

    faulty.run(run())


def test_a_round_that_fails_inside_is_as_if_it_had_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later one would go on behind a gap in the caches, and fail with all that share its pass."""

    async def run() -> None:
        swarm, client, push = await fed_by_a_liar(open_at(1))
        [session] = swarm.tables["middle"]
        engine = swarm.engines["middle"]
        with monkeypatch.context() as patch:
            patch.setattr(engine, "run", lambda jobs, between=None: [FAILED for _ in jobs])
            await push.send(hidden(Round(IDS[0], 0, 0, (1, 2), 0, False), 1, 0, "float32"))
            assert await client.receive() == Broken(IDS[0], "middle", FAILED.reason)
        assert (session.tokens, session.computed, session.in_flight) == ([], 0, 0)
        assert_consistent(swarm)
        await push.send(hidden(Round(IDS[0], 1, 2, (3,), 0, False), 1, 0, "float32"))
        refused = await client.receive()
        assert isinstance(refused, Refused) and "gap" in refused.reason
        await push.send(hidden(Round(IDS[0], 1, 0, (1, 2, 3), 0, False), 1, 0, "float32"))
        await asyncio.sleep(1)
        assert (session.tokens, session.computed) == ([1, 2, 3], 3)

    faulty.run(run())


def test_no_early_session_has_more_results_than_can_be_taken_at_once() -> None:
    early = EarlyResults(clock=lambda: 0.0)
    for number in range(1000):
        early.hold(hidden(Round(IDS[0], number, 0, (1,), 0, True), 1, 0, "float32"), "eve")
    held = early.claim(IDS[0], "eve")
    assert [message.round.number for message in held] == [*range(MAX_RESULTS)]


def test_a_flood_of_early_results_does_not_displace_an_honest_one() -> None:
    early = EarlyResults(max_bytes=100_000, clock=lambda: 0.0)
    honest = hidden(Round(IDS[0], 0, 0, (1,), 0, True), 1, 0, "float32")
    early.hold(honest, "first")
    for i in range(1000):
        flood = Hidden(Round(i.to_bytes(16, "big"), 0, 0, (1,), 0, True), 1, "float32", bytes(5000), ())
        early.hold(flood, f"sybil{i % 10}")
    assert early.claim(IDS[0], "first") == [honest]


def test_in_a_full_peer_a_newcomer_gets_a_place_of_the_client_who_has_most() -> None:
    async def run() -> None:
        swarm = await toy_chain(max_sessions=3)
        streams = [await opened(swarm, "first", open_at(0, IDS[i])) for i in range(3)]
        for stream, i in zip(streams, (1, 0, 2), strict=True):
            await stream.send(Round(IDS[i], 0, 0, (1,), 0, True))
            await asyncio.sleep(1)
        await opened(swarm, "first", open_at(0, id_of("late", 1)), "late")
        assert {session.id for session in swarm.tables["first"]} == {IDS[0], IDS[2], id_of("late", 1)}

    faulty.run(run())


def test_in_a_full_peer_one_who_waits_gets_the_place_of_a_session_that_was_never_used() -> None:
    async def run() -> None:
        swarm = await toy_chain(max_sessions=3)
        idle = await opened(swarm, "first", open_at(0, IDS[0]))
        for i in (1, 2):
            used = await opened(swarm, "first", open_at(0, IDS[i]))
            await used.send(Round(IDS[i], 0, 0, (1,), 0, True))
        refused = await opened(swarm, "first", open_at(0, IDS[3]))
        assert (await refused.receive()).why == "full"  # type: ignore[union-attr]
        await asyncio.sleep(11)
        await opened(swarm, "first", open_at(0, IDS[3]))
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
            stream = await opened(swarm, "first", open_at(0, id_of("eve", i)))
            for start in range(0, 320, 16):
                await stream.send(Round(id_of("eve", i), 0, start, (1,) * 16, 0, False))
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
            Introduction(Contact("p" * 128, ("m" * 256,) * 32), MAX_PEER_ROUND, 1e300, bytes(32), bytes(64)),
            1 << 31,
            2048,
            Sampling(),
        ),
        Broken(NO_SESSION, "p" * 128, "\N{SNOWMAN}" * 1024),
    ]
    assert all(len(encode(message)) <= MAX_SESSION_MESSAGE for message in largest)


def of_many_stages(message: Hidden) -> Hidden:
    return replace(message, compute=(0.1,) * 256)


def beyond_all_reason(message: Hidden) -> Hidden:
    return replace(message, states=to_bytes(torch.full((len(message.round.tokens), 1), 3.4e38)))


def in_another_form(message: Hidden) -> Hidden:
    return replace(message, dtype="int8")


def cut(message: Hidden) -> Hidden:
    return replace(message, states=message.states[:-1])


@pytest.mark.parametrize("spoil", [of_many_stages, beyond_all_reason, in_another_form, cut])
def test_who_pushes_what_no_hop_takes_is_named_and_not_who_refuses_it(spoil: Callable[[Hidden], Hidden]) -> None:
    """Else its victim would pass on what the next one refuses, or seem to refuse for no reason."""

    async def run() -> None:
        swarm, client, push = await fed_by_a_liar(open_at(1))
        await push.send(spoil(hidden(Round(IDS[0], 0, 0, (1, 2), 0, False), 1, 0, "float32")))
        said = await client.receive()
        assert isinstance(said, Broken)
        assert said.peer_id == "first"
        assert_consistent(swarm)

    faulty.run(run())


def test_nobody_opens_a_session_under_the_id_of_anothers() -> None:
    """Who knows it, a hop of its chain say, could keep the client from all who might replace a hop."""

    async def run() -> None:
        swarm = await toy_chain()
        mallory = await opened(swarm, "first", open_at(0, IDS[0]), "mallory")
        refused = await mallory.receive()
        assert isinstance(refused, Refused)
        assert refused.why == "unlawful"
        await opened(swarm, "first", open_at(0, IDS[0]))
        assert [session.client for session in swarm.tables["first"]] == ["eve"]

    faulty.run(run())


def test_who_brings_more_messages_than_its_sessions_can_want_waits_and_nobody_else() -> None:
    async def run() -> None:
        swarm = await toy_chain()
        streams = [
            await swarm.network.join(name).open(Contact("first"), SESSION_PROTOCOL) for name in ("eve", "client")
        ]
        loop, seconds = asyncio.get_running_loop(), list[float]()
        for stream, count in zip(streams, (600, 20), strict=True):
            started = loop.time()
            await stream.send(*map(Ping, range(count)))
            while await stream.receive() != Pong(count - 1):
                pass
            seconds.append(loop.time() - started)
        assert 3.0 < seconds[0] < 6.0
        assert seconds[1] < 1.0
        complaints = swarm.services["first"]._complaints.recent
        assert {(one.peer_id, one.kind) for one in complaints} == {("eve", "pace")}

    faulty.run(run())


def test_a_node_with_a_session_brings_more_and_rounds_most_of_all() -> None:
    quota, seconds = Quota(Complaints()), list[float]()

    async def run() -> None:
        round, loop = Round(IDS[0], 0, 0, (1,), 0, True), asyncio.get_running_loop()
        for name, message, sessions in (("eve", round, 0), ("client", Ping(1), 1), ("fast", round, 1)):
            started = loop.time()
            for _ in range(1000):
                await quota.wait(name)
                quota.note(name, message, sessions)
            seconds.append(loop.time() - started)

    faulty.run(run())
    assert seconds == [pytest.approx(8.0, abs=0.1), pytest.approx(3.0, abs=0.1), 0.0]


def test_results_of_a_peer_that_feeds_a_session_are_read_as_they_come_whatever_else_it_brought() -> None:
    async def run() -> None:
        swarm, _, push = await fed_by_a_liar(open_at(1))
        [session] = swarm.tables["middle"]
        quota, loop = swarm.services["middle"]._quota, asyncio.get_running_loop()
        for _ in range(1000):
            quota.note("first", Ping(1), 0)
        assert quota._rates.seconds_until("first") > 1
        await push.send(hidden(Round(IDS[0], 0, 0, (1, 2), 0, False), 1, 0, "float32"))
        started = loop.time()
        while not session.computed:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.01)
        assert loop.time() - started < 0.5

    faulty.run(run())


def test_results_of_a_prefill_that_runs_in_parts_go_on_together_and_in_order() -> None:
    """Each message takes time of both ends, for which nobody's share pays."""

    async def run() -> None:
        swarm = await toy_chain()
        pushed = list[Hidden]()
        links = swarm.services["first"]._links
        push = links.push
        links.push = lambda session, message: pushed.append(message) or push(session, message)  # type: ignore[method-assign]
        worker = swarm.services["first"]._rounds._worker
        worker._prefill.tokens = 4
        worker._queue.is_disturbing = lambda *_: True  # type: ignore[method-assign]
        stream = await opened(swarm, "first", open_at(0))
        await stream.send(Round(IDS[0], 0, 0, tuple(range(1, 15)), 0, False))
        await asyncio.sleep(5)
        assert [message.round.tokens for message in pushed] == [tuple(range(1, 15))]
        assert swarm.tables["first"].find(IDS[0]).parts == []
        assert_consistent(swarm)

    faulty.run(run())
