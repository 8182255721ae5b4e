"""A tree of drafts on its way through the chain, as it grows and as verdicts go down it. Pure.

A tree begins with a round that has its newest committed token; later rounds bring more of it, before any verdict is
back. A verdict ends where there is no draft that is the target's own token. If one is on its way, the text goes on with
the round that has it; if none is, what is still on its way is worthless, and another tree must begin.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.speculation.tree import ROOT, DraftTree, trunk


class Flight:
    """What was sent of one tree, and how much of it stands."""

    def __init__(self, number: int, length: int, tree: DraftTree) -> None:
        """The round `number` sends `tree` after a text of `length` tokens."""
        self.length = length
        self.first_number = self.last_number = number
        """Of the rounds that began it, and that brought some of it last."""
        self.accepted: list[int] = []
        """The nodes that stand."""
        self.own: int | None = None
        """The target's own token after them; None before the first verdict."""
        self._trunk = trunk(tree.parents)
        self._numbers: list[int] = []  # by node, of its round
        self._children: dict[tuple[int, int], int] = {}  # by parent and token
        self._add(number, tree)

    def __len__(self) -> int:
        return len(self._numbers)

    def extend(self, number: int, more: DraftTree) -> None:
        """The round `number` sends more of it; the parents of `more` are numbered as the whole tree is."""
        self.last_number = number
        self._add(number, more)

    def child(self, node: int, token: int) -> int | None:
        """The node with this token after another one; ROOT is the newest token of the text before the tree."""
        return self._children.get((node, token))

    @property
    def root(self) -> int | None:
        """The node of the committed text's newest token; None if that is not on its way."""
        if self.own is None:
            return ROOT
        return self.child(self.accepted[-1] if self.accepted else ROOT, self.own)

    @property
    def number(self) -> int | None:
        """Of the round whose verdict tells how the text goes on; None if none on its way does."""
        root = self.root
        return None if root is None or root == ROOT else self._numbers[root]

    def judges(self, text: Sequence[int]) -> bool:
        """Whether a verdict on what follows this text is on its way."""
        is_ours = len(text) == self.length + len(self.accepted) + 1 and text[-1] == self.own
        return is_ours and self.root is not None

    def advance(self, verdict: Sequence[int]) -> bool:
        """Go down the tree by a verdict's tokens; False, and nothing has changed, if they do not fit it."""
        here = self.root
        if here is None:
            return False
        nodes = [] if here == ROOT else [here]
        for token in verdict[:-1]:
            node = self.child(here, token)
            if node is None:
                return False
            here = node
            nodes.append(node)
        self.accepted += nodes
        self.own = verdict[-1]
        return True

    @property
    def settled(self) -> int:
        """One past the last position up to which the text and the first round's trunk are the same."""
        kept = next(
            (i for i, node in enumerate(self.accepted) if i != node or i >= self._trunk), len(self.accepted)
        )
        return self.length + kept

    def _add(self, number: int, tree: DraftTree) -> None:
        for token, parent in zip(tree.tokens, tree.parents, strict=True):
            self._children.setdefault((parent, token), len(self._numbers))
            self._numbers.append(number)
