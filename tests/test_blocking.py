"""Calls of a script without an event loop, and Ctrl-C in the middle of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from client.api import AsyncSwarmModel
from client.blocking import LoopThread, SwarmModel
from client.config import ClientConfig
from swarm.errors import UsageError
from tests import memory_swarm


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


def test_what_was_begun_within_the_block_ends_with_it(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.asynccontextmanager
    async def in_memory(settings: ClientConfig) -> AsyncIterator[AsyncSwarmModel]:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, target) as model,
        ):
            yield model

    monkeypatch.setattr(AsyncSwarmModel, "connect_with", in_memory)
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    with SwarmModel.connect(str(target), initial_peers=["/ip4/127.0.0.1/tcp/9/p2p/x"]) as model:
        held, dropped = (iter(model.stream([5, 6, 7], max_new_tokens=40)) for _ in range(2))
        assert next(held) == next(dropped)
    del dropped
    gc.collect()
    for use in (lambda: next(held), lambda: model.generate([5, 6, 7])):
        with pytest.raises(UsageError, match="the model was left"):
            use()
    assert unraisable == []


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
