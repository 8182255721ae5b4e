"""Waiting for what peers say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class News:
    """What has come is kept where it belongs; who waits for it looks there again whenever something comes."""

    def __init__(self) -> None:
        self._came = asyncio.Event()

    def come(self) -> None:
        """Something is otherwise than before."""
        self._came.set()

    async def until(self, is_so: Callable[[], bool], seconds: float) -> None:
        """Wait until something is so, or for `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while not is_so():
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            pass
