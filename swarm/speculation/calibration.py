"""How likely the target's own token is each of a draft's first choices: learnt from the verdicts.

A draft's scores (logits, or what they become with temperature and noise) rank its choices; the target's scores differ
from them by an error of some size, so a choice is right with about softmax(scores / scale). The scale is the one, of a
few, under which the tokens of the text so far would have been likeliest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SCALES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
_USUAL = 0.7
_TRUST = 2.0  # in the usual scale: log-likelihood that another one of half or twice the size must make up for
_WORST = -5.0  # log-likelihood of a token that no scale explains
_MEMORY = 0.98  # weight of what was known before, against one more token
_MISSES = 0.03  # share of tokens that are none of the first choices, until it is known


class Calibration:
    """Of one generation's drafts."""

    def __init__(self) -> None:
        self._fit = [-_TRUST * math.log2(scale / _USUAL) ** 2 for scale in SCALES]
        self._misses = _MISSES
        self.scale = _USUAL

    def chances(self, scores: Sequence[float]) -> list[float]:
        """For each of the first choices; together less than 1. `scores`: the greatest first."""
        weights = [math.exp((score - scores[0]) / self.scale) for score in scores]
        share = (1 - self._misses) / sum(weights)
        return [weight * share for weight in weights]

    def learn(self, scores: Sequence[float], rank: int | None) -> None:
        """The target took the choice of this rank; None: another token."""
        self._misses += (1 - _MEMORY) * ((rank is None) - self._misses)
        if rank is None:
            return
        for i, scale in enumerate(SCALES):
            whole = math.log(sum(math.exp((score - scores[0]) / scale) for score in scores))
            likelihood = (scores[rank] - scores[0]) / scale - whole
            self._fit[i] = _MEMORY * self._fit[i] + max(likelihood, _WORST)
        self.scale = SCALES[max(range(len(SCALES)), key=self._fit.__getitem__)]
