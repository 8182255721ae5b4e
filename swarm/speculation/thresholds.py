"""How lenient the rule `semantic` may be: what settings have cost and brought, and which of them to take. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from swarm.speculation.semantic import Leniency

LADDER = (
    Leniency(tau=0.3, entropy=0.5, difference=0.3, disagreement=0.7),
    Leniency(tau=0.5, entropy=0.6, difference=0.5, disagreement=0.8),
    Leniency(tau=0.7, entropy=0.75, difference=0.7, disagreement=0.9),
    Leniency(tau=1.0, entropy=0.85, difference=0.8, disagreement=0.95),
    Leniency(tau=1.0, entropy=0.95, difference=0.95, disagreement=1.0),
    Leniency(tau=1.0, entropy=1.0, difference=1.0, disagreement=1.0),
)
"""What is tried: from the strictest setting to one that leaves all to the draft."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting, over the prompts so far."""

    leniency: Leniency | None
    """None: the rule `match`."""
    asked: int = 0
    right: int = 0
    tokens: int = 0
    verdicts: int = 0
    seconds: float = 0.0

    def with_answer(self, is_right: bool, tokens: int, verdicts: int, seconds: float) -> Trial:
        """One prompt more."""
        return replace(
            self,
            asked=self.asked + 1,
            right=self.right + is_right,
            tokens=self.tokens + tokens,
            verdicts=self.verdicts + verdicts,
            seconds=self.seconds + seconds,
        )

    @property
    def accuracy(self) -> float:
        """Per cent of the answers that are right."""
        return 100 * self.right / self.asked

    @property
    def per_verdict(self) -> float:
        """Tokens."""
        return self.tokens / self.verdicts

    @property
    def speed(self) -> float:
        """Tokens per second, over whole generations."""
        return self.tokens / self.seconds


def boldest(match: Trial, trials: Sequence[Trial], loss: float) -> Trial | None:
    """The last of the trials, which go from strict to bold, up to which none loses more than `loss` points of accuracy
    against `match`; None if the first one does."""
    chosen = None
    for trial in trials:
        if match.accuracy - trial.accuracy > loss:
            break
        chosen = trial
    return chosen
