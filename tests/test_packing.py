"""Packed states: the same bits come out, nothing else is taken for them, and nobody unpacks more than he expects."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.packer import LEAST, Experience, Packer, pays, usual
from swarm.errors import BadMessage
from swarm.packing import pack, packed_size, unpack
from swarm.tensors import to_bytes
from swarm.wire import NO_SESSION, Hidden, Ping, Round


def activations(dtype: torch.dtype, count: int = 40, size: int = 256) -> bytes:
    return to_bytes(torch.randn(count, size, generator=torch.Generator().manual_seed(0)).to(dtype))


def hidden(states: bytes, form: str = "float32") -> Hidden:
    return Hidden(Round(NO_SESSION, 0, 0, (1,), 0, True), 1, form, states, ())


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([1, 2, 4]), st.integers(0, 50), st.data())
def test_any_values_come_out_as_they_went_in(value_bytes: int, count: int, data: st.DataObject) -> None:
    size = value_bytes * count
    states = data.draw(st.binary(min_size=size, max_size=size))
    assert unpack(pack(states, value_bytes), size, value_bytes) == states


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 0.9), (torch.bfloat16, 0.8)], ids=str)
def test_activations_take_fewer_bytes(dtype: torch.dtype, most: float) -> None:
    states = activations(dtype)
    packed = pack(states, dtype.itemsize)
    assert len(packed) < most * len(states)
    assert unpack(packed, len(states), dtype.itemsize) == states


STATES = activations(torch.float32)
PACKED = pack(STATES, 4)
NO_PACKED_STATES = {
    "nothing": b"",
    "garbage": bytes(range(200)),
    "the states themselves": STATES,
    "cut short": PACKED[:-1],
    "cut to its head": PACKED[:12],
    "with something behind": PACKED + b"x",
    "twice": PACKED * 2,
    "a bit that is wrong": PACKED[:40] + bytes([PACKED[40] ^ 4]) + PACKED[41:-8],
    "states of another size": pack(STATES[:-4], 4),
    "a size that is not said": zstandard.ZstdCompressor(write_content_size=False).compress(STATES),
    "a size that is wrong": zstandard.ZstdCompressor()
    .compress(STATES[:-4])
    .replace((len(STATES) - 4).to_bytes(4, "little"), len(STATES).to_bytes(4, "little")),
    "a frame to be skipped": b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + bytes(4),
}


@pytest.mark.parametrize("data", NO_PACKED_STATES.values(), ids=NO_PACKED_STATES.keys())
def test_what_is_not_the_packed_states_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(BadMessage) as refusal:
        unpack(data, len(STATES), 4)
    assert "\n" not in str(refusal.value)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
def test_spoilt_bytes_raise_nothing_but_bad_message(place: int, change: int) -> None:
    spoilt = bytearray(PACKED)
    spoilt[place] ^= change
    with contextlib.suppress(BadMessage):
        assert len(unpack(bytes(spoilt), len(STATES), 4)) == len(STATES)


def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    assert len(bomb) < 1 << 15
    tracemalloc.start()
    try:
        with pytest.raises(BadMessage, match="in place of 4096"):
            unpack(bomb, 4096, 4)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert packed_size(bomb) == 1 << 28


def test_packing_pays_on_a_slow_link_and_not_on_a_fast_one() -> None:
    usual = Experience(ratio=0.7, seconds_per_byte=2e-9)  # of bfloat16
    assert pays(usual, 100)
    assert not pays(usual, 10_000)
    assert not pays(Experience(1.0, 1e-12), 1)  # nothing saved
    assert not pays(Experience(0.7, 1e-6), 100)  # too slow a processor


def test_one_slow_message_is_not_what_packing_costs() -> None:
    fast, slow = Experience(0.7, 2e-9), Experience(0.7, 1e-6)
    assert usual([slow, fast, fast]) == fast
    assert usual([slow, slow, fast]) == slow


def packed_by(packer: Packer, states: bytes, form: str) -> Hidden:
    sent = asyncio.run(packer.pack(hidden(states, form)))
    assert isinstance(sent, Hidden)
    return sent


def test_large_states_are_packed_and_small_ones_never() -> None:
    packer = Packer(uplink_mbit=1)
    large = packed_by(packer, activations(torch.bfloat16), "bfloat16")
    assert large.packed
    assert unpack(large.states, 40 * 256 * 2, 2) == activations(torch.bfloat16)
    small = activations(torch.bfloat16)[: LEAST - 2]
    assert packed_by(packer, small, "bfloat16") == hidden(small, "bfloat16")
    assert asyncio.run(packer.pack(Ping(1))) == Ping(1)


def test_states_that_would_grow_travel_as_they_are() -> None:
    noise = bytes(
        torch.randint(256, (LEAST,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).tolist()
    )
    assert packed_by(Packer(uplink_mbit=1), noise, "int8") == hidden(noise, "int8")


def test_where_packing_does_not_pay_it_is_tried_again_now_and_then() -> None:
    packer, states = Packer(uplink_mbit=1e9), activations(torch.float32)
    packed = [packed_by(packer, states, "float32").packed for _ in range(200)]
    assert packed[:4] == [True, True, True, False]
    assert 3 < sum(packed) < 10
