"""The keys and values of one session, for the layers of one stage.

Slots are written by position: a round overwrites from its position on, so a rejected draft is rolled back for
nothing. Memory is taken in pieces as the session grows: a whole number of `PIECE` tokens, and at least an eighth
more than before, so that copying stays linear in the length while at most an eighth of the cache (or one piece)
lies idle.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from swarm.span import Span

PIECE = 64
"""Tokens of the smallest growth step."""


class KVCache:
    """Per layer, keys [kv_heads, capacity, key_dim] and values [kv_heads, capacity, value_dim]."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.length = 0
        """Slots that hold a token, from 0."""
        self.capacity = 0
        """Slots that every layer has, or takes at its next write."""
        self._keys: list[Tensor | None] = [None] * len(span)
        self._values: list[Tensor | None] = [None] * len(span)

    @property
    def num_bytes(self) -> int:
        """Bytes held now, over all layers."""
        return sum(t.nbytes for t in (*self._keys, *self._values) if t is not None)

    @property
    def bytes_per_token(self) -> tuple[int, ...]:
        """Bytes of one slot in each layer, once they were written."""
        pairs = zip(self._keys, self._values, strict=True)
        return tuple(sum(t.nbytes // t.shape[1] for t in pair if t is not None) for pair in pairs)

    def capacity_for(self, tokens: int) -> int:
        """The capacity after growing to hold `tokens` slots; times `Stage.cache_bytes_per_token` it is bytes."""
        if tokens <= self.capacity:
            return self.capacity
        return -(-max(tokens, self.capacity * 9 // 8) // PIECE) * PIECE

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` slots in all; each layer takes its memory when it is next written."""
        self.capacity = self.capacity_for(tokens)

    def write(self, layer: int, slot: int, keys: Tensor, values: Tensor) -> None:
        """Put keys and values [kv_heads, n, dim] of model layer `layer` at slots `slot` to `slot + n - 1`."""
        index, end = layer - self.span.start, slot + keys.shape[1]
        for store, new in ((self._keys, keys), (self._values, values)):
            held = store[index]
            if held is None or held.shape[1] < end:
                held = store[index] = self._grown(held, new)
            held[:, slot:end] = new

    def read(self, layer: int, first: int, end: int) -> tuple[Tensor, Tensor]:
        """Views of the keys and the values of model layer `layer` at slots `first` to `end - 1`."""
        index = layer - self.span.start
        keys, values = self._keys[index], self._values[index]
        if keys is None or values is None:
            raise ValueError(f"layer {layer} was never written")
        return keys[:, first:end], values[:, first:end]

    @torch.inference_mode()
    def compact(self, base: int, kept: Sequence[int]) -> None:
        """Move slots base + kept[i] to base + i and forget the rest: what stays of a tree at `base`.

        `kept` rises strictly. What was after those that go stays in the order in which it was.
        """
        end = base + len(kept)
        if list(kept) != list(range(len(kept))):
            for held in (*self._keys, *self._values):
                if held is not None:
                    index = torch.tensor(kept, device=held.device) + base
                    held[:, base:end] = held.index_select(1, index)
        self.length = end

    def _grown(self, held: Tensor | None, new: Tensor) -> Tensor:
        """A tensor of the present capacity that starts with what `held` holds."""
        heads, _, dim = new.shape
        grown = new.new_empty(heads, self.capacity, dim)
        if held is not None:
            grown[:, : held.shape[1]] = held
        return grown
