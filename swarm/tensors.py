"""Tensors as bytes: the raw values, row by row, in the model's dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_EXPONENTS: dict[torch.dtype, tuple[type[np.unsignedinteger[Any]], int]] = {
    torch.float32: (np.uint32, 0x7F800000),
    torch.bfloat16: (np.uint16, 0x7F80),
    torch.float16: (np.uint16, 0x7C00),
}
"""The exponent bits of a value, all of which are set in infinities and in what is not a number, and only there."""
_BEYOND: dict[torch.dtype, int] = {torch.float32: 187 << 23, torch.bfloat16: 187 << 7, torch.float16: 0x7C00}
"""Those from which on a value is beyond all reason: of 2^60, whose square is near the end of float32; norms square."""


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for torch.float32, and so on."""
    return str(dtype).removeprefix("torch.")


def to_bytes(tensor: Tensor) -> bytes:
    """The values of a floating-point tensor, of any shape, on any device."""
    return tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes()


def from_bytes(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor that `to_bytes` wrote. Raises ValueError if the size does not fit the shape."""
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def is_finite(data: bytes, dtype: torch.dtype) -> bool:
    """Whether all raw values in `data` are numbers, none infinite, nor so large that computing with it would be so."""
    kind, mask = _EXPONENTS[dtype]
    return bool(((np.frombuffer(data, kind) & kind(mask)) < _BEYOND[dtype]).all())
