"""Both rules of acceptance side by side, sampled: the same chain of drafts, and each as it is by default."""

from __future__ import annotations

from typing import Any

from benchmarks.grid import Place

PLACE = Place(peers=4, delay_ms=25.0, rate_mbit=None, temperature=0.8)
_CHAIN: dict[str, Any] = {"window": 4, "tree": False, "in_flight": 1}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"window": 0},
    "match, chain of 4": _CHAIN,
    "rejection, chain of 4": {**_CHAIN, "acceptance": "rejection"},
    "match": {},
    "rejection": {"acceptance": "rejection"},
}
"""By name, the options of a generation."""
