"""What a client has told the last hop of its drafts, under the rule `semantic`, until their rounds are there.

It comes straight from the client, before its round comes through the chain. A round of which nothing was told, or what
does not fit its drafts, is judged all the same, by the target alone: nothing waits, whatever was lost on the way.
"""

from __future__ import annotations

from swarm.speculation.evidence import Evidence
from swarm.speculation.tree import branching
from swarm.wire import Round, Views

_MOST = 16  # rounds that are told of ahead; the oldest are forgotten


class Told:
    """Of one session's rounds."""

    def __init__(self) -> None:
        self._views: dict[int, tuple[Evidence, ...]] = {}  # by round

    def __len__(self) -> int:
        return len(self._views)

    def keep(self, message: Views) -> None:
        """Take note of what was told of a round."""
        self._views[message.number] = tuple(map(Evidence, message.ids, message.weights))
        for number in sorted(self._views)[:-_MOST]:
            del self._views[number]

    def of(self, round: Round) -> dict[int, Evidence]:
        """By branching node, what was told of this round; of rounds before it nothing is kept any more."""
        views = self._views.get(round.number, ()) if round.judged else ()
        for number in [number for number in self._views if number < round.number]:
            del self._views[number]
        nodes = branching(round.parents or range(-1, round.num_drafts - 1))
        return dict(zip(nodes, views, strict=True)) if len(nodes) == len(views) else {}
