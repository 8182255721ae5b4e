"""A toy model whose layers are integer arithmetic: as easy to disturb as a real one, and wrong as soon as one row is.

The row of position x after a layer depends on all rows up to x before it, as attention does, through a cache that is
written by position; the next token is made of the last layer's row and of all tokens before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from peer.compute import Failure, Job, Outcome, spoiled_by
from peer.intake import States
from peer.session import Session
from swarm.model.source import ModelInfo
from swarm.rows import to_rows
from swarm.span import Span
from swarm.speculation.rejection import reject

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
        self.can_break = True
        self._caches: WeakKeyDictionary[Any, dict[int, ToyCache]] = WeakKeyDictionary()
        self._walks: dict[tuple[Session, int], tuple[tuple[int, ...], int, int]] = {}
        self.computed = 0
        """Rows, counted once for each layer."""

    def run(self, jobs: Sequence[Job], between: Callable[[], None] | None = None) -> list[Outcome | Failure]:
        return [spoiled_by(job, torch.float32) or self._run(job, between) for job in jobs]

    def _run(self, job: Job, between: Callable[[], None] | None) -> Outcome:
        session, round = job.session, job.round
        rows = list(round.tokens) if job.states is None else _read(job.states)
        parents = job.tree.all_parents if job.tree else tuple(range(-1, len(rows) - 1))
        position = job.tree.position if job.tree else round.position
        for layer in range(session.span.start, session.span.end):
            if between is not None:
                between()
            cache = self._cache(session, layer)
            rows = cache.run(layer, position, rows, parents)
            if not round.grown:
                cache.keep(position, round.num_kept)
            self.computed += len(rows)
        if session.span.end < self._num_layers:
            return Outcome(to_rows(torch.tensor(rows).float().unsqueeze(1), session.wire), (), 0.001)
        if session.rule == "rejection":
            return Outcome(None, self._rejected(job, rows), 0.001)
        return Outcome(None, self._verdict(job, rows, parents) if round.judged else (), 0.001)

    def _cache(self, session: Session, layer: int) -> ToyCache:
        return self._caches.setdefault(session.cache, {}).setdefault(layer, ToyCache())

    def _verdict(self, job: Job, rows: Sequence[Row], parents: Sequence[int]) -> tuple[int, ...]:
        """The rule `match`, where the target's own token after a row is `token_after` that row and the text; more of a
        tree goes on from where the verdict before has ended."""
        session, round = job.session, job.round
        first = len(parents) - len(rows)  # the token of the tree that the first row belongs to
        if round.grown:
            walked, here, total = self._walks.get((session, round.number - 1), ((), -2, 0))
            taken, before = list(walked), len(walked)
        else:
            here, before, total = round.num_text - 1, 0, sum(job.context)
            taken = [token_after(rows[here], total)]
        while taken:
            fitting = [
                i
                for i in range(max(first, here + 1), len(parents))
                if parents[i] == here and round.tokens[i - first] == taken[-1]
            ]
            if not fitting:
                break
            here = fitting[0]
            taken.append(token_after(rows[here - first], total + sum(taken)))
        self._walks[session, round.number] = (tuple(taken), here, total)
        return tuple(taken[before:])

    def _rejected(self, job: Job, rows: Sequence[Row]) -> tuple[int, ...]:
        """The rule `rejection`, where a row says how likely each token is after it."""
        round = job.round
        drafts = round.tokens[round.num_text :]
        if not round.judged or len(job.proofs) != len(drafts):
            return ()
        logits = torch.stack([logits_of(row) for row in rows[round.num_text - 1 :]])
        return tuple(reject(logits, job.context, drafts, job.proofs, job.session.sampling))


def token_after(row: Row, total: int) -> int:
    """The target's own token after the last layer's row, where the tokens of the text add up to `total`."""
    return (row + total) % VOCAB


def logits_of(row: Row) -> Tensor:
    """Of the tokens after a row of the last layer, [VOCAB]."""
    return torch.tensor([(row + 1) * (token + 3) * 7919 % 1009 / 300 for token in range(VOCAB)])


def _read(states: States) -> list[Row]:
    return [int(row) for row in states.read(torch.float32).flatten()]


class ToyCache:
    """What a layer keeps: rows of the text by position, and of the newest tree what all rows up to a node add up to."""

    def __init__(self) -> None:
        self.text: list[Row] = []
        self._rows: list[Row] = []
        self._sums: list[tuple[int, int]] = []  # of each node, the sum up to it, and its position

    def run(self, layer: int, position: int, rows: Sequence[Row], parents: Sequence[int]) -> list[Row]:
        """The rows after the layer. They are the last ones of a chain or tree that begins at `position`."""
        first = len(parents) - len(rows)
        assert position <= len(self.text), "a gap in the cache"
        assert first <= len(self._sums), "a gap in the tree"
        below = sum(value * (i + 1) for i, value in enumerate(self.text[:position]))
        del self._sums[first:], self._rows[first:]
        outputs = []
        for row, parent in zip(rows, parents[first:], strict=True):
            before, x = (below, position - 1) if parent < 0 else self._sums[parent]
            self._sums.append((before + row * (x + 2), x + 1))
            self._rows.append(row)
            outputs.append((31 * row + 17 * self._sums[-1][0] + layer + 1) % _MODULUS)
        return outputs

    def keep(self, position: int, count: int) -> None:
        """The first rows of the tree become text."""
        self.text[position:] = self._rows[:count]


def rows_of(tokens: Sequence[int], num_layers: int) -> list[Row]:
    """Of a text, after the last layer."""
    rows = list(tokens)
    for layer in range(num_layers):
        rows = ToyCache().run(layer, 0, rows, range(-1, len(rows) - 1))
    return rows


def reference(prompt: Sequence[int], count: int, num_layers: int) -> list[int]:
    """The toy's own continuation of a prompt."""
    caches = [ToyCache() for _ in range(num_layers)]
    tokens, fresh = list(prompt), list(prompt)
    while len(tokens) < len(prompt) + count:
        rows = fresh
        for layer, cache in enumerate(caches):
            position = len(cache.text)
            rows = cache.run(layer, position, rows, range(-1, len(rows) - 1))
            cache.keep(position, len(rows))
        fresh = [token_after(rows[-1], sum(tokens))]
        tokens += fresh
    return tokens[len(prompt) :]
