"""Recorded texts of a pair of models: what the draft thought at each position, and what came. Pure.

Under the rule `match` a text does not depend on drafts. So what would have become of any drafts can be told afterwards,
from any window or tree: a simulator replays real texts, with the stretches in which the draft is right again and again
and those in which it is not. A file has one JSON line for each text; with the suffix .gz it is compressed.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Annotated

import msgspec
from msgspec import Meta

from swarm.errors import UsageError
from swarm.speculation.calibration import LONGEST, Hint

VERSION = 1
CHOICES = 8
"""Of the draft, whose scores are kept; and the hint, if it is none of them."""
_DIGITS = 2  # of a score

Place = Annotated[int, Meta(ge=-1, le=CHOICES)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class Row(msgspec.Struct, frozen=True, dict=True, array_like=True, forbid_unknown_fields=True):
    """One position of a text."""

    taken: Place
    """Which of the draft's choices the text's token is; -1: none of them."""
    hint: Place
    """Which of them followed the same tokens before; -1: nothing did."""
    length: Annotated[int, Meta(ge=0, le=LONGEST)]
    """How many tokens were the same."""
    scores: Annotated[tuple[float, ...], Meta(min_length=1, max_length=CHOICES + 1)]
    """Of the choices, less that of the first: the least of them may come last, if it is the hint's."""

    @cached_property
    def known_hint(self) -> Hint | None:
        """As a calibration takes it."""
        return Hint(self.hint, self.length) if self.hint >= 0 else None


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One text."""

    target: Name
    draft: Name
    temperature: Annotated[float, Meta(ge=0)]
    prompt_tokens: Annotated[int, Meta(ge=1)]
    rows: tuple[Row, ...]
    """Of each new token."""
    version: int = VERSION

    @property
    def acceptance(self) -> float:
        """The share of the text's tokens that are the draft's first choice."""
        return sum(row.taken == 0 for row in self.rows) / max(len(self.rows), 1)


def row(choices: Sequence[int], scores: Sequence[float], token: int, hint: Hint | None) -> Row:
    """What is kept of a position where the draft's choices, with these scores, were these, and the token was that."""
    kept = list(range(min(CHOICES, len(choices))))
    if hint and hint.choice not in kept:
        kept.append(hint.choice)
    taken = next((place for place, i in enumerate(kept) if choices[i] == token), -1)
    differences = tuple(round(scores[i] - scores[0], _DIGITS) for i in kept)
    return Row(taken, kept.index(hint.choice) if hint else -1, hint.length if hint else 0, differences)


def append(path: Path, trace: Trace) -> None:
    """Write one more line. Raises UsageError."""
    write(path, [trace], mode="ab")


def write(path: Path, traces: Iterable[Trace], *, mode: str = "wb") -> None:
    """A line for each. Raises UsageError."""
    try:
        with _open(path, mode) as file:
            file.writelines(msgspec.json.encode(trace) + b"\n" for trace in traces)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; choose another file for the record") from None


def read(path: Path) -> list[Trace]:
    """All texts of a file. Raises UsageError."""
    try:
        with _open(path, "rb") as file:
            lines = file.read().splitlines()
    except (OSError, EOFError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    traces = [_read(path, number, line) for number, line in enumerate(lines, start=1)]
    if not traces:
        raise UsageError(f"{path} has no recorded texts: make some with `specswarm generate --record`")
    return traces


def _read(path: Path, number: int, line: bytes) -> Trace:
    try:
        trace = msgspec.json.decode(line, type=Trace)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}, line {number}: no recorded text: {error}") from None
    if trace.version != VERSION:
        raise UsageError(f"{path}, line {number}: written by another version of specswarm ({trace.version})")
    for position, one in enumerate(trace.rows):
        if max(one.taken, one.hint) >= len(one.scores) or (one.hint >= 0) != (one.length > 0):
            raise UsageError(f"{path}, line {number}: row {position} speaks of a choice that it does not have")
    return trace


def _open(path: Path, mode: str) -> IO[bytes]:
    return gzip.open(path, mode) if path.suffix == ".gz" else path.open(mode)  # type: ignore[return-value]
