"""When a client asks, and for what. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from simulator.scenario import Clients
from swarm.errors import UsageError
from swarm.user_files import read_bytes


@dataclass(frozen=True, slots=True)
class Wish:
    """One request."""

    pause: float
    """Seconds before it, after the one before is finished."""
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    """None: as many as a recorded text has."""
    at: float | None = None
    """The second at which it comes, whatever else; then there is no pause."""


def wishes(kind: Clients, number: int, random: Random) -> Iterator[Wish]:
    """Those of the client of this number among `kind.count` of its kind. Raises UsageError for a bad file."""
    return itertools.islice(_all(kind, number, random), kind.arrivals.requests)


def _all(kind: Clients, number: int, random: Random) -> Iterator[Wish]:
    arrivals = kind.arrivals
    prompt = kind.prompt_tokens if isinstance(kind.prompt_tokens, int) else None
    new = kind.new_tokens if isinstance(kind.new_tokens, int) else None
    if arrivals.file is not None:
        for at, *tokens in read(arrivals.file)[number :: kind.count]:
            yield Wish(0.0, *(int(tokens[0]), int(tokens[1])) if tokens else (prompt, new), at)
    elif arrivals.kind == "poisson":
        at = arrivals.after_seconds
        while True:
            at += random.expovariate(arrivals.per_hour / 3600)
            yield Wish(0.0, prompt, new, at)
    else:
        for pause in itertools.chain([arrivals.after_seconds], itertools.repeat(arrivals.think_seconds)):
            yield Wish(pause, prompt, new)


@cache
def read(file: Path) -> tuple[tuple[float, ...], ...]:
    """The lines of a file of arrivals: seconds, rising, and maybe tokens of the prompt and new tokens. Raises
    UsageError."""
    try:
        lines = read_bytes(file).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    found, before = list[tuple[float, ...]](), 0.0
    for number, line in enumerate(lines, start=1):
        parts = line.replace(",", " ").split()
        if not parts or parts[0].startswith("#"):
            continue
        try:
            values = tuple(map(float, parts))
        except ValueError:
            values = ()
        if not _is_sound(values, before):
            raise UsageError(
                f"{file}, line {number}: give seconds, no less than before, and maybe tokens of the prompt and new ones"
            )
        before = values[0]
        found.append(values)
    return tuple(found)


def _is_sound(values: tuple[float, ...], before: float) -> bool:
    return len(values) in (1, 3) and before <= values[0] < math.inf and all(1 <= n < math.inf for n in values[1:])
