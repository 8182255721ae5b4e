"""A finished text, for a file of recorded texts: see `swarm.speculation.trace`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

from swarm.speculation import trace
from swarm.speculation.trace import Row, Trace


class Recorder:
    """Adds one generation's text to a file."""

    def __init__(
        self,
        file: Path,
        thread: Executor,
        rows: Callable[[Sequence[int], int], tuple[Row, ...]],
        *,
        target: str,
        draft: str,
        temperature: float,
    ) -> None:
        """`rows`, on the torch thread, gives those of the new tokens of a text, which follow so many of a prompt."""
        self._file = file
        self._thread = thread
        self._rows = rows
        self._names = target, draft
        self._temperature = temperature

    async def add(self, text: Sequence[int], prompt_tokens: int) -> None:
        """Raises UsageError if the file cannot be written."""
        rows = await asyncio.get_running_loop().run_in_executor(self._thread, self._rows, text, prompt_tokens)
        if rows:
            found = Trace(*self._names, self._temperature, prompt_tokens, rows)
            await asyncio.to_thread(trace.append, self._file, found)
