"""Hidden states on the wire: a row for each token, in the model's dtype or, with loss, in int8.

A row's bytes depend on its own values alone. So whatever rows are sent together, and whoever cuts them, keeps them and
sends them again, the receiver computes with the same numbers.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from swarm import blockwise
from swarm.tensors import DTYPES, dtype_name, from_bytes, is_finite, to_bytes
from swarm.wire import MAX_STATES, Form, Wire

INT8: Form = "int8"


def form_of(wire: Wire, dtype: torch.dtype) -> Form:
    """The form in which a stage of this dtype passes its results on: what `Hidden.dtype` says."""
    return INT8 if wire == "int8" else cast(Form, dtype_name(dtype))


def forms(wire: Wire) -> tuple[str, ...]:
    """Those in which a session's hops may be given their input."""
    return (INT8,) if wire == "int8" else tuple(DTYPES)


def value_bytes(form: str) -> int:
    """Bytes of one value."""
    return 1 if form == INT8 else DTYPES[form].itemsize


def row_bytes(form: str, size: int) -> int:
    """Bytes of a row of `size` values."""
    return blockwise.row_bytes(size) if form == INT8 else size * DTYPES[form].itemsize


def most_rows(form: str, size: int) -> int:
    """Of so many values that fit into one message."""
    return max(MAX_STATES // row_bytes(form, size), 1)


def to_rows(states: Tensor, wire: Wire) -> bytes:
    """States [n, size], in the form of their dtype (`exact`), or in int8."""
    return blockwise.to_int8(states) if wire == "int8" else to_bytes(states)


def from_rows(data: bytes, form: str, size: int) -> Tensor:
    """The states [n, size] in whole rows. Raises ValueError for others."""
    return blockwise.from_int8(data, size) if form == INT8 else from_bytes(data, DTYPES[form], (-1, size))


def are_finite(states: Tensor, data: bytes, form: str) -> bool:
    """Whether all values of these states [n, size], whose rows are `data`, are numbers, none infinite, nor so large
    that computing with it would be so. Of states in int8 the rows count: both ends have the same."""
    return blockwise.is_finite(data, states.shape[-1]) if form == INT8 else is_finite(states)
