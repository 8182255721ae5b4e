"""Prompt lookup: what followed the last few tokens when they occurred before (Saxena 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.speculation.calibration import Hint
from swarm.speculation.flight import Flight
from swarm.speculation.tree import NOTHING, DraftTree

_LONGEST = 4  # tokens of a suffix that is looked up
_FARTHEST = 64  # tokens that are taken from where it stood before
_MEMORY = 0.95  # weight of what was known before, against one more token
_AT_FIRST = 0.5  # share of its drafts that stand, until it is known


class NgramDrafter:
    """One chain of drafts, from the text alone."""

    def __init__(self, longest: int = _LONGEST) -> None:
        self._longest = longest
        self._text: list[int] = []
        self._room = 0
        self._found: list[int] | None = None  # None: not looked for yet
        self._right = _AT_FIRST

    def follow(self, text: Sequence[int], room: int) -> None:
        """Learn from how the text went on, and forget what was found for it."""
        if self._found and len(text) > len(self._text) and list(text[: len(self._text)]) == self._text:
            for guess, token in zip(self._found, text[len(self._text) :], strict=False):
                self._right += (1 - _MEMORY) * ((guess == token) - self._right)
                if guess != token:
                    break
        self._text, self._room, self._found = list(text), room, None

    def catch_up(self) -> bool:
        """It has no model that reads."""
        return False

    def grow(self) -> int:
        """Look the text's end up, once."""
        if self._found is not None:
            return 0
        self._found = continuation(self._text, self._longest)[: min(self._room, _FARTHEST)]
        return len(self._found)

    @property
    def promise(self) -> float:
        """It finds all at once."""
        return 1.0 if self._found is None else 0.0

    def chances(self, size: int) -> list[float]:
        """Each draft stands with the same chance, if the one before does."""
        return [self._right ** (i + 1) for i in range(min(size, len(self._found or ())))]

    def tree(self, size: int) -> DraftTree:
        """A chain."""
        return DraftTree.chain((self._found or [])[:size], self.chances(size))

    def more(self, flight: Flight, size: int) -> DraftTree:
        """What it has found is on its way as one chain, whole or as much as was wanted."""
        return NOTHING


class Repeats:
    """What followed the last few tokens when they stood in the text before."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._text: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}  # by a few tokens: the position after where they stood last

    def follow(self, text: Sequence[int]) -> None:
        """Take note of how the text goes on."""
        if list(text[: len(self._text)]) != self._text:
            self._text.clear()
            self._places.clear()
        for position in range(max(len(self._text), 1), len(text)):
            for size in range(1, min(self._longest, position) + 1):
                self._places[tuple(text[position - size : position])] = position
        self._text = list(text)

    def after(self, tokens: Sequence[int]) -> tuple[int, int] | None:
        """What followed the longest end of these tokens that stood in the text before, and how long that is."""
        for size in range(min(self._longest, len(tokens)), 0, -1):
            place = self._places.get(tuple(tokens[-size:]))
            if place is not None:
                return self._text[place], size
        return None


def hint_among(
    choices: list[int], scores: list[float], found: tuple[int, int] | None, vocab_size: int, most: int
) -> Hint | None:
    """What `Repeats.after` has found, as one of a draft's choices: it may have to become one, unless these are all that
    can come, for they are fewer than the `most` that were asked for."""
    if found is None or found[0] >= vocab_size:
        return None
    token, length = found
    if token not in choices:
        if len(choices) < most:
            return None
        choices.append(token)
        scores.append(scores[-1])
    return Hint(choices.index(token), length)


def continuation(text: Sequence[int], longest: int) -> list[int]:
    """What followed the latest earlier occurrence of the longest suffix, of at most `longest` tokens, that has one."""
    for size in range(min(longest, len(text) - 1), 0, -1):
        suffix = list(text[-size:])
        for start in range(len(text) - size - 1, -1, -1):
            if list(text[start : start + size]) == suffix:
                return list(text[start + size :])
    return []
