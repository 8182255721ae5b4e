"""The texts of simulated requests: recorded ones, replayed, or such as a constant acceptance would make. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from msgspec.structs import replace

from swarm.speculation import trace
from swarm.speculation.calibration import Scores
from swarm.speculation.trace import Row, Trace

SHIPPED = Path(__file__).parent / "traces"

_RIGHT, _WRONG = Row(0, -1, 0, Scores((0.0,))), Row(-1, -1, 0, Scores((0.0,)))


def in_turn(traces: Sequence[Trace], random: Random) -> Iterator[Trace]:
    """One after the other for ever, in another order each time: none comes again before all have been."""
    while True:
        yield from random.sample(traces, len(traces))


def replayed(traces: Iterator[Trace], length: int) -> tuple[Row, ...]:
    """So many new tokens of recorded texts: of the next one from its beginning, and of others where it ends."""
    rows = list[Row]()
    while len(rows) < length:
        rows += next(traces).rows
    return tuple(rows[:length])


def constant(acceptance: float, length: int, random: Random) -> tuple[Row, ...]:
    """So many new tokens, each of which the draft's only choice is with the chance `acceptance`."""
    return tuple(_RIGHT if random.random() < acceptance else _WRONG for _ in range(length))


def following(tokens: Sequence[int], parents: Sequence[int], first: int, here: int, end: int) -> Iterator[int]:
    """The drafts that stand, one behind the other: those nodes, numbered from `first` on, that go on from the node
    `here` with the text's own tokens from position `end` on.

    The token at a position of a simulated text is the position itself; what a draft takes for it otherwise is negative.
    """
    for i, (token, parent) in enumerate(zip(tokens, parents, strict=True), start=first):
        if parent == here and token == end:
            here, end = i, end + 1
            yield i


@dataclass(frozen=True, slots=True)
class Text:
    """What a request is about."""

    prompt_tokens: int
    rows: tuple[Row, ...]
    """Of each new token."""


class Texts:
    """Where the texts of a client come from."""

    def __init__(self, source: str | float, random: Random) -> None:
        """The name of a shipped file, the path of another one, or a constant acceptance. Raises UsageError."""
        self._acceptance = source if isinstance(source, float | int) else None
        self._traces = in_turn(_shipped(source), random) if isinstance(source, str) else iter(())
        self._random = random

    def new(self, prompt_tokens: int | None, new_tokens: int | None) -> Text:
        """One with so many tokens; None: as many as the recorded one had."""
        if self._acceptance is not None:
            rows = constant(self._acceptance, new_tokens or 1, self._random)
            return Text(prompt_tokens or 1, rows)
        first = next(self._traces)
        rows = replayed(itertools.chain([first], self._traces), new_tokens or len(first.rows))
        return Text(prompt_tokens or first.prompt_tokens, rows)


@cache
def _shipped(name: str) -> tuple[Trace, ...]:
    """With what follows from scores kept with them, however many requests replay a text."""
    file = SHIPPED / f"{name}.jsonl.gz"
    return tuple(
        replace(text, rows=tuple(replace(row, scores=Scores(row.scores)) for row in text.rows))
        for text in trace.read(file if file.exists() else Path(name))
    )
