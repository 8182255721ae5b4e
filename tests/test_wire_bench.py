"""What the benchmark of message forms makes of its measurements."""

from __future__ import annotations

import pytest

from benchmarks.wire import INT8, PACKED, PACKED_FAST, Row, figures, loss


def row(form: str, rate: float | None, trip_ms: float, shape: str = "tree of 32", is_fresh: bool = False) -> Row:
    return Row(form, rate, shape, is_fresh, 32, trip_ms, 1, 1)


def test_texts_are_compared_up_to_the_first_token_that_differs() -> None:
    found = loss(0.8, 4, [[1, 2, 3, 4], [1, 2, 3, 4], [5, 6]], [[1, 2, 3, 4], [1, 2, 9, 4], [5, 6, 7]])
    assert (found.texts, found.same, found.first_differences) == (3, pytest.approx(1 / 3), [2, 2])
    assert found.kept == pytest.approx((4 + 2 + 2) / 12)


def test_forms_are_judged_by_large_rounds_over_links_that_are_not_fresh() -> None:
    rows = [
        *(row("exact, raw", rate, 100) for rate in (None, 50.0)),
        *(row("exact, packed", rate, 110 if rate is None else 80) for rate in (None, 50.0)),
        *(row("int8", rate, 50) for rate in (None, 50.0)),
        row("exact, packed", 50.0, 7, shape="chain of 8"),
        row("exact, packed", None, 7, is_fresh=True),
    ]
    assert figures(rows) == {PACKED: 0.8, INT8: 0.5, PACKED_FAST: 1.1}


def test_a_trip_has_a_link_more_than_there_are_peers() -> None:
    assert row("int8", None, trip_ms=500).hop == 2
