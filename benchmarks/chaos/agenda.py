"""When each act of a scenario is due, by what is seen of the generation. Pure: the director tells it, and asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.chaos.scenarios import Act


@dataclass(frozen=True, slots=True)
class Due:
    """An act and its moment, in seconds by the director's clock."""

    moment: float
    act: Act
    peers: tuple[str, ...] = ()
    """Whom its hops are counted in; nobody: the chain as it is then."""


class Agenda:
    """The acts of one scenario that have not been done yet."""

    def __init__(self, acts: Sequence[Act]) -> None:
        self._waiting = [act for act in acts if act.deed != "kill substitute"]
        self._for_the_mend = [act for act in acts if act.deed == "kill substitute"]
        self._due: list[Due] = []

    @property
    def is_done(self) -> bool:
        """Whether no act is left."""
        return not (self._waiting or self._for_the_mend or self._due)

    @property
    def next_due(self) -> float:
        """When the next act is due, as far as is known."""
        return min((due.moment for due in self._due), default=math.inf)

    def note_text(self, tokens: int, was_rejected: bool, now: float) -> None:
        """The text has so many tokens, and a draft was rejected just now or not."""
        for act in list(self._waiting):
            if tokens >= act.moment.tokens and (was_rejected or not act.moment.rejected):
                self._waiting.remove(act)
                self._due.append(Due(now + act.moment.seconds, act))

    def note_mend(self, substitutes: Sequence[str], now: float) -> None:
        """The chain is being mended by these peers: the first of them is who is killed next, if a substitute is."""
        if self._for_the_mend:
            act = replace(self._for_the_mend.pop(), deed="kill", hops=(0,))
            self._due.append(Due(now + act.moment.seconds, act, tuple(substitutes)))

    def take(self, now: float) -> list[Due]:
        """The acts that are due, the earliest first; they are no longer on the agenda."""
        due = sorted((one for one in self._due if one.moment <= now), key=lambda one: one.moment)
        self._due = [one for one in self._due if one.moment > now]
        return due
