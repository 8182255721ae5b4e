"""Waiting for what peers say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from swarm import awake


class News:
    """What has come is kept where it belongs; who waits for it looks there again whenever something comes."""

    def __init__(self) -> None:
        self._came = asyncio.Event()
        self._failure: Exception | None = None

    def come(self) -> None:
        """Something is otherwise than before."""
        self._came.set()

    def fail(self, error: Exception) -> None:
        """Nothing more will come, by a fault of this program: whoever waits is told so."""
        self._failure = error
        self._came.set()

    async def until(self, is_so: Callable[[], bool], seconds: float) -> None:
        """Wait until something is so, or for `seconds`. Raises what `fail` was told."""
        if not (self._failure or is_so()):
            with contextlib.suppress(TimeoutError):
                async with awake.timeout(seconds):
                    while not (self._failure or is_so()):
                        self._came.clear()
                        await self._came.wait()
        if self._failure is not None:
            raise self._failure
