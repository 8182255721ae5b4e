"""In which order rounds that wait for the stage have their turn: clients share it, whatever they ask for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.batching import next_batch
from peer.compute import Job
from peer.intake import States
from peer.queue import Queue, num_tokens
from peer.session import Session
from peer.standing import ENOUGH, PROBATION, Standing
from swarm.model.cache import KVCache
from swarm.packing import pack
from swarm.span import Span
from swarm.speculation.sampling import Sampling
from swarm.tensors import to_bytes
from swarm.wire import Round, joined

CHUNK = 512


@dataclass
class Clock:
    """Time that passes when told to."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def session(number: int, client: str) -> Session:
    return Session(bytes([number]) * 16, client, Span(0, 1), client, None, Sampling(), KVCache(Span(0, 1)))


def prefill(of: Session, tokens: int = CHUNK, position: int = 0) -> Job:
    return Job(of, Round(of.id, 0, position, (1,) * tokens, 0, judged=False), None, ())


def decode(of: Session, drafts: int = 4) -> Job:
    return Job(of, Round(of.id, 0, 50, (1,) * (drafts + 1), drafts, judged=True), None, ())


def run(queue: Queue, now: float = 0.0, prefill_tokens: int = CHUNK) -> list[Job]:
    """One pass, that takes a second for each token; what was in it."""
    ready = queue.heads()
    batch = queue.take(next_batch(ready, CHUNK, prefill_tokens), prefill_tokens)
    queue.charge(batch, float(num_tokens(batch)), now)
    return batch


def served(queue: Queue, passes: int) -> Counter[str]:
    """Tokens that each client gets in so many passes."""
    had = Counter[str]()
    for _ in range(passes):
        for job in run(queue):
            had[job.session.client] += len(job.round.tokens)
    return had


def test_a_client_with_nine_long_texts_gets_no_more_than_one_who_came_later_with_one() -> None:
    queue = Queue()
    for number in range(9):
        for _ in range(16):
            queue.add(prefill(session(number, "greedy")))
    run(queue)
    late = session(100, "late")
    for _ in range(8):
        queue.add(prefill(late))
    had = served(queue, 16)
    assert had["late"] == had["greedy"] == 8 * CHUNK


def test_sessions_of_one_client_have_turns_too() -> None:
    queue = Queue()
    sessions = [session(number, "client") for number in range(3)]
    for _ in range(4):
        for one in sessions:
            queue.add(prefill(one))
    order = [job.session for _ in range(12) for job in run(queue)]
    assert order == sessions * 4


def test_a_crowd_of_newcomers_shares_what_one_known_client_has() -> None:
    clock = Clock()
    standing = Standing(clock)
    standing.note("known", ENOUGH)
    clock.now += PROBATION
    queue = Queue(standing)
    for number in range(10):
        for _ in range(20):
            queue.add(prefill(session(number, f"new {number}")))
    known = session(100, "known")
    for _ in range(20):
        queue.add(prefill(known))
    had = served(queue, 20)
    assert had["known"] == pytest.approx(10 * CHUNK, abs=CHUNK)


def test_a_known_client_was_served_for_long_enough_and_since_long_enough_ago() -> None:
    clock = Clock()
    standing = Standing(clock)
    standing.note("quick", 10 * ENOUGH)
    standing.note("rare", ENOUGH / 2)
    assert standing.is_new("quick")
    clock.now += PROBATION
    assert standing.is_new("rare")
    assert standing.is_new("nobody")
    assert not standing.is_new("quick")


def test_prefill_beside_those_who_decode_runs_in_short_passes() -> None:
    queue = Queue()
    reader, writer = session(1, "reader"), session(2, "writer")
    queue.add(prefill(reader, 100))
    assert not queue.is_disturbing(queue.heads(), now=0.0)
    queue.add(decode(writer))
    assert queue.is_disturbing(queue.heads(), now=0.0)
    batch = run(queue, now=0.0, prefill_tokens=16)
    assert [len(job.round.tokens) for job in batch] == [5, 16]
    assert queue.is_disturbing(queue.heads(), now=0.9)
    assert not queue.is_disturbing(queue.heads(), now=1.1)
    queue.charge([decode(writer)], 1.0, now=2.0)
    queue.forget(writer.id)
    assert not queue.is_disturbing(queue.heads(), now=2.0)
    assert not queue.is_disturbing([decode(writer)], now=2.0)
    assert not queue.is_disturbing([prefill(reader)], now=2.0)


def test_of_sessions_that_end_while_their_rounds_are_run_nothing_is_left_after_a_second() -> None:
    queue = Queue()
    for number in range(200):
        ended = session(number, f"client {number}")
        queue.add(decode(ended))
        batch = queue.take(queue.heads(), CHUNK)
        queue.forget(ended.id)
        queue.charge(batch, 0.01, now=number / 8)
        assert len(queue._decoded) <= 8


def test_a_short_round_breaks_into_others_prefill_unless_its_turn_is_later() -> None:
    queue = Queue()
    reader, writer, greedy = session(1, "reader"), session(2, "writer"), session(3, "greedy")
    running = [prefill(reader)]
    for waiting in (decode(reader), decode(writer), decode(greedy), decode(session(4, "long"), drafts=200)):
        queue.add(waiting)
    queue.add(prefill(session(5, "other")))

    def breaking() -> set[str]:
        return {job.session.client for job in queue.breaking(running, max_tokens=100)}

    assert breaking() == {"writer", "greedy"}
    queue.charge([decode(greedy)], 1.0, now=0.0, beside=running)
    assert breaking() == {"writer"}
    queue.charge(running, 2.0, now=0.0)
    assert breaking() == {"writer", "greedy"}


def test_what_breaks_into_a_pass_is_paid_for_though_nobody_waits() -> None:
    queue = Queue()
    reader, writer, others = session(1, "reader"), session(2, "writer"), session(3, "writer")
    running = [prefill(reader)]
    queue.add(decode(writer))
    assert queue.take(queue.breaking(running, 100), CHUNK)
    queue.charge([decode(writer)], 1.0, now=0.0, beside=running)
    queue.add(decode(writer))
    queue.add(decode(others))
    assert not queue.breaking(running, 100)


def test_of_one_client_the_session_that_has_had_less_breaks_in() -> None:
    queue = Queue()
    writer, reader, idle = (session(i, "one") for i in range(3))
    for one in (writer, reader):
        queue.add(prefill(one))
    queue.charge([decode(writer)], 1.0, now=0.0)
    queue.add(decode(idle))
    assert [job.session.id for job in queue.breaking([prefill(reader)], 100)] == [idle.id]
    queue.leave_out(writer.id, lambda _: True)
    queue.add(decode(writer))
    assert [job.session.id for job in queue.breaking([prefill(reader)], 100)] == [idle.id]


def test_who_decodes_is_not_disturbed_by_himself() -> None:
    queue = Queue()
    writer = session(1, "writer")
    queue.charge([decode(writer)], 1.0, now=0.0)
    assert not queue.is_disturbing([prefill(writer)], now=0.1)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(0, 6), st.integers(1, 50), st.booleans())
def test_a_prefill_in_parts_is_the_same_text_in_order(text: int, drafts: int, most: int, is_judged: bool) -> None:
    one = session(1, "client")
    drafts = drafts if is_judged else 0
    round = Round(one.id, 3, 7, tuple(range(text + drafts)), drafts, is_judged, continues=is_judged)
    rows = torch.arange(text + drafts).float().unsqueeze(1)
    one.admit(round, one.tree_with(round))
    queue = Queue()
    states = States.of(pack(to_bytes(rows), 4), "float32", 1, sender="before", is_packed=True)
    queue.add(Job(one, round, states, (0.5,), context=(1, 2)))
    parts = list[Job]()
    while queue.heads():
        parts += run(queue, prefill_tokens=most)
    for part in parts:
        one.ran(part.round)
    assert (one.waiting, one.in_flight, one.computed) == (0, 0, round.end)
    assert sum((part.round.tokens for part in parts), ()) == round.tokens
    assert torch.cat([part.states.read(torch.float32) for part in parts if part.states]).equal(rows)
    assert [part.round.position for part in parts] == [7 + most * i for i in range(len(parts))]
    assert all(part.compute == (0.5,) and part.round.number == 3 for part in parts)
    assert [part.has_rest for part in parts] == [True] * (len(parts) - 1) + [False]
    assert reduce(joined, [part.round for part in parts]) == round
    *before, last = parts
    assert all(not part.round.judged and not part.round.num_drafts and not part.context for part in before)
    assert (last.round.judged, last.round.num_drafts, last.context) == (is_judged, drafts, (1, 2))
    assert [part.round.continues for part in parts] == [is_judged] + [True] * len(before)


def test_rounds_that_are_not_wanted_any_more_are_counted_no_more() -> None:
    queue = Queue()
    one, other = session(1, "client"), session(2, "client")
    jobs = [prefill(one), decode(one), prefill(other)]
    for job in jobs:
        queue.add(job)
    assert queue.num_tokens == 2 * CHUNK + 5
    assert queue.leave_out(one.id, lambda job: job.round.judged) == [jobs[1]]
    assert queue.num_tokens == 2 * CHUNK
    assert queue.heads(held_up={one.id}) == [jobs[2]]
    queue.forget(one.id)
    queue.forget(other.id)
    assert (queue.num_tokens, len(queue), queue.heads()) == (0, 0, [])


def test_the_bytes_of_states_that_wait_are_counted_by_session() -> None:
    queue = Queue()
    one, other = session(1, "client"), session(2, "client")

    def waiting(of: Session, tokens: int) -> Job:
        states = States.of(bytes(4 * tokens), "float32", 1, sender="before")
        return Job(of, Round(of.id, 0, 0, (1,) * tokens, 0, judged=False), states, ())

    for job in (waiting(one, 30), waiting(one, 20), waiting(other, 40)):
        queue.add(job)
    assert queue.num_bytes == {one.id: 4 * 50, other.id: 4 * 40}
    queue.forget(one.id)
    assert queue.num_bytes == {other.id: 4 * 40}
    queue.take(queue.heads(), 10)
    assert queue.num_bytes == {other.id: 4 * 30}
    queue.take(queue.heads(), 30)
    assert not queue.num_bytes
