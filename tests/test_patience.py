"""How long is waited, and who is left alone for how long."""

from __future__ import annotations

import pytest

from client.cooldown import Cooldowns
from client.patience import TripTimer
from swarm.errors import PeerLost, PeerRefused


def test_the_wait_follows_the_trips_and_their_spread() -> None:
    timer = TripTimer(0.01, 30.0)
    for _ in range(200):
        timer.note(0.15)
    assert timer.mean == pytest.approx(0.15)
    assert timer.wait() == pytest.approx(0.15, rel=0.01)
    for seconds in (0.1, 0.5) * 50:
        timer.note(seconds)
    assert timer.wait() > 0.3 + 2 * 0.15
    assert timer.wait(extra=1.0) == pytest.approx(timer.wait() + 1.0)


def test_the_first_trip_counts_as_rfc_6298_says() -> None:
    timer = TripTimer(0.0, 30.0)
    timer.note(0.2)
    assert timer.wait() == pytest.approx(0.2 + 4 * 0.1)
    timer.note(0.4)
    assert timer.mean == pytest.approx(0.2 * 7 / 8 + 0.4 / 8)
    assert timer.wait() == pytest.approx(timer.mean + 4 * (0.1 * 3 / 4 + 0.2 / 4))


def test_no_wait_is_below_the_floor_or_above_the_ceiling() -> None:
    timer = TripTimer(1.0, 5.0)
    assert timer.wait() == 1.0
    assert timer.wait(extra=100) == 5.0
    timer.note(0.001)
    assert timer.wait() == 1.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_lost_peer_is_left_alone_longer_each_time_and_not_for_ever() -> None:
    clock = Clock()
    cooldowns = Cooldowns(clock)
    pauses = []
    for _ in range(7):
        cooldowns.note(PeerLost("p", "gone"))
        start = clock.now
        while cooldowns.active:
            clock.now += 0.5
        pauses.append(clock.now - start)
    assert pauses == [2, 4, 8, 16, 32, 60, 60]


def test_a_refusal_counts_for_as_long_as_its_reason_lasts() -> None:
    clock = Clock()
    cooldowns = Cooldowns(clock)
    cooldowns.note(PeerRefused("full", "full", "no room"))
    cooldowns.note(PeerRefused("other model", "model", "no"))
    cooldowns.note(PeerRefused("idle", "gone", "no such session"))
    assert cooldowns.active == {"full", "other model"}
    clock.now += 6
    assert cooldowns.active == {"other model"}


def test_a_peer_that_started_anew_is_welcome_at_once() -> None:
    cooldowns = Cooldowns(Clock())
    for _ in range(5):
        cooldowns.note(PeerLost("p", "gone"))
    cooldowns.forget("p")
    assert not cooldowns.active
