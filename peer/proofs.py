"""What the drafts of a session's newest round were drawn from, at the last hop under the rule `rejection`. Pure.

Its law: a part tells of the drafts from `first` on, in place of what was known of those; what is about an older round,
or leaves a gap, is passed over: the client sends all anew, with the round, when it misses the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.speculation.evidence import Evidence
from swarm.wire import Proofs, Round


@dataclass(frozen=True, slots=True)
class Proven:
    """So far."""

    number: int = -1
    """Of the round."""
    evidence: tuple[Evidence, ...] = ()
    """Of its first drafts."""

    def with_part(self, part: Proofs) -> Proven:
        """As it is with another message."""
        known = self.evidence if part.number == self.number else ()
        if part.number < self.number or part.first > len(known):
            return self
        return Proven(part.number, (*known[: part.first], *map(Evidence, part.ids, part.weights)))

    @property
    def num_choices(self) -> int:
        """Of all drafts together."""
        return sum(len(one.ids) for one in self.evidence)

    def lacks(self, round: Round) -> bool:
        """Whether more has to come before a round can be judged."""
        return (self.number, len(self.evidence)) < (round.number, round.num_drafts)

    def of(self, round: Round) -> tuple[Evidence, ...]:
        """Of each draft; none, where newer ones have come already."""
        return self.evidence[: round.num_drafts] if round.judged and round.number == self.number else ()
