"""Which waiting rounds share the next forward pass: decode before prefill, first come first, one round a session.

Pure: the worker asks, a simulator can too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from swarm.wire import MAX_TAIL, Round


class Waiting(Protocol):
    """What the choice depends on."""

    @property
    def round(self) -> Round:
        """The waiting round."""


T = TypeVar("T", bound=Waiting)


def next_batch(waiting: Sequence[T], max_tokens: int, prefill_tokens: int | None = None) -> list[T]:
    """The rounds to run together: decode, of at most `max_tokens` tokens if more than one, then prefill, of at most
    `prefill_tokens` (None: as many).

    `waiting` is in the order in which they should run. Rounds of one session keep their order, so only its first can be
    chosen. Prefill has a share of its own: however many sessions decode, it goes on.
    """
    heads: dict[bytes, T] = {}
    for item in waiting:
        heads.setdefault(item.round.session, item)
    decode = [item for item in heads.values() if not is_prefill(item.round)]
    prefill = [item for item in heads.values() if is_prefill(item.round)]
    return _fill(decode, max_tokens) + _fill(prefill, prefill_tokens or max_tokens)


def _fill(items: Sequence[T], max_tokens: int) -> list[T]:
    """The first item, and of the others those that fit, first come first."""
    chosen: list[T] = []
    tokens = 0
    for item in items:
        size = len(item.round.tokens)
        if not chosen or tokens + size <= max_tokens:
            chosen.append(item)
            tokens += size
    return chosen


def is_prefill(round: Round) -> bool:
    """Whether it brings text the caches lack, rather than the newest tokens and their drafts."""
    return not round.judged or round.num_text > MAX_TAIL + 1
