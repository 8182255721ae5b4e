"""A half-open range of a model's layers."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.errors import UsageError

MAX_LAYERS = 10_000
"""Of a model."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Layers `start` up to, not including, `end`; layer 0 comes right after the embeddings."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise UsageError(f"layers {self.start}:{self.end} are no span: 0 <= start < end is needed")

    @classmethod
    def parse(cls, text: str) -> Span:
        """Read `A:B`. Raises UsageError if it is anything else."""
        start, colon, end = text.partition(":")
        if not (colon and start.strip().isdecimal() and end.strip().isdecimal()):
            raise UsageError(f"cannot read layers {text!r}: write them as A:B, for example 0:8")
        return cls(int(start), int(end))

    def __len__(self) -> int:
        return self.end - self.start

    def __contains__(self, other: Span) -> bool:
        return self.start <= other.start and other.end <= self.end

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"
