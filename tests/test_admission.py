"""Who may open sessions at a peer, and how many how fast."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.cooldown import Cooldowns
from peer.admission import Admission
from peer.limits import Limits
from peer.session import Refusal
from swarm.errors import PeerRefused, UsageError, Why

ALICE, BOB, EVE = (f"Qm{letter * 44}" for letter in "abe")


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def why(admission: Admission, client: str, num_sessions: int = 0) -> Why | None:
    """Why the client is refused, None if it is not."""
    try:
        admission.check(client, num_sessions)
    except Refusal as refusal:
        assert "\n" not in str(refusal)
        return refusal.why
    return None


def test_without_lists_everybody_may() -> None:
    assert why(Admission(Limits()), EVE) is None


def test_with_a_list_of_those_allowed_nobody_else_may() -> None:
    admission = Admission(Limits(allow=(ALICE,)))
    assert [why(admission, client) for client in (ALICE, BOB)] == [None, "stranger"]
    assert not admission.is_denied(BOB)  # it may still push, as a peer of somebody's chain


def test_who_is_denied_may_neither_open_nor_push_even_if_allowed() -> None:
    admission = Admission(Limits(allow=(ALICE, EVE), deny=(EVE,)))
    assert [why(admission, client) for client in (ALICE, EVE)] == [None, "stranger"]
    assert admission.is_denied(EVE)


def test_a_client_has_so_many_sessions_and_no_more() -> None:
    admission = Admission(Limits(max_client_sessions=3))
    assert [why(admission, ALICE, num) for num in range(5)] == [None, None, None, "full", "full"]


def test_so_much_of_a_client_s_text_is_passed_on_again_and_a_longer_one_when_there_was_none_for_long() -> None:
    clock = Clock()
    admission = Admission(Limits(replayed_tokens=1000), clock)
    for tokens in (600, 400):
        for _ in range(2):  # what is asked for and not done takes nothing
            admission.check_replay(ALICE, tokens)
        admission.note_replay(ALICE, tokens)
    with pytest.raises(Refusal, match="1000 tokens in 10 minutes"):
        admission.check_replay(ALICE, 30)
    admission.check_replay(BOB, 5000)
    admission.check_replay(ALICE, 0)
    clock.now += 18
    admission.check_replay(ALICE, 30)
    clock.now += 600
    admission.check_replay(ALICE, 5000)


def test_opening_too_fast_is_refused_until_the_bucket_refills_and_only_for_that_client() -> None:
    clock = Clock()
    admission = Admission(Limits(opens_per_minute=6), clock)
    for _ in range(6):
        assert why(admission, EVE) is None
        admission.note(EVE)
    assert (why(admission, EVE), why(admission, ALICE)) == ("rate", None)
    clock.now += 9.9
    assert why(admission, EVE) == "rate"
    clock.now += 0.2
    assert why(admission, EVE) is None
    admission.note(EVE)
    assert why(admission, EVE) == "rate"


def test_a_refused_request_takes_nothing_of_the_rate() -> None:
    admission = Admission(Limits(opens_per_minute=1), Clock())
    for _ in range(100):
        assert why(admission, ALICE, num_sessions=99) == "full"
    assert why(admission, ALICE) is None


def test_clients_at_rest_are_forgotten() -> None:
    clock = Clock()
    admission = Admission(Limits(), clock)
    for i in range(20_000):
        admission.note(f"client {i}")
        clock.now += 1.0
    assert len(admission._opened._full_at) < 2048


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), st.lists(st.floats(0, 30), max_size=150))
def test_no_minute_has_more_than_two_buckets_and_patience_always_helps(rate: int, pauses: list[float]) -> None:
    clock = Clock()
    admission = Admission(Limits(opens_per_minute=rate), clock)
    taken: list[float] = []
    for pause in pauses:
        clock.now += pause
        if why(admission, EVE) is None:
            admission.note(EVE)
            taken.append(clock.now)
    assert all(sum(0 <= then - start <= 60 for then in taken) <= 2 * rate for start in taken)
    clock.now += 60 / rate + 0.001
    assert why(admission, EVE) is None


def test_a_misspelt_peer_id_in_a_list_is_named() -> None:
    from peer.config import PeerConfig
    from swarm.config import load

    with pytest.raises(UsageError, match="'12D3Kool' is no peer id"):
        load(PeerConfig, "join", None, {"model": "m", "initial_peers": ["/a"], "deny": ["12D3Kool"]})


@pytest.mark.parametrize(("reason", "seconds"), [("stranger", 600), ("rate", 5)])
def test_a_client_leaves_a_peer_alone_for_as_long_as_the_refusal_deserves(reason: Why, seconds: float) -> None:
    clock = Clock()
    cooldowns = Cooldowns(clock)
    cooldowns.note(PeerRefused("peer", reason, "no"))
    clock.now += seconds - 1
    assert cooldowns.active == {"peer"}
    clock.now += 2
    assert cooldowns.active == set()


def test_who_was_turned_away_as_a_stranger_does_not_ask_again_before_the_peer_starts_anew() -> None:
    clock = Clock()
    cooldowns = Cooldowns(clock)
    refusal = PeerRefused("peer", "stranger", "no")
    cooldowns.note(refusal)
    cooldowns.note(PeerRefused("other", "full", "no"))
    assert cooldowns.barring == {"peer": refusal}
    cooldowns.forget("peer")
    assert cooldowns.barring == {}
    cooldowns.note(refusal)
    clock.now += 601
    assert cooldowns.barring == {}
