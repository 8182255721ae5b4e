"""What a hop was given, in sketches: its client compares them with those of another chain, if it audits."""

from __future__ import annotations

from torch import Tensor

from swarm.sketch import ROW_BYTES, signs, sketch


class Witness:
    """The sketches of one session's input, by position; a round overwrites from its own position on, as in caches.

    The torch thread takes note, the event loop reads.
    """

    def __init__(self, seed: int, hidden_size: int) -> None:
        self._columns = signs(seed, hidden_size)
        self._rows = bytearray()

    def note(self, position: int, states: Tensor) -> None:
        """Take note of the input at `position` and behind; states: [tokens, hidden]."""
        self._rows[position * ROW_BYTES :] = sketch(states, self._columns)

    def recall(self, start: int, end: int) -> bytes:
        """The sketches of the positions start..end, as far as there are any."""
        return bytes(self._rows[start * ROW_BYTES : end * ROW_BYTES])
