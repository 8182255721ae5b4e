"""Sketches: as good as the rows themselves for telling how far apart these are."""

from __future__ import annotations

import math

import pytest
import torch

from peer.witness import Witness
from swarm.sketch import ROW_BYTES, WIDTH, distances, signs, sketch

GOLDEN = [
    [1, 1, -1, -1, 1, -1, 1, 1, 1, 1, -1, 1, 1, 1, -1, -1],
    [1, -1, 1, -1, 1, 1, 1, 1, 1, 1, -1, 1, 1, 1, -1, -1],
]


@pytest.mark.parametrize("size", [1, 5, 64, 4096])
def test_signs_are_signs_and_the_same_for_one_seed(size: int) -> None:
    columns = signs(7, size)
    assert columns.shape == (size, WIDTH)
    assert set(columns.unique().tolist()) <= {-1.0, 1.0}
    assert torch.equal(columns, signs(7, size))
    if size > 1:
        assert not torch.equal(columns, signs(8, size))


def test_signs_are_as_often_plus_as_minus() -> None:
    assert abs(float(signs(1, 4096).mean())) < 0.02


def test_signs_are_those_of_any_other_machine() -> None:
    """Peers that never met must agree on them."""
    assert signs(3, 2).int().tolist() == GOLDEN


@pytest.mark.parametrize("share", [1e-4, 1e-2, 1.0])
def test_distances_are_those_of_the_rows_within_a_factor(share: float) -> None:
    torch.manual_seed(0)
    rows = torch.randn(200, 256) * torch.logspace(-2, 2, 200)[:, None]
    others = rows + share * rows.norm(dim=1, keepdim=True) * torch.nn.functional.normalize(torch.randn(200, 256))
    columns = signs(5, 256)
    found = distances(sketch(others, columns), sketch(rows, columns))
    assert len(found) == 200
    assert all(share / 4 < one < share * 4 for one in found)


def test_equal_rows_are_at_distance_zero_and_nonsense_is_far_away() -> None:
    rows = torch.ones(2, 8)
    one = sketch(rows, signs(1, 8))
    assert distances(one, one) == [0.0, 0.0]
    assert distances(b"\xff" * ROW_BYTES, one[:ROW_BYTES]) == [math.inf]


def test_as_many_rows_are_compared_as_both_have() -> None:
    one = sketch(torch.ones(3, 8), signs(1, 8))
    assert len(distances(one, one[: 2 * ROW_BYTES + 1])) == 2


def test_a_witness_keeps_what_came_last_at_each_position() -> None:
    torch.manual_seed(0)
    witness, columns = Witness(9, 8), signs(9, 8)
    first, second = torch.randn(6, 8), torch.randn(2, 8)
    witness.note(0, first)
    witness.note(3, second)
    # A row's last bits may depend on the rows that it was multiplied with, so the expected bytes come from whole parts.
    before, last = sketch(first, columns), sketch(second, columns)
    assert witness.recall(0, 10) == before[: 3 * ROW_BYTES] + last
    assert witness.recall(4, 5) == last[ROW_BYTES:]
    assert witness.recall(5, 9) == b""
