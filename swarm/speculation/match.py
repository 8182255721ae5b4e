"""Which drafted tokens stand: the rule `match`.

At every position the target's own token is drawn with the seeded noise; a drafted token stands if it is that very
token. So the text depends on seed and prompt alone, whoever drafts, whatever tree, over however many peers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from swarm.speculation.sampling import Sampling, choose
from swarm.speculation.tree import ROOT


@dataclass(frozen=True, slots=True)
class Walk:
    """How far the target went down a tree."""

    text: tuple[int, ...]
    """With all that stands, and the target's own token after it."""
    node: int = ROOT
    """The last draft that stands."""


def match(
    logits: Tensor, context: Sequence[int], drafts: Sequence[int], sampling: Sampling, parents: Sequence[int] = ()
) -> tuple[list[int], list[int]]:
    """The tokens that follow `context`, the drafts that stand and then the target's own next one, and the nodes that
    those drafts are.

    logits: float32 [len(drafts) + 1, vocab]; row 0 was computed after the context, row i + 1 after draft i and what it
    follows. `parents` of a tree of drafts as in `speculation.tree`; none: each follows the one before.
    """
    start = Walk((*context, *choose(logits[:1], context, [], sampling)))
    walk, nodes = go_on(start, logits[1:], drafts, sampling, parents or range(-1, len(drafts) - 1))
    return list(walk.text[len(context) :]), nodes


def go_on(
    walk: Walk, logits: Tensor, drafts: Sequence[int], sampling: Sampling, parents: Sequence[int], first: int = 0
) -> tuple[Walk, list[int]]:
    """Walk on where there are more drafts now, the nodes `first`, `first` + 1, ... of the tree; those that stand, too.

    logits: float32 [len(drafts), vocab]; row i was computed after draft i and what it follows.
    """
    children: dict[tuple[int, int], int] = {}
    for i, (token, parent) in enumerate(zip(drafts, parents, strict=True)):
        children.setdefault((parent, token), first + i)
    text, nodes, here = list(walk.text), list[int](), walk.node
    while (node := children.get((here, text[-1]))) is not None:
        here = node
        nodes.append(node)
        text += choose(logits[node - first : node - first + 1], text, [], sampling)
    return Walk(tuple(text), here), nodes
