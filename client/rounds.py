"""What rounds a text and its drafts make. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from swarm.speculation.tree import DraftTree
from swarm.wire import MAX_SESSION_MESSAGE, Round

_CHOICE_BYTES = 9  # of a message, at most, for one choice of a draft's evidence


def prefill_rounds(session: bytes, number: int, tokens: Sequence[int], cached: int, chunk: int) -> list[Round]:
    """The rounds, none of them judged, that bring caches of `cached` positions up to `tokens` without its newest one.

    They carry the number of the verdict they work for, and hold at most `chunk` tokens each.
    """
    end = len(tokens) - 1
    return [
        Round(session, number, start, tuple(tokens[start : min(start + chunk, end)]), 0, judged=False)
        for start in range(cached, end, chunk)
    ]


def num_provable(tree: DraftTree) -> int:
    """Of how many of its drafts the proofs fit into a message."""
    sums = itertools.accumulate(len(proof.ids) for proof in tree.evidence)
    return sum(choices <= MAX_SESSION_MESSAGE // _CHOICE_BYTES for choices in sums)
