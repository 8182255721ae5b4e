"""The best length of a chain of drafts in closed form (TK-SLT, arXiv 2509.04576).

With acceptance a per draft, and L the time that one draft takes (to make and to send) in units of a trip,

    E[tokens] = (1 - a^(g+1)) / (1 - a)
    speedup S(g) = E[tokens] / (1 + g L)

It knows one number for all drafts, and chains alone: a generation starts with it, before its own verdicts and trips say
more (`cost`, `calibration`).
"""

from __future__ import annotations

import math

from scipy.special import lambertw


def expected_tokens(acceptance: float, drafts: int) -> float:
    """Tokens that a trip brings: the drafts that stand, and one more."""
    if acceptance == 1.0:
        return drafts + 1.0
    return (1 - acceptance ** (drafts + 1)) / (1 - acceptance)


def speedup(acceptance: float, draft_cost: float, drafts: int) -> float:
    """Tokens per second against those without drafts; `draft_cost` in trips."""
    return expected_tokens(acceptance, drafts) / (1 + drafts * draft_cost)


def best_length(acceptance: float, draft_cost: float) -> int:
    """The number of drafts of greatest speedup, at least one; for 0 < acceptance < 1 and 0 < draft_cost.

    The derivative of S vanishes at g0 = [W(-(1/e) a^(1/L - 1)) + 1] / ln a - 1/L, W being the lower branch of Lambert's
    function. Where a^(1/L) is too small a number for it, W(-x) is ln x - ln(-ln x), near 0.
    """
    log = math.log(acceptance)
    exponent = (1 / draft_cost - 1) * log - 1  # ln of -W's argument
    below = lambertw(-math.exp(exponent), -1).real if exponent > -700 else exponent - math.log(-exponent)
    length = (below + 1) / log - 1 / draft_cost
    if not length >= 1:
        return 1
    low = math.floor(length)
    return max(low, low + 1, key=lambda drafts: speedup(acceptance, draft_cost, drafts))
