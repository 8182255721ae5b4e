"""A prompt's text to token ids, as the tokenizer has it, or with nothing in it read as a control token."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from swarm.errors import UsageError

log = logging.getLogger("specswarm")

_SAMPLE = "a"  # a text that the tokenizer puts its own tokens around


def text_ids(tokenizer: Any, text: str, *, special_tokens: bool) -> list[int]:
    """Token ids of the text, and those that the tokenizer adds by itself, to begin with BOS, say.

    Without `special_tokens`, no token that was added to the vocabulary (all that are special are) comes of the text:
    "<|im_end|>" is these ten characters. Raises UsageError if the tokenizer cannot do that.
    """
    if not special_tokens:
        before, after = _added_around(tokenizer)
        return [*before, *_plain_ids(tokenizer, text), *after]
    return list(tokenizer(text)["input_ids"])


def warn_of_two_begins(tokenizer: Any, tokens: Sequence[int]) -> None:
    """Most often, a chat template has put BOS before the text, and the tokenizer another one."""
    if tokenizer.bos_token is not None and list(tokens[:2]) == [tokenizer.bos_token_id] * 2:
        log.warning(
            "the prompt begins with %s twice: once is right; a tokenizer adds one to what a chat template made",
            tokenizer.bos_token,
        )


def _added_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer puts before and behind any text. Raises UsageError if it does not say."""
    bare = tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"]
    whole = tokenizer(_SAMPLE)["input_ids"]
    for i in range(len(whole) - len(bare) + 1):
        if whole[i : i + len(bare)] == bare:
            return whole[:i], whole[i + len(bare) :]
    raise UsageError("special_tokens: what this tokenizer adds to a text cannot be told from it: leave them on")


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokenizer's steps, without the one that looks for added tokens."""
    if not tokenizer.is_fast:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    steps = tokenizer.backend_tokenizer
    if steps.normalizer is not None:
        text = steps.normalizer.normalize_str(text)
    parts = (
        [text] if steps.pre_tokenizer is None else [part for part, _ in steps.pre_tokenizer.pre_tokenize_str(text)]
    )
    added = {token: what.content for token, what in tokenizer.added_tokens_decoder.items()}
    return [token for part in parts for token in _model_ids(steps.model, part, added)]


def _model_ids(model: Any, part: str, added: Mapping[int, str]) -> Iterator[int]:
    """Some models have added tokens among their own; these are cut in two until they are none."""
    for token in model.tokenize(part):
        if added.get(token.id) == token.value != part[:1] and token.value in part:
            yield from _model_ids(model, token.value[:1], added)
            yield from _model_ids(model, token.value[1:], added)
        else:
            yield token.id
