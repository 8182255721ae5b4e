"""What a generation brought, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from client import metrics
from client.audit import Suspect
from swarm.span import Span
from swarm.speculation.cost import Figures

FinishReason = Literal["stop", "length", "context"]
"""Why a text ends: by an end token, at max_new_tokens, or because the model's context is full."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One verdict."""

    drafted: int
    """Drafts that were sent for it, ..."""
    accepted: int
    """... and those that stood."""
    seconds: float
    """Since the one before, or since the start: what was not hidden of drafting, and the trip."""


@dataclass
class Statistics:
    """What a generation cost; times in seconds."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    draft_seconds: float = 0.0
    """Before rounds were sent; of the first one, opening the chain as well, if that took longer."""
    trip_seconds: list[float] = field(default_factory=list)
    """Of each verdict, how long it was waited for: from sending its round, or, where that was on its way, from the
    verdict before. Opening the chain may be hidden behind the first drafts."""
    compute_seconds: list[float] = field(default_factory=list)
    """Of each round, what its stages computed, added up."""
    verdicts: list[Judged] = field(default_factory=list)

    def count(
        self,
        tokens: int,
        drafted: int,
        accepted: int,
        *,
        draft_seconds: float,
        trip_seconds: float,
        compute_seconds: float,
    ) -> None:
        """Take note of a verdict of so many tokens, and of the drafts that were sent before it."""
        self.rounds += 1
        self.drafted += drafted
        self.accepted += accepted
        self.draft_seconds += draft_seconds
        self.trip_seconds.append(trip_seconds)
        self.compute_seconds.append(compute_seconds)
        self.verdicts.append(Judged(drafted, accepted, draft_seconds + trip_seconds))
        metrics.TOKENS.inc(tokens)
        metrics.DRAFTED.inc(drafted)
        metrics.ACCEPTED.inc(accepted)
        metrics.TRIP_SECONDS.observe(trip_seconds)


@dataclass(frozen=True)
class Result:
    """A finished generation."""

    text: str
    token_ids: list[int]
    """The new tokens."""
    finish_reason: FinishReason | None
    """None if the text has not come to its end."""
    prompt_tokens: int
    seed: int
    rounds: int
    drafted: int
    accepted: int
    seconds: float
    first_token_seconds: float
    tokens_per_second: float
    reroutes: int
    """How often peers of the chain were replaced, ..."""
    stall_seconds: float
    """... and how much longer the trips in question took than the others."""
    audits: int
    """How often the text was judged again by other peers, ..."""
    audits_skipped: int
    """... how often that was due and not possible, ..."""
    suspects: list[Suspect]
    """... and the peers of the chain that were found wrong, or of the others that judged it."""
    chain: list[tuple[str, Span]]
    """Peer id and layers of each hop of the last chain."""
    drafted_at: str | None
    """The peer that drafted last, and chose the chain; None: this client."""
    bytes_sent: int
    bytes_received: int
    evidence_bytes: int
    """Of those sent, what told the last hop which choices drafts were drawn from."""
    draft_seconds: float
    trip_seconds: list[float]
    compute_seconds: list[float]
    verdicts: list[Judged]
    cost: Figures
    """By which it was decided how much to draft."""
