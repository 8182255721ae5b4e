"""How long is waited, and who is left alone for how long."""

from __future__ import annotations

import pytest

from client.cooldown import Cooldowns
from client.patience import TripTimer
from client.pending import Pending
from swarm.errors import PeerLost, PeerRefused
from swarm.wire import Progress


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


def report(**changes: int) -> Progress:
    said = {"taken": 0, "held": 0, "waiting": 1, "kept": 0, "computed": 0, "worked": 0, "queued": 0}
    return Progress(b"s" * 16, 1, **said | changes)


def test_a_text_gets_farther_by_whole_steps_and_to_its_end_and_never_twice() -> None:
    pending = Pending(3, 0.0)
    moved = [
        pending.has_moved({"p": report(**now)}, 100, 40)
        for now in (
            {"held": 0},
            {"held": 39},
            {"held": 40},
            {"held": 40, "computed": 40},
            {"held": 10, "computed": 0},
            {"held": 79, "computed": 79},
            {"held": 100, "computed": 79},
            {"held": 1 << 31, "computed": 1 << 31, "taken": 3},
            {"held": 1 << 31, "computed": 1 << 31, "taken": 1 << 31},
            {"held": 1 << 31, "computed": 1 << 31, "taken": 1 << 31},
        )
    ]
    assert moved == [True, False, True, True, False, False, True, True, True, False]


def test_a_queue_that_moves_is_believed_for_as_long_as_it_may_take() -> None:
    pending, bounds = Pending(3, 0.0), {"seconds": 30.0, "most": 100.0}
    for now in range(0, 100, 20):
        assert pending.queue_moves("p", report(worked=now), now, **bounds)
    assert pending.queue_moves(
        "p", report(worked=100), 100.0, **bounds
    )  # the last time that it lent anything was 80
    assert not pending.queue_moves("p", report(worked=120), 120.0, **bounds)
    pending.moved = 130.0
    assert pending.queue_moves("p", report(worked=120), 140.0, **bounds)


def test_a_queue_that_stands_still_is_not_believed_for_longer_than_a_batch_takes() -> None:
    pending, bounds = Pending(3, 0.0), {"seconds": 30.0, "most": 1000.0}
    assert pending.queue_moves("p", report(worked=7), 0.0, **bounds)
    assert pending.queue_moves("p", report(worked=7), 29.0, **bounds)
    assert not pending.queue_moves("p", report(worked=7), 31.0, **bounds)
    assert pending.queue_moves("p", report(worked=8), 32.0, **bounds)
