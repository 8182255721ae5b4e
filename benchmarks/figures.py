"""From generations to figures of their trips. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Trips:
    """Figures of generations one after the other."""

    tokens_per_second: float
    """Over whole generations: opening the chain and the prefill count."""
    trip_ms: float
    """Median of the trips after the first."""
    compute_ms: float
    """Median of what the stages of a trip computed."""


def trips(results: Sequence[Mapping[str, Any]]) -> Trips:
    """Of these generations."""
    return Trips(
        tokens_per_second=sum(len(one["token_ids"]) for one in results) / sum(one["seconds"] for one in results),
        trip_ms=1e3 * median(seconds for one in results for seconds in one["trip_seconds"][1:]),
        compute_ms=1e3 * median(seconds for one in results for seconds in one["compute_seconds"][1:]),
    )


def repeated_ngrams(tokens: Sequence[int], size: int = 8) -> float:
    """Share of the n-grams of `size` tokens that occurred earlier in the same text; 0 for a shorter one."""
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
