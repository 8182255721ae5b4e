"""Rows in int8: how far off they are, that each depends on itself alone, and what is not taken for one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.blockwise import BLOCK, from_int8, is_finite, row_bytes, to_int8
from swarm.rows import are_finite, form_of, forms, from_rows, to_rows
from swarm.rows import row_bytes as row_bytes_in
from swarm.tensors import DTYPES

SIZES = (1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 200, 8192)


def states(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Rows as activations are: most values small, some channels large."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, size, generator=generator)
    return rows * torch.exp(2 * torch.randn(size, generator=generator)).clamp(max=5000)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_a_value_is_off_by_half_a_step_of_its_block_at_most(size: int, dtype: torch.dtype) -> None:
    sent = states(5, size).to(dtype)
    data = to_int8(sent)
    assert len(data) == 5 * row_bytes(size)
    received = from_int8(data, size)
    assert received.shape == sent.shape
    errors = (received - sent.float()).abs()
    for start in range(0, size, BLOCK):
        block = slice(start, start + BLOCK)
        steps = sent[:, block].float().abs().amax(1, keepdim=True) / 127
        assert (errors[:, block] <= 0.51 * steps).all()  # the scale itself is rounded, to 8 bits


def test_a_row_takes_little_more_than_a_quarter_of_float32() -> None:
    assert row_bytes(8192) / (4 * 8192) < 0.26


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SIZES[:-1]), st.integers(0, 1000), st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_rows_have_the_same_bytes_in_whatever_rounds_they_are_sent(
    size: int, seed: int, lengths: list[int]
) -> None:
    sent = states(sum(lengths), size, seed)
    assert b"".join(to_int8(part) for part in torch.split(sent, lengths)) == to_int8(sent)
    row = row_bytes(size)
    last = to_int8(sent)[-row:]
    assert torch.equal(from_int8(last, size), from_int8(to_int8(sent), size)[-1:])


def test_zeros_and_the_smallest_and_largest_numbers_stay_numbers() -> None:
    rows = torch.zeros(4, 2 * BLOCK)
    rows[1, 3], rows[2, 5], rows[3, 7] = 1e-45, -5e17, 1e-30
    data = to_int8(rows)
    assert is_finite(data, 2 * BLOCK)
    received = from_int8(data, 2 * BLOCK)
    assert received.isfinite().all()
    assert (received[0] == 0).all()
    assert received[2, 5] == pytest.approx(-5e17, rel=0.01)
    assert received[3, 7] == pytest.approx(1e-30, rel=0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("size", [1, BLOCK + 3])
def test_states_that_are_not_finite_are_not_finite_in_int8(value: float, size: int) -> None:
    rows = torch.ones(3, size)
    rows[1, -1] = value
    assert not is_finite(to_int8(rows), size)


@pytest.mark.parametrize("scale", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7B81, 0xFB81], ids=hex)
def test_scales_that_make_no_numbers_are_found(scale: int) -> None:
    data = bytearray(to_int8(torch.ones(2, BLOCK + 1)))
    data[row_bytes(BLOCK + 1) + 2 : row_bytes(BLOCK + 1) + 4] = scale.to_bytes(2, "little")
    assert not is_finite(bytes(data), BLOCK + 1)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("size", [1, 3, 70, 4096])
def test_one_value_among_many_that_is_beyond_all_reason_is_found(dtype: torch.dtype, size: int) -> None:
    largest = torch.tensor(2.0**60 if dtype != torch.float16 else float("inf"), dtype=dtype)
    below = 65504.0 if dtype == torch.float16 else float(torch.nextafter(largest, torch.zeros((), dtype=dtype)))
    values = torch.linspace(-3, 3, 2 * size).view(2, size).to(dtype)
    for place in {0, size // 2, size - 1}:
        for value in (float(largest), float("nan"), float("inf")):
            for sign in (1, -1):
                found, allowed = values.clone(), values.clone()
                found[1, place], allowed[1, place] = sign * value, sign * below
                assert not are_finite(found, to_rows(found, "exact"), form_of("exact", dtype))
                assert are_finite(allowed, to_rows(allowed, "exact"), form_of("exact", dtype))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([1, 5, BLOCK + 1]), st.data())
def test_whatever_is_said_to_be_finite_is(size: int, data: st.DataObject) -> None:
    row = data.draw(st.binary(min_size=row_bytes(size), max_size=row_bytes(size)))
    assert not is_finite(row, size) or from_int8(row, size).isfinite().all()


@pytest.mark.parametrize("wire", ["exact", "int8"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_form_of_a_row_is_read_as_it_was_written(wire: str, dtype: torch.dtype) -> None:
    sent = states(3, 70).to(dtype)
    data, form = to_rows(sent, wire), form_of(wire, dtype)  # type: ignore[arg-type]
    assert form in forms(wire)  # type: ignore[arg-type]
    assert len(data) == 3 * row_bytes_in(form, 70)
    received = from_rows(data, form, 70)
    assert are_finite(received, data, form)
    assert torch.equal(received, sent) if wire == "exact" else torch.allclose(received, sent.float(), atol=1e3)
