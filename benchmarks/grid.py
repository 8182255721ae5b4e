"""The embedded pair in every setting, over a grid of swarms, links and temperatures: cells, and what they say. Pure.

All settings of a cell take turns, prompt by prompt, so that their ratios are of one hour of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from benchmarks.bar import Bar
from benchmarks.figures import repeated_ngrams

Settings = Mapping[str, Mapping[str, Any]]
"""By name, the options of a generation."""

SETTINGS: Settings = {
    "plain": {"window": 0},
    "chain of 4": {"window": 4, "tree": False, "in_flight": 1},
    "chain of 8": {"window": 8, "tree": False, "in_flight": 1},
    "tree of 16": {"window": 16, "in_flight": 1},
    "tree of 32": {"window": 32, "in_flight": 1},
    "auto, one in flight": {"in_flight": 1},
    "auto": {},
}
CHAINS = ("chain of 4", "chain of 8")
FIXED = (*CHAINS, "tree of 16", "tree of 32")

SPEED = Bar("4 peers, 25 ms, T 0: auto against plain", 3.5, "x", is_floor=True)
SPEED_CHAINS = Bar("4 peers, 25 ms, T 0: auto against the best chain of fixed length", 1.25, "x", is_floor=True)
SPEED_FAR = Bar("4 peers, 100 ms, T 0: auto against plain", 4.0, "x", is_floor=True)
SPEED_SAMPLED = Bar("4 peers, 25 ms, T 0.8: auto against plain", 2.8, "x", is_floor=True)
WORST_PLAIN = Bar("any cell: auto against plain", 0.97, "x", is_floor=True)
WORST_FIXED = Bar("any cell: auto against the best fixed setting", 0.93, "x", is_floor=True)
EXACT = Bar("texts that are those of plain decoding", 100, "%", is_floor=True)
BARS = (SPEED, SPEED_CHAINS, SPEED_FAR, SPEED_SAMPLED, WORST_PLAIN, WORST_FIXED, EXACT)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cell was measured."""

    peers: int
    delay_ms: float
    """One way, between any two hosts."""
    rate_mbit: float | None
    """Upload of each host; None: unlimited."""
    temperature: float


@dataclass(frozen=True)
class Cell:
    """One setting at one place, over all prompts."""

    place: Place
    setting: str
    tokens_per_second: float
    """Over whole generations: opening the chain and the prefill count."""
    per_verdict: float
    """Tokens."""
    drafted: float
    """Drafts sent for a verdict."""
    trip_ms: float
    """Median wait for a verdict, after the first."""
    compute_ms: float
    """Median of what the stages computed for it, together."""
    bytes_per_token: float
    """On all links, IP headers included."""
    exact: float
    """Share of the texts that are those of plain decoding."""
    repeated: float
    """Share of 8-grams in the new tokens that occurred before in the same text: a looping text flatters drafts."""


def cell(
    place: Place,
    setting: str,
    results: Sequence[Mapping[str, Any]],
    plain: Sequence[Mapping[str, Any]],
    carried: int,
) -> Cell:
    """Figures of the generations `results`, beside those that have the right texts; `carried`: bytes on all links."""
    tokens = sum(len(result["token_ids"]) for result in results)
    verdicts = sum(result["rounds"] for result in results)
    seconds = sum(result["seconds"] for result in results)
    return Cell(
        place=place,
        setting=setting,
        tokens_per_second=tokens / seconds,
        per_verdict=tokens / verdicts,
        drafted=sum(result["drafted"] for result in results) / verdicts,
        trip_ms=1e3 * median(_after_the_first(results, "trip_seconds")),
        compute_ms=1e3 * median(_after_the_first(results, "compute_seconds")),
        bytes_per_token=carried / tokens,
        exact=mean(one["token_ids"] == other["token_ids"] for one, other in zip(results, plain, strict=True)),
        repeated=mean(repeated_ngrams(result["token_ids"]) for result in results),
    )


def figures(cells: Sequence[Cell]) -> dict[Bar, float]:
    """What the cells say of each bar, as far as they do."""
    by_place: dict[Place, dict[str, Cell]] = {}
    for one in cells:
        by_place.setdefault(one.place, {})[one.setting] = one
    found: dict[Bar, float] = {EXACT: 100 * mean(one.exact for one in cells)}
    for bar, delay, temperature in ((SPEED, 25, 0), (SPEED_FAR, 100, 0), (SPEED_SAMPLED, 25, 0.8)):
        at = by_place.get(Place(4, delay, None, temperature))
        if at is not None:
            found[bar] = _ratio(at, ["plain"])
    at = by_place.get(Place(4, 25, None, 0))
    if at is not None:
        found[SPEED_CHAINS] = _ratio(at, CHAINS)
    found[WORST_PLAIN] = min(_ratio(at, ["plain"]) for at in by_place.values())
    found[WORST_FIXED] = min(_ratio(at, FIXED) for at in by_place.values())
    return found


def _ratio(at: Mapping[str, Cell], others: Sequence[str]) -> float:
    """The speed of `auto` against the best of other settings."""
    return at["auto"].tokens_per_second / max(at[name].tokens_per_second for name in others)


def _after_the_first(results: Sequence[Mapping[str, Any]], key: str) -> Iterator[float]:
    return (seconds for result in results for seconds in result[key][1:])
