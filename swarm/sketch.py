"""Short traces of hidden states, by which two of them can be compared without moving them.

A row's sketch is its product with a few columns of random signs: |sketch(a) - sketch(b)| / |sketch(b)| is about
|a - b| / |b| (Alon, Matias and Szegedy, STOC 1996). Who does not know the seed of the signs cannot choose an error that
they do not show.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

WIDTH = 16  # columns: the ratio above is right within a quarter, mostly
ROW_BYTES = 4 * WIDTH


def signs(seed: int, size: int) -> Tensor:
    """Columns of random signs for rows of `size` values; float32 [size, WIDTH], the same everywhere for one seed."""
    words = np.random.Philox(key=seed).random_raw(-(-size * WIDTH // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[: size * WIDTH]
    return torch.from_numpy(bits.astype(np.float32).reshape(size, WIDTH) * 2 - 1)


def sketch(rows: Tensor, columns: Tensor) -> bytes:
    """The sketches of rows [n, size], one after the other: ROW_BYTES each, WIDTH float32 values."""
    values = (rows.float() @ columns).numpy().astype("<f4")
    return values.tobytes()


def distances(one: bytes, other: bytes) -> list[float]:
    """How far apart the rows of two sketches are, relative to the length of the other's: of as many as both have."""
    count = min(len(one), len(other)) // ROW_BYTES
    a, b = (np.frombuffer(data[: count * ROW_BYTES], "<f4").reshape(count, WIDTH) for data in (one, other))
    a, b = a.astype(np.float64), b.astype(np.float64)
    gaps = np.linalg.norm(a - b, axis=1) / np.maximum(np.linalg.norm(b, axis=1), 1e-30)
    return [float(gap) if np.isfinite(gap) else float("inf") for gap in gaps]
