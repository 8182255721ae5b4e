"""Which drafted tokens stand: the rule `match`.

At every position the target's own token is drawn with the seeded noise; a drafted token stands if it is that very
token. So the text depends on seed and prompt alone, whoever drafts, however far, over however many peers.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from swarm.speculation.sampling import Sampling, choose


def match(logits: Tensor, context: Sequence[int], drafts: Sequence[int], sampling: Sampling) -> list[int]:
    """The tokens that follow `context`: the drafts that stand, then the target's own next one (never empty).

    logits: float32 [len(drafts) + 1, vocab]; row i was computed after context + drafts[:i].
    """
    own = choose(logits, context, drafts, sampling)
    accepted = 0
    while accepted < len(drafts) and drafts[accepted] == own[accepted]:
        accepted += 1
    return own[: accepted + 1]
