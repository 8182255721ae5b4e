"""Results that overtake the Open of their session."""

from __future__ import annotations

from peer.early import EarlyResults
from swarm.wire import Hidden, Round


def result(session: int, number: int = 0, size: int = 10) -> Hidden:
    round = Round(session.to_bytes(16, "big"), number, number, (1,), 0, judged=True)
    return Hidden(round, "float32", bytes(size), ())


def test_results_are_claimed_once_and_in_order() -> None:
    early = EarlyResults()
    first, second = result(1, 0), result(1, 1)
    early.hold(first, "a")
    early.hold(result(2), "b")
    early.hold(second, "a")
    assert early.claim(first.round.session) == [(first, "a"), (second, "a")]
    assert early.claim(first.round.session) == []


def test_the_oldest_make_room() -> None:
    early = EarlyResults(max_bytes=2500)
    results = [result(session) for session in range(4)]
    for message in results:
        early.hold(message, "a")
    assert [len(early.claim(message.round.session)) for message in results] == [0, 0, 1, 1]


def test_what_no_session_ever_claims_is_forgotten() -> None:
    now = [0.0]
    early = EarlyResults(clock=lambda: now[0])
    stale = result(1)
    early.hold(stale, "a")
    now[0] = 60.0
    early.hold(result(2), "a")
    assert early.claim(stale.round.session) == []
