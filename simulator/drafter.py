"""A drafter that replays what a draft thought of a text: its tree grows as the real one's does, without a model.

Tokens are numbered by their positions (see `texts.following`). Where the tree leaves the text, the draft goes on as it
would somewhere else in it: what it thinks there never stands, but takes its share of the drafts that are sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.drafting.growth import AT_ONCE, MAX_NODES, Growth, Node
from swarm.speculation.calibration import Calibration
from swarm.speculation.flight import Flight
from swarm.speculation.trace import CHOICES, Row
from swarm.speculation.tree import DraftTree

_STRIDE, _SHIFT = 31, 7  # lead from one row of the text to another one
_OTHERS = tuple(range(-1, -CHOICES - 2, -1))  # what a draft may take for a token


class ReplayDrafter:
    """Of one request; `drafting.Drafter`."""

    def __init__(self, prompt_tokens: int, rows: Sequence[Row], width: int, calibration: Calibration) -> None:
        """`rows`: of each new token, at least one; `width`, `calibration`: as a ModelDrafter has them."""
        self._prompt_tokens = prompt_tokens
        self._rows = rows
        self._at_once = AT_ONCE if width > 1 else 1
        self._growth = Growth(width, calibration)
        self._length = 0  # of the text

    def follow(self, text: Sequence[int], room: int) -> None:
        """Keep what is known of this text, and of what may follow."""
        self._growth.limit(room)
        if not self._length:
            self._growth.plant(text[-1])
        elif len(text) > self._length:
            self._growth.advance(text[self._length :])
        self._length = len(text)

    def catch_up(self) -> bool:
        """It has no model that reads."""
        return False

    def grow(self) -> int:
        """Work the likeliest open nodes out."""
        if self._growth.num_worked_out >= MAX_NODES:
            return 0
        nodes = self._growth.pick(self._at_once)
        for node in nodes:
            self._work_out(node)
        return len(nodes)

    @property
    def promise(self) -> float:
        """The chance of the likeliest open node."""
        return 0.0 if self._growth.num_worked_out >= MAX_NODES else self._growth.promise

    def chances(self, size: int) -> list[float]:
        """Of the best nodes."""
        return self._growth.chances(size)

    def tree(self, size: int) -> DraftTree:
        """The best nodes."""
        return self._growth.tree(size)

    def more(self, flight: Flight, size: int) -> DraftTree:
        """The best nodes that are not on their way."""
        return self._growth.more(flight, size)

    def _work_out(self, node: Node) -> None:
        is_text = node.token >= 0
        if is_text:
            node.slot = (node.token + 1 - self._prompt_tokens) % len(self._rows)
        else:
            before = node.parent.slot if node.parent else 0
            node.slot = (_STRIDE * before - node.token * _SHIFT) % len(self._rows)
        row = self._rows[node.slot]
        choices = [*_OTHERS[: len(row.scores)]]
        if is_text and row.taken >= 0:
            choices[row.taken] = node.token + 1
        self._growth.work_out(node, choices, row.scores, row.known_hint)
