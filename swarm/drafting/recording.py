"""What a draft would have thought at each position of a finished text: see `speculation.trace`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from swarm.drafting.ngram import Repeats, hint_among
from swarm.model.stage import Slice, Stage
from swarm.speculation.calibration import LONGEST
from swarm.speculation.sampling import Sampling, contest
from swarm.speculation.trace import Row, row

_FIRST = 16  # choices among which the text's token is looked for: as many as a drafter keeps
_CHUNK = 256  # positions of one forward pass


def record(
    stage: Stage, text: Sequence[int], prompt_tokens: int, vocab_size: int, sampling: Sampling
) -> tuple[Row, ...]:
    """A row for each token of `text` from `prompt_tokens` on, at least 1, as far as the draft can follow.

    `stage` holds all layers of the draft; tokens from `vocab_size` on do not exist for the target.
    """
    known = next((i for i, token in enumerate(text) if token >= stage.info.vocab_size), len(text))
    known = min(known, stage.info.max_positions)
    repeats, rows = Repeats(LONGEST), list[Row]()
    for position, logits in _logits(stage, text[:known], prompt_tokens - 1):
        if position + 1 == len(text):
            break
        context = text[: position + 1]
        repeats.follow(context)
        choices, scores = contest(logits[:vocab_size], context, sampling, _FIRST)
        hint = hint_among(choices, scores, repeats.after(context[-LONGEST:]), vocab_size, _FIRST)
        rows.append(row(choices, scores, text[position + 1], hint))
    return tuple(rows)


def _logits(stage: Stage, tokens: Sequence[int], first: int) -> Iterator[tuple[int, Tensor]]:
    """By position from `first` on, the logits [vocab] of what follows it."""
    cache = stage.new_cache()
    for start in range(0, len(tokens), _CHUNK):
        chunk = tokens[start : start + _CHUNK]
        wanted = min(len(chunk), max(start + len(chunk) - first, 0))
        piece = Slice(cache, start, torch.tensor(chunk), num_logits=wanted)
        yield from enumerate(stage.forward([piece])[0], start=start + len(chunk) - wanted)
