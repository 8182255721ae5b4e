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
from swarm.speculation.tree import trunk
from swarm.wire import Round

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
        parents = nodes_of(round)
        for layer in range(session.span.start, session.span.end):
            rows = layer_rows(layer, self._cache(session, layer), round.position, rows, parents)
            self.computed += len(rows)
        if session.span.end < self._num_layers:
            return Outcome(np.array(rows, "f4").tobytes(), (), 0.001)
        return Outcome(None, verdict(rows, round) if round.judged else (), 0.001)

    def _cache(self, session: Session, layer: int) -> list[Row]:
        return self._caches.setdefault(session.cache, {}).setdefault(layer, [])


def nodes_of(round: Round) -> list[int]:
    """The parent of each of its tokens."""
    newest = round.num_text - 1
    drafts = round.parents or range(-1, round.num_drafts - 1)
    return [*range(-1, newest), *(newest + 1 + parent for parent in drafts)]


def layer_rows(
    layer: int, cache: list[Row], position: int, rows: Sequence[Row], parents: Sequence[int] | None = None
) -> list[Row]:
    """Write rows into the cache from `position` on, as far as each follows the one before, and give those after the
    layer."""
    assert position <= len(cache), "a gap in the cache"
    parents = parents or range(-1, len(rows) - 1)
    below = sum(value * (i + 1) for i, value in enumerate(cache[:position]))
    seen: list[tuple[int, int]] = []  # of each node, the sum up to it, and its position
    outputs = []
    for row, parent in zip(rows, parents, strict=True):
        before, x = (below, position - 1) if parent < 0 else seen[parent]
        seen.append((before + row * (x + 2), x + 1))
        outputs.append((31 * row + 17 * seen[-1][0] + layer + 1) % _MODULUS)
    cache[position : position + len(rows)] = rows[: trunk(parents)]
    return outputs


def verdict(rows: Sequence[Row], round: Round) -> tuple[int, ...]:
    """The rule `match`, where the target's own token after a row is that row."""
    parents, here = nodes_of(round), round.num_text - 1
    taken = [rows[here] % VOCAB]
    while True:
        fitting = [i for i in range(here + 1, len(rows)) if parents[i] == here and round.tokens[i] == taken[-1]]
        if not fitting:
            return tuple(taken)
        here = fitting[0]
        taken.append(rows[here] % VOCAB)


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
