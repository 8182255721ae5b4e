"""Calls of a script without an event loop, and Ctrl-C in the middle of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from client.blocking import LoopThread


class Interrupted:
    """A loop whose user presses Ctrl-C once, just before or after something is handed to it."""

    def __init__(self, loop: Any, *, before: bool) -> None:
        self._loop = loop
        self._before = before
        self._is_pressed = False

    def call_soon_threadsafe(self, work: Callable[[], object]) -> None:
        is_pressed, self._is_pressed = self._is_pressed, True
        if not is_pressed and self._before:
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(work)
        if not is_pressed:
            raise KeyboardInterrupt


@pytest.mark.parametrize("before", [True, False])
def test_ctrl_c_breaks_a_call_off_whenever_it_comes_and_it_cleans_up(before: bool) -> None:
    steps = []

    async def work() -> None:
        steps.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned up")

    thread = LoopThread()
    loop = thread._loop
    thread._loop = Interrupted(loop, before=before)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        thread.call(work())
    assert steps == ["began", "cleaned up"]
    thread._loop = loop
    thread.stop()


def test_what_a_call_returns_and_raises_is_its_callers() -> None:
    async def work(error: Exception | None) -> int:
        if error is not None:
            raise error
        return 1

    thread = LoopThread()
    assert thread.call(work(None)) == 1
    with pytest.raises(ValueError, match="a fault"):
        thread.call(work(ValueError("a fault")))
    thread.stop()
