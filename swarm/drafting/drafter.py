"""What a drafter is, and the one that drafts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from swarm.speculation.flight import Flight
from swarm.speculation.tree import NOTHING, DraftTree


class Drafter(Protocol):
    """Guesses what follows a text. It belongs to one generation and keeps what it has worked out from round to round.

    All of it runs on the torch thread, one call after another.
    """

    def follow(self, text: Sequence[int], room: int) -> None:
        """From now on guess what follows `text`, at most `room` tokens far."""

    def catch_up(self) -> bool:
        """Read some of a long text that is new; whether more is left of it than `grow` should read at once."""

    def grow(self) -> int:
        """Work on the most promising guess; how many guesses that took, 0 when there is nothing to be done."""

    @property
    def promise(self) -> float:
        """How likely a guess that is not worked out yet can be, at most."""

    def chances(self, size: int) -> list[float]:
        """Of the best `size` guesses so far, the best first."""

    def tree(self, size: int) -> DraftTree:
        """The best `size` guesses so far, the likeliest branch first."""

    def more(self, flight: Flight, size: int) -> DraftTree:
        """The best `size` guesses that are not among the drafts on their way, which have the text's newest token; the
        likeliest first, their parents numbered as in the whole tree."""


READ_TOKENS = 128
"""That are read at once where others wait for the torch thread."""


class NoDrafter:
    """Proposes nothing: plain decoding."""

    promise = 0.0

    def follow(self, text: Sequence[int], room: int) -> None:
        """Any text is the same to it."""

    def catch_up(self) -> bool:
        """It reads nothing."""
        return False

    def grow(self) -> int:
        """There is never anything to be done."""
        return 0

    def chances(self, size: int) -> list[float]:
        """Of no guesses."""
        return []

    def tree(self, size: int) -> DraftTree:
        """The empty one."""
        return NOTHING

    def more(self, flight: Flight, size: int) -> DraftTree:
        """No more either."""
        return NOTHING
