"""Results that overtake the Open of their session."""

from __future__ import annotations

import asyncio

import pytest

from peer.early import MAX_SESSIONS, EarlyResults
from swarm.wire import PUSH_PROTOCOL, Contact, Hidden, Refused, Relink, Round, new_session_id
from tests import faulty
from tests.toy_chain import IDS, hidden, open_at, opened, toy_chain
from tests.toy_swarm import introduction


def result_of(client: str, size: int = 10) -> Hidden:
    """Of a new session of that client."""
    round = Round(new_session_id(client), 0, 0, (1,), 0, judged=True)
    return Hidden(round, 1, "float32", bytes(size), ())


def result(session: int, number: int = 0, size: int = 10) -> Hidden:
    round = Round(session.to_bytes(16, "big"), number, number, (1,), 0, judged=True)
    return Hidden(round, 1, "float32", bytes(size), ())


def test_results_are_claimed_once_and_in_order_and_by_sender() -> None:
    early = EarlyResults()
    first, second = result(1, 0), result(1, 1)
    early.hold(first, "a")
    early.hold(result(2), "a")
    early.hold(result(1, 7), "b")
    early.hold(second, "a")
    assert early.claim(first.round.session, "a") == [first, second]
    assert early.claim(first.round.session, "a") == []
    assert early.claim(first.round.session, "b") == [result(1, 7)]


def test_the_oldest_of_a_sender_make_room() -> None:
    early = EarlyResults(max_bytes=2500)
    results = [result(session) for session in range(4)]
    for message in results:
        early.hold(message, "a")
    assert [len(early.claim(message.round.session, "a")) for message in results] == [0, 0, 1, 1]


def test_a_session_that_nobody_wants_takes_none_of_the_room_of_others_behind_the_same_peer() -> None:
    early = EarlyResults(max_bytes=20_000)
    honest = result(1)
    early.hold(honest, "a")
    for number in range(200):
        early.hold(result(2, number, size=500), "a")
    assert early.claim(honest.round.session, "a") == [honest]


def test_a_flood_crowds_out_itself_and_nobody_else() -> None:
    early = EarlyResults(max_bytes=20_000)
    honest = result(1)
    early.hold(honest, "honest")
    for session in range(2, 200):
        early.hold(result(session, size=500), "flood")
    assert early.claim(honest.round.session, "honest") == [honest]


def test_what_no_session_ever_claims_is_forgotten() -> None:
    now = [0.0]
    early = EarlyResults(clock=lambda: now[0])
    stale = result(1)
    early.hold(stale, "a")
    now[0] = 60.0
    early.hold(result(2), "a")
    assert early.claim(stale.round.session, "a") == []


def test_an_early_result_that_does_not_fit_takes_none_of_the_others_with_it() -> None:
    async def run() -> None:
        swarm = await toy_chain()
        client = await opened(swarm, "middle", open_at(1))
        link = await swarm.network.join("other").open(Contact("middle"), PUSH_PROTOCOL)
        for position in (50, 0):
            await link.send(hidden(Round(IDS[0], 1, position, (1, 2), 0, judged=False), 1, 0, "float32"))
        await asyncio.sleep(0.1)
        await client.send(Relink(IDS[0], "other", introduction("last"), 0, 16))
        refusal = await client.receive()
        assert isinstance(refusal, Refused)
        assert "position 50 leaves a gap" in refusal.reason
        (session,) = swarm.tables["middle"]
        assert (session.source, session.tokens) == ("other", [1, 2])

    faulty.run(run())


def test_a_sender_has_early_results_for_so_many_sessions_and_the_oldest_of_its_own_make_room() -> None:
    early = EarlyResults(clock=lambda: 0.0)
    honest = result(1)
    assert early.hold(honest, "honest")
    kept = [early.hold(result(number), "flood") for number in range(2, 2 + MAX_SESSIONS + 10)]
    assert kept == [True] * MAX_SESSIONS + [False] * 10
    assert not early.claim(result(2).round.session, "flood")
    assert early.claim(result(12).round.session, "flood")
    assert early.claim(honest.round.session, "honest") == [honest]


@pytest.mark.parametrize(("number", "size"), [(MAX_SESSIONS + 20, 10), (40, 500)], ids=["sessions", "bytes"])
def test_who_has_results_pushed_for_many_sessions_takes_none_of_the_room_of_other_clients(
    number: int, size: int
) -> None:
    early = EarlyResults(max_bytes=20_000, clock=lambda: 0.0)
    honest = result_of("honest", 600)
    early.hold(honest, "sender")
    for i in range(number):
        early.hold(result_of(f"eve {i % 4}", size), "sender")
    assert early.claim(honest.round.session, "sender") == [honest]
