"""How far a long piece of work has come, on the log."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("specswarm")

_SECONDS = 2.0


class Progress:
    """Says how far work has come: a line every two seconds at most, so none of work that is soon done."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def at(self, what: str, done: int, whole: int, unit: str = "") -> None:
        """So much of `whole` is done of what a person would call `what`."""
        now = time.monotonic()
        if now - self._last >= _SECONDS:
            self._last = now
            log.info("%s: %d of %d%s", what, done, whole, unit and f" {unit}")
