"""How a model would have its text generated, if nobody says otherwise: what its files say, as transformers reads them.

That is its generation_config.json; only without one, what config.json says of the same. What applies to a greedy text
is honoured, or named as not applied; how long the text is and whether it is sampled are options of this program alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from swarm.errors import UsageError
from swarm.model.files import read_object
from swarm.speculation.processors import (
    GREATEST,
    MAX_ENDS,
    MAX_LENGTH,
    MAX_LISTED,
    MAX_NGRAM,
    MAX_PHRASE,
    Processors,
)

_NESTED = ("decoder", "generator", "text_config")  # where config.json may have a decoder's own values
_AT_LEAST_NONE = ("min_length", "min_new_tokens", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size")
_HARMLESS_OUTSIDE = ("suppress_tokens", "begin_suppress_tokens")  # a token that does not exist never comes anyway

UNAPPLIED: dict[str, Callable[[Any], bool]] = {
    "num_beams": lambda value: value != 1,
    "constraints": bool,
    "force_words_ids": bool,
    "penalty_alpha": bool,
    "dola_layers": lambda _: True,
    "guidance_scale": lambda value: value != 1,
    "watermarking_config": lambda _: True,
    "token_healing": bool,
    "stop_strings": bool,
    "max_time": lambda _: True,
    "cache_implementation": lambda value: value == "quantized",
}
"""What else would make it another text, or end it elsewhere, and which values do."""


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What one model's files say."""

    processors: dict[str, Any]
    """By the names of Processors, what differs from leaving the logits as they are."""
    eos_token_id: tuple[int, ...]
    """Tokens of the vocabulary that end a text."""
    unapplied: tuple[str, ...]
    """What they ask for beyond that."""
    file: str
    """The name of the one that says so."""

    @classmethod
    def read(cls, generation: Path | None, config: Path, vocab_size: int) -> GenerationDefaults:
        """From generation_config.json, if there is one, or else from config.json. Raises UsageError that names the file
        if it is no JSON object, or if what it says makes no sense."""
        file = generation or config
        values = _said(read_object(file))
        if generation is None:
            nested: object = next((values[name] for name in _NESTED if values.get(name)), {})
            values = _said(nested if isinstance(nested, dict) else {}) | values
        ends = _ends(values.get("eos_token_id"), file)
        processors, unapplied = _processors(values, file, vocab_size)
        _check_forced(processors, file)
        unapplied += [name for name, is_due in UNAPPLIED.items() if name in values and is_due(values[name])]
        unapplied += [f"eos_token_id {token}" for token in ends if not 0 <= token < vocab_size]
        within = tuple(token for token in ends if 0 <= token < vocab_size)
        if processors.exponential_decay_length_penalty[1] != 1.0 and not within:
            unapplied.append("exponential_decay_length_penalty")
        return cls(msgspec.to_builtins(processors), within, tuple(unapplied), file.name)


def _said(values: dict[str, Any]) -> dict[str, Any]:
    """Without those that are null, which says nothing."""
    return {name: value for name, value in values.items() if value is not None}


def _ends(value: Any, file: Path) -> list[int]:
    """The tokens that end a text. Raises UsageError."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise UsageError(f"{file}: eos_token_id is {json.dumps(value)[:80]}: give a token's id, or a list of them")
    if len(ids) > MAX_ENDS:
        raise UsageError(f"{file}: eos_token_id lists {len(ids)} tokens; at most {MAX_ENDS} can be told to peers")
    return list(dict.fromkeys(ids))


def _processors(values: dict[str, Any], file: Path, vocab_size: int) -> tuple[Processors, list[str]]:
    """Those that the values ask for, and the names of those whose lists are too long. Raises UsageError."""
    wanted, too_long = Processors(), list[str]()
    for name in Processors.__struct_fields__:
        if name not in values:
            continue
        try:
            one = msgspec.convert({name: _plain(name, values[name], vocab_size)}, Processors)
        except msgspec.ValidationError as error:
            if _is_too_much(name, values[name]):
                too_long.append(name)
                continue
            raise UsageError(f"{file}: {name}: {str(error).split(' - at ')[0]}") from None
        if one.top_token >= vocab_size:
            raise UsageError(f"{file}: {name}: token {one.top_token} is not in the vocabulary of {vocab_size}")
        if one.num_listed + wanted.num_listed > MAX_LISTED:
            too_long.append(name)
            continue
        wanted = msgspec.structs.replace(wanted, **{name: getattr(one, name)})
    return wanted, too_long


def _check_forced(wanted: Processors, file: Path) -> None:
    """Raise UsageError if nothing is left where something is forced: so does transformers."""
    first = () if wanted.forced_bos_token_id is None else (wanted.forced_bos_token_id,)
    for name, forced in (("forced_bos_token_id", first), ("forced_eos_token_id", wanted.forced_eos_token_id)):
        if forced and set(forced) <= set(wanted.suppress_tokens):
            raise UsageError(f"{file}: {name}: suppress_tokens has all of it")


def _plain(name: str, value: Any, vocab_size: int) -> Any:
    """A value as Processors has it."""
    if name == "forced_eos_token_id" and not isinstance(value, list):
        return [value]
    if name in _AT_LEAST_NONE and type(value) is int:
        return max(value, 0) if name.endswith("ngram_size") else min(max(value, 0), MAX_LENGTH)
    if name == "remove_invalid_values":
        return value is True
    return _plain_list(name, value, vocab_size) if isinstance(value, list) else value


def _plain_list(name: str, value: list[Any], vocab_size: int) -> list[Any]:
    """The same of a list."""
    if name in _HARMLESS_OUTSIDE:
        return [token for token in value if not isinstance(token, int) or 0 <= token < vocab_size]
    if name == "bad_words_ids":
        return [phrase for phrase in value if phrase != []]
    if name == "sequence_bias":
        return [
            [pair[0], -GREATEST] if isinstance(pair, list) and pair[1:] == [-math.inf] else pair for pair in value
        ]
    return value


def _is_too_much(name: str, value: Any) -> bool:
    """Whether it makes sense, but peers do not take so much."""
    if name.endswith("ngram_size"):
        return type(value) is int and value > MAX_NGRAM
    if name.endswith("repetition_penalty"):
        return type(value) in (int, float) and value > 0
    if not isinstance(value, list):
        return False
    phrases = [one[0] if name == "sequence_bias" else one for one in value if isinstance(one, list) and one]
    lengths = [len(one) for one in phrases if isinstance(one, list)]
    return (
        len(value) > MAX_LISTED
        or max(lengths, default=0) > MAX_PHRASE
        or sum(lengths) + 2 * len(lengths) > MAX_LISTED
    )
