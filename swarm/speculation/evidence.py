"""What a drafter says of how it came to a draft: K first choices and their probabilities (TK-SLT, arXiv 2509.04576).

Judging by rejection is exact only if a draft was drawn from the very distribution that the judge is told. So the
distribution is cut to K choices and rounded first, to whole numbers whose sum is its unit, and then drawn from: both
ends have the same bits. Drawing from the whole distribution and telling the K largest shares of it is biased.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from swarm.speculation.sampling import Sampling, scores_of

MAX_WEIGHT = (1 << 16) - 1

CHOICE_BYTES = 5.0
"""What one of the choices takes in a message: two for the token's id, three for its weight."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A sparse distribution: the token `ids[i]` has the probability `weights[i]` / sum of all weights."""

    ids: tuple[int, ...]
    weights: tuple[int, ...]

    def probability(self, token: int) -> float:
        """Of a token; 0 off the support."""
        weight = self.weights[self.ids.index(token)] if token in self.ids else 0
        return weight / sum(self.weights)

    def draw(self, uniform: float) -> int:
        """The token at this place, between 0 and 1, of the distribution."""
        place = uniform * sum(self.weights)
        for token, weight in zip(self.ids, self.weights, strict=True):
            place -= weight
            if place < 0:
                return token
        return self.ids[-1]


def evidence(logits: Tensor, context: Sequence[int], sampling: Sampling, k: int, least: float = 0.0) -> Evidence:
    """The K likeliest tokens after `context`, as the sampling shapes the draft's logits [vocab]; the likeliest has
    the weight MAX_WEIGHT, and who would have less than 1/2, or the share `least` of all, is left out. The temperature
    is not 0."""
    scores, ids = scores_of(logits, context, sampling)
    scores, best = scores.topk(min(k, len(scores)))
    shares = (scores - scores[0]).exp()
    weights = (shares * MAX_WEIGHT).round().int().tolist()
    kept = max(min(sum(weight > 0 for weight in weights), int((shares >= least * shares.sum()).sum())), 1)
    return Evidence(tuple(ids[best][:kept].tolist()), tuple(weights[:kept]))
