"""TK-SLT's draft length: its published table, and the maximum that it is said to be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.speculation.closed_form import best_length, expected_tokens, speedup

TABLE = {
    0.4: {0.01: 4, 0.1: 2, 0.2: 1, 0.4: 1, 0.6: 1},
    0.6: {0.01: 7, 0.1: 3, 0.2: 2, 0.4: 1, 0.6: 1},
    0.8: {0.01: 14, 0.1: 6, 0.2: 4, 0.4: 2, 0.6: 1},
}


@pytest.mark.parametrize(
    ("acceptance", "cost", "length"),
    [(a, cost, length) for a, row in TABLE.items() for cost, length in row.items()],
)
def test_the_published_table(acceptance: float, cost: float, length: int) -> None:
    assert best_length(acceptance, cost) == length


@settings(max_examples=300, deadline=None)
@given(st.floats(0.05, 0.99), st.floats(0.0005, 0.99))
def test_no_other_length_is_better(acceptance: float, cost: float) -> None:
    best = speedup(acceptance, cost, best_length(acceptance, cost))
    assert best >= max(speedup(acceptance, cost, drafts) for drafts in range(1, 1000)) * (1 - 1e-9)


@pytest.mark.parametrize("acceptance", [0.3, 0.8, 1.0])
def test_expected_tokens_are_a_geometric_series(acceptance: float) -> None:
    for drafts in range(10):
        assert expected_tokens(acceptance, drafts) == pytest.approx(sum(acceptance**i for i in range(drafts + 1)))
