"""Which drafted tokens stand: the rule `match`.

At every position the target's own token is drawn with the seeded noise; a drafted token stands if it is that very
token. So the text depends on seed and prompt alone, whoever drafts, whatever tree, over however many peers. Unless it
walks down the tree with the lenience of the rule `semantic` (see there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from swarm.speculation.sampling import Sampling, choose
from swarm.speculation.semantic import Lenience
from swarm.speculation.tree import ROOT


@dataclass(frozen=True, slots=True)
class Walk:
    """How far the target went down a tree."""

    text: tuple[int, ...]
    """With all that stands, and the target's own token after it."""
    node: int = ROOT
    """The last draft that stands."""


def match(
    logits: Tensor,
    context: Sequence[int],
    drafts: Sequence[int],
    sampling: Sampling,
    parents: Sequence[int] = (),
    lenience: Lenience | None = None,
) -> tuple[list[int], list[int]]:
    """The tokens that follow `context`, the drafts that stand and then the target's own next one, and the nodes that
    those drafts are.

    logits: float32 [len(drafts) + 1, vocab]; row 0 was computed after the context, row i + 1 after draft i and what it
    follows. `parents` of a tree of drafts as in `speculation.tree`; none: each follows the one before.
    """
    children = _children(drafts, parents or range(-1, len(drafts) - 1), 0)
    walk, nodes = _walk(Walk(tuple(context)), logits, children, ROOT, sampling, lenience)
    return list(walk.text[len(context) :]), nodes


def go_on(
    walk: Walk,
    logits: Tensor,
    drafts: Sequence[int],
    sampling: Sampling,
    parents: Sequence[int],
    first: int = 0,
    lenience: Lenience | None = None,
) -> tuple[Walk, list[int]]:
    """Walk on where there are more drafts now, the nodes `first`, `first` + 1, ... of the tree; those that stand, too.

    logits: float32 [len(drafts), vocab]; row i was computed after draft i and what it follows.
    """
    children = _children(drafts, parents, first)
    node = children.get(walk.node, {}).get(walk.text[-1])
    if node is None:
        return walk, []
    further, nodes = _walk(Walk(walk.text, node), logits, children, first, sampling, lenience)
    return further, [node, *nodes]


def _walk(
    walk: Walk,
    logits: Tensor,
    children: dict[int, dict[int, int]],
    first: int,
    sampling: Sampling,
    lenience: Lenience | None,
) -> tuple[Walk, list[int]]:
    """Walk on from a node that stands and ends the walk's text; also the nodes behind it that stand.

    Row i of `logits` was computed after node `first` + i; `children`: by parent and token.
    """
    text, nodes, here = list(walk.text), list[int](), walk.node
    while True:
        row, drafted = logits[here - first], children.get(here, {})
        if lenience is not None and drafted:
            token = lenience.token(row, text, sampling, here, drafted)
        else:
            token = choose(row[None], text, [], sampling)[0]
        text.append(token)
        if token not in drafted:
            return Walk(tuple(text), here), nodes
        here = drafted[token]
        nodes.append(here)


def _children(drafts: Sequence[int], parents: Sequence[int], first: int) -> dict[int, dict[int, int]]:
    """Of drafts that are the nodes from `first` on: by parent and token. Of two that are the same, the first counts."""
    children: dict[int, dict[int, int]] = {}
    for i, (token, parent) in enumerate(zip(drafts, parents, strict=True)):
        children.setdefault(parent, {}).setdefault(token, first + i)
    return children
