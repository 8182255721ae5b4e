"""Which drafted tokens stand: the rule `match`.

At every position the target's own token is drawn with the seeded noise; a drafted token stands if it is that very
token. So the text depends on seed and prompt alone, whoever drafts, whatever tree, over however many peers.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from swarm.speculation.sampling import Sampling, choose
from swarm.speculation.tree import ROOT


def match(
    logits: Tensor, context: Sequence[int], drafts: Sequence[int], sampling: Sampling, parents: Sequence[int] = ()
) -> tuple[list[int], list[int]]:
    """The tokens that follow `context`, the drafts that stand and then the target's own next one, and the nodes that
    those drafts are.

    logits: float32 [len(drafts) + 1, vocab]; row 0 was computed after the context, row i + 1 after draft i and what it
    follows. `parents` of a tree of drafts as in `speculation.tree`; none: each follows the one before.
    """
    children: dict[tuple[int, int], int] = {}
    for node, token in enumerate(drafts):
        children.setdefault((parents[node] if parents else node - 1, token), node)
    text, nodes, here = list(context), list[int](), ROOT
    while True:
        text += choose(logits[here + 1 : here + 2], text, [], sampling)
        following = children.get((here, text[-1]))
        if following is None:
            return text[len(context) :], nodes
        here = following
        nodes.append(here)
