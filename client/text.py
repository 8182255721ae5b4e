"""Token ids to text, piece by piece: joined, the pieces are what the tokenizer makes of the whole.

The new text is decode(prompt + new) without what it has in common with decode(prompt), special tokens left out. It is
read from a window of the last tokens, decoded anew when others come: all of it takes linear time. At most three tokens
are held back, which may be the first bytes of a character. In one case the pieces cannot be the whole: with byte
fallback, a byte that fits nowhere makes U+FFFD of all bytes beside it, also of characters that were given out. These
stay, and what is broken follows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

_PROMPT = 64  # tokens of the prompt, at most, after which the new ones are read
_CONTEXT = 8  # tokens that suffice for that later on, and that are read at a time
_UNDECIDED = 3  # tokens, at most, that may still become one character: it has four bytes
_BROKEN = "\ufffd"  # how a tokenizer shows bytes that are no character, or not yet


class TextStream:
    """Turns tokens into text as they come; what may not be a whole character yet is held back."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._special = _special_tokens(tokenizer)
        self._window = [*islice(filter(self._has_text, reversed(prompt)), _PROMPT)][::-1]
        self._prompt = self._decode(self._window)
        """The window's text that is the prompt's, and not given out; none is left when other text was."""
        self._shown, self._end = self._decided()
        """What was given out of the window's text, and of how many tokens that is the text."""
        self._whole = self._end
        """The window's tokens up to the last place at which its text did not end in a broken character."""

    def push(self, tokens: Sequence[int]) -> str:
        """The text that these tokens complete."""
        new = [*filter(self._has_text, tokens)]
        return "".join(self._read(new[i : i + _CONTEXT]) for i in range(0, len(new), _CONTEXT))

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        return self._give_out(self._decode(self._window), len(self._window))

    def _read(self, tokens: Sequence[int]) -> str:
        self._window += tokens
        piece = self._give_out(*self._decided())
        if not self._shown.endswith(_BROKEN):
            self._whole = self._end
        if len(self._window) > 2 * (_PROMPT if self._prompt else _CONTEXT):
            self._forget()
        return piece

    def _decided(self) -> tuple[str, int]:
        """The window's text that no further token can change, and the number of its tokens."""
        whole = text = self._decode(self._window)
        first = end = len(self._window)
        while text.endswith(_BROKEN) and end > first - _UNDECIDED:
            end -= 1
            text = self._decode(self._window[:end])
        return whole[: len(text)] if text.endswith(_BROKEN) else text, end

    def _give_out(self, text: str, end: int) -> str:
        """What is new in `text`, that of the window's first `end` tokens."""
        shared = common(self._prompt, text)
        is_prompt = bool(self._prompt) and shared == min(len(text), len(self._prompt))
        if not is_prompt and not text.startswith(self._shown):  # a byte has broken whole characters before it
            end -= self._end
            self._keep(self._window[self._end :], 0)
            text, shared = self._text(self._window, end), 0
        piece = text[max(len(self._shown), shared) :]
        self._shown, self._end = text, end
        if piece:
            self._prompt = ""
        return piece

    def _forget(self) -> None:
        """Shorten the window to tokens after which others have the same text."""
        window, held = self._window, len(self._window) - self._end
        for size in range(_CONTEXT, _CONTEXT - _UNDECIDED - 1, -1):  # one of them begins with a character
            text = self._text(window[-size - held :], size)
            if text and self._shown.endswith(text):
                self._keep(window[-size - held :], size)
                return
        broken = (
            self._whole if self._shown.endswith(_BROKEN) else 0
        )  # from there on; that is kept, or the bytes ...
        short = window[: broken + _CONTEXT] + window[-_CONTEXT - held :]  # ... behind it would seem to be whole
        if len(short) < len(window):
            self._keep(short, len(short) - held, broken)

    def _keep(self, window: list[int], end: int, whole: int = 0) -> None:
        """Go on from these tokens; the text up to `end` was given out."""
        self._window, self._end, self._whole = window, end, whole
        self._shown, self._prompt = self._text(window, end), ""

    def _text(self, window: Sequence[int], end: int) -> str:
        """Of the first `end` tokens; if it ends in a broken character, the others may have made that whole."""
        text = self._decode(window[:end])
        return self._decode(window)[: len(text)] if text.endswith(_BROKEN) else text

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _has_text(self, token: int) -> bool:
        """Whether decoding does not leave this token out."""
        return token not in self._special and self._tokenizer.convert_ids_to_tokens(token) is not None


def common(first: str, second: str) -> int:
    """Characters with which both begin."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _special_tokens(tokenizer: Any) -> set[int]:
    """Those that decoding leaves out."""
    if not tokenizer.is_fast:
        return set(tokenizer.all_special_ids)
    return {token for token, what in tokenizer.added_tokens_decoder.items() if what.special}
