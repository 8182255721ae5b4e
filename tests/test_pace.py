"""What a peer announces of its speed follows what its stage takes, and not each disturbance."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from peer import node, pace
from peer.compute import Failure
from peer.pace import Pace
from peer.worker import Worker
from swarm.model.speed import MANY, Speed
from swarm.tasks import kept_up
from tests import faulty, memory_swarm
from tests.test_queue import decode, session

QUIET = Speed(0.034, 0.004)
BUSY = Speed(0.199, 0.021)


def note(pace: Pace, *trials: Speed) -> Speed:
    """What is announced after these."""
    for speed in trials:
        pace.note(speed.step_seconds, speed.step_seconds + speed.token_seconds * (MANY - 1))
    return pace.speed


def approx(speed: Speed) -> Speed:
    return Speed(pytest.approx(speed.step_seconds), pytest.approx(speed.token_seconds))


def test_a_first_measurement_of_a_busy_moment_is_forgotten_with_the_first_quiet_trial() -> None:
    own = Pace(BUSY)
    assert note(own, BUSY) == BUSY
    assert note(own, QUIET, QUIET) == approx(QUIET)
    assert note(Pace(BUSY), QUIET) == approx(QUIET)


def test_a_disturbed_trial_changes_nothing() -> None:
    own = Pace(QUIET)
    assert note(own, BUSY) == QUIET
    assert note(own, QUIET, BUSY, QUIET, QUIET, BUSY) == QUIET


def test_what_lasts_is_announced_and_taken_back_when_it_is_over() -> None:
    own = Pace(QUIET)
    assert note(own, BUSY, BUSY) == approx(BUSY)
    assert note(own, QUIET) == approx(BUSY)
    assert note(own, QUIET) == approx(QUIET)


def test_noise_is_not_announced() -> None:
    own = Pace(QUIET)
    for share in (1.05, 0.93, 1.08, 0.97, 1.02):
        assert note(own, Speed(QUIET.step_seconds * share, QUIET.token_seconds * share)) == QUIET


def test_only_the_further_tokens_may_have_become_slower() -> None:
    slower = Speed(QUIET.step_seconds, 2 * QUIET.token_seconds)
    assert note(Pace(QUIET), slower, slower) == approx(slower)


@pytest.mark.parametrize("seconds", [0.0005, 0.05, 3.0])
def test_trials_take_a_small_share_of_the_time_and_a_failed_one_is_not_the_last(seconds: float) -> None:
    tried, enough = list[int](), asyncio.Event()

    async def trial(tokens: int, patience: float) -> float:
        tried.append(tokens)
        if len(tried) == 1:
            raise MemoryError
        if len(tried) == 41:
            enough.set()
        await asyncio.sleep(seconds)
        return seconds

    async def run() -> float:
        loop, own = asyncio.get_running_loop(), Pace(QUIET)
        started, keeping = loop.time(), asyncio.create_task(kept_up(lambda: own.keep(trial), "measuring"))
        await enough.wait()
        keeping.cancel()
        return loop.time() - started

    assert 38 * seconds <= 0.0055 * faulty.run(run())
    assert set(tried) == {1, MANY}


def test_trials_are_rare_while_they_go_as_announced_and_frequent_after_a_surprise() -> None:
    quick, slow, times, enough = 0.001, 0.003, list[float](), asyncio.Event()

    async def trial(tokens: int, patience: float) -> float:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 60:
            enough.set()
        return quick if len(times) <= 36 else slow

    async def run() -> None:
        keeping = asyncio.create_task(Pace(Speed(quick, 0.0)).keep(trial))
        await enough.wait()
        keeping.cancel()

    faulty.run(run())
    ends = times[5::6]
    pauses = [later - earlier for earlier, later in zip([0.0, *ends], ends, strict=False)]
    assert pauses == pytest.approx([5, 10, 20, 40, 60, 60, 60, 5, 5, 10])


def test_the_rounds_of_a_trial_are_apart_and_the_fastest_of_either_kind_counts() -> None:
    times, enough = list[float](), asyncio.Event()

    async def trial(tokens: int, patience: float) -> float:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 19:
            enough.set()
        is_disturbed = len(times) % 3 != 1
        return BUSY.step_seconds if is_disturbed else QUIET.step_seconds + QUIET.token_seconds * (tokens - 1)

    async def run() -> Speed:
        own = Pace(BUSY)
        keeping = asyncio.create_task(own.keep(trial))
        await enough.wait()
        keeping.cancel()
        return own.speed

    assert faulty.run(run()) == approx(QUIET)
    assert all(later - earlier > 0.8 for earlier, later in pairwise(times))


class Gated:
    """An engine whose batches end when they are let go on."""

    can_break = False

    def __init__(self) -> None:
        self.done = list[str]()
        self.gate = threading.Semaphore(0)

    def run(self, jobs: Sequence[object], between: object = None) -> list[Failure]:
        self.gate.acquire()
        self.done.append("batch")
        return [Failure("no stage") for _ in jobs]

    def trial(self) -> float:
        self.done.append("trial")
        return 0.5


@pytest.mark.parametrize(
    ("patience", "order"), [(60.0, ["batch", "batch", "trial"]), (0.0, ["batch", "trial", "batch"])]
)
def test_a_trial_waits_for_rounds_but_not_for_ever(patience: float, order: list[str]) -> None:
    async def run() -> list[str]:
        engine, delivered = Gated(), asyncio.Semaphore(0)
        with ThreadPoolExecutor(1) as thread:
            worker = Worker(engine, thread, lambda *_: delivered.release(), 1)  # type: ignore[arg-type]
            for number in (1, 2):
                worker.submit(decode(session(number, "client")))
            trying = asyncio.create_task(worker.time(engine.trial, patience))
            await asyncio.sleep(0)
            engine.gate.release(2)
            assert await trying == 0.5
            for _ in range(2):
                await delivered.acquire()
        return engine.done

    assert asyncio.run(run()) == order


def test_a_trial_that_fails_raises_and_the_next_one_runs() -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as thread:
            worker = Worker(Gated(), thread, lambda *_: None, 1)  # type: ignore[arg-type]
            with pytest.raises(ZeroDivisionError):
                await worker.time(lambda: 1 / 0, 1.0)
            assert await worker.time(lambda: 0.25, 1.0) == 0.25

    asyncio.run(run())


def test_a_peer_that_started_in_a_busy_moment_soon_announces_what_its_stage_takes(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.speed, "measure", lambda _: Speed(30.0, 3.0))
    monkeypatch.setattr(pace, "_LEAST_PAUSE", 0.05)

    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path, announce_seconds=1) as network,
            memory_swarm.client(network, target, draft="none") as model,
        ):
            seconds = [30.0]
            while seconds[-1] >= 30.0:
                await asyncio.sleep(0.05)
                await model.refresh()
                (announced,) = model.target.roster.peers.values()
                seconds.append(announced.step_seconds)
            assert seconds[1] == 30.0
            assert announced.step_seconds < 10.0
            assert announced.token_seconds < 1.0

    asyncio.run(run())
