"""From logits to a token: penalties, temperature, top-k, top-p, and the seeded choice.

The order is that of transformers' generate: repetition penalty, temperature, top-k, top-p, draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from swarm.speculation.noise import gumbel

_FIELD = 4096  # tokens that a drafter has take part in a contest


class Sampling(msgspec.Struct, frozen=True):
    """How tokens are drawn. Temperature 0 is greedy; top_k 0 and top_p 1 leave the distribution whole."""

    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    top_k: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0


def choose(logits: Tensor, context: Sequence[int], following: Sequence[int], sampling: Sampling) -> list[int]:
    """The token after `context`, after context + following[:1], ... : one for each row of `logits`.

    logits: float32 [n, vocab] with n = len(following) + 1, row i computed after context + following[:i].
    """
    if sampling.repetition_penalty != 1.0:
        logits = penalised(logits, context, following, sampling)
    if sampling.temperature == 0.0:
        return list[int](logits.argmax(-1).tolist())
    return [_draw(row, len(context) + i, sampling) for i, row in enumerate(logits)]


def lead(logits: Tensor, context: Sequence[int], token: int, sampling: Sampling) -> float:
    """By how much the choice after `context` beats `token`: 0 if it is the choice itself, little for a near tie.

    In standard deviations of the logits [vocab], before the temperature.
    """
    if sampling.repetition_penalty != 1.0:
        logits = penalised(logits[None], context, (), sampling)[0]
    logits = logits.double()
    spread = max(float(logits.std()), 1e-30)
    if sampling.temperature == 0.0:
        return float(logits.max() - logits[token]) / spread
    whole = (logits - logits.max()) / sampling.temperature
    scores, ids = narrow(whole, sampling)
    position = len(context)
    best = (scores + gumbel(sampling.seed, position, ids)).max()
    own = whole[token] + gumbel(sampling.seed, position, torch.tensor(token))
    left_out = scores.min() - whole[token]  # by how much top-k or top-p leave the token out
    return max(float(best - own), float(left_out), 0.0) * sampling.temperature / spread


def scores_of(logits: Tensor, context: Sequence[int], sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Whose softmax is what is drawn from after `context`: of one row [vocab], what penalty, temperature (above 0),
    top-k and top-p leave, float64 [m], and their token ids."""
    if sampling.repetition_penalty != 1.0:
        logits = penalised(logits[None], context, (), sampling)[0]
    return narrow((logits.double() - logits.max()) / sampling.temperature, sampling)


def contest(
    logits: Tensor, context: Sequence[int], sampling: Sampling, count: int
) -> tuple[list[int], list[float]]:
    """The `count` tokens that are nearest to being chosen after `context`, the choice first, and their scores.

    The choice is the token of the greatest score: logits [vocab] over the temperature, and the noise. Of a large
    vocabulary those that are likeliest without noise are looked at.
    """
    if sampling.repetition_penalty != 1.0:
        logits = penalised(logits[None], context, (), sampling)[0]
    if sampling.temperature == 0.0:
        scores, ids = logits.topk(min(count, len(logits)))
        return ids.tolist(), scores.tolist()
    first, known = logits.topk(min(_FIELD, len(logits)))
    scores, ids = narrow((first.double() - first[0]) / sampling.temperature, sampling)
    noisy = scores + gumbel(sampling.seed, len(context), known[ids])
    scores, best = noisy.topk(min(count, len(noisy)))
    return known[ids[best]].tolist(), scores.tolist()


def _draw(logits: Tensor, position: int, sampling: Sampling) -> int:
    """Gumbel-max: argmax(logits / T + noise) is a sample of softmax(logits / T). logits: [vocab]."""
    scores, ids = narrow((logits.double() - logits.max()) / sampling.temperature, sampling)
    return int(ids[(scores + gumbel(sampling.seed, position, ids)).argmax()])


def narrow(scores: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """What top-k and top-p leave of one row [vocab]: scores and token ids, [m] each."""
    vocab = scores.shape[-1]
    if 0 < sampling.top_k < vocab:
        scores, ids = scores.topk(sampling.top_k)
    elif sampling.top_p < 1.0:
        scores, ids = scores.sort(descending=True)
    else:
        return scores, torch.arange(vocab, device=scores.device)
    if sampling.top_p < 1.0:
        probabilities = scores.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # mass of the likelier tokens
        count = int((before < sampling.top_p).sum())
        scores, ids = scores[:count], ids[:count]
    return scores, ids


def penalised(logits: Tensor, context: Sequence[int], following: Sequence[int], sampling: Sampling) -> Tensor:
    """Scores of tokens seen before are made less likely (Keskar et al., arXiv 1909.05858); [n, vocab]."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen[:, list(context)] = True
    for row, token in enumerate(following, start=1):
        seen[row:, token] = True
    penalty = sampling.repetition_penalty
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
