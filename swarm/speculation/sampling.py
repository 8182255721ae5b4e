"""From logits to a token: what processors make of them, temperature, top-k, top-p, and the seeded choice.

The order is that of transformers' generate: processors, temperature, top-k, top-p, draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from swarm.speculation.noise import gumbel
from swarm.speculation.processors import MAX_ENDS, Length, Processors, TokenId

if TYPE_CHECKING:
    from swarm.speculation.shaping import Shaper

_FIELD = 4096  # tokens that a drafter has take part in a contest


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, dict=True):
    """How tokens are drawn. Temperature 0 is greedy; top_k 0 and top_p 1 leave the distribution whole."""

    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    top_k: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    processors: Processors | None = None
    """What shapes the logits first; None: nothing. This is what they must know of the text:"""
    prompt_tokens: Length = 0
    max_length: Length = 0
    """Tokens that it may have, with the prompt's."""
    eos_token_id: Annotated[tuple[TokenId, ...], Meta(max_length=MAX_ENDS)] = ()
    """Tokens that end it."""

    @property
    def kind(self) -> Sampling:
        """What is common to texts that are drawn in the same way."""
        return msgspec.structs.replace(self, seed=0, prompt_tokens=0, max_length=0)

    @property
    def top_token(self) -> int:
        """The greatest token id that is named; -1 if none is."""
        return max(self.processors.top_token if self.processors else -1, *self.eos_token_id, -1)

    @cached_property
    def shaper(self) -> Shaper | None:
        """Carries the processors out; None if there are none. It is the torch thread's."""
        if self.processors is None:
            return None
        from swarm.speculation.shaping import Shaper  # transformers' classes take a second to load

        return Shaper(self.processors, self.prompt_tokens, self.max_length, self.eos_token_id)


def shaped(logits: Tensor, context: Sequence[int], sampling: Sampling) -> Tensor:
    """What the processors make of the logits [vocab] after `context`; without any, the very same."""
    shaper = sampling.shaper
    return logits if shaper is None else shaper.shape(logits, context)


def choose(logits: Tensor, context: Sequence[int], following: Sequence[int], sampling: Sampling) -> list[int]:
    """The token after `context`, after context + following[:1], ... : one for each row of `logits`.

    logits: float32 [n, vocab] with n = len(following) + 1, row i computed after context + following[:i].
    """
    if sampling.processors is not None:
        texts = ([*context, *following[:i]] for i in range(len(logits)))
        logits = torch.stack([shaped(row, text, sampling) for row, text in zip(logits, texts, strict=True)])
    if sampling.temperature == 0.0:
        return list[int](logits.argmax(-1).tolist())
    return [_draw(row, len(context) + i, sampling) for i, row in enumerate(logits)]


def lead(logits: Tensor, context: Sequence[int], token: int, sampling: Sampling) -> float:
    """By how much the choice after `context` beats `token`: 0 if it is the choice itself, little for a near tie.

    In standard deviations of the logits [vocab], before the temperature and all processors.
    """
    spread = max(1e-30, float(logits[logits.isfinite()].double().std()))
    logits = shaped(logits, context, sampling).double()
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
    """Whose softmax is what is drawn from after `context`: of one row [vocab], what processors, temperature (above 0),
    top-k and top-p leave, float64 [m], and their token ids."""
    logits = shaped(logits, context, sampling)
    return narrow((logits.double() - logits.max()) / sampling.temperature, sampling)


def contest(
    logits: Tensor, context: Sequence[int], sampling: Sampling, count: int
) -> tuple[list[int], list[float]]:
    """The `count` tokens that are nearest to being chosen after `context`, the choice first, and their scores: fewer,
    if no more can be chosen.

    The choice is the token of the greatest score: logits [vocab] over the temperature, and the noise. Of a large
    vocabulary those that are likeliest without noise are looked at.
    """
    return contests(logits[None], [context], sampling, count)[0]


def contests(
    logits: Tensor, contexts: Sequence[Sequence[int]], sampling: Sampling, count: int
) -> list[tuple[list[int], list[float]]]:
    """The contest in each row of `logits` [n, vocab], after a context of its own."""
    if sampling.processors is not None:
        logits = torch.stack([shaped(row, text, sampling) for row, text in zip(logits, contexts, strict=True)])
    if sampling.temperature == 0.0:
        scores, ids = (best.tolist() for best in logits.topk(min(count, logits.shape[-1])))
        found = [_settled(*contest) for contest in zip(logits, ids, scores, strict=True)]
    else:
        found = [_noisy(row, len(text), sampling, count) for row, text in zip(logits, contexts, strict=True)]
    return [_possible(*contest) for contest in found]


def _settled(logits: Tensor, ids: list[int], scores: list[float]) -> tuple[list[int], list[float]]:
    """The best tokens by one row [vocab]; of equal ones, that which is chosen is the first."""
    if len(ids) > 1 and scores[0] == scores[1]:
        first = int(logits.argmax())
        ids = [first, *(token for token in ids if token != first)][: len(ids)]
    return ids, scores


def _noisy(logits: Tensor, position: int, sampling: Sampling, count: int) -> tuple[list[int], list[float]]:
    """The best tokens by one row [vocab] with temperature and noise."""
    known = torch.arange(len(logits), device=logits.device) if len(logits) <= _FIELD else logits.topk(_FIELD)[1]
    narrowed, left = narrow((logits[known].double() - logits.max()) / sampling.temperature, sampling)
    scores, best = (narrowed + gumbel(sampling.seed, position, known[left])).topk(min(count, len(narrowed)))
    return known[left[best]].tolist(), scores.tolist()


def _possible(ids: list[int], scores: list[float]) -> tuple[list[int], list[float]]:
    """Those of the tokens, the best first, that can be chosen at all."""
    while scores and scores[-1] == -torch.inf:
        ids, scores = ids[:-1], scores[:-1]
    return ids, scores


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
