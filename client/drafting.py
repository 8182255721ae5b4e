"""Three ways to guess what comes next: a small model, a look into the text so far, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from swarm.errors import UsageError
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Slice, Stage
from swarm.span import Span
from swarm.speculation.sampling import Sampling, choose


class Drafter(Protocol):
    """Guesses the tokens after a text. It belongs to one generation and may keep a cache from round to round."""

    thinks_ahead: bool
    """Whether it pays to ask for what may follow its own drafts while they are being verified."""

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that may follow `tokens`. Runs on the torch thread."""


class NoDrafter:
    """Proposes nothing: plain decoding."""

    thinks_ahead = False

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """Nothing."""
        return []


class NgramDrafter:
    """Prompt lookup: what followed the last few tokens when they occurred before (Saxena 2023)."""

    thinks_ahead = False

    def __init__(self, longest: int = 4) -> None:
        self._longest = longest

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """The continuation of the latest earlier occurrence of the longest suffix that has one."""
        text = list(tokens)
        for size in range(min(self._longest, len(text) - 1), 0, -1):
            suffix = text[-size:]
            for start in range(len(text) - size - 1, -1, -1):
                if text[start : start + size] == suffix:
                    return text[start + size : start + size + count]
        return []


class ModelDrafter:
    """A small model in this process, with the sampling and the noise of the target's own choice.

    It keeps the text as it expects it to go on: asked about a beginning of that text, it has the answer already.
    """

    thinks_ahead = True

    def __init__(self, stage: Stage, vocab_size: int, sampling: Sampling) -> None:
        """`stage` holds all layers of the draft; tokens from `vocab_size` on do not exist for the target."""
        self._stage = stage
        self._vocab_size = vocab_size
        self._sampling = sampling
        self._cache = stage.new_cache()
        self._num_cached = 0  # positions of `_expected` whose keys and values the cache holds
        self._expected: list[int] = []

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """`count` tokens, fewer where the draft's context ends, none where it does not know a token of the text."""
        known = _common_prefix(self._expected, tokens)
        if any(token >= self._stage.info.vocab_size for token in tokens[known:]):
            return []
        if known < len(tokens):
            self._expected = list(tokens)
            self._num_cached = min(self._num_cached, known)
        end = min(len(tokens) + count, self._stage.info.max_positions)
        while len(self._expected) < end:
            self._expected += choose(self._logits(), self._expected, [], self._sampling)
        return self._expected[len(tokens) : end]

    def _logits(self) -> Tensor:
        """Bring the cache up to the expected text; the logits [1, vocab] after it."""
        fresh = torch.tensor(self._expected[self._num_cached :])
        piece = Slice(self._cache, self._num_cached, fresh, num_logits=1)
        self._num_cached = len(self._expected)
        return self._stage.forward([piece])[0][:, : self._vocab_size]


def _common_prefix(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many first tokens are equal."""
    for i, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return i
    return min(len(ours), len(theirs))


class DraftModel:
    """A draft model, loaded once; each generation gets a drafter of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    @classmethod
    def load(cls, name: str, target_tokenizer: object, *, device: str = "cpu") -> DraftModel:
        """Load all layers of `name`. Raises UsageError unless it has the target's tokenizer."""
        source = ModelSource.resolve(name)
        vocabulary = source.tokenizer().get_vocab()
        if vocabulary != target_tokenizer.get_vocab():  # type: ignore[attr-defined]  # transformers is untyped
            raise UsageError(f"draft {name} has another tokenizer than the target: use one of the same family")
        return cls(load_stage(source, Span(0, source.info.num_layers), device=device))

    def drafter(self, vocab_size: int, sampling: Sampling) -> ModelDrafter:
        """A drafter for one generation."""
        return ModelDrafter(self._stage, vocab_size, sampling)
