"""Rows in int8: each in blocks of BLOCK values, and for each block the scale by which its integers are multiplied.

Lossy: a value is off by at most half its block's scale, which is 1/127 of the largest value of the block. A row is its
scales, bfloat16, then its values; it depends on its own values alone, so that rows which are cut, joined or computed
again have the same bytes. The last block of a row may be shorter.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 64
_MOST = 127  # -128 is not used: as many steps below 0 as above
_LARGEST_SCALE = 0x5980  # 2^52 as bfloat16: 128 times that is as large as values of hidden states may be
_MAGNITUDE = 0x7FFF  # all bits of a bfloat16 but the sign; as integers they are in the order of the values


def row_bytes(size: int) -> int:
    """Bytes of a row of `size` values: a little more than one for each."""
    return 2 * _num_blocks(size) + size


def to_int8(states: Tensor) -> bytes:
    """The rows of states [n, size]. What is not finite makes its block's scale so: `is_finite` tells."""
    count, size = states.shape
    blocks = _num_blocks(size)
    values = pad(states.detach().float(), (0, blocks * BLOCK - size)).view(count, blocks, BLOCK)
    scales = (values.abs().amax(-1, keepdim=True) / _MOST).bfloat16()
    steps = (values / scales.float()).round().clamp(-_MOST, _MOST)  # 0 / 0 in a block of zeros is no number
    integers = steps.nan_to_num(0.0).to(torch.int8).view(count, -1)[:, :size]
    parts = (scales.view(count, blocks).view(torch.uint8), integers.contiguous().view(torch.uint8))
    return torch.cat(parts, 1).cpu().numpy().tobytes()


def from_int8(data: bytes, size: int) -> Tensor:
    """The states float32 [n, size] in rows that `to_int8` wrote. Raises ValueError if these are no whole rows."""
    rows = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(-1, row_bytes(size))
    split = 2 * _num_blocks(size)
    scales = rows[:, :split].flatten().view(torch.bfloat16).view(len(rows), -1).float()
    return rows[:, split:].view(torch.int8).float() * scales.repeat_interleave(BLOCK, 1)[:, :size]


def is_finite(data: bytes, size: int) -> bool:
    """Whether all values in these whole rows are numbers, and none is infinite."""
    rows = np.frombuffer(data, np.uint8).reshape(-1, row_bytes(size))
    scales = rows[:, : 2 * _num_blocks(size)].copy().view("<u2")
    return bool(((scales & _MAGNITUDE) <= _LARGEST_SCALE).all())


def _num_blocks(size: int) -> int:
    return -(-size // BLOCK)
