"""What may be given as a prompt, and the token ids that it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import Any

from swarm.errors import UsageError
from swarm.model.source import ModelInfo

Prompt = str | Iterable[int] | Mapping[str, Any]
"""Text, or token ids: a list or any other series of whole numbers, an array or a tensor of shape [tokens] or
[1, tokens], or what a tokenizer makes of one text."""

_GIVE = "give one text, or its token ids"
_TEMPLATE = "messages: apply the chat template first, by apply_chat_template(messages, add_generation_prompt=True)"
_BESIDE_IDS = {
    "attention_mask",
    "token_type_ids",
    "position_ids",
    "special_tokens_mask",
    "offset_mapping",
    "length",
}


def check_text(text: str) -> str:
    """The same text. Raises UsageError if it has half of a surrogate pair, as bytes leave behind that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"half of a surrogate pair at character {error.start}"
        raise UsageError(f"the prompt has {what}: it was no text in UTF-8") from None
    return text


def check_prompt(tokens: Sequence[int], info: ModelInfo) -> None:
    """Raise UsageError if a prompt is empty, or does not fit the model's vocabulary or context."""
    if not tokens:
        raise UsageError("the prompt is empty: give at least one token of text")
    check_tokens(tokens, info)
    if len(tokens) >= info.max_positions:
        raise UsageError(
            f"the prompt has {len(tokens)} tokens or more; the model's context ends at {info.max_positions}"
        )


def check_tokens(tokens: Sequence[int], info: ModelInfo, what: str = "the prompt") -> None:
    """Raise UsageError if not all of them are in the model's vocabulary."""
    wrong = next((token for token in tokens if not 0 <= token < info.vocab_size), None)
    if wrong is not None:
        raise UsageError(f"{what} has token id {wrong}, outside the vocabulary of {info.vocab_size}")


def token_ids(prompt: Any, most: int) -> list[int]:
    """The ids of a prompt that is not a text, `most` at most. Raises UsageError if their meaning is not plain."""
    return [_token_id(value) for value in islice(_series(prompt), most)]


def _series(prompt: Any) -> Iterable[Any]:
    """The values; those of a batch of one are its first row's."""
    values = _plain(_ids_of(prompt) if isinstance(prompt, Mapping) else prompt)
    if isinstance(values, str | bytes | bytearray | memoryview | Set | Mapping) or not isinstance(values, Iterable):
        raise UsageError(f"a prompt cannot be of type {type(prompt).__name__}: {_GIVE}")
    if not isinstance(values, list | tuple) or not values or not _is_row(values[0]):
        return values
    if len(values) > 1:
        raise UsageError(f"the prompt is a batch of {len(values)}: {_GIVE}")
    return list(_plain(values[0]))


def _ids_of(encoding: Mapping[Any, Any]) -> Any:
    """What a tokenizer has made of a text has more than the ids."""
    if "input_ids" not in encoding:
        is_message = not encoding.keys().isdisjoint(("role", "content", "messages"))
        raise UsageError(f"the prompt is {_TEMPLATE if is_message else f'a mapping without input_ids: {_GIVE}'}")
    others = encoding.keys() - {"input_ids"} - _BESIDE_IDS
    if others:
        raise UsageError(
            f"the prompt has {sorted(map(str, others))[0]} beside its input_ids: only text is generated from"
        )
    if not all(map(bool, _series(encoding.get("attention_mask", ())))):
        raise UsageError("the prompt is padded (its attention_mask has zeros): give its token ids alone")
    return encoding["input_ids"]


def _plain(values: Any) -> Any:
    """Arrays and tensors as lists, wherever they are. Raises UsageError for tensors that hold no values, or not all."""
    if isinstance(values, memoryview) or not hasattr(values, "tolist"):
        return values
    try:
        return values.tolist()
    except (RuntimeError, TypeError) as error:  # of one on the meta device, or a sparse one
        reason = str(error).split("\n")[0][:200]
        raise UsageError(f"the prompt's {type(values).__name__} cannot be read ({reason}): {_GIVE}") from None


def _is_row(value: Any) -> bool:
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0


def _token_id(value: Any) -> int:
    """A whole number; those of numpy and torch are some. Raises UsageError."""
    if isinstance(value, Mapping):
        raise UsageError(f"the prompt is {_TEMPLATE}")
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, int):
        raise UsageError(f"the prompt has {plain!r:.40} among its token ids, which are whole numbers: {_GIVE}")
    return plain
