"""A toy model whose layers are integer arithmetic: as easy to disturb as a real one, and wrong as soon as one row is.

The row of position x after a layer depends on all rows up to x before it, as attention does, through a cache that is
written by position; the last layer's row is the next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from peer.compute import Failure, Job, Outcome
from peer.session import Session
from swarm.model.source import ModelInfo
from swarm.span import Span

VOCAB = 50
_MODULUS = 1_000_003  # below 2^24: a float32 holds every value

Row = int


def info(num_layers: int) -> ModelInfo:
    return ModelInfo(num_layers, 1, VOCAB, 10_000, "toy", "c" * 64)


class ToyStage:
    """What service and table ask of a stage."""

    dtype = torch.float32
    cache_bytes_per_token = 4

    def __init__(self, span: Span, num_layers: int) -> None:
        self.span = span
        self.info = info(num_layers)


class ToyEngine:
    """Runs jobs as `peer.compute.Engine` does."""

    def __init__(self, num_layers: int) -> None:
        self._num_layers = num_layers
        self._caches: WeakKeyDictionary[Any, dict[int, list[Row]]] = WeakKeyDictionary()
        self.computed = 0
        """Rows, counted once for each layer."""

    def run(self, jobs: Sequence[Job]) -> list[Outcome | Failure]:
        return [self._run(job) for job in jobs]

    def _run(self, job: Job) -> Outcome:
        session, round = job.session, job.round
        rows = (
            list(round.tokens) if job.states is None else np.frombuffer(job.states.data, "f4").astype(int).tolist()
        )
        for layer in range(session.span.start, session.span.end):
            rows = layer_rows(layer, self._cache(session, layer), round.position, rows)
            self.computed += len(rows)
        if session.span.end < self._num_layers:
            return Outcome(np.array(rows, "f4").tobytes(), (), 0.001)
        return Outcome(None, verdict(rows, round.tokens, round.num_drafts) if round.judged else (), 0.001)

    def _cache(self, session: Session, layer: int) -> list[Row]:
        return self._caches.setdefault(session.cache, {}).setdefault(layer, [])


def layer_rows(layer: int, cache: list[Row], position: int, rows: Sequence[Row]) -> list[Row]:
    """Write rows into the cache from `position` on, and give those after the layer."""
    assert position <= len(cache), "a gap in the cache"
    cache[position : position + len(rows)] = rows
    outputs = []
    for x in range(position, position + len(rows)):
        seen = sum(value * (i + 1) for i, value in enumerate(cache[: x + 1]))
        outputs.append((31 * cache[x] + 17 * seen + layer + 1) % _MODULUS)
    return outputs


def verdict(rows: Sequence[Row], tokens: Sequence[int], num_drafts: int) -> tuple[int, ...]:
    """The rule `match`, where the target's own token after a row is that row."""
    own = [row % VOCAB for row in rows[len(rows) - num_drafts - 1 :]]
    drafts = tokens[len(tokens) - num_drafts :] if num_drafts else ()
    accepted = 0
    while accepted < num_drafts and drafts[accepted] == own[accepted]:
        accepted += 1
    return tuple(own[: accepted + 1])


def reference(prompt: Sequence[int], count: int, num_layers: int) -> list[int]:
    """The toy's own continuation of a prompt."""
    caches: list[list[Row]] = [[] for _ in range(num_layers)]
    tokens, fresh = list(prompt), list(prompt)
    while len(tokens) < len(prompt) + count:
        rows = fresh
        for layer, cache in enumerate(caches):
            rows = layer_rows(layer, cache, len(cache), rows)
        fresh = [rows[-1] % VOCAB]
        tokens += fresh
    return tokens[len(prompt) :]
