"""How old records are: by one clock, whatever others say and however often they say it."""

from __future__ import annotations

import pytest

from swarm import ages
from swarm.ages import Ages


class Clock:
    """Set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_record_is_as_old_as_is_told_at_first_and_then_by_this_clock(clock: Clock) -> None:
    known = Ages(clock)
    assert known.age("peer", 5.0, 20.0) == 20.0
    clock.now += 10.0
    for told in (0.0, 3.0, 1e9):
        assert known.age("peer", 5.0, told) == 30.0


def test_older_record_is_none_and_a_newer_one_is_new(clock: Clock) -> None:
    known = Ages(clock)
    assert known.age("peer", 5.0) == 0.0
    clock.now += 10.0
    assert known.age("peer", 4.999) is None
    assert known.age("peer", 5.001) == 0.0
    assert known.age("peer", 5.0) is None
    assert known.age("another", 1.0) == 0.0


def test_no_more_is_remembered_than_there_is_room_for(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ages, "MAX_PEERS", 2)
    known = Ages(clock)
    for peer in ("a", "b", "a", "c"):  # of whom b was seen the longest time ago
        known.age(peer, 5.0)
    clock.now += 10.0
    assert [known.age(peer, 5.0) for peer in ("c", "a", "b")] == [10.0, 10.0, 0.0]
