"""When a tree on its way gets more drafts."""

from __future__ import annotations

import pytest

from swarm.speculation.cost import Cost
from swarm.speculation.overlap import Overlap


def cost_of(fixed: float, per_position: float, start: float, seconds_per_token: float) -> Cost:
    cost = Cost()
    cost.trip.announce(per_position)
    for positions in (1, 9, 17, 33):
        cost.note_trip(positions, fixed + per_position * positions, start)
    cost.note_tokens(100, 100 * seconds_per_token)
    return cost


def test_as_many_follow_as_are_worth_their_positions() -> None:
    overlap = Overlap(cost_of(0.2, 0.002, start=0.05, seconds_per_token=0.04), 4)
    assert overlap.size([0.9, 0.5, 0.1, 0.04, 0.01]) == 4  # a position takes 2 ms, at the price of 0.5


def test_none_follow_that_are_not_worth_a_round() -> None:
    chances = [0.1, 0.1]
    assert Overlap(cost_of(0.2, 0.001, start=0.01, seconds_per_token=0.04), 4).size(chances) == 2
    assert Overlap(cost_of(0.2, 0.001, start=0.05, seconds_per_token=0.04), 4).size(chances) == 0
    assert Overlap(cost_of(0.2, 0.001, start=0.01, seconds_per_token=0.04), 4).size([]) == 0


def test_what_is_done_while_nobody_computes_costs_little() -> None:
    """The same round, over links that take most of a trip, and over none."""
    chances = [0.2, 0.1]
    assert Overlap(cost_of(0.5, 0.001, start=0.01, seconds_per_token=0.04), 4).size(chances) == 2
    assert Overlap(cost_of(0.015, 0.001, start=0.01, seconds_per_token=0.04), 4).size(chances) == 0


def test_guesses_that_hardly_ever_stand_are_sent_nowhere() -> None:
    assert Overlap(cost_of(10.0, 0.0, start=0.001, seconds_per_token=1.0), 4).size([0.1, 0.004]) == 1


def test_slower_text_is_worth_more_drafts() -> None:
    chances = [0.5**i for i in range(1, 12)]
    sizes = [Overlap(cost_of(0.08, 0.001, 0.02, seconds), 4).size(chances) for seconds in (0.005, 0.05, 0.5)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_rounds_follow_each_other_evenly_over_a_trip() -> None:
    cost = cost_of(0.2, 0.001, 0.01, 0.04)
    assert Overlap(cost, 4).gap == pytest.approx(cost.trip.seconds(1) / 4)
    assert Overlap(cost, 2).is_wanted
    assert not Overlap(cost, 1).is_wanted


def test_more_than_the_chain_takes_in_a_gap_is_not_sent_at_once() -> None:
    cost = cost_of(0.2, 0.002, 0.0, 0.04)
    gap = cost.trip.seconds(1) / 8
    assert Overlap(cost, 8).num_at_once([0.99] * 64) == int(gap / 0.002)
    assert Overlap(cost, 1).num_at_once([0.99] * 64) == 64
    assert Overlap(cost, 8).num_at_once([0.9, 0.5, 0.01]) == 2


def test_nothing_follows_where_what_was_sent_takes_the_links_up() -> None:
    """Rows of a large model over thin uplinks: the stages have next to nothing to do."""
    sizes = []
    for positions in (10, 200, 2000):
        cost = cost_of(0.3, 0.008, start=0.005, seconds_per_token=0.06)
        cost.announce(0.008, 4)
        for _ in range(100):
            cost.note_sent(positions)
            cost.note_tokens(100, 6.0)
        assert cost.load == pytest.approx(positions * 0.008 / 4 / 6.0, rel=0.05)
        sizes.append(Overlap(cost, 8).size([0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.006]))
    assert sizes[0] == 7
    assert sizes[0] > sizes[1] > sizes[2] == 0
