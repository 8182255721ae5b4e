"""Token ids to text, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_LOOK_BACK = 6  # tokens of the prompt that give the first new one its context, as leading spaces need it
_INCOMPLETE = "\ufffd"  # how a tokenizer shows the first bytes of a character whose rest is still to come


class TextStream:
    """Turns tokens into text as they come; what is not a whole character yet is held back."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._tokens = list(prompt[-_LOOK_BACK:])
        self._start = 0  # the window that is decoded: from here ...
        self._done = len(self._tokens)  # ... its text up to here has been given out

    def push(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete."""
        self._tokens += tokens
        known, whole = self._decode(self._done), self._decode(len(self._tokens))
        if whole.endswith(_INCOMPLETE):
            return ""
        self._start, self._done = self._done, len(self._tokens)
        return whole[len(known) :]

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        return self._decode(len(self._tokens))[len(self._decode(self._done)) :]

    def _decode(self, end: int) -> str:
        return str(self._tokenizer.decode(self._tokens[self._start : end], skip_special_tokens=True))
