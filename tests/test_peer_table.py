"""The table of sessions, with a real stage: who gets in, what memory is counted, and when it is free again."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from peer.compute import Engine, Job
from peer.intake import States
from peer.limits import DEFAULTS, Limits
from peer.room import IDLE
from peer.session import Neighbour, Refusal, Session
from peer.standing import ENOUGH, PROBATION
from peer.table import MAX_JUDGED, SessionTable
from swarm.model.cache import PIECE
from swarm.model.loading import load_stage
from swarm.model.source import ModelSource
from swarm.model.stage import Stage
from swarm.span import Span
from swarm.speculation.processors import Processors
from swarm.speculation.sampling import Sampling
from swarm.wire import Contact, Open, Round
from tests.models import VOCAB, save_llama
from tests.toy_swarm import introduction

FINGERPRINT = "a" * 64
CLIENT = "the client"
NEXT = Neighbour(Contact("next"), max_round=512)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return ModelSource.resolve(str(save_llama(tmp_path_factory.mktemp("target"), hidden=16)))


@pytest.fixture(scope="module")
def first(source: ModelSource) -> Stage:
    """Layers 0:2 of 4."""
    return load_stage(source, Span(0, 2))


@pytest.fixture(scope="module")
def last(source: ModelSource) -> Stage:
    """Layers 2:4 of 4."""
    return load_stage(source, Span(2, 4))


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def table_of(
    stage: Stage,
    tokens: int = 10_000,
    sessions: int = 4,
    clock: Clock | None = None,
    limits: Limits = DEFAULTS,
) -> SessionTable:
    return SessionTable(
        stage,
        FINGERPRINT,
        max_cache_bytes=tokens * stage.cache_bytes_per_token,
        max_sessions=sessions,
        limits=limits,
        clock=clock or Clock(),
    )


def request(i: int = 0, **changes: Any) -> Open:
    """A good request to a first peer that serves 0:2."""
    fields_: dict[str, Any] = {
        "session": i.to_bytes(16, "big"),
        "fingerprint": FINGERPRINT,
        "start": 0,
        "end": 2,
        "upstream": None,
        "downstream": introduction("next"),
        "holds": 0,
        "chunk": 512,
        "sampling": Sampling(),
    }
    return Open(**fields_ | changes)


def to_last(i: int = 0, **changes: Any) -> Open:
    """A good request to a last peer that serves 2:4."""
    return request(i, **{"start": 2, "end": 4, "upstream": "before", "downstream": None} | changes)


def round_of(session: Session, tokens: int, position: int = 0, number: int = 0) -> Round:
    return Round(session.id, number, position, (1,) * tokens, 0, True)


def state(table: SessionTable) -> Any:
    """All that the table and its sessions know."""
    return table.free_tokens, [
        {field.name: getattr(session, field.name) for field in fields(session)} | {"tokens": list(session.tokens)}
        for session in table
    ]


def test_opened_session_is_as_requested_and_found(first: Stage, last: Stage) -> None:
    for stage, wanted in ((first, request()), (first, request(1, end=1)), (last, to_last())):
        table = table_of(stage)
        downstream = NEXT if wanted.downstream else None
        session = table.open(wanted, CLIENT, downstream)
        assert table.find(wanted.session) is session
        assert list(table) == [session]
        assert len(table) == 1
        assert session.client == CLIENT
        assert session.span == Span(wanted.start, wanted.end)
        assert session.source == (wanted.upstream or CLIENT)
        assert session.downstream == (NEXT.contact if wanted.downstream else None)
        assert session.tokens == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fingerprint": "b" * 64}, "serves model"),
        ({"start": 0, "end": 3}, "serves layers 0:2"),
        ({"start": 2, "end": 4, "upstream": "before", "downstream": None}, "serves layers 0:2"),
        ({"upstream": "before"}, "fed by the client"),
        ({"start": 1}, "fed by the client"),
        ({"sampling": Sampling(processors=Processors(suppress_tokens=(1 << 20,)))}, "not in the vocabulary"),
        ({"sampling": Sampling(eos_token_id=(1 << 20,))}, "not in the vocabulary"),
    ],
    ids=[
        "another model",
        "a layer too many",
        "other layers",
        "first with a peer before it",
        "later without",
        "a token forbidden that there is not",
        "a text ended by one that there is not",
    ],
)
def test_refused_open_changes_nothing(changes: dict[str, Any], reason: str, first: Stage) -> None:
    table = table_of(first)
    session = table.open(request(7), CLIENT)
    table.admit(session, round_of(session, 5), 0, CLIENT)
    before = state(table)
    with pytest.raises(Refusal, match=reason) as refusal:
        table.open(request(1, **changes), CLIENT)
    assert state(table) == before
    assert "\n" not in str(refusal.value)


def test_a_session_is_replaced_by_its_own_client_and_nobody_else(first: Stage) -> None:
    table = table_of(first, sessions=1)
    session = table.open(request(7), CLIENT)
    table.admit(session, round_of(session, 5), 0, CLIENT)
    before = state(table)
    with pytest.raises(Refusal, match="open already") as refusal:
        table.open(request(7), "a stranger")
    assert refusal.value.why == "unlawful"
    assert state(table) == before
    again = table.open(request(7), CLIENT)
    assert (table.has(again), table.has(session), len(table)) == (True, False, 1)
    assert again.tokens == []
    assert table.free_tokens == table_of(first).free_tokens


def test_last_hop_with_a_next_peer_is_refused(last: Stage) -> None:
    table = table_of(last)
    with pytest.raises(Refusal, match="ends the chain"):
        table.open(to_last(), CLIENT, NEXT)
    assert len(table) == 0


def test_full_table_refuses_until_a_session_closes(first: Stage) -> None:
    table = table_of(first, sessions=2)
    for i in range(2):
        table.open(request(i), CLIENT)
    before = state(table)
    with pytest.raises(Refusal, match="full: 2 sessions"):
        table.open(request(2), CLIENT)
    assert state(table) == before
    table.close(request(0).session)
    assert table.open(request(2), CLIENT).id == request(2).session


def test_a_client_with_many_sessions_is_refused_while_others_are_not(first: Stage) -> None:
    table = table_of(first, limits=Limits(max_client_sessions=2))
    for i in range(2):
        table.open(request(i), CLIENT)
    before = state(table)
    with pytest.raises(Refusal, match="2 sessions open") as refusal:
        table.open(request(2), CLIENT)
    assert refusal.value.why == "full"
    assert state(table) == before
    table.open(request(1), CLIENT)  # in place of one it has
    table.open(request(2), "another")


def test_a_client_that_opens_too_fast_is_refused(first: Stage) -> None:
    table = table_of(first, limits=Limits(opens_per_minute=3))
    for _ in range(3):
        table.close(table.open(request(), CLIENT).id)
    with pytest.raises(Refusal) as refusal:
        table.open(request(), CLIENT)
    assert (refusal.value.why, len(table)) == ("rate", 0)


def test_in_a_full_table_the_oldest_session_that_got_no_round_makes_room(first: Stage) -> None:
    clock = Clock()
    table = table_of(first, sessions=3, clock=clock)
    used = table.open(request(0), CLIENT)
    table.admit(used, round_of(used, 1), 0, CLIENT)
    for i in (1, 2):
        clock.now += 1
        table.open(request(i), CLIENT)
    clock.now += 8.5
    with pytest.raises(Refusal, match="full"):
        table.open(request(3), CLIENT)  # the older one may still get its round
    clock.now += 1
    table.open(request(3), CLIENT)
    assert [session.id[-1] for session in table] == [0, 2, 3]
    assert table.in_the_way(request(2), CLIENT) is None  # it would take its own place


def test_a_refused_open_ends_nobody(first: Stage) -> None:
    clock = Clock()
    table = table_of(first, sessions=1, clock=clock)
    table.open(request(0), CLIENT)
    clock.now += 100
    before = state(table)
    for changes in ({"fingerprint": "b" * 64}, {"upstream": "before"}):
        with pytest.raises(Refusal):
            table.open(request(1, **changes), CLIENT)
        assert state(table) == before


def test_rounds_beyond_a_sessions_limits_are_refused_and_change_nothing(first: Stage) -> None:
    limits = Limits.model_construct(max_session_tokens=100, max_in_flight=150, max_drafts=3)
    table = table_of(first, limits=limits)
    session = table.open(request(), CLIENT)
    drafts = Round(session.id, 0, 0, (1,) * 5, 4, True)
    rounds = [round_of(session, 100), round_of(session, 50)]
    for round in rounds:
        table.admit(session, round, 0, CLIENT)
    before = state(table)
    wrong = [(round_of(session, 51, 50), "full"), (drafts, "unlawful"), (round_of(session, 1), "unlawful")]
    for round, why in wrong:
        with pytest.raises(Refusal) as refusal:
            table.admit(session, round, 0, CLIENT)
        assert refusal.value.why == why
        assert state(table) == before
    session.ran(rounds[0])
    table.admit(session, round_of(session, 100), 0, CLIENT)
    assert (session.waiting, session.in_flight) == (2, 150)


def test_session_that_is_not_open_is_refused_and_closing_it_is_no_error(first: Stage) -> None:
    table = table_of(first)
    for _ in range(2):
        with pytest.raises(Refusal, match="no such session"):
            table.find(bytes(16))
        table.close(bytes(16))


def test_memory_is_counted_as_the_text_grows_and_freed_on_close(first: Stage) -> None:
    table = table_of(first, tokens=10 * PIECE)
    one, two = table.open(request(1), CLIENT), table.open(request(2), CLIENT)
    assert table.free_tokens == 10 * PIECE
    table.admit(one, round_of(one, 1), 0, CLIENT)
    assert table.free_tokens == 9 * PIECE
    table.admit(one, round_of(one, PIECE - 1, 1), 0, CLIENT)
    assert table.free_tokens == 9 * PIECE
    table.admit(two, round_of(two, 2 * PIECE), 0, CLIENT)
    assert table.free_tokens == 7 * PIECE
    table.close(one.id)
    assert table.free_tokens == 8 * PIECE
    table.close(two.id)
    assert table.free_tokens == 10 * PIECE


def test_rolled_back_text_keeps_its_memory(first: Stage) -> None:
    table = table_of(first, tokens=10 * PIECE)
    session = table.open(request(), CLIENT)
    table.admit(session, round_of(session, 3 * PIECE), 0, CLIENT)
    table.admit(session, round_of(session, 1, 1), 0, CLIENT)
    assert session.tokens == [1, 1]
    assert table.free_tokens == 7 * PIECE


def test_session_of_part_of_the_span_takes_its_part_of_the_memory(first: Stage) -> None:
    table = table_of(first, tokens=10 * PIECE)
    session = table.open(request(end=1), CLIENT)
    table.admit(session, round_of(session, 4 * PIECE), 0, CLIENT)
    assert table.free_tokens == 8 * PIECE


def test_who_has_most_of_the_memory_ends_what_he_used_longest_ago_for_others(first: Stage) -> None:
    clock = Clock()
    table = table_of(first, tokens=4 * PIECE, clock=clock)
    older, newer = table.open(request(1), CLIENT), table.open(request(2), CLIENT)
    for session in (older, newer):
        clock.now += 1
        assert table.admit(session, round_of(session, 2 * PIECE), 0, CLIENT) == []
    late = table.open(request(3), "late")
    assert table.admit(late, round_of(late, PIECE), 0, "late") == [older]
    table.close(older.id)
    assert table.free_tokens == PIECE
    before = state(table)
    with pytest.raises(Refusal, match="no cache memory"):
        table.admit(newer, round_of(newer, 2 * PIECE, 2 * PIECE, 1), 0, CLIENT)
    assert state(table) == before


def test_who_has_most_of_what_waits_to_be_computed_ends_for_others_however_many_he_is(
    first: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newcomers are one: a crowd leaves room to a client that was served before, and to a newcomer with less."""
    monkeypatch.setattr("peer.table.MAX_WAITING", 100)
    clock = Clock()
    table = table_of(first, clock=clock)
    table.standing.note("old", ENOUGH)
    clock.now += PROBATION
    large, small = table.open(request(0), "eve"), table.open(request(1), "mallory")
    old, late = table.open(request(2), "old"), table.open(request(3), "late")
    waiting = {large.id: 60, small.id: 40}

    def admit(session: Session, size: int) -> list[Session]:
        return table.admit(session, round_of(session, 1), 0, session.client, waiting, size)

    before = state(table)
    with pytest.raises(Refusal, match="no room to wait is left"):
        admit(large, 1)
    assert state(table) == before
    assert admit(late, 5) == [large]
    waiting = {small.id: 70, late.id: 5}
    assert admit(small, 25) == []
    assert admit(old, 30) == [small]


def test_a_session_whose_rounds_wait_for_long_gives_way_to_nobody_who_has_more(first: Stage) -> None:
    clock = Clock()
    table = table_of(first, tokens=4 * PIECE, clock=clock)
    slow, eve = table.open(request(1), "slow"), table.open(request(2), "eve")
    rounds = [round_of(slow, PIECE), round_of(eve, 3 * PIECE)]
    for session, round in zip((slow, eve), rounds, strict=True):
        table.admit(session, round, 0, session.client)
    clock.now += IDLE
    eve.ran(rounds[1])
    assert table.admit(eve, round_of(eve, PIECE, 2 * PIECE, 1), 0, "eve") == []
    with pytest.raises(Refusal, match="no cache memory"):
        table.admit(eve, round_of(eve, PIECE, 3 * PIECE, 2), 0, "eve")
    slow.ran(rounds[0])
    assert table.admit(eve, round_of(eve, PIECE, 3 * PIECE, 2), 0, "eve") == [slow]


def test_round_without_memory_is_refused_and_changes_nothing(first: Stage) -> None:
    table = table_of(first, tokens=2 * PIECE)
    one, two = table.open(request(1), CLIENT), table.open(request(2), CLIENT)
    table.admit(one, round_of(one, PIECE), 0, CLIENT)
    before = state(table)
    for session, round in ((two, round_of(two, PIECE + 1)), (one, round_of(one, PIECE + 1, PIECE, 1))):
        with pytest.raises(Refusal, match="no cache memory"):
            table.admit(session, round, 0, CLIENT)
        assert state(table) == before
    table.admit(two, round_of(two, PIECE), 0, CLIENT)
    assert table.free_tokens == 0
    table.close(one.id)
    assert table.free_tokens == PIECE


def test_unlawful_round_is_refused_and_changes_nothing(first: Stage) -> None:
    clock = Clock()
    table = table_of(first, clock=clock)
    session = table.open(request(), CLIENT)
    table.admit(session, round_of(session, 5, number=2), 0, CLIENT)
    clock.now += 5
    before = state(table)
    wrong = [
        (round_of(session, 200, 0, 2), "a stranger"),
        (round_of(session, 200, 0, 1), CLIENT),
        (round_of(session, 200, 6, 2), CLIENT),
        (round_of(session, 2048, 5, 2), CLIENT),
        (Round(session.id, 2, 5, (VOCAB,), 0, True), CLIENT),
    ]
    for round, sender in wrong:
        with pytest.raises(Refusal):
            table.admit(session, round, 0, sender)
        assert state(table) == before


def test_idle_sessions_are_those_unused_for_that_long(first: Stage) -> None:
    clock = Clock()
    table = table_of(first, clock=clock)
    one, two = table.open(request(1), CLIENT), table.open(request(2), CLIENT)
    assert table.idle(10) == []
    clock.now += 8
    table.admit(one, round_of(one, 1), 0, CLIENT)
    clock.now += 8
    assert table.idle(10) == [two]
    clock.now += 8
    assert table.idle(10) == [one, two]
    assert len(table) == 2  # found, not closed


def run(stage: Stage, session: Session, rounds: list[Round]) -> None:
    """What the worker does with admitted rounds, one after the other."""
    engine = Engine(stage)
    for round in rounds:
        engine.run([Job(session, round, None, ())])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(1, 340), min_size=1, max_size=3), min_size=1, max_size=2), st.integers(1, 2))
@example([[600, 50]], 2)
def test_caches_never_hold_more_than_was_counted(first: Stage, bursts: list[list[int]], end: int) -> None:
    """The rounds of a burst, as the chunks of a long prefill, are all admitted before the first one runs."""
    table = table_of(first)
    session = table.open(request(end=end), CLIENT)
    whole = table.free_tokens
    for burst in bursts:
        rounds = []
        for size in burst:
            rounds.append(round_of(session, size, len(session.tokens), session.last_number + 1))
            table.admit(session, rounds[-1], 0, CLIENT)
        run(first, session, rounds)
        counted = (whole - table.free_tokens) * first.cache_bytes_per_token
        assert session.cache.num_bytes <= counted


def test_count_is_what_the_caches_really_take(first: Stage) -> None:
    table = table_of(first)
    session = table.open(request(), CLIENT)
    whole = table.free_tokens
    for size in (1, 70, 300, 1):
        round = round_of(session, size, len(session.tokens), session.last_number + 1)
        table.admit(session, round, 0, CLIENT)
        run(first, session, [round])
        assert session.cache.num_bytes == (whole - table.free_tokens) * first.cache_bytes_per_token
        assert session.cache.length == len(session.tokens)


def test_count_of_a_later_peer_is_measured_too(last: Stage) -> None:
    table = table_of(last)
    session = table.open(to_last(), CLIENT)
    round = round_of(session, 100)
    table.admit(session, round, 2, "before")
    size = last.info.hidden_size
    states = States.of(torch.zeros(100, size).numpy().tobytes(), "float32", size, sender="before")
    (outcome,) = Engine(last).run([Job(session, round, states, (), (1,) * 100)])
    assert len(outcome.tokens) == 1
    assert session.cache.num_bytes == (10_000 - table.free_tokens) * last.cache_bytes_per_token


def test_a_peer_that_leaves_takes_no_new_sessions(first: Stage) -> None:
    table = table_of(first)
    session = table.open(request(1), CLIENT)
    table.is_leaving = True
    with pytest.raises(Refusal, match="leave") as refusal:
        table.open(request(2), CLIENT)
    assert refusal.value.why == "leaving"
    table.admit(session, round_of(session, 5), 0, CLIENT)


def test_few_rounds_of_a_session_wait_to_be_judged_at_a_time(last: Stage) -> None:
    """Each of them holds the text up to it: short ones after a long text would take a lot of memory."""
    table = table_of(last)
    session = table.open(to_last(), CLIENT)
    rounds = [round_of(session, 1, number=number) for number in range(MAX_JUDGED + 1)]
    for round in rounds[:-1]:
        table.admit(session, round, 2, "before")
    with pytest.raises(Refusal, match="not been judged"):
        table.admit(session, rounds[-1], 2, "before")
    session.ran(rounds[0])
    table.admit(session, rounds[-1], 2, "before")


def test_a_rule_that_draws_needs_a_temperature(last: Stage) -> None:
    table = table_of(last)
    with pytest.raises(Refusal, match="temperature above 0"):
        table.open(to_last(rule="rejection", sampling=Sampling(top_p=0.5)), CLIENT)
    assert table.open(to_last(rule="rejection", sampling=Sampling(temperature=0.5, top_p=0.5)), CLIENT)
