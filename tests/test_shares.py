"""Turns: whoever wants something all the time gets as much of it as the others, and nobody saves up."""

from __future__ import annotations

from collections import Counter
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from peer.shares import Shares


def served(shares: Shares[str], costs: dict[str, float], total: float) -> Counter[str]:
    """What each has got after so much was given, if all want all the time; by what a turn of each costs."""
    had = Counter[str]()
    while had.total() < total:
        who = shares.next(costs)
        shares.charge({who: costs[who]})
        had[who] += costs[who]  # type: ignore[assignment]
    return had


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(1, 100), min_size=1))
def test_all_get_as_much_but_for_one_turn_of_each(costs: dict[str, float]) -> None:
    had = served(Shares(), costs, 1000.0)
    for (one, cost), (other, its_cost) in product(costs.items(), repeat=2):
        assert abs(had[one] - had[other]) <= cost + its_cost + 1e-6


def test_who_comes_with_little_is_served_before_those_who_want_much_get_more() -> None:
    shares = Shares[str]()
    served(shares, {"much": 100.0, "as much": 100.0}, 10_000.0)
    assert shares.next(["much", "as much", "newcomer"]) == "newcomer"
    shares.charge({"newcomer": 1.0})
    assert shares.next(["much", "as much", "newcomer"]) == "newcomer"


def test_who_was_away_has_saved_nothing_up() -> None:
    shares = Shares[str]()
    served(shares, {"here": 1.0, "away": 1.0}, 10.0)
    served(shares, {"here": 1.0}, 1000.0)
    had = served(shares, {"here": 1.0, "away": 1.0}, 100.0)
    assert abs(had["here"] - had["away"]) <= 2


def test_nobody_is_remembered_who_has_had_no_more_than_the_others() -> None:
    shares = Shares[str]()
    for i in range(1000):
        shares.charge({f"passer-by {i}": 1.0})
        served(shares, {"here": 10.0}, 20.0)
    assert len(shares._had) < 10


def test_those_who_come_and_go_one_after_the_other_are_forgotten() -> None:
    shares = Shares[str]()
    for i in range(100):
        shares.charge({f"passer-by {i}": 1.0})
        shares.forget(f"passer-by {i}")
    assert not shares._had
    shares.charge({"one": 1.0})
    shares.begin_anew()
    assert not shares._had
