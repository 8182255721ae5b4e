"""The model of cost, and the windows that follow it."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.speculation.closed_form import best_length
from swarm.speculation.cost import Cost, TripCost
from swarm.speculation.overlap import Overlap
from swarm.speculation.windows import BestWindow, FixedWindow

chances = st.lists(st.floats(0, 1), max_size=40).map(lambda values: sorted(values, reverse=True))


def cost_of(fixed: float, per_position: float, per_draft: float = 0.0) -> Cost:
    """What is known after trips over a link without noise."""
    cost = Cost()
    cost.trip.announce(per_position)
    for positions in (1, 9, 17, 33):
        cost.trip.note(positions, fixed + per_position * positions)
    cost.note_drafting(100, 100 * per_draft)
    return cost


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_line_through_the_trips_is_found(noise: float) -> None:
    chance, trip = random.Random(3), TripCost(per_position=0.005)
    for _ in range(200):
        positions = chance.randrange(1, 40)
        trip.note(positions, 0.12 + 0.001 * positions + chance.expovariate(1) * noise)
    assert trip.fixed == pytest.approx(0.12 + noise, abs=0.01)
    assert trip.per_position == pytest.approx(0.001, abs=0.0005)


def test_rounds_of_one_size_leave_the_slope_to_what_is_announced() -> None:
    trip = TripCost(per_position=0.002)
    for _ in range(50):
        trip.note(9, 0.1)
    assert trip.per_position == pytest.approx(0.002)
    assert trip.seconds(9) == pytest.approx(0.1)


def test_one_trip_that_takes_for_ever_is_not_taken_for_the_link() -> None:
    trip = TripCost()
    for seconds in [0.1] * 20 + [60.0]:
        trip.note(5, seconds)
    assert trip.seconds(5) < 0.12


def test_a_link_that_became_slower_is_noticed() -> None:
    trip = TripCost()
    for seconds in [0.05] * 50 + [0.2] * 60:
        trip.note(5, seconds)
    assert trip.seconds(5) == pytest.approx(0.2, rel=0.1)


@settings(max_examples=200, deadline=None)
@given(chances, st.floats(0.001, 1), st.floats(0, 0.05))
def test_the_best_size_is_the_best_of_all(known: list[float], fixed: float, per_position: float) -> None:
    cost = cost_of(fixed, per_position)
    size = cost.best_size(known)
    assert cost.rate(known[:size]) == pytest.approx(max(cost.rate(known[:n]) for n in range(len(known) + 1)))


def test_longer_links_and_better_drafts_get_more() -> None:
    drafts = [0.8**i for i in range(1, 40)]
    sizes = [cost_of(delay, 0.002).best_size(drafts) for delay in (0.0, 0.01, 0.1, 1.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert cost_of(0.1, 0.002).best_size([0.5**i for i in range(1, 40)]) < sizes[2]


def test_expensive_drafts_are_not_worth_drafting() -> None:
    assert cost_of(0.1, 0.001, per_draft=0.001).is_worth_drafting([0.9], 0.3)
    assert not cost_of(0.1, 0.001, per_draft=0.2).is_worth_drafting([0.9], 0.3)


@settings(max_examples=100, deadline=None)
@given(chances, st.integers(0, 12), st.floats(0, 1))
def test_a_fixed_window_is_full_as_far_as_there_are_drafts(known: list[float], limit: int, promise: float) -> None:
    window = FixedWindow(limit)
    assert window.size(known) == min(limit, len(known))
    if window.is_enough(known, promise):
        assert len(known) >= limit
        assert not limit or known[limit - 1] >= promise


def best_window(cost: Cost, in_flight: int = 1) -> BestWindow:
    return BestWindow(cost, 64, Overlap(cost, in_flight))


def sizes_of(window: BestWindow, known: list[float], rounds: int) -> list[int]:
    sizes = []
    for _ in range(rounds):
        sizes.append(window.size(known))
        window.sent(sizes[-1])
    return sizes


def test_the_best_window_at_most_doubles_and_stays_within_its_limit() -> None:
    window = best_window(cost_of(10.0, 0.0001))
    window.sent(1)
    sizes = sizes_of(window, [0.9] * 100, 10)
    assert all(after <= 2 * before + 1 for before, after in itertools.pairwise(sizes))
    assert sizes[-1] == 64


def test_two_strikes_and_there_are_no_drafts_and_as_soon_as_they_pay_there_are() -> None:
    cost = cost_of(0.01, 0.01)
    window = best_window(cost)
    assert sizes_of(window, [0.1, 0.01], 4) == [1, 0, 0, 0]
    assert sizes_of(window, [0.99] * 50, 4) == [1, 3, 7, 15]


def test_one_bad_round_is_no_reason_to_stop() -> None:
    window = best_window(cost_of(0.01, 0.01))
    window.sent(4)
    good, bad = [0.99] * 4, [0.1]
    assert [sizes_of(window, known, 1)[0] for known in (good, bad, good, bad, good)] == [4, 1, 3, 1, 3]


def test_a_generation_begins_with_the_closed_form() -> None:
    cost = Cost()
    cost.note_drafting(10, 10 * 0.01)  # a tenth of the first trip, as far as that is known
    assert best_window(cost).size([0.9] * 40) == best_length(0.8, 0.1) == 6


def test_without_drafts_nothing_is_wrong_with_them() -> None:
    window = best_window(cost_of(0.1, 0.001))
    assert sizes_of(window, [], 5) == [0] * 5
    assert sizes_of(window, [0.9], 1) == [1]


def test_a_generation_that_knows_the_chain_begins_with_the_best_size() -> None:
    assert sizes_of(best_window(cost_of(10.0, 0.0001)), [0.9] * 100, 1) == [64]


def test_what_may_as_well_follow_is_not_sent_at_once() -> None:
    drafts = [0.7**i for i in range(1, 40)]
    sizes = [sizes_of(best_window(cost_of(0.15, 0.001), in_flight), drafts, 1)[0] for in_flight in (1, 2, 8)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] > 3


def test_waiting_is_what_trips_take_beyond_the_fastest_of_late_and_what_is_announced() -> None:
    """Trips of 100 ms and 2 for each token, where 90 are announced; half of them wait as long again."""
    quiet, busy, unknown = Cost(), Cost(), Cost()
    quiet.announce(0.002, 4, 0.09)
    busy.announce(0.002, 4, 0.09)
    for i in range(300):
        positions = 1 + i % 9
        seconds = 0.1 + 0.002 * positions
        quiet.note_trip(positions, seconds, 0.01)
        for cost in (busy, unknown):
            cost.note_trip(positions, seconds + (0.1 if i % 2 else 0.0), 0.01)
    assert quiet.waiting == pytest.approx(0.0, abs=0.02)
    assert busy.waiting == pytest.approx(0.05 / 0.16, abs=0.05)
    assert unknown.waiting == 0.0


def test_where_it_is_always_crowded_not_all_of_it_passes_for_the_chain() -> None:
    cost = Cost()
    cost.announce(0.002, 4, 0.09)
    for i in range(300):
        cost.note_trip(1 + i % 9, 0.5 + 0.002 * (i % 9), 0.01)
    assert cost.waiting > 0.7


def test_a_busy_chain_is_sent_no_more_at_a_time_than_an_idle_one() -> None:
    """Who waits long for each verdict would gain by larger rounds, and so make all others wait longer."""
    sizes = []
    for delayed in (0.0, 1.0):
        cost = Cost()
        cost.announce(0.004, 4, 0.05)
        for i in range(200):
            positions = 1 + i % 9
            cost.note_trip(positions, 0.05 + 0.004 * positions + (delayed if i % 3 else 0.0), 0.01)
        sizes.append(cost.best_size([0.8**i for i in range(1, 40)]))
    assert 2 < sizes[0] < 20
    assert sizes[1] <= sizes[0] + 2
