"""A tree of guesses that grows best first, and takes root anew when the text goes on. Pure.

The value of a node is the product of the chances along its path (see `speculation.calibration`). Whatever is known of
it outlives the round: the part of the tree behind the tokens that were committed is the next tree.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

import msgspec

from swarm.speculation.calibration import Calibration, Hint, Scores
from swarm.speculation.evidence import Evidence
from swarm.speculation.flight import Flight
from swarm.speculation.tree import NOTHING, ROOT, DraftTree

AT_ONCE = 8
"""Nodes of a tree that a model works out in one forward pass."""
MAX_NODES = 256
"""That are worked out and kept."""
_LEAST = 0.004  # chance of a node that is kept
_NO_SCORES = Scores(())


class Node(msgspec.Struct, eq=False):
    """One guess: a token after those of its parents. The root is the text's newest token."""

    token: int
    parent: Node | None = None
    depth: int = 0
    """Nodes before it, from the root on."""
    chance: float = 1.0
    """That it stands, and so all on the way to it."""
    choice: int = 0
    """Which of the parent's choices it is."""
    children: list[Node] = []
    slot: int = -1
    """Where the drafter has it, once it was worked out."""
    choices: Sequence[int] = ()
    """The draft's first choices after it, and their scores, once it was worked out."""
    scores: Scores = _NO_SCORES
    hint: Hint | None = None
    view: Evidence | None = None
    """What the draft holds of what follows it, for the rule `semantic`, once it was worked out."""

    @property
    def is_open(self) -> bool:
        """Whether it is not worked out yet."""
        return not self.choices

    def child(self, token: int) -> Node | None:
        """The child with this token, if there is one."""
        return next((child for child in self.children if child.token == token), None)

    def path(self) -> list[int]:
        """The tokens from below the root to this node."""
        return [*self.parent.path(), self.token] if self.parent else []


_by_chance = attrgetter("chance")

_Ranked = tuple[float, int, Node]
"""A node behind its chance, negative: the likeliest first, and of equals the one that was made first."""


class Growth:
    """The tree behind one text."""

    def __init__(self, width: int, calibration: Calibration) -> None:
        """`width`: most children of a node; 1 makes it a chain. `calibration` knows what is known already."""
        self._width = width
        self._calibration = calibration
        self._room = 0
        self.root = Node(0)
        self.plant(0)

    def plant(self, token: int) -> None:
        """Begin anew with nothing but a root."""
        _let_go(self.root)
        self.root = Node(token)
        self._frontier: list[_Ranked] = []  # a heap of the open nodes
        self._ranked: list[_Ranked] = []  # all nodes below the root, in order
        self._made = 0
        self._push(self.root)
        self.num_worked_out = 0
        """Nodes."""

    def limit(self, room: int) -> None:
        """Guess at most so many tokens far."""
        self._room = room

    @property
    def promise(self) -> float:
        """The chance of the likeliest open node."""
        return -self._frontier[0][0] if self._frontier else 0.0

    def pick(self, count: int) -> list[Node]:
        """Take at most `count` of the likeliest open nodes, to be worked out."""
        return [heapq.heappop(self._frontier)[2] for _ in range(min(count, len(self._frontier)))]

    def work_out(
        self,
        node: Node,
        choices: Sequence[int],
        scores: Sequence[float],
        hint: Hint | None = None,
        view: Evidence | None = None,
    ) -> None:
        """A node's first choices are these, with these scores."""
        node.choices, node.scores, node.hint, node.view = choices, Scores(scores), hint, view
        self.num_worked_out += 1
        self._branch(node)
        for child in node.children:
            insort(self._ranked, self._push(child))

    def advance(self, tokens: Sequence[int]) -> list[Node]:
        """The text goes on by `tokens`: learn from it, and take root at the last of them.

        The nodes that spell them, as far as there are any; if that is not to the end, the tree begins anew.
        """
        here, path = self.root, list[Node]()
        for token in tokens:
            if not here.is_open:
                taken = here.choices.index(token) if token in here.choices else None
                self._calibration.learn(here.scores, taken, here.hint)
            following = here.child(token)
            if following is None:
                self.plant(tokens[-1])
                return path
            for child in here.children:
                if child is not following:
                    _let_go(child)
            here, here.parent = following, None
            path.append(here)
        self.root = here
        self._value_anew()
        return path

    def nodes(self) -> Iterator[Node]:
        """All of them below the root, parents before their children."""
        waiting = [self.root]
        while waiting:
            children = waiting.pop().children
            yield from children
            waiting += children

    def best(self, size: int) -> list[Node]:
        """The `size` likeliest nodes below the root, the likeliest first; each with its parents."""
        return [node for _, _, node in self._ranked[:size]]

    def chances(self, size: int) -> list[float]:
        """Those of the `size` likeliest nodes."""
        return [-key for key, _, _ in self._ranked[:size]]

    def tree(self, size: int) -> DraftTree:
        """The `size` likeliest nodes, each branch behind those that are likelier."""
        wanted = set(self.best(size))
        found: list[Node] = []
        places: dict[Node, int] = {self.root: ROOT}
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            if node is not self.root:
                places[node] = len(found)
                found.append(node)
            waiting += [child for child in reversed(node.children) if child in wanted]
        return _drafts(found, places)

    def more(self, flight: Flight, size: int) -> DraftTree:
        """The `size` likeliest nodes that are not in flight, the likeliest first; nothing if the root is not."""
        if flight.root is None:
            return NOTHING
        numbers: dict[Node, int] = {self.root: flight.root}
        others = list[Node]()
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            for child in node.children:
                number = flight.child(numbers[node], child.token) if node in numbers else None
                if number is None:
                    others.append(child)
                else:
                    numbers[child] = number
                waiting.append(child)
        found = heapq.nlargest(size, others, key=lambda node: node.chance)
        numbers |= {node: len(flight) + i for i, node in enumerate(found)}
        return _drafts(found, numbers)

    def _push(self, node: Node) -> _Ranked:
        """Put an open node on the frontier."""
        ranked = self._rank(node)
        heapq.heappush(self._frontier, ranked)
        return ranked

    def _rank(self, node: Node) -> _Ranked:
        self._made += 1
        return -node.chance, self._made, node

    def _value_anew(self) -> None:
        """All chances from the root on, by what is known now."""
        self.root.chance, self.root.depth = 1.0, 0
        self._frontier.clear()
        self._ranked.clear()
        self.num_worked_out = 0
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            if node.is_open:
                ranked = self._push(node)
            else:
                self.num_worked_out += 1
                self._branch(node)
                waiting += node.children
                ranked = self._rank(node)
            if node is not self.root:
                self._ranked.append(ranked)
        self._ranked.sort()

    def _branch(self, node: Node) -> None:
        """Value the children of a node that is worked out; those likely enough are there afterwards."""
        children = node.children
        if children:
            shares = self._calibration.chances_of([child.choice for child in children], node.scores, node.hint)
            for child, share in zip(children, shares, strict=True):
                child.chance, child.depth = share * node.chance, node.depth + 1
        if len(children) < self._width and node.depth < self._room:
            there = {child.choice for child in children}
            for choice, share in self._calibration.likeliest(node.scores, self._width + len(there), node.hint):
                chance = share * node.chance
                if chance < _LEAST or len(children) == self._width:
                    break
                if choice not in there:
                    children.append(Node(node.choices[choice], node, node.depth + 1, chance, choice))
        if len(children) > 1:
            children.sort(key=_by_chance, reverse=True)


def _let_go(node: Node) -> None:
    """Have a node, and those below it, no longer hold each other: their memory is free at once, and not when a garbage
    collection finds them."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        node.parent = None
        waiting += node.children


def _drafts(nodes: Sequence[Node], numbers: Mapping[Node, int]) -> DraftTree:
    """These nodes as drafts, numbered as they and their parents are."""
    parents = tuple([numbers[node.parent] for node in nodes if node.parent])
    tokens, chances = tuple([node.token for node in nodes]), tuple([node.chance for node in nodes])
    seen = {numbers[node.parent]: node.parent.view for node in nodes if node.parent and node.parent.view}
    return DraftTree(tokens, parents, chances, views=tuple(seen[number] for number in sorted(seen)))
