"""The measured figures of a pair, as plain data."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often the draft's greedy token is the target's, as shares 0..1."""

    forced: float  # at every position of held-out text
    own: float  # along the target's own greedy continuations of held-out prompts
    tokens_per_round: (
        float  # those continuations' length over the target passes needed, drafting 8 tokens at a time
    )


@dataclass(frozen=True, slots=True)
class Repetition:
    """Mean share of repeated 8-grams in texts of 128 tokens, 0..1."""

    written: float  # greedy continuations of held-out code
    real: float  # what that code really goes on with
    humaneval: float | None  # greedy continuations of HumanEval prompts, where that file is present


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that the model card states as measured; losses are (target, draft) in nats per token, by domain."""

    target_parameters: int
    draft_parameters: int
    losses: dict[str, tuple[float, float]]
    agreement: dict[str, Agreement]
    accuracy: float
    num_problems: int
    repetition: Repetition

    @property
    def cost_ratio(self) -> float:
        """The draft's cost as a share of the target's."""
        return self.draft_parameters / self.target_parameters

    @property
    def overall(self) -> Agreement:
        """Agreement averaged over the domains, each counting the same."""
        rows, count = list(self.agreement.values()), len(self.agreement)
        return Agreement(
            sum(row.forced for row in rows) / count,
            sum(row.own for row in rows) / count,
            sum(row.tokens_per_round for row in rows) / count,
        )

    def as_dict(self) -> dict[str, object]:
        """For printing as JSON."""
        return {**asdict(self), "overall": asdict(self.overall), "cost_ratio": self.cost_ratio}
