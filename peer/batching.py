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

_LEAST_PREFILL = 4  # tokens of a pass, however long their text
_LONGER = 2.0  # times as long as a decoding pass: what a pass takes beside its tokens is paid less often
_OLD = 0.9  # weight of what decoding passes took before, against one more


class PrefillPass:
    """How many tokens of prefill share a pass beside which others decode: as many as take about twice as long as a
    decoding pass does. The longer a text is, the longer its tokens take."""

    def __init__(self, most: int) -> None:
        """`most` tokens."""
        self.tokens = self.most = most
        """Of the next pass, and at most."""
        self._decode_seconds = 0.0

    def note_decode(self, seconds: float) -> None:
        """A decoding pass took that long."""
        self._decode_seconds = _OLD * (self._decode_seconds or seconds) + (1 - _OLD) * seconds

    def note_prefill(self, tokens: int, seconds: float) -> None:
        """A pass of so many tokens took that long."""
        if self._decode_seconds and seconds:
            fitting = round(tokens * _LONGER * self._decode_seconds / seconds)
            self.tokens = min(max(fitting, _LEAST_PREFILL), self.most)


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
    return not round.judged or len(round.tokens) - round.num_drafts > MAX_TAIL + 1
