"""One hop's work: the layers of a span, run on a packed round of many sessions."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from swarm.errors import UsageError
from swarm.model.attention import NAME, Packed, Segment
from swarm.model.cache import KVCache
from swarm.model.flat import Forward, Given, flat_form
from swarm.model.layers import carve, find_decoder
from swarm.model.source import ModelInfo
from swarm.progress import Progress
from swarm.span import Span

_TRIAL = (((5,), 2), ((7,), 3), ((1,), 1), ((6, 3), 1), ((2, 17), 2), ((4,), 0))
"""Rounds on which the flat form is made and tried: tokens of each session, and logits wanted of each."""


@dataclass(slots=True)
class Slice:
    """The tokens of one session in a round.

    Node i of their chain or tree takes slot `position + i` and rope position `position + depth(i)`, and sees every slot
    before `position`, its ancestors and itself. Without `parents` each token's parent is the one before it.
    """

    cache: KVCache
    position: int
    """Slot, and position in the text, where the chain or tree begins; at most `cache.length`."""
    inputs: Tensor
    """Token ids int64 [n] where the stage has layer 0, else hidden states [n, hidden]."""
    parents: tuple[int, ...] | None = None
    """A tree: for each node the index of its parent, always a smaller one; -1 starts a branch right after the slots
    before `position`. If there are more nodes than inputs, the first ones are in the cache already."""
    num_logits: int = 0
    """Of the last stage: logits are wanted for so many trailing tokens."""


class Stage:
    """The layers of `span`, with the embeddings where it starts at 0 and the head where it ends the model."""

    def __init__(self, model: PreTrainedModel, info: ModelInfo, span: Span, dtype: torch.dtype) -> None:
        """`model` is carved to `span` and computes in `dtype`."""
        self.info = info
        self.span = span
        self.is_first = span.start == 0
        self.is_last = span.end == info.num_layers
        self.dtype = dtype
        self.device: torch.device = model.device
        self.model = model
        self._decoder: nn.Module = find_decoder(model)[1]
        self._forward: Forward = self.run_model

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes that one token takes in a session's cache, over all layers."""
        return sum(self._cache_bytes)

    @functools.cached_property
    def _cache_bytes(self) -> tuple[int, ...]:
        """One token's bytes in each layer's cache, measured once with one token."""
        cache, token = self.new_cache(), torch.zeros(1, dtype=torch.int64)
        self.forward([Slice(cache, 0, token if self.is_first else torch.zeros(1, self.info.hidden_size))])
        return cache.bytes_per_token

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights, a tied one counted once."""
        return sum({p.data_ptr(): p.nbytes for p in self.model.parameters()}.values())

    def new_cache(self) -> KVCache:
        """An empty cache for one session; it takes memory as tokens come."""
        return KVCache(self.span)

    def part(self, span: Span) -> Stage:
        """A stage of fewer layers that shares these weights. Raises UsageError if `span` is not within this one."""
        if span not in self.span:
            raise UsageError(f"layers {span} are not within the loaded layers {self.span}")
        part = Stage(carve(self.model, span), self.info, span, self.dtype)
        part._cache_bytes = self._cache_bytes[span.start - self.span.start : span.end - self.span.start]
        return part

    @property
    def is_flat(self) -> bool:
        """Whether rounds run through the flat form."""
        return self._forward != self.run_model

    def flatten(self, progress: Progress | None = None) -> None:
        """From now on run the flat form of the model's forward pass, where it has one that gives the same numbers."""
        told, rounds = progress or Progress(), itertools.count()

        def run_model(*given: Any) -> Tensor:
            told.at("making its forward pass faster", next(rounds), 2 + len(_TRIAL), "rounds")
            return self.run_model(*given)

        self._forward = flat_form(self.model, run_model, self._trial_rounds) or self.run_model

    @torch.inference_mode()
    def forward(self, slices: Sequence[Slice], between: Callable[[], None] | None = None) -> list[Tensor]:
        """Run the span on a packed round and write its keys and values into the caches.

        Per slice: hidden states [n, hidden], or, from the last stage, logits float32 [num_logits, vocab]. `between` is
        called before and after each layer's attention: it may run rounds of other caches.
        """
        packed, *tensors = self.pack(slices)
        packed.between = between
        output = self._forward(packed, *tensors)[0]
        for segment in packed.segments:
            segment.cache.length = segment.end
        if self.is_last:
            return list(torch.split(output.float(), [piece.num_logits for piece in slices]))
        return list(torch.split(output, [segment.num_tokens for segment in packed.segments]))

    def pack(self, slices: Sequence[Slice]) -> Given:
        """What the model is given for a round; makes room in the caches. Raises UsageError."""
        segments = [self._open(piece) for piece in slices]
        places = [s.position + depth for s in segments for depth in s.depths]
        rows = [
            row
            for end, piece in zip(_ends(segments), slices, strict=True)
            for row in range(end - piece.num_logits, end)
        ]
        inputs = slices[0].inputs if len(slices) == 1 else torch.cat([piece.inputs for piece in slices])
        inputs = inputs.to(self.device, None if self.is_first else self.dtype).unsqueeze(0)
        numbers = [torch.tensor(row, dtype=torch.int64, device=self.device) for row in (places, rows)]
        return Packed(segments, None if self.is_first else inputs), inputs, numbers[0].unsqueeze(0), numbers[1]

    def run_model(self, packed: Packed, inputs: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
        """transformers' own forward pass: hidden states [1, tokens, hidden], or logits [1, rows, vocab] at the end."""
        arguments = {"position_ids": positions, "use_cache": False, NAME: packed}
        arguments["input_ids" if self.is_first else "inputs_embeds"] = inputs
        if self.is_last:
            logits: Tensor = self.model(**arguments, logits_to_keep=rows).logits
            return logits
        self._decoder(**arguments)
        return packed.hidden  # type: ignore[return-value]  # the gate behind the span has set it

    def _trial_rounds(self) -> Iterator[Given]:
        """A few rounds of different sizes, of one session and of two, always the same."""
        caches, generator = (self.new_cache(), self.new_cache()), torch.Generator().manual_seed(0)
        for sizes, num_logits in _TRIAL:
            slices = []
            for cache, size in zip(caches, sizes, strict=False):
                ids = torch.randint(self.info.vocab_size, (size,), generator=generator)
                states = torch.randn(size, self.info.hidden_size, generator=generator)
                slices.append(Slice(cache, cache.length, ids if self.is_first else states, num_logits=num_logits))
            yield self.pack(slices)
            for piece in slices:
                piece.cache.length = piece.position + len(piece.inputs)

    def _open(self, piece: Slice) -> Segment:
        """Make room for a slice. Raises UsageError where it would leave a gap or pass the model's last position."""
        segment = Segment(piece.cache, piece.position, piece.inputs.shape[0], piece.parents)
        if not 0 <= piece.position <= segment.slot <= piece.cache.length:
            raise UsageError(f"slot {segment.slot} leaves a gap after the {piece.cache.length} cached tokens")
        if piece.position + max(segment.depths) >= self.info.max_positions:
            raise UsageError(f"the model ends at {self.info.max_positions} tokens")
        piece.cache.reserve(segment.end)
        return segment


def _ends(segments: Sequence[Segment]) -> list[int]:
    """Where each segment ends in the packed sequence."""
    ends, total = [], 0
    for segment in segments:
        total += segment.num_tokens
        ends.append(total)
    return ends
