"""From generations to the figures of one cell of the table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Cell:
    """Figures of all generations with one setting; seconds unless said otherwise."""

    delay_ms: float
    temperature: float
    window: int
    tokens: int
    tokens_per_second: float
    """Over whole generations: opening the chain and the prefill count."""
    tokens_per_trip: float
    trip_ms: float
    """Median of the trips after the first."""
    compute_ms: float
    """Median of what the stages of a trip computed."""
    limit_ms: float
    """(N + 1) one-way delays and the compute: what no software can beat."""
    over_limit: float
    """trip_ms / limit_ms."""
    draft_ms: float
    """Mean waiting for drafts, per trip."""
    bytes_per_token: dict[str, float]
    """On each link, both directions named apart, IP headers included."""
    repeated: float
    """Share of 8-grams in the new tokens that occurred before in the same text: a looping text flatters drafts."""


def cell(
    results: Sequence[Mapping[str, Any]],
    *,
    hops: int,
    delay_ms: float,
    temperature: float,
    window: int,
    traffic: Mapping[str, int],
) -> Cell:
    """Figures of the generations `results`, over `hops` peers; `traffic` is bytes by link."""
    tokens = sum(len(result["token_ids"]) for result in results)
    rounds = sum(result["rounds"] for result in results)
    trips = [seconds for result in results for seconds in result["trip_seconds"][1:]]
    compute = [seconds for result in results for seconds in result["compute_seconds"][1:]]
    trip_ms, compute_ms = median(trips) * 1e3, median(compute) * 1e3
    limit_ms = (hops + 1) * delay_ms + compute_ms
    return Cell(
        delay_ms=delay_ms,
        temperature=temperature,
        window=window,
        tokens=tokens,
        tokens_per_second=tokens / sum(result["seconds"] for result in results),
        tokens_per_trip=tokens / rounds,
        trip_ms=trip_ms,
        compute_ms=compute_ms,
        limit_ms=limit_ms,
        over_limit=trip_ms / limit_ms,
        draft_ms=sum(result["draft_seconds"] for result in results) / rounds * 1e3,
        bytes_per_token={link: count / tokens for link, count in traffic.items()},
        repeated=sum(repeated_ngrams(result["token_ids"]) for result in results) / len(results),
    )


def repeated_ngrams(tokens: Sequence[int], size: int = 8) -> float:
    """Share of the n-grams of `size` tokens that occurred earlier in the same text; 0 for a shorter one."""
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
