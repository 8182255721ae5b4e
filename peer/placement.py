"""Which layers a new peer should take: the stretch that is served least. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

from swarm.span import Span


def coverage(num_layers: int, spans: Iterable[Span]) -> list[int]:
    """How many of `spans` hold each layer."""
    changes = [0] * (num_layers + 1)  # of the count, from each layer on
    for span in spans:
        changes[min(span.start, num_layers)] += 1
        changes[min(span.end, num_layers)] -= 1
    return [*accumulate(changes[:num_layers])]


def place(num_layers: int, spans: Iterable[Span], length: int) -> Span:
    """The span of `length` layers (at most the model's) to serve beside `spans`.

    It takes in as many of the least-served layers as it can; among equals the first.
    """
    length = min(length, num_layers)
    counts = coverage(num_layers, spans)
    starts = range(num_layers - length + 1)
    start = min(starts, key=lambda s: sorted(counts[s : s + length]))
    return Span(start, start + length)
