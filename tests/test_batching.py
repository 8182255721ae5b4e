"""Which rounds share a forward pass, as a pure choice and as the worker carries it out."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peer import compute
from peer.batching import PrefillPass, is_prefill, next_batch
from peer.compute import Break, Engine, Failure, Job, Outcome
from peer.intake import States
from peer.session import Session
from peer.worker import Worker
from swarm.model.cache import KVCache
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Stage
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.wire import MAX_TAIL, Round
from tests.models import save_llama


@dataclass(frozen=True, eq=False)
class Item:
    """A waiting round."""

    round: Round


def session_id(i: int) -> bytes:
    return i.to_bytes(16, "big")


def decode(session: int, drafts: int = 4) -> Item:
    """One new token and its drafts."""
    return Item(Round(session_id(session), 0, 50, (1,) * (drafts + 1), drafts, judged=True))


def chunk(session: int, tokens: int = 64) -> Item:
    """A chunk of a longer prefill."""
    return Item(Round(session_id(session), 0, 0, (1,) * tokens, 0, judged=False))


def prompt(session: int, tokens: int = 64) -> Item:
    """A whole prompt: judged, but text that the caches lack."""
    return Item(Round(session_id(session), 0, 0, (1,) * tokens, 2, judged=True))


def test_nothing_waits_nothing_runs() -> None:
    assert next_batch([], 100) == []


def test_decode_comes_before_prefill_whoever_was_first() -> None:
    waiting = [chunk(1), prompt(2), decode(3), chunk(4), decode(5)]
    assert next_batch(waiting, 1000) == [waiting[2], waiting[4], waiting[0], waiting[1], waiting[3]]


def test_plain_decoding_is_no_prefill() -> None:
    waiting = [chunk(1), decode(2, drafts=0)]
    assert next_batch(waiting, 1000)[0] is waiting[1]


def test_the_tail_of_a_text_in_front_of_its_drafts_is_no_prefill() -> None:
    def with_tail(tokens: int) -> Item:
        return Item(Round(session_id(2), 0, 0, (1,) * (tokens + 3), 2, judged=True))

    waiting = [chunk(1), with_tail(MAX_TAIL)]
    assert next_batch(waiting, 1000)[0] is waiting[1]
    waiting = [chunk(1), with_tail(MAX_TAIL + 1)]
    assert next_batch(waiting, 1000)[0] is waiting[0]


def test_first_come_first_within_a_kind() -> None:
    waiting = [decode(i) for i in (5, 3, 9, 1)]
    assert next_batch(waiting, 1000) == waiting


def test_only_the_first_round_of_a_session_is_taken() -> None:
    waiting = [chunk(1), decode(1), chunk(2), chunk(2), decode(3)]
    assert next_batch(waiting, 1000) == [waiting[4], waiting[0], waiting[2]]


def test_decode_behind_a_prefill_of_its_own_session_waits() -> None:
    waiting = [chunk(1, 64), decode(1)]
    assert next_batch(waiting, 10) == [waiting[0]]


def test_budget_is_kept_and_later_rounds_that_fit_are_taken() -> None:
    waiting = [chunk(2, 90), chunk(3, 20), chunk(4, 10)]
    assert next_batch(waiting, 100) == [waiting[0], waiting[2]]
    assert next_batch(waiting, 120) == waiting


def test_prefill_goes_on_however_much_is_decoded() -> None:
    waiting = [*(decode(session) for session in range(10)), chunk(10, 50)]
    assert next_batch(waiting, 50)[-1] is waiting[-1]


def test_round_larger_than_the_budget_runs_alone() -> None:
    waiting = [chunk(1, 200), chunk(2, 1)]
    assert next_batch(waiting, 100) == [waiting[0]]
    assert next_batch([chunk(1, 200)], 100)


def is_decode(item: Item) -> bool:
    return item.round.judged and item.round.num_text <= MAX_TAIL + 1


items = st.one_of(
    st.builds(decode, st.integers(0, 5), st.integers(0, 8)),
    st.builds(chunk, st.integers(0, 5), st.integers(1, 60)),
    st.builds(prompt, st.integers(0, 5), st.integers(4, 60)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(items, min_size=1, max_size=15), st.integers(1, 120))
def test_every_batch_keeps_the_rules(waiting: list[Item], max_tokens: int) -> None:
    batch = next_batch(waiting, max_tokens)
    heads = {item.round.session: item for item in reversed(waiting)}
    kinds = [is_decode(item) for item in batch]
    assert batch
    assert all(item is heads[item.round.session] for item in batch)
    assert len({item.round.session for item in batch}) == len(batch)
    assert kinds == sorted(kinds, reverse=True)
    left = [item for item in heads.values() if item not in batch]
    for kind in (True, False):
        sizes = [len(item.round.tokens) for item, its in zip(batch, kinds, strict=True) if its is kind]
        assert len(sizes) <= 1 or sum(sizes) <= max_tokens
        assert all(sum(sizes) + len(item.round.tokens) > max_tokens for item in left if is_decode(item) is kind)


@settings(max_examples=100, deadline=None)
@given(st.lists(items, min_size=1, max_size=15), st.integers(1, 120))
def test_queue_runs_empty_and_each_session_in_its_order(waiting: list[Item], max_tokens: int) -> None:
    left, done = list(waiting), []
    while left:
        batch = next_batch(left, max_tokens)
        left = [item for item in left if item not in batch]
        done += batch
    for session in {item.round.session for item in waiting}:
        arrived = [item for item in waiting if item.round.session == session]
        assert [item for item in done if item.round.session == session] == arrived


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    source = ModelSource.resolve(str(save_llama(tmp_path_factory.mktemp("model"), layers=1, hidden=16)))
    return load_stage(source, Span(0, 1))


def open_session(stage: Stage, i: int) -> Session:
    return Session(session_id(i), "client", stage.span, "client", None, Sampling(), stage.new_cache())


def work(
    stage: Stage,
    jobs: list[Job],
    engine: Engine | None = None,
    *,
    drop: bytes | None = None,
    prefill_tokens: int | None = None,
) -> list[tuple[Job, Outcome | Failure]]:
    """What a worker delivers for jobs that come at once, until all are done; the waiting ones of `drop` are dropped."""

    async def deliver_all() -> list[tuple[Job, Outcome | Failure]]:
        delivered: list[tuple[Job, Outcome | Failure]] = []
        done = asyncio.Event()

        def deliver(job: Job, outcome: Outcome | Failure) -> None:
            delivered.append((job, outcome))
            if job is last:
                done.set()

        with ThreadPoolExecutor(1) as thread:
            worker = Worker(engine or Engine(stage), thread, deliver, 64, prefill_tokens)
            last = jobs[-1]
            for job in jobs:
                worker.submit(job)
            if drop is not None:
                worker.drop(drop)
            async with asyncio.timeout(10):
                await done.wait()
        return delivered

    return asyncio.run(deliver_all())


def job_of(session: Session, number: int, position: int, tokens: tuple[int, ...]) -> Job:
    return Job(session, Round(session.id, number, position, tokens, 0, True), None, (), tokens)


def test_worker_answers_every_round_of_every_session(stage: Stage) -> None:
    sessions = [open_session(stage, i) for i in range(3)]
    jobs = [job_of(session, number, number, (5,)) for number in range(3) for session in sessions]
    delivered = work(stage, jobs)
    assert {(job.session.id, job.round.number) for job, _ in delivered} == {
        (job.session.id, job.round.number) for job in jobs
    }
    assert all(isinstance(outcome, Outcome) and len(outcome.tokens) == 1 for _, outcome in delivered)


def test_a_pass_is_of_those_who_decode_or_of_others_who_prefill(stage: Stage) -> None:
    """Or each round of who decodes would take as long as others' prefill does."""
    passes = list[list[tuple[bytes, bool]]]()

    class Noting(Engine):
        def run(self, batch: Sequence[Job], between: Break | None = None) -> Any:
            passes.append([(job.session.client.encode(), is_prefill(job.round)) for job in batch])
            return super().run(batch, between)

    writer, reader = (
        Session(session_id(i), name, stage.span, name, None, Sampling(), stage.new_cache())
        for i, name in enumerate(("writer", "reader"))
    )
    text = tuple(range(40))
    jobs = [job_of(writer, number, number, (5,)) for number in range(12)]
    jobs[6:6] = [Job(reader, Round(reader.id, 0, 0, text, 0, False), None, (), text)]
    work(stage, jobs, Noting(stage), prefill_tokens=8)
    kinds = [{is_prefilling for _, is_prefilling in batch} for batch in passes]
    assert {len(kind) for kind in kinds} == {1}
    assert sum(kind == {True} for kind in kinds) > 1
    assert kinds.index({True}) < len(kinds) - 1 - kinds[::-1].index({False})


class Gated(Engine):
    """Each layer of a prefill, or else its end, takes until it is let through."""

    def __init__(self, stage: Stage, *, at_each_layer: bool) -> None:
        super().__init__(stage)
        self.gate = threading.Event()
        self._at_each_layer = at_each_layer

    def run(self, batch: Sequence[Job], between: Break | None = None) -> Any:
        def work() -> None:
            if self._at_each_layer and between is not None:
                assert self.gate.wait(10)
                between()

        if not is_prefill(batch[0].round):
            return super().run(batch, between)
        results = super().run(batch, Break(work))
        assert self.gate.wait(10)
        return results


@dataclass
class BusyWorker:
    """A worker whose thread is at a prefill, and what it has delivered."""

    worker: Worker
    engine: Gated
    prefill: Job
    results: asyncio.Queue[tuple[Job, Outcome | Failure]]

    async def delivered(self, number: int) -> list[tuple[Job, Outcome | Failure]]:
        """The next ones, once it is let through."""
        self.engine.gate.set()
        async with asyncio.timeout(10):
            return [await self.results.get() for _ in range(number)]


@contextlib.asynccontextmanager
async def busy_worker(stage: Stage, *, at_each_layer: bool = True) -> AsyncIterator[BusyWorker]:
    found = asyncio.Queue[tuple[Job, Outcome | Failure]]()
    engine = Gated(stage, at_each_layer=at_each_layer)
    with ThreadPoolExecutor(1) as thread:
        try:
            worker = Worker(engine, thread, lambda *result: found.put_nowait(result), 64)
            long = long_prefill(stage)
            worker.submit(long)
            yield BusyWorker(worker, engine, long, found)
        finally:
            engine.gate.set()


def session_of(stage: Stage, client: str) -> Session:
    return Session(client.encode().rjust(16), client, stage.span, client, None, Sampling(), stage.new_cache())


def long_prefill(stage: Stage) -> Job:
    reader, text = session_of(stage, "reader"), tuple(range(3, 43))
    return Job(reader, Round(reader.id, 0, 0, text, 0, judged=True), None, (), text)


@pytest.fixture(scope="module")
def inner_stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """That passes hidden states on."""
    source = ModelSource.resolve(str(save_llama(tmp_path_factory.mktemp("model"), layers=3, hidden=16)))
    return load_stage(source, Span(0, 2))


@pytest.mark.parametrize("at_each_layer", [True, False], ids=["between two layers", "after the last one"])
def test_a_short_round_does_not_wait_for_the_end_of_others_prefill(at_each_layer: bool, inner_stage: Stage) -> None:
    """And both get what each gets alone."""

    async def run() -> list[tuple[Job, Outcome | Failure]]:
        async with busy_worker(inner_stage, at_each_layer=at_each_layer) as busy:
            busy.worker.submit(job_of(session_of(inner_stage, "writer"), 0, 0, (5, 6)))
            assert busy.worker.queued == 42
            return await busy.delivered(2)

    got = asyncio.run(run())
    assert [job.session.client for job, _ in got] == (
        ["writer", "reader"] if at_each_layer else ["reader", "writer"]
    )
    alone = {"writer": job_of(session_of(inner_stage, "writer"), 0, 0, (5, 6)), "reader": long_prefill(inner_stage)}
    for job, outcome in got:
        [expected] = Engine(inner_stage).run([alone[job.session.client]])
        assert isinstance(outcome, Outcome) and isinstance(expected, Outcome)
        assert outcome.states == expected.states


def test_rounds_that_cannot_break_in_share_the_next_pass(
    inner_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is given all layers of a pass at once."""
    monkeypatch.setattr(Gated, "can_break", False)
    passes = list[int]()

    async def run() -> list[str]:
        async with busy_worker(inner_stage, at_each_layer=False) as busy:
            for name in ("one", "two"):
                busy.worker.submit(job_of(session_of(inner_stage, name), 0, 0, (5,)))
            start = busy.worker._start
            busy.worker._start = lambda batch: passes.append(len(batch)) or start(batch)  # type: ignore[method-assign]
            return [job.session.client for job, _ in await busy.delivered(3)]

    assert asyncio.run(run()) == ["reader", "one", "two"]
    assert passes == [2]


def test_states_that_the_dtype_here_cannot_hold_are_nobody_elses_fault(inner_stage: Stage) -> None:
    states = States.of(torch.full((1, 16), 70_000.0).numpy().tobytes(), "float32", 16, sender="before")
    session = session_of(inner_stage, "writer")
    job = Job(session, Round(session.id, 0, 0, (5,), 0, judged=True), states, ())
    failure = compute.spoiled_by(job, torch.float16)
    assert failure is not None and failure.culprit is None and "float16" in failure.reason
    assert compute.spoiled_by(job, torch.float32) is None


def test_who_breaks_in_and_fails_fails_alone(inner_stage: Stage) -> None:
    async def run() -> list[tuple[Job, Outcome | Failure]]:
        async with busy_worker(inner_stage) as busy:
            busy.worker.submit(
                job_of(session_of(inner_stage, "writer"), 0, 100, (5,))
            )  # a gap, which no peer admits
            return await busy.delivered(2)

    (_, failed), (_, outcome) = asyncio.run(run())
    assert isinstance(failed, Failure) and isinstance(outcome, Outcome)


def test_a_session_that_ends_takes_back_what_was_to_break_in(inner_stage: Stage) -> None:
    async def run() -> None:
        async with busy_worker(inner_stage) as busy:
            gone, other = (job_of(session_of(inner_stage, name), 0, 0, (5,)) for name in ("gone", "other"))
            busy.worker.submit(gone)
            busy.worker.drop(gone.session.id)
            busy.worker.submit(other)
            assert [job for job, _ in await busy.delivered(2)] == [other, busy.prefill]
            assert busy.results.empty()

    asyncio.run(run())


def test_a_worker_that_stops_begins_with_nothing_more(inner_stage: Stage) -> None:
    async def run() -> None:
        async with busy_worker(inner_stage) as busy:
            busy.worker.submit(job_of(session_of(inner_stage, "writer"), 0, 0, (5,)))
            busy.worker.stop()
            assert [job for job, _ in await busy.delivered(1)] == [busy.prefill]
            assert busy.results.empty()

    asyncio.run(run())


def test_a_pass_is_broken_for_no_longer_than_it_takes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now, breaks = 0.0, list[float]()

    def work() -> None:
        nonlocal now
        breaks.append(now)
        now += 3.0

    monkeypatch.setattr(compute.time, "perf_counter", lambda: now)
    between = Break(work)
    for _ in range(8):
        between()
        now += 1.0
    assert breaks == [0.0, 6.0, 12.0]
    assert (between.seconds, between.own_seconds) == (9.0, 8.0)


def test_worker_answers_a_round_as_often_as_it_was_sent(stage: Stage) -> None:
    """A repeated round is the same bytes; it gets the same answer, and gets one."""
    session = open_session(stage, 1)
    delivered = work(stage, [job_of(session, 0, 0, (3, 4)), job_of(session, 0, 0, (3, 4))])
    first, second = (outcome for _, outcome in delivered)
    assert isinstance(first, Outcome) and isinstance(second, Outcome)
    assert first.tokens == second.tokens


def test_a_round_that_cannot_be_judged_fails_alone_and_its_pass_is_not_run_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, forward, passes = compute._judge, stage.forward, list[int]()

    def judge_others(job: Job, logits: Tensor) -> Any:
        return judge(job, logits if job.session is not bad else logits[:0])

    def counted(slices: Any, between: Break | None) -> Any:
        passes.append(len(slices))
        return forward(slices, between)

    bad, before = open_session(stage, 1), open_session(stage, 2)
    others = [open_session(stage, i) for i in range(3, 6)]
    monkeypatch.setattr(compute, "_judge", judge_others)
    monkeypatch.setattr(stage, "forward", counted)
    delivered = work(stage, [job_of(one, 0, 0, (4,)) for one in (before, bad, *others)])
    failed = {job.session.id for job, outcome in delivered if isinstance(outcome, Failure)}
    assert (failed, passes) == ({bad.id}, [1, 4])


def test_failing_round_fails_alone_and_the_worker_goes_on(stage: Stage) -> None:
    """A gap that no peer would admit stands for any fault on the torch thread."""
    good, bad, before = open_session(stage, 1), open_session(stage, 2), open_session(stage, 3)
    for i in range(2):  # the first round runs alone, the other two wait for it and run together
        rounds = [job_of(before, i, i, (2,)), job_of(bad, 0, 100, (3,)), job_of(good, i, i, (4,))]
        delivered = work(stage, rounds)
        outcomes = {job.session.id: outcome for job, outcome in delivered}
        failure = outcomes[bad.id]
        assert isinstance(failure, Failure)
        assert isinstance(outcomes[good.id], Outcome)


def test_worker_forgets_the_rounds_of_a_dropped_session(stage: Stage) -> None:
    kept, dropped = open_session(stage, 1), open_session(stage, 2)
    rounds = [job_of(kept, 0, 0, (3,)), job_of(dropped, 0, 0, (3,)), job_of(kept, 1, 1, (4,))]
    delivered = work(stage, rounds, drop=dropped.id)
    assert [job.session.id for job, _ in delivered] == [kept.id] * 2


def test_a_part_of_the_stage_that_is_used_often_becomes_flat_and_says_the_same(tmp_path: Path) -> None:
    source = ModelSource.resolve(str(save_llama(tmp_path, layers=3, hidden=16)))
    engine, span = Engine(load_stage(source, Span(0, 3))), Span(0, 2)
    session = Session(session_id(1), "client", span, "client", None, Sampling(), KVCache(span))
    states = []
    for _ in range(40):
        (outcome,) = engine.run([job_of(session, 0, 0, (3, 4, 5))])
        assert isinstance(outcome, Outcome)
        states.append(outcome.states)
    assert engine._part(span).is_flat
    assert states == states[:1] * 40


def test_prefill_beside_others_takes_twice_as_long_as_decoding_however_long_its_text() -> None:
    share = PrefillPass(32)
    share.note_prefill(32, 1.0)  # nobody has decoded yet
    assert share.tokens == 32
    share.note_decode(0.01)
    for _ in range(5):
        share.note_prefill(share.tokens, 0.001 + share.tokens * 0.001)
    assert share.tokens == 19
    for _ in range(5):
        share.note_prefill(share.tokens, 0.08)  # each of them
    assert share.tokens == 4
    for _ in range(20):
        share.note_prefill(share.tokens, 0.0001 * share.tokens)
    assert share.tokens == 32
