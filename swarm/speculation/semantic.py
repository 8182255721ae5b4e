"""Which drafted tokens stand: the rule `semantic`, after DSD's adaptive verification (arXiv 2511.11733). It is lossy.

A token that matters is *key*, and is the target's own, as under `match`. Any other is chosen, with the same noise, from
the blend of both models, P~ proportional to P_target^(1 - tau) * P_draft^tau, unless the walk down the tree would end
with it and would go on with the target's own. So the text depends on what was drafted when.

The paper names three scores, any of which makes a token key, and gives no formulas; these are ours. p is the target's
distribution after the text, as the sampling shapes it (a greedy choice is graded by the model's own, at temperature 1);
S is the support of the draft's `Evidence`, its few likeliest tokens, and q what it says of them; p_S is p on S, of sum
1; x is the token that would stand. All scores lie between 0, nothing speaks against it, and 1.

    entropy       1 - H(p_S) / H(p_S, q), from the entropy of p_S and its cross-entropy with q: 0 where both doubt
                  alike, near 1 where the target is sure and the draft is not, or is wrong.
    difference    max p - p(x): by how much likelier the target holds another token.
    disagreement  1 - NormMatch, NormMatch being the sum of min(p, q) over the sum of max(p, q), both over all tokens:
                  what the two have in common, of what either has.

A token is key if any score reaches its threshold: with a threshold of 0 all are, and the text is that of `match`; one
of 1 leaves its score out, but for a certainty.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from swarm.speculation.evidence import MAX_WEIGHT, Evidence
from swarm.speculation.noise import gumbel
from swarm.speculation.sampling import Sampling, choose, scores_of, shaped

CHOICES = 8
"""Tokens of which the draft says how likely it holds them, for each node."""

Share = Annotated[float, Meta(ge=0, le=1)]


class Leniency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How lenient the rule is: the draft's part in the blend, and the thresholds of the scores."""

    tau: Share = 0.3
    entropy: Share = 0.5
    difference: Share = 0.3
    disagreement: Share = 0.7


@dataclass(frozen=True, slots=True)
class Scores:
    """Of a token at its place."""

    entropy: float
    difference: float
    disagreement: float

    def are_key(self, leniency: Leniency) -> bool:
        """Whether any reaches its threshold."""
        return (
            self.entropy >= leniency.entropy
            or self.difference >= leniency.difference
            or self.disagreement >= leniency.disagreement
        )


@dataclass(frozen=True, slots=True)
class Lenience:
    """What a walk down a tree needs to be lenient."""

    leniency: Leniency
    views: Mapping[int, Evidence]
    """By node, what the draft holds of what follows it; where there is none, the rule is `match`."""

    def token(
        self, logits: Tensor, text: Sequence[int], sampling: Sampling, node: int, drafted: Collection[int]
    ) -> int:
        """What follows `text`, which ends with `node`; `drafted` are the drafts behind that. logits: float32 [vocab].

        The target's own choice, if it is key, or drafted where the one from the blend is not; else that one.
        """
        own = choose(logits[None], text, [], sampling)[0]
        view = self.views.get(node)
        if view is None or all(token == own for token in drafted):
            return own
        target = log_shares(logits, text, sampling)
        other = int((blend(target, view, self.leniency.tau) + _noise(target, len(text), sampling)).argmax())
        if other == own or (own in drafted and other not in drafted):
            return own
        return own if scores(target, view, other).are_key(self.leniency) else other


def graded(sampling: Sampling) -> Sampling:
    """Of whose distribution the rule speaks: that of the text, or for greedy choices the model's own."""
    if sampling.temperature:
        return sampling
    return msgspec.structs.replace(sampling, temperature=1.0, top_k=0, top_p=1.0)


def views(logits: Tensor, texts: Sequence[Sequence[int]], sampling: Sampling) -> list[Evidence]:
    """What a draft holds of what follows each of the texts: its CHOICES likeliest tokens, before top-k and top-p.

    logits: float32 [len(texts), vocab]. The likeliest has the weight MAX_WEIGHT; who would have less than 1/2 is left
    out.
    """
    if sampling.processors is not None:
        logits = torch.stack([shaped(row, text, sampling) for row, text in zip(logits, texts, strict=True)])
    best, ids = logits.topk(min(CHOICES, logits.shape[-1]))
    shares = ((best - best[:, :1]) / graded(sampling).temperature).exp()
    told = zip(ids.tolist(), (shares * MAX_WEIGHT).round().int().tolist(), strict=True)
    counts = [(tokens, weights, sum(weight > 0 for weight in weights)) for tokens, weights in told]
    return [Evidence(tuple(tokens[:count]), tuple(weights[:count])) for tokens, weights, count in counts]


def log_shares(logits: Tensor, text: Sequence[int], sampling: Sampling) -> Tensor:
    """ln p of each token but for a constant, float64 [vocab]; -inf of one that is never drawn."""
    left, ids = scores_of(logits, text, graded(sampling))
    whole = torch.full((len(logits),), -torch.inf, dtype=torch.float64, device=logits.device)
    whole[ids] = left
    return whole


def blend(target: Tensor, view: Evidence, tau: float) -> Tensor:
    """ln P~ of each token, from ln p [vocab], but for the same constant.

    On the support S of the view it is proportional to p^(1 - tau) * q^tau, with all of the mass that p has there;
    beside it, it is p. Over the whole vocabulary, with q = 0 beside S, it would lose what only the target thinks of.
    """
    ids, told = _told(view, target)
    here = target[ids]
    mixed = torch.where(here > -torch.inf, (1 - tau) * here + tau * told.log(), here)
    blended = target.clone()
    if torch.isfinite(here).any():
        blended[ids] = mixed - mixed.logsumexp(-1) + here.logsumexp(-1)
    return blended


def scores(target: Tensor, view: Evidence, token: int) -> Scores:
    """Of `token`, from ln p [vocab] but for a constant; see the module."""
    ids, told = _told(view, target)
    shares = target.softmax(-1)
    here = shares[ids]
    mass = float(here.sum())
    difference = float(shares.max() - shares[token])
    if mass == 0.0:
        return Scores(1.0, difference, 1.0)
    inside = here / mass
    own, cross = -torch.special.xlogy(inside, inside).sum(), -torch.special.xlogy(inside, told).sum()
    entropy = max(1 - float(own) / float(cross), 0.0) if cross > 0 else 0.0
    common, either = torch.minimum(here, told).sum(), torch.maximum(here, told).sum() + max(1 - mass, 0.0)
    return Scores(entropy, difference, max(1 - float(common / either), 0.0))


def _noise(target: Tensor, position: int, sampling: Sampling) -> Tensor:
    """That with which the target draws its own token; none if it is greedy. float64 [vocab]."""
    if sampling.temperature == 0.0:
        return torch.zeros_like(target)
    return gumbel(sampling.seed, position, torch.arange(len(target), device=target.device))


def _told(view: Evidence, like: Tensor) -> tuple[Tensor, Tensor]:
    """The ids of the support, int64 [k], and the draft's shares of them, float64 [k]."""
    weights = torch.tensor(view.weights, dtype=torch.float64, device=like.device)
    return torch.tensor(view.ids, device=like.device), weights / weights.sum()
