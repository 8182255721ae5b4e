"""Which drafted tokens stand: the rule `rejection` (Leviathan et al., arXiv 2211.17192).

A draft x that was drawn from q stands with probability min(1, p(x) / q(x)), p being the target's distribution; in place
of the first that does not stand comes a token drawn from the positive part of p - q. So every token is distributed as
p, whatever q is, as long as q is what the draft was drawn from (see `evidence`). Unlike under `match`, which tokens
come depends on the drafts. For chains, at temperatures above 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from swarm.speculation.evidence import Evidence
from swarm.speculation.noise import uniform
from swarm.speculation.sampling import Sampling, scores_of

DRAFTING, ACCEPTING, REPLACING = range(3)
"""What a random number at a position is for."""


def reject(
    logits: Tensor, context: Sequence[int], drafts: Sequence[int], proofs: Sequence[Evidence], sampling: Sampling
) -> list[int]:
    """The tokens that follow `context`: the drafts that stand, then one that the target chose (never empty).

    logits: float32 [len(drafts) + 1, vocab], row i after context + drafts[:i]; `proofs`: of each draft, what it was
    drawn from. Random numbers depend on the seed and the position alone.
    """
    text = list(context)
    for row, draft, proof in zip(logits[:-1], drafts, proofs, strict=True):
        target = _distribution(row, text, sampling)
        claimed = proof.probability(draft)
        if not _uniform(text, sampling, ACCEPTING) * claimed < float(target[draft]):
            return [*text[len(context) :], _instead(target, proof, _uniform(text, sampling, REPLACING))]
        text.append(draft)
    target = _distribution(logits[-1], text, sampling)
    return [*text[len(context) :], _drawn(target, _uniform(text, sampling, REPLACING))]


def _distribution(logits: Tensor, context: Sequence[int], sampling: Sampling) -> Tensor:
    """The target's, float64 [vocab]."""
    scores, ids = scores_of(logits, context, sampling)
    nothing = torch.zeros(len(logits), dtype=torch.float64, device=logits.device)
    return nothing.scatter_(0, ids, scores.softmax(-1))


def _instead(target: Tensor, proof: Evidence, place: float) -> int:
    """A token from what the target has more of than was claimed."""
    left = target.clone()
    ids = torch.tensor(proof.ids, device=target.device)
    shares = torch.tensor(proof.weights, dtype=torch.float64, device=target.device) / sum(proof.weights)
    left.index_add_(0, ids, shares, alpha=-1).clamp_(min=0.0)
    # nothing is left only where the two are equal up to rounding: then a rejection has no probability
    return _drawn(left if float(left.sum()) > 0 else target, place)


def _drawn(weights: Tensor, place: float) -> int:
    sums = weights.cumsum(0)
    before = int((sums <= place * float(sums[-1])).sum())
    return before if before < len(weights) else int(weights.nonzero()[-1])  # the place was rounded up to the end


def _uniform(text: Sequence[int], sampling: Sampling, purpose: int) -> float:
    return uniform(sampling.seed, len(text), purpose)
