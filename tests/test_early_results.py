"""Results that overtake the Open of their session."""

from __future__ import annotations

from peer.early import EarlyResults
from swarm.wire import Hidden, Round


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
