"""What rounds a text and its drafts make. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from swarm.speculation.evidence import Evidence
from swarm.speculation.tree import DraftTree
from swarm.wire import MAX_CHOICES, MAX_SESSION_MESSAGE, Proofs, Round

_CHOICE_BYTES = 9  # of a message, at most, for one choice of a draft's evidence


def prefill_rounds(
    session: bytes, number: int, tokens: Sequence[int], cached: int, chunk: int, base: int | None = None
) -> list[Round]:
    """The rounds, none of them judged, that bring caches of `cached` positions up to `tokens` without its newest one.

    They carry the number of the verdict they work for, hold at most `chunk` tokens each, and continue what was sent for
    it from position `base` on; None: they are the first of it.
    """
    base, end = cached if base is None else base, len(tokens) - 1
    rounds = []
    for start in range(cached, end, chunk):
        part = tuple(tokens[start : min(start + chunk, end)])
        rounds.append(Round(session, number, start, part, 0, judged=False, continues=start > base))
    return rounds


def num_provable(tree: DraftTree) -> int:
    """Of how many of its drafts the last hop takes the proofs."""
    return _num_within(tree.evidence, MAX_CHOICES)


def proofs(session: bytes, number: int, tree: DraftTree) -> list[Proofs]:
    """What tells the last hop what each draft of round `number` was drawn from: in each message as many as fit."""
    messages, rest = list[Proofs](), tree.evidence
    while rest:
        count = _num_within(rest, MAX_SESSION_MESSAGE // _CHOICE_BYTES)
        ids, weights = zip(*((one.ids, one.weights) for one in rest[:count]), strict=True)
        messages.append(Proofs(session, number, ids, weights, len(tree) - len(rest)))
        rest = rest[count:]
    return messages


def _num_within(evidence: Sequence[Evidence], choices: int) -> int:
    """How many of them have at most so many choices together."""
    return sum(total <= choices for total in itertools.accumulate(len(one.ids) for one in evidence))
