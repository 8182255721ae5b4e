"""A small model as a drafter for the rule `rejection`: a chain, each token drawn from what the last hop is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from swarm.drafting.drafter import READ_TOKENS
from swarm.drafting.texts import common_prefix
from swarm.model.stage import Slice, Stage
from swarm.speculation.evidence import Evidence, evidence
from swarm.speculation.flight import Flight
from swarm.speculation.noise import uniform
from swarm.speculation.rejection import DRAFTING
from swarm.speculation.sampling import Sampling
from swarm.speculation.tree import NOTHING, DraftTree

_AT_FIRST = 0.7  # share of its drafts that stand, until it is known
_MEMORY = 0.95  # weight of what was known before, against one more token
_FARTHEST = 64  # drafts that are worked out


class SparseDrafter:
    """Keeps the text as it expects it to go on: asked about a beginning of that text, it has the answer already."""

    def __init__(
        self, stage: Stage, vocab_size: int, sampling: Sampling, k: int, least: Callable[[], float]
    ) -> None:
        """`stage` holds all layers of the draft; tokens from `vocab_size` on do not exist for the target; a draft is
        drawn from its `k` likeliest tokens, as far as they have the share that `least` says."""
        self._stage = stage
        self._vocab_size = vocab_size
        self._sampling = sampling
        self._k = k
        self._least = least
        self._cache = stage.new_cache()
        self._num_cached = 0  # positions of `_expected` whose keys and values the cache holds
        self._expected: list[int] = []
        self._proofs: dict[int, Evidence] = {}  # by position
        self._length = self._room = 0  # of the text; and how far it may be drafted
        self._right = _AT_FIRST

    def follow(self, text: Sequence[int], room: int) -> None:
        """Keep what was expected, as far as the text has it."""
        known = common_prefix(self._expected, text)
        self._learn(known, len(text))
        if known < len(text):
            self._expected = list(text)
            self._num_cached = min(self._num_cached, known)
        self._length = len(text)
        self._room = min(room, self._stage.info.max_positions - len(text), _FARTHEST)

    def catch_up(self) -> bool:
        """Run a part of the text that the cache lacks; whether it still lacks a longer one."""
        lacking = self._expected[self._num_cached :]
        if len(lacking) <= READ_TOKENS or not self.promise:
            return False
        part = torch.tensor(lacking[:READ_TOKENS])
        self._stage.forward([Slice(self._cache, self._num_cached, part, num_logits=0)])
        self._num_cached += READ_TOKENS
        return len(lacking) > 2 * READ_TOKENS

    def grow(self) -> int:
        """Draw one more token."""
        if not self.promise:
            return 0
        logits = self._logits()
        position = len(self._expected)
        proof = evidence(logits, self._expected, self._sampling, self._k, self._least())
        self._expected.append(proof.draw(uniform(self._sampling.seed, position, DRAFTING)))
        self._proofs[position] = proof
        return 1

    @property
    def promise(self) -> float:
        """The chance of the next token, as of every one before: that it stands if the one before does."""
        drafted = len(self._expected) - self._length
        if drafted >= self._room or any(
            t >= self._stage.info.vocab_size for t in self._expected[self._num_cached :]
        ):
            return 0.0
        return float(self._right ** (drafted + 1))

    def chances(self, size: int) -> list[float]:
        """Of the drafts, in order."""
        drafted = min(len(self._expected) - self._length, self._room, size)
        return [float(self._right ** (i + 1)) for i in range(drafted)]

    def tree(self, size: int) -> DraftTree:
        """A chain, with its proofs."""
        chances = self.chances(size)
        end = self._length + len(chances)
        chain = DraftTree.chain(self._expected[self._length : end], chances)
        proofs = tuple(self._proofs[position] for position in range(self._length, end))
        return DraftTree(chain.tokens, chain.parents, chain.chances, proofs)

    def more(self, flight: Flight, size: int) -> DraftTree:
        """The rule judges one chain at a time."""
        return NOTHING

    def _learn(self, known: int, length: int) -> None:
        """The text went on as expected up to position `known`, and has a length now."""
        judged = range(self._length, min(known + 1, length, len(self._expected)))
        for position in judged:
            self._right += (1 - _MEMORY) * ((position < known) - self._right)
        self._right = min(max(self._right, 0.01), 0.99)

    def _logits(self) -> Tensor:
        """Bring the cache up to the expected text; the logits [vocab] after it."""
        fresh = torch.tensor(self._expected[self._num_cached :])
        piece = Slice(self._cache, self._num_cached, fresh, num_logits=1)
        self._num_cached = len(self._expected)
        return self._stage.forward([piece])[0][0, : self._vocab_size]
