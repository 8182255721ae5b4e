"""What shapes the logits before a token is chosen: the processors that transformers' `generate` applies, in its order.

How they are carried out: see `speculation.shaping`.
"""

from __future__ import annotations

from itertools import chain
from typing import Annotated

import msgspec
from msgspec import Meta

MAX_LISTED = 4096
"""Token ids that all lists together may name, where a sequence of several counts as two more."""
MAX_ENDS = 64
"""Tokens that end a text."""
MAX_PHRASE = 32
"""Token ids of a sequence."""
MAX_NGRAM = 16
GREATEST = 1e30
"""Bias, and power of a length penalty's factor: float32 holds what several of them make of a logit."""

TokenId = Annotated[int, Meta(ge=0, le=1 << 31)]
TokenIds = Annotated[tuple[TokenId, ...], Meta(max_length=MAX_LISTED)]
Phrase = Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=MAX_PHRASE)]
MAX_LENGTH = 1 << 31
Length = Annotated[int, Meta(ge=0, le=MAX_LENGTH)]
Penalty = Annotated[float, Meta(ge=0.01, le=100)]
NgramSize = Annotated[int, Meta(ge=0, le=MAX_NGRAM)]
Bias = Annotated[float, Meta(ge=-GREATEST, le=GREATEST)]
Factor = Annotated[float, Meta(ge=0, le=100)]


class Processors(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Those that apply, in their order, and by the names that a generation_config.json gives them.

    What a field begins with leaves the logits as they are.
    """

    sequence_bias: Annotated[tuple[tuple[Phrase, Bias], ...], Meta(max_length=MAX_LISTED)] = ()
    encoder_repetition_penalty: Penalty = 1.0
    """For tokens of the prompt: above 1, they come more often."""
    repetition_penalty: Penalty = 1.0
    no_repeat_ngram_size: NgramSize = 0
    encoder_no_repeat_ngram_size: NgramSize = 0
    """No such n-gram of the prompt comes again."""
    bad_words_ids: Annotated[tuple[Phrase, ...], Meta(max_length=MAX_LISTED)] = ()
    min_length: Length = 0
    """Tokens, with the prompt's, before the text may end; `min_new_tokens` overrules it."""
    min_new_tokens: Length | None = None
    forced_bos_token_id: TokenId | None = None
    """After a prompt of one token."""
    forced_eos_token_id: TokenIds = ()
    """One of them is the last token that there is room for."""
    remove_invalid_values: bool = False
    exponential_decay_length_penalty: tuple[Length, Factor] = (0, 1.0)
    """After so many new tokens, the scores of those that end the text grow by this factor with each."""
    suppress_tokens: TokenIds = ()
    begin_suppress_tokens: TokenIds = ()
    """Never the first of the new ones."""
    renormalize_logits: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError if they name too many tokens: what a stranger asks for must not take long."""
        if self.num_listed > MAX_LISTED:
            raise ValueError(f"the lists name {self.num_listed} tokens; at most {MAX_LISTED} are taken")

    @property
    def num_listed(self) -> int:
        """Token ids in all lists, where a sequence counts as two more."""
        lists = (self.forced_eos_token_id, self.suppress_tokens, self.begin_suppress_tokens)
        sequences = chain((ids for ids, _ in self.sequence_bias), self.bad_words_ids)
        return sum(map(len, lists)) + sum(len(ids) + 2 for ids in sequences)

    @property
    def top_token(self) -> int:
        """The greatest token id that is named; -1 if none is."""
        forced = () if self.forced_bos_token_id is None else (self.forced_bos_token_id,)
        lists = (forced, self.forced_eos_token_id, self.suppress_tokens, self.begin_suppress_tokens)
        sequences = chain((ids for ids, _ in self.sequence_bias), self.bad_words_ids)
        return max(chain.from_iterable(chain(lists, sequences)), default=-1)


NONE = Processors()
"""Leaves the logits as they are."""
