"""A node's share of the records: the newest of everybody, while it lasts, within bounds."""

from __future__ import annotations

import pytest

from swarm import shelf
from swarm.shelf import MAX_KEY_BYTES, MAX_SUBKEYS, Entry, Shelf

KEY = b"key"


class Clock:
    """Set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_record_is_there_until_it_ends(clock: Clock) -> None:
    kept = Shelf(clock)
    assert kept.put(KEY, "a", Entry(b"1", 1060.0))
    assert kept.put(KEY, "b", Entry(b"2", 1030.0))
    clock.now = 1030.0
    assert kept.get(KEY) == {"a": Entry(b"1", 1060.0)}
    clock.now = 1060.0
    assert kept.get(KEY) == kept.get(b"another") == {}


def test_older_record_replayed_never_displaces_the_newer(clock: Clock) -> None:
    kept = Shelf(clock)
    newer = Entry(b"newer", 1060.0)
    assert kept.put(KEY, "a", newer)
    assert not kept.put(KEY, "a", Entry(b"older", 1030.0))
    clock.now = 1031.0  # when the older would have ended
    assert kept.get(KEY) == {"a": newer}


def test_same_record_again_is_taken_another_of_the_same_time_is_not(clock: Clock) -> None:
    kept = Shelf(clock)
    assert kept.put(KEY, "a", Entry(b"1", 1060.0))
    assert kept.put(KEY, "a", Entry(b"1", 1060.0))
    assert not kept.put(KEY, "a", Entry(b"2", 1060.0))
    assert kept.put(KEY, "a", Entry(b"2", 1061.0))


def test_ended_record_is_refused(clock: Clock) -> None:
    kept = Shelf(clock)
    assert not kept.put(KEY, "a", Entry(b"1", 1000.0))
    assert kept.get(KEY) == {}


def test_full_key_takes_renewals_and_no_newcomers_until_something_ends(clock: Clock) -> None:
    kept = Shelf(clock)
    for i in range(MAX_SUBKEYS):
        assert kept.put(KEY, f"{i}", Entry(b"1", 1030.0 + i))
    assert not kept.put(KEY, "newcomer", Entry(b"1", 1060.0))
    assert kept.put(KEY, "0", Entry(b"renewed", 1900.0))
    assert kept.put(b"another", "newcomer", Entry(b"1", 1060.0))
    clock.now = 1031.0
    assert kept.put(KEY, "newcomer", Entry(b"1", 1060.0))


def test_records_of_a_key_fit_one_answer(clock: Clock) -> None:
    kept = Shelf(clock)
    large = bytes(MAX_KEY_BYTES // 4)
    taken = [kept.put(KEY, f"{i}", Entry(large, 1060.0)) for i in range(5)]
    assert taken == [True, True, True, False, False]


@pytest.mark.parametrize(("bound", "records"), [("MAX_KEYS", 3), ("MAX_RECORDS", 3)])
def test_full_shelf_takes_nothing_new_until_something_ends(
    bound: str, records: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, bound, records)
    kept = Shelf(clock)
    taken = [kept.put(f"{i}".encode(), "a", Entry(b"1", 1030.0)) for i in range(records + 1)]
    assert taken == [True] * records + [False]
    clock.now = 1031.0
    assert kept.put(b"new", "a", Entry(b"1", 1060.0))
