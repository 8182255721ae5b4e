"""Two revisions side by side: what the pairs of figures say."""

from __future__ import annotations

import math

import pytest

from benchmarks.overhead import ratio_of


def test_pairs_that_differ_by_one_factor_leave_no_doubt() -> None:
    ratio, upper = ratio_of([(1.1 * other, other) for other in (1.0, 2.0, 40.0)])

    assert ratio == pytest.approx(1.1)
    assert upper == pytest.approx(1.1)


def test_the_upper_limit_follows_from_how_much_pairs_scatter() -> None:
    scatter = [(math.exp(error), 1.0) for error in (-0.1, 0.1, -0.1, 0.1)]

    ratio, upper = ratio_of(scatter)

    assert ratio == pytest.approx(1.0)
    # 2.3534: Student's t, one-sided, 3 degrees of freedom; 0.1155: the scatter of the logarithms
    assert math.log(upper) == pytest.approx(2.3534 * 0.11547 / 2, rel=1e-3)
