"""How likely the target's own token is each of a draft's first choices: learnt from the verdicts.

A draft's scores (logits, or what they become with temperature and noise) rank its choices; the target's scores differ
from them by an error of some size, so a choice is right with about softmax(scores / scale). The scale is the one, of a
few, under which the tokens of the text so far would have been likeliest.

A hint is what followed the same few tokens before (see `drafting.ngram`). With some weight it is right, else the
scores are; the weight, for each number of tokens that were the same, is learnt as that of a mixture: by how much the
hint, rather than the scores, explains each token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter

SCALES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
_USUAL = 0.7
_TRUST = 2.0  # in the usual scale: log-likelihood that another one of half or twice the size must make up for
_TRUSTED = (0.0, 0.01, 0.04, 0.1)  # weight of a hint after 1, 2, 3, 4 tokens that were the same, until it is known
_SURE = 0.98  # the greatest weight
_PACE = 0.04  # by how much of what one more token says a weight changes
_WORST = -5.0  # log-likelihood of a token that no scale explains
_MEMORY = 0.98  # weight of what was known before, against one more token
_LEAST = 1e-300
_MISSES = 0.03  # share of tokens that are none of the first choices, until it is known

_by_chance = itemgetter(1)


@dataclass(frozen=True, slots=True)
class Hint:
    """One of the choices, because it followed the same tokens before."""

    choice: int
    """Which one, by its place among them."""
    length: int
    """How many tokens were the same: 1 to LONGEST."""


LONGEST = len(_TRUSTED)


class Scores(tuple[float, ...]):
    """Of a draft's first choices, in any order; what follows from them is worked out once: a tree is valued anew after
    each verdict, and a simulator replays the same texts."""

    _shares: dict[float, tuple[float, ...]]
    _likelihoods: dict[int, tuple[float, ...]]

    def __new__(cls, scores: Sequence[float]) -> Scores:
        """The same object, if it is one already."""
        if isinstance(scores, cls):
            return scores
        made = super().__new__(cls, scores)
        made._shares, made._likelihoods = {}, {}
        return made

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The choices by their places, the best first."""
        return tuple(sorted(range(len(self)), key=self.__getitem__, reverse=True))

    def shares(self, scale: float) -> tuple[float, ...]:
        """softmax(scores / scale)."""
        found = self._shares.get(scale)
        if found is None:
            best = max(self)
            weights = [math.exp((score - best) / scale) for score in self]
            whole = sum(weights)
            found = self._shares[scale] = tuple(weight / whole for weight in weights)
        return found

    def likelihoods(self, taken: int) -> tuple[float, ...]:
        """The logarithm of the share of one of the choices, under each of the scales."""
        found = self._likelihoods.get(taken)
        if found is None:
            logs = (math.log(max(self.shares(scale)[taken], _LEAST)) for scale in SCALES)
            found = self._likelihoods[taken] = tuple(max(log, _WORST) for log in logs)
        return found


class Calibration:
    """Of one generation's drafts."""

    def __init__(self) -> None:
        self._fit = [-_TRUST * math.log2(scale / _USUAL) ** 2 for scale in SCALES]
        self._misses = _MISSES
        self._trusted = [*_TRUSTED]
        self.scale = _USUAL

    def chances(self, scores: Sequence[float], hint: Hint | None = None) -> list[float]:
        """For each of the choices; together less than 1. `scores`: one for each choice, in any order."""
        return self.chances_of(range(len(scores)), Scores(scores), hint)

    def chances_of(self, choices: Sequence[int], scores: Scores, hint: Hint | None = None) -> list[float]:
        """For these of the choices, told by their places."""
        shares, known = scores.shares(self.scale), 1 - self._misses
        if hint is None:
            return [known * shares[choice] for choice in choices]
        trust = self._trusted[hint.length - 1]
        hinted, known = known * trust, known * (1 - trust)
        return [known * shares[choice] + (hinted if choice == hint.choice else 0.0) for choice in choices]

    def likeliest(self, scores: Scores, count: int, hint: Hint | None = None) -> list[tuple[int, float]]:
        """So many of the choices, by their places, with their chances: the likeliest first."""
        best = scores.order[:count]
        if hint is None:
            return [*zip(best, self.chances_of(best, scores), strict=True)]
        if hint.choice not in best:  # a hint alone may be likelier than its scores say
            best = (*best, hint.choice)
        found = zip(best, self.chances_of(best, scores, hint), strict=True)
        return sorted(found, key=_by_chance, reverse=True)[:count]

    def learn(self, scores: Sequence[float], taken: int | None, hint: Hint | None = None) -> None:
        """The target took this one of the choices; None: another token."""
        self._misses += (1 - _MEMORY) * ((taken is None) - self._misses)
        if hint:
            self._learn_trust(scores, taken, hint)
        if taken is None:
            return
        likelihoods = Scores(scores).likelihoods(taken)
        self._fit = [_MEMORY * fit + likelihood for fit, likelihood in zip(self._fit, likelihoods, strict=True)]
        self.scale = SCALES[self._fit.index(max(self._fit))]

    def _learn_trust(self, scores: Sequence[float], taken: int | None, hint: Hint) -> None:
        """One step of expectation and maximisation for the weight of such a hint."""
        trust = self._trusted[hint.length - 1]
        explained = 0.0
        if taken == hint.choice:
            by_scores = self.chances(scores)[hint.choice] * (1 - trust)
            explained = trust / (trust + by_scores)
        self._trusted[hint.length - 1] = min(trust + _PACE * (explained - trust), _SURE)
