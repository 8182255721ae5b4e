"""Tensors as bytes: the raw values, row by row, in the model's dtype."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_BEYOND = {torch.float32: 2.0**60, torch.bfloat16: 2.0**60, torch.float16: math.inf}
"""From which on a value is beyond all reason: its square is near the end of float32, and norms square."""


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for torch.float32, and so on."""
    return str(dtype).removeprefix("torch.")


def to_bytes(tensor: Tensor) -> bytes:
    """The values of a floating-point tensor, of any shape, on any device."""
    return tensor.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes()


def from_bytes(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor that `to_bytes` wrote. Raises ValueError if the size does not fit the shape."""
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


def is_finite(tensor: Tensor) -> bool:
    """Whether all values, at least one, are numbers, none infinite, nor so large that computing with it would be so."""
    least, most = map(float, tensor.aminmax())  # which are no numbers either where one value is none
    return -_BEYOND[tensor.dtype] < least and most < _BEYOND[tensor.dtype]
