"""Carries out the processors of logits: by transformers' own classes, so that every bit is what its `generate` makes.

Those classes that forbid tokens look through the whole vocabulary for each of them, at every step: these are done here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import (
    EncoderRepetitionPenaltyLogitsProcessor,
    ExponentialDecayLengthPenalty,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from swarm.speculation.processors import GREATEST, Processors

Step = Callable[[Tensor, Tensor], Tensor]
"""Of the text's token ids [1, length] and the scores [1, vocab] of what may follow: the scores as they become."""


class Shaper:
    """Carries processors out, for one text. It belongs to the torch thread."""

    def __init__(self, wanted: Processors, prompt_tokens: int, max_length: int, ends: tuple[int, ...]) -> None:
        """`prompt_tokens`, `max_length`: tokens of the prompt, and of the text at most, with the prompt's; `ends`: the
        tokens that end it."""
        # in the order of transformers' `_get_logits_processor`
        self._steps = [
            *_by_tokens(wanted, prompt_tokens, ends),
            *_by_length(wanted, prompt_tokens, max_length, ends),
        ]
        self._least = 1 + max(wanted.top_token, *ends, -1)  # scores that there must be

    def shape(self, logits: Tensor, context: Sequence[int]) -> Tensor:
        """What becomes of the logits [vocab] after `context`: of the same shape, none of them infinite or NaN but for
        -inf, and at least one of them finite.

        Where nothing may follow, token 0 does, as it does in transformers' greedy mode.
        """
        vocab = len(logits)
        ids = torch.tensor(list(context), dtype=torch.int64)[None]
        scores = logits.float().cpu()[None]
        if vocab < self._least:  # a draft need not know all tokens that are named
            scores = torch.nn.functional.pad(scores, (0, self._least - vocab), value=-math.inf)
        for step in self._steps:
            scores = step(ids, scores)
        shaped = scores[0, :vocab].nan_to_num(-math.inf, torch.finfo(torch.float32).max, -math.inf)
        if shaped.max() == -math.inf:
            shaped[0] = 0.0
        return shaped.to(logits.device)


def _by_tokens(wanted: Processors, prompt_tokens: int, ends: tuple[int, ...]) -> Iterator[Step]:
    """What depends on the tokens that the text has."""
    if wanted.sequence_bias:
        yield SequenceBiasLogitsProcessor({ids: float(bias) for ids, bias in wanted.sequence_bias})
    if wanted.encoder_repetition_penalty != 1.0:
        yield _favour_prompt(float(wanted.encoder_repetition_penalty), prompt_tokens)
    if wanted.repetition_penalty != 1.0:
        yield RepetitionPenaltyLogitsProcessor(float(wanted.repetition_penalty))
    # penalties of presence and frequency belong here
    if wanted.no_repeat_ngram_size:
        yield NoRepeatNGramLogitsProcessor(wanted.no_repeat_ngram_size)
    if wanted.encoder_no_repeat_ngram_size:
        yield _no_ngram_of_prompt(wanted.encoder_no_repeat_ngram_size, prompt_tokens)
    bad_words = [[*ids] for ids in wanted.bad_words_ids if len(ids) > 1 or ids[0] not in ends]
    if bad_words:
        yield NoBadWordsLogitsProcessor(bad_words)


def _by_length(wanted: Processors, prompt_tokens: int, max_length: int, ends: tuple[int, ...]) -> Iterator[Step]:
    """What depends on how many they are, or on nothing."""
    least = wanted.min_length if wanted.min_new_tokens is None else prompt_tokens + wanted.min_new_tokens
    if least and ends:
        yield _forbid(ends, lambda length: length < least)
    if wanted.forced_bos_token_id is not None:
        yield ForcedBOSTokenLogitsProcessor(wanted.forced_bos_token_id)
    if wanted.forced_eos_token_id:
        yield ForcedEOSTokenLogitsProcessor(max_length, [*wanted.forced_eos_token_id])
    if wanted.remove_invalid_values:
        yield InfNanRemoveLogitsProcessor()
    if wanted.exponential_decay_length_penalty[1] != 1.0 and ends:
        yield _favour_ends(wanted.exponential_decay_length_penalty, prompt_tokens, ends)
    if wanted.suppress_tokens:
        yield _forbid(wanted.suppress_tokens, lambda _: True)
    if wanted.begin_suppress_tokens:
        begin = prompt_tokens + (prompt_tokens <= 1 and wanted.forced_bos_token_id is not None)
        yield _forbid(wanted.begin_suppress_tokens, lambda length: length == begin)
    if wanted.renormalize_logits:
        yield LogitNormalization()


def _forbid(tokens: Sequence[int], is_due: Callable[[int], bool]) -> Step:
    """These tokens never follow a text of such a length."""
    forbidden = torch.tensor([*tokens])

    def step(ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(-1, forbidden, -math.inf) if is_due(ids.shape[-1]) else scores

    return step


def _favour_prompt(penalty: float, prompt_tokens: int) -> Step:
    """Decoders have no encoder: transformers takes the prompt for its input."""

    def step(ids: Tensor, scores: Tensor) -> Tensor:
        favoured: Tensor = EncoderRepetitionPenaltyLogitsProcessor(penalty, ids[:, :prompt_tokens])(ids, scores)
        return favoured

    return step


def _no_ngram_of_prompt(size: int, prompt_tokens: int) -> Step:
    """What would complete an n-gram of the prompt: in a text of the prompt, a token of no meaning, and the end of the
    real text."""
    within = NoRepeatNGramLogitsProcessor(size)

    def step(ids: Tensor, scores: Tensor) -> Tensor:
        length = ids.shape[-1]
        if length < size - 1:
            return scores
        none = torch.full((1, 1), scores.shape[-1])
        parts = [ids[:, :prompt_tokens], none, ids[:, length + 1 - size :]]
        forbidden: Tensor = within(torch.cat(parts, dim=-1), scores)
        return forbidden

    return step


def _favour_ends(decay: tuple[int, float], prompt_tokens: int, ends: tuple[int, ...]) -> Step:
    """The class counts the text's tokens alone: from where the factor's power is beyond all bounds, it sees no more."""
    penalty = ExponentialDecayLengthPenalty(decay, [*ends], prompt_tokens)
    powers = int(math.log(GREATEST) / math.log(decay[1])) if decay[1] > 1 else 1 << 31
    seen = penalty.regulation_start + powers

    def step(ids: Tensor, scores: Tensor) -> Tensor:
        favoured: Tensor = penalty(ids[:, :seen], scores)
        return favoured

    return step
