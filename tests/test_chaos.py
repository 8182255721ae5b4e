"""The failure lab's own decisions: what is measured, what counts as met, who may die, what a stranger sends."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hivemind.proto import dht_pb2

from benchmarks.bar import Bar, Outcome, check
from benchmarks.chaos import bars, runs
from benchmarks.chaos.agenda import Agenda
from benchmarks.chaos.fleet import Node
from benchmarks.chaos.hostile_messages import CALLS, Aim, any_frame, any_payload, any_request, lawful_open
from benchmarks.chaos.liar import boasting
from benchmarks.chaos.runs import Run, figures, stalls, trip_of
from benchmarks.chaos.scenarios import SEEDS, Act, Moment, schedule
from benchmarks.chaos.soak import SPARED, may_die
from benchmarks.chaos.summary import rows
from swarm.codec import decode
from swarm.errors import BadMessage
from swarm.span import Span
from swarm.wire import MAX_SIZES, PUSH_PROTOCOL, SESSION_PROTOCOL, Hidden
from tests.test_routing import peer, plan

AIM = Aim("f" * 64, Span(2, 4), 8, 16, 100, "stranger", [b"v" * 16])
RUN = Run(
    "kill: hop 1, decoding",
    part=1,
    temperature=0.0,
    seed=1,
    exact=True,
    error="",
    is_disturbed=True,
    reroutes=1,
    trip_seconds=0.2,
    gap_seconds=0.1,
    more_drafts=3,
    stall_seconds=0.5,
    client_stall_seconds=0.5,
    seconds=10.0,
    tokens_per_second=10.0,
    bytes_client=4000,
    more_bytes_client=1024,
    mend_bytes_client=None,
    mend_bytes_peers=None,
)


# Bars


@pytest.mark.parametrize(
    ("is_floor", "measured", "is_missed"),
    [
        (False, 3.0, False),
        (False, 3.1, True),
        (True, 3.0, False),
        (True, 2.9, True),
        (False, float("nan"), True),
        (True, float("nan"), True),
        (True, None, False),
    ],
)
def test_a_bar_is_missed_beyond_its_limit(is_floor: bool, measured: float | None, is_missed: bool) -> None:
    outcome = Outcome(Bar("speed", 3.0, "s", is_floor), measured)
    assert outcome.is_missed == is_missed
    assert ("MISSED" in str(outcome)) == is_missed
    assert outcome.as_dict()["met"] == (None if measured is None else not is_missed)


def test_an_outcome_says_what_was_measured_and_what_was_asked() -> None:
    [outcome] = check((bars.KILL_WORST,), {bars.KILL_WORST: 0.77})
    assert str(outcome) == f"met    {bars.KILL_WORST.name}: 0.77 s (at most 3 s)"
    assert outcome.as_dict()["measured"] == 0.77
    assert "not measured" in str(check((bars.KILL_WORST,), {})[0])


def test_a_trip_is_what_a_round_takes_with_as_many_drafts_as_usual() -> None:
    result = {"cost": {"trip_fixed": 0.15, "trip_per_position": 0.002}, "drafted": 90, "rounds": 10}
    assert trip_of(result) == pytest.approx(0.15 + 10 * 0.002)


def test_the_summary_has_a_line_for_every_bar() -> None:
    found = {bars.KILL_WORST: 0.7712, bars.HUNG_WORST: 6.0}
    outcomes = check((bars.KILL_WORST, bars.HUNG_WORST, bars.EXACT), found)
    lines = list(rows({"faults": {"bars": [outcome.as_dict() for outcome in outcomes]}}))[2:]
    assert lines == [
        f"| faults | {bars.KILL_WORST.name} | at most 3 s | 0.771 s |",
        f"| faults | {bars.HUNG_WORST.name} | at most 5 s | 6 s (missed) |",
        f"| faults | {bars.EXACT.name} | at least 100 % | - |",
    ]


def missed(*done: Run) -> set[Bar]:
    return {outcome.bar for outcome in check(bars.RECOVERY, figures(done)) if outcome.is_missed}


@pytest.mark.parametrize(
    ("changes", "bar"),
    [
        ({"exact": False}, bars.EXACT),
        ({"is_disturbed": False}, bars.DISTURBED),
        ({"stall_seconds": 3.5}, bars.KILL_WORST),
        ({"more_bytes_client": 9000}, bars.MEND_BYTES),
        ({"more_bytes_client": 6000, "more_drafts": -700}, bars.MEND_BYTES),
        ({"name": "hung: hop 1 stopped for 20 s", "stall_seconds": 5.1}, bars.HUNG_WORST),
        ({"name": "drain: hop 1", "stall_seconds": 0.35}, bars.DRAIN_WORST),
    ],
)
def test_one_bad_run_misses_its_bar_and_no_other(changes: dict[str, Any], bar: Bar) -> None:
    good = [replace(RUN, name=name, stall_seconds=0.1) for name in ("kill: hop 0, prefill", "hung", "drain: hop 2")]
    assert not missed(RUN, *good)
    assert missed(RUN, *good, replace(RUN, **changes)) == {bar}


def test_the_cost_is_that_of_kills_while_decoding() -> None:
    decoding = [replace(RUN, mend_bytes_peers=size) for size in (100, 300, 800)]
    prefill = replace(RUN, name="kill: hop 0, prefill", mend_bytes_peers=9000)
    assert runs.cost([*decoding, prefill]) == {"more_bytes_client": 1024, "mend_bytes_peers": 300}
    assert runs.cost([prefill]) == {}


def test_many_slow_mends_miss_the_median() -> None:
    slow = replace(RUN, stall_seconds=1.2)
    assert missed(RUN, slow, slow) == {bars.KILL_MEDIAN}


def test_a_full_schedule_measures_every_bar_with_few_texts() -> None:
    planned = schedule(1, 200)
    done = [replace(RUN, name=one.name, part=one.part) for one in planned]
    assert figures(done).keys() == set(bars.RECOVERY)
    assert {one.part for one in planned} == {1, 2, 3}
    assert {one.seed for one in planned} <= set(SEEDS)
    assert schedule(1, 200) == planned != schedule(2, 200)


# What is measured


def test_the_longest_gap_after_the_first_act_counts() -> None:
    times = [0.5, 0.7, 1.7, 1.9, 2.4, 2.6]
    assert stalls(times, 0.5, before=4) == (pytest.approx(0.2), pytest.approx(0.3))
    assert stalls(times, 0.5, before=2) == (pytest.approx(0.2), pytest.approx(0.8))


def test_before_the_first_verdict_the_usual_one_is_what_it_is_compared_with() -> None:
    assert stalls([1.5, 1.7, 1.9], 0.6, before=0) == (pytest.approx(0.2), pytest.approx(0.9))
    assert stalls([0.5, 0.7, 0.9], 0.6, before=0) == (pytest.approx(0.2), pytest.approx(0))
    assert stalls([], 0.6, before=0) == (0.0, 0.0)


@pytest.mark.parametrize("answers", [[True, True, False, False], [True, False]])
def test_a_share_is_in_percent(answers: list[bool]) -> None:
    assert runs.share(answers) == 50


# When acts are due


def test_acts_are_due_some_time_after_their_tokens() -> None:
    agenda = Agenda([Act(Moment(10, 0.5), "kill", (1,)), Act(Moment(10, 0.2), "stop", (0,))])
    agenda.note_text(9, True, now=1.0)
    assert (agenda.take(2.0), agenda.next_due) == ([], float("inf"))
    agenda.note_text(12, False, now=3.0)
    assert agenda.next_due == 3.2
    assert [due.act.deed for due in agenda.take(3.5)] == ["stop", "kill"]
    assert agenda.is_done


def test_an_act_waits_for_a_rejected_draft() -> None:
    agenda = Agenda([Act(Moment(10, rejected=True), "kill", (1,))])
    agenda.note_text(12, False, now=1.0)
    assert not agenda.take(5.0)
    agenda.note_text(13, True, now=6.0)
    assert len(agenda.take(6.0)) == 1


def test_the_substitute_is_killed_once_when_the_chain_is_mended() -> None:
    agenda = Agenda([Act(Moment(5), "kill", (1,)), Act(Moment(5, 0.1), "kill substitute")])
    agenda.note_text(5, False, now=1.0)
    assert [due.peers for due in agenda.take(2.0)] == [()]
    assert not agenda.is_done
    for now in (3.0, 4.0):
        agenda.note_mend(["new", "other"], now)
    [due] = agenda.take(9.0)
    assert (due.moment, due.act.deed, due.act.hops, due.peers) == (3.1, "kill", (0,), ("new", "other"))
    assert agenda.is_done


# The soak


def test_the_last_of_a_span_and_the_spared_are_left_alone() -> None:
    assert set(SPARED) == {1, 4}
    one, two, three, four = (
        Node(host, (), span) for host, span in [(1, "0:2"), (2, "2:4"), (3, "0:2"), (4, "6:8")]
    )
    assert may_die([one, two, three, four]) == [three]
    assert may_die([two, three, four]) == []


# The stranger


@pytest.mark.parametrize("protocol", [SESSION_PROTOCOL, PUSH_PROTOCOL])
def test_frames_are_of_all_kinds_and_the_same_again_from_a_seed(protocol: str) -> None:
    def drawn() -> list[bytes]:
        chance, sent = Random(3), list[bytes]()
        for _ in range(3000):
            sent.append(any_frame(chance, protocol, AIM, b"s" * 16, sent[-8:]))
        return sent

    sent = drawn()
    assert sent == drawn()
    assert len(set(sent)) < len(sent)  # some are sent again
    kinds = Counter[str]()
    victims = 0
    for data in sent:
        length, body = int.from_bytes(data[:4], "big"), data[4:]
        if length > MAX_SIZES[protocol]:
            kinds["too long"] += 1
        elif length > len(body):
            kinds["unfinished"] += 1
        else:
            try:
                message = decode(body)
            except BadMessage:
                kinds["no message"] += 1
            else:
                kinds[type(message).__name__] += 1
                victims += b"v" * 16 in body
                if isinstance(message, Hidden) and b"\x00\x00\xc0\x7f" in message.states:
                    kinds["not numbers"] += 1
    assert victims > 100
    assert kinds.keys() >= {"too long", "no message", "Open", "Round", "Hidden", "Relink", "Copy", "Ask"}
    assert (kinds["not numbers"] > 20) == (protocol == PUSH_PROTOCOL)


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_of_all_kinds(name: str) -> None:
    chance, sent = Random(3), list[bytes]()
    for _ in range(2000):
        sent.append(any_payload(chance, name, sent[-8:]))
    assert len(set(sent)) < len(sent)
    assert max(map(len, sent)) > 1 << 17
    kind = {"rpc_ping": dht_pb2.PingRequest, "rpc_store": dht_pb2.StoreRequest, "rpc_find": dht_pb2.FindRequest}
    assert isinstance(any_request(chance, name), kind[name])


def test_a_lawful_session_is_fed_by_the_stranger_except_at_the_first_hop() -> None:
    assert lawful_open(AIM, b"s" * 16).upstream == "stranger"
    assert lawful_open(replace(AIM, span=Span(0, 2)), b"s" * 16).upstream is None


def test_a_liar_says_that_it_is_the_fastest_however_slow_it_is() -> None:
    honest = [peer("first", 0, 2), peer("last", 2, 4)]
    liar = peer("liar", 2, 4, num_layers=4, step_seconds=1.0, token_seconds=1.0)
    ways = dict.fromkeys(("first", "last", "liar"), 0.05)
    for of_all_layers, chain in ((False, ["first", "liar"]), (True, ["liar"])):
        hops = plan(4, [*honest, boasting(liar, of_all_layers=of_all_layers)], ways, tokens=1)
        assert [hop.contact.peer_id for hop in hops] == chain
