"""Trees of drafts: several ways in which a text may go on, verified in one trip.

Nodes are numbered so that a parent comes before its children; the parent -1 is the text's newest token. The *trunk*
are the first nodes, as far as each follows the one before: a chain is all trunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import msgspec

from swarm.speculation.evidence import MAX_WEIGHT, Evidence

ROOT = -1


def depths(parents: Sequence[int]) -> list[int]:
    """Edges from a child of the root, 0, to each node."""
    found: list[int] = []
    for parent in parents:
        found.append(0 if parent == ROOT else found[parent] + 1)
    return found


def trunk(parents: Sequence[int]) -> int:
    """How many nodes the trunk has."""
    for node, parent in enumerate(parents):
        if parent != node - 1:
            return node
    return len(parents)


def branching(parents: Sequence[int]) -> tuple[int, ...]:
    """The nodes that have drafts behind them, in order; the root is the first."""
    return tuple(sorted(set(parents)))


class DraftTree(msgspec.Struct, frozen=True, dict=True):
    """What a drafter proposes."""

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    """Of each node."""
    chances: tuple[float, ...] = ()
    """How likely it is, as far as the drafter knows, that each node stands, and so all on the way to it."""
    proofs: tuple[Evidence, ...] = ()
    """For the rule `rejection`, what each was drawn from."""
    views: tuple[Evidence, ...] = ()
    """For the rule `semantic`, of each branching node, what the drafter holds of what follows it."""

    @classmethod
    def chain(cls, tokens: Sequence[int], chances: Sequence[float] = ()) -> DraftTree:
        """Each token follows the one before."""
        return cls(tuple(tokens), tuple(range(-1, len(tokens) - 1)), tuple(chances))

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def is_chain(self) -> bool:
        """Whether it has one branch alone."""
        return trunk(self.parents) == len(self)

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """The proofs; of a guess that no chance had a part in, itself alone."""
        return self.proofs or tuple(Evidence((token,), (MAX_WEIGHT,)) for token in self.tokens)

    def cut(self, size: int) -> DraftTree:
        """Its first `size` nodes."""
        if size >= len(self.tokens):
            return self
        kept = set(self.parents[:size])
        views = tuple(view for node, view in zip(branching(self.parents), self.views, strict=False) if node in kept)
        return DraftTree(self.tokens[:size], self.parents[:size], self.chances[:size], self.proofs[:size], views)


NOTHING = DraftTree()
"""No drafts: plain decoding."""
