"""What the benchmark of a shared machine makes of its measurements."""

from __future__ import annotations

import pytest

from benchmarks.shared_machine import BEYOND_READING, TOGETHER, Joins, best_shares, join_figures


def test_the_default_is_held_against_the_best_number_of_each_cell() -> None:
    one, four = ("plain", 1), ("plain", 4)
    turns = [
        ("default", {one: 80.0, four: 90.0}),
        ("1", {one: 100.0, four: 90.0}),
        ("2", {one: 40.0, four: 180.0}),
        ("1", {one: 100.0, four: 30.0}),
        ("default", {one: 90.0, four: 90.0}),
    ]
    assert best_shares(turns) == {one: pytest.approx(0.85), four: pytest.approx(0.5)}


def test_joins_are_compared_within_their_turn() -> None:
    turns = [Joins(2.0, 10.0, 30.0), Joins(2.0, 20.0, 40.0), Joins(3.0, 30.0, 150.0)]
    assert join_figures(turns) == {TOGETHER: pytest.approx(3.0), BEYOND_READING: pytest.approx(18.0)}
