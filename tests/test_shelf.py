"""A node's share of the records: the newest of everybody, while it lives, within bounds."""

from __future__ import annotations

import pytest

from swarm import shelf
from swarm.shelf import MAX_KEY_BYTES, MAX_SUBKEYS, Shelf

KEY = b"key"


class Clock:
    """Set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def held(kept: Shelf, key: bytes = KEY) -> dict[str, bytes]:
    return {subkey: entry.record for subkey, entry in kept.get(key).items()}


def test_record_is_there_until_it_ends(clock: Clock) -> None:
    kept = Shelf(clock)
    assert kept.put(KEY, "a", b"1", 5.0, 60.0)
    assert kept.put(KEY, "b", b"2", 5.0, 30.0)
    clock.now += 29.9
    assert held(kept) == {"a": b"1", "b": b"2"}
    assert kept.get(KEY)["a"].born == 1000.0
    clock.now = 1030.0
    assert held(kept) == {"a": b"1"}
    clock.now = 1060.0
    assert held(kept) == held(kept, b"another") == {}


@pytest.mark.parametrize("issued", [-600.0, 0.0, 1e9, 2e9])
def test_time_by_the_peers_clock_changes_nothing_of_how_long_its_record_lives(issued: float, clock: Clock) -> None:
    kept = Shelf(clock)
    assert kept.put(KEY, "a", b"1", issued, 45.0)
    clock.now += 44.9
    assert held(kept) == {"a": b"1"}
    clock.now += 0.2
    assert held(kept) == {}


def test_older_record_replayed_never_displaces_the_newer(clock: Clock) -> None:
    kept = Shelf(clock)
    assert kept.put(KEY, "a", b"newer", 20.0, 60.0)
    assert not kept.put(KEY, "a", b"older", 10.0, 60.0)
    assert held(kept) == {"a": b"newer"}


def test_record_that_has_ended_is_not_brought_back(clock: Clock) -> None:
    kept = Shelf(clock)
    assert kept.put(KEY, "a", b"1", 20.0, 45.0)
    for _ in range(20):
        clock.now += 30.0
        kept.put(KEY, "a", b"1", 20.0, 45.0)
        kept.put(b"another", "a", b"1", 20.0, 45.0)
        kept.put(KEY, "a", b"older", 10.0, 45.0)
    assert held(kept) == held(kept, b"another") == {}
    assert kept.put(KEY, "a", b"2", 20.001, 45.0)


def test_same_record_again_is_taken_and_gets_no_younger_another_of_the_same_time_is_not(clock: Clock) -> None:
    kept = Shelf(clock)
    assert kept.put(KEY, "a", b"1", 20.0, 45.0)
    clock.now += 40.0
    assert kept.put(KEY, "a", b"1", 20.0, 45.0)
    assert not kept.put(KEY, "a", b"2", 20.0, 45.0)
    clock.now += 5.0
    assert held(kept) == {}
    assert kept.put(KEY, "a", b"2", 21.0, 45.0)


def test_full_key_takes_renewals_and_no_newcomers_until_something_ends(clock: Clock) -> None:
    kept = Shelf(clock)
    for i in range(MAX_SUBKEYS):
        assert kept.put(KEY, f"{i}", b"1", 5.0, 30.0)
    assert not kept.put(KEY, "newcomer", b"1", 5.0, 60.0)
    assert kept.put(KEY, "0", b"renewed", 6.0, 60.0)
    assert kept.put(b"another", "newcomer", b"1", 6.0, 60.0)
    clock.now = 1031.0
    assert kept.put(KEY, "newcomer", b"1", 7.0, 60.0)


def test_records_of_a_key_fit_one_answer(clock: Clock) -> None:
    kept = Shelf(clock)
    large = bytes(MAX_KEY_BYTES // 4)
    taken = [kept.put(KEY, f"{i}", large, 5.0, 60.0) for i in range(5)]
    assert taken == [True, True, True, False, False]


@pytest.mark.parametrize(("bound", "records"), [("MAX_KEYS", 3), ("MAX_RECORDS", 3)])
def test_full_shelf_takes_nothing_new_until_something_ends(
    bound: str, records: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, bound, records)
    kept = Shelf(clock)
    taken = [kept.put(f"{i}".encode(), f"{i}", b"1", 5.0, 30.0) for i in range(records + 1)]
    assert taken == [True] * records + [False]
    clock.now = 1031.0
    assert kept.put(b"new", "new", b"1", 5.0, 60.0)


def test_who_fills_a_key_from_one_network_makes_room_for_others(clock: Clock) -> None:
    """The newest goes, by when it came first: renewing records saves nobody, and who has long been there stays."""
    kept = Shelf(clock)
    for i in range(MAX_SUBKEYS):
        clock.now += 0.001
        assert kept.put(KEY, f"crowd {i}", b"1", 1.0, 60.0, "crowd")
    assert not kept.put(KEY, "one more", b"1", 1.0, 60.0, "crowd")
    assert kept.put(KEY, "crowd 0", b"2", 2.0, 60.0, "crowd")
    assert kept.put(KEY, "honest", b"1", 1.0, 60.0, "elsewhere")
    assert len(held(kept)) == MAX_SUBKEYS
    assert {"crowd 0", "honest"} <= held(kept).keys()
    assert f"crowd {MAX_SUBKEYS - 1}" not in held(kept)


def test_who_fills_a_node_from_one_network_makes_room_for_others(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "MAX_RECORDS", 20)
    kept = Shelf(clock)
    for i in range(20):
        assert kept.put(b"%d" % (i % 5), f"crowd {i}", b"1", 1.0, 60.0, "crowd")
    assert not kept.put(KEY, "one more", b"1", 1.0, 60.0, "crowd")
    assert kept.put(KEY, "honest", b"1", 1.0, 60.0, "elsewhere")
    assert sum(len(held(kept, b"%d" % i)) for i in range(5)) == 19


def test_networks_that_have_as_many_records_keep_them(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "MAX_SUBKEYS", 4)
    kept = Shelf(clock)
    for i in range(4):
        assert kept.put(KEY, f"{i}", b"1", 1.0, 60.0, f"network {i % 2}")
    assert not kept.put(KEY, "more", b"1", 1.0, 60.0, "network 0")
    assert kept.put(KEY, "other", b"1", 1.0, 60.0, "network 2")
    assert not kept.put(KEY, "another", b"1", 1.0, 60.0, "network 2")


def test_the_bound_of_all_records_holds_whatever_gives_way(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "MAX_RECORDS", 8)
    kept = Shelf(clock)
    for i in range(8):
        assert kept.put(KEY, f"crowd {i}", b"1", 1.0, 60.0, "crowd")
    for i in range(6):
        clock.now += 2.0
        kept.put(KEY, f"honest {i}", b"1", 1.0, 60.0, f"network {i}")
        assert len(held(kept)) == 8
    assert not kept.put(KEY, "large", bytes(MAX_KEY_BYTES), 1.0, 60.0, "network 9")
    assert len(held(kept)) == 8  # nobody went for it
    before = held(kept)
    for subkey in before:
        assert kept.put(KEY, subkey, b"2", 2.0, 60.0, "crowd")  # renewing costs nobody a place
    assert held(kept).keys() == before.keys()
