"""What drafters ask about two texts."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many first tokens are equal."""
    for i, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return i
    return min(len(ours), len(theirs))
