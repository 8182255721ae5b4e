"""The simulator: what it says where the answer is known, and that it says the same again."""

from __future__ import annotations

import asyncio
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from simulator.drafter import ReplayDrafter
from simulator.request import Record
from simulator.scenario import Scenario, load
from simulator.swarm import Swarm
from simulator.texts import constant, following, in_turn, replayed
from swarm.errors import UsageError
from swarm.speculation import trace
from swarm.speculation.calibration import Calibration
from swarm.speculation.closed_form import speedup
from swarm.speculation.tree import ROOT
from tests import memory_swarm

FOUR = [{"count": 4, "layers": 2}]


def simulated(seed: int = 1, **tables: Any) -> list[Record]:
    """The requests of a swarm of four, unless it is said otherwise."""
    records = list[Record]()
    Swarm(Scenario.model_validate({"seconds": 1e6, "peers": FOUR, **tables}), seed, records.append).run()
    return sorted(records, key=lambda record: record.arrived)


def one_client(**options: Any) -> dict[str, Any]:
    return {"clients": [{"arrivals": {"requests": 1}, **options}]}


def speed(record: Record) -> float:
    """Tokens per second, after the first verdict."""
    assert record.finished is not None
    assert record.first_token is not None
    return record.tokens / (record.finished - record.first_token)


@pytest.mark.parametrize(("draft_cost", "peers"), [(0.01, 1), (0.1, 4), (0.3, 2)])
@pytest.mark.parametrize(("acceptance", "window"), [(0.4, 2), (0.4, 4), (0.6, 3), (0.6, 6), (0.8, 4), (0.8, 10)])
def test_with_constant_acceptance_the_speedup_is_that_of_the_closed_form(
    acceptance: float, window: int, draft_cost: float, peers: int
) -> None:
    """S(g) of TK-SLT, where a draft's cost is that of one more position in all stages, however they are shared out."""
    trip, layers = 100.0, 8
    tables: dict[str, Any] = {
        "peers": [{"count": peers, "layers": layers // peers}],
        "stage": {"start_ms": (1 - draft_cost) * trip / layers, "token_ms": draft_cost * trip / layers},
        "draft": {"start_ms": 0, "node_ms": 0},
        "link": {"delay_ms": 0},
    }
    options = {"text": acceptance, "tree": False, "in_flight": 1}
    (plain,) = simulated(**tables, **one_client(window=0, new_tokens=100, **options))  # all its rounds are alike
    (drafted,) = simulated(**tables, **one_client(window=window, new_tokens=30_000, **options))
    assert speed(drafted) / speed(plain) == pytest.approx(speedup(acceptance, draft_cost, window), rel=0.02)


def test_a_plain_chain_takes_its_links_and_its_stages() -> None:
    tables = {"stage": {"start_ms": 1, "token_ms": 0.5}, "link": {"delay_ms": 20}}
    (record,) = simulated(**tables, **one_client(window=0, new_tokens=101))
    assert record.finished is not None
    assert record.first_token is not None
    assert (record.finished - record.first_token) / 100 == pytest.approx(5 * 0.020 + 8 * 0.0015)
    assert record.compute_seconds / record.rounds == pytest.approx(8 * 0.0015)


@pytest.mark.parametrize("options", [{"window": 6, "tree": False}, {"window": "auto"}], ids=["chain", "auto"])
@pytest.mark.parametrize("text", ["code-T0", "questions-T0.8"])
def test_what_is_drafted_unseen_is_what_would_have_been_drafted_step_by_step(
    options: dict[str, Any], text: str
) -> None:
    """On a machine that is named, others might compute, so each of its steps is an event."""
    tables = {"draft": {"start_ms": 7, "node_ms": 1}, "machines": {"own": 2}}
    request = {"new_tokens": 300, "text": text, "in_flight": 1, **options}
    (unseen,), (stepwise,) = (simulated(**tables, **one_client(**request, **on)) for on in ({}, {"machine": "own"}))
    assert (unseen.finished, unseen.windows) == (pytest.approx(stepwise.finished), stepwise.windows)


def test_the_same_seed_says_the_same_and_another_one_something_else() -> None:
    tables = {
        "link": {"delay_ms": 20, "jitter_ms": 5, "loss": 0.01},
        "clients": [{"count": 3, "arrivals": {"kind": "poisson", "per_hour": 600, "requests": 4}}],
        "churn": {"crash_per_hour": 60, "hang_per_hour": 60, "leave_per_hour": 60},
    }
    found = [[asdict(record) for record in simulated(seed, **tables)] for seed in (1, 1, 2)]
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("options", [{}, {"window": 8, "tree": False, "in_flight": 1}], ids=["auto", "chain"])
def test_peers_that_die_fall_silent_or_leave_cost_no_token_and_the_first_two_time(options: dict[str, Any]) -> None:
    tables: dict[str, Any] = {
        "peers": [{"count": 8, "layers": 2}],
        "link": {"delay_ms": 20},
        "churn": {"crash_per_hour": 80, "hang_per_hour": 40, "leave_per_hour": 80, "return_seconds": 5},
    }
    options = {"new_tokens": 400, "arrivals": {"requests": 10}, **options}
    records = simulated(**tables, **one_client(**options))
    assert all(record.finished is not None and record.tokens == 400 for record in records)
    assert sum(record.reroutes for record in records) > 5
    assert sum(record.stall_seconds for record in records) > 0
    undisturbed = simulated(**{**tables, "churn": {}}, **one_client(**options))
    assert sum(record.reroutes for record in undisturbed) == 0
    assert sum(record.stall_seconds for record in undisturbed) == 0


def test_peers_that_leave_hand_over_beside_the_text_and_cost_no_time() -> None:
    tables: dict[str, Any] = {
        "peers": [{"count": 8, "layers": 2}],
        "link": {"delay_ms": 20},
        "churn": {"leave_per_hour": 200, "return_seconds": 5},
    }
    options = {"new_tokens": 400, "window": 0, "arrivals": {"requests": 10}}
    records = simulated(**tables, **one_client(**options))
    assert all(record.finished is not None and record.tokens == 400 for record in records)
    assert sum(record.reroutes for record in records) == 0
    undisturbed = simulated(**{**tables, "churn": {}}, **one_client(**options))
    assert [*map(speed, records)] == pytest.approx([*map(speed, undisturbed)], rel=0.005)


def test_the_last_chain_serves_on_where_nobody_can_take_over() -> None:
    churn = {"leave_per_hour": 3000, "return_seconds": 1}
    (record,) = simulated(link={"delay_ms": 20}, churn=churn, **one_client(new_tokens=200))
    assert record.tokens == 200


FAR = {
    "peers": [{"count": 4, "layers": 2, "place": "far", "drafts": True}],
    "link": {"delay_ms": 100},
    "links": {"far far": {"delay_ms": 2}},
}


def test_drafts_are_made_at_a_peer_where_that_is_faster() -> None:
    made = {at: simulated(**FAR, **one_client(new_tokens=200, draft_at=at))[0] for at in ("auto", "client", "peer")}
    assert made["client"].drafted_at is None
    assert made["peer"].drafted_at is not None
    assert made["auto"].drafted_at is not None
    assert speed(made["peer"]) > 1.2 * speed(made["client"])
    assert simulated(**FAR, **one_client(place="far", draft_speed=20))[0].drafted_at is None
    without = simulated(**FAR, **one_client(draft="none", new_tokens=200))[0]
    assert without.drafted_at is not None
    assert speed(without) == pytest.approx(speed(made["peer"]), rel=0.1)


def test_a_drafting_peer_that_dies_costs_time_and_no_token() -> None:
    churn = {"crash_per_hour": 100, "hang_per_hour": 50, "return_seconds": 1}
    tables = {**FAR, "peers": [{**FAR["peers"][0], "count": 8}], "churn": churn}  # type: ignore[dict-item]
    records = simulated(**tables, **one_client(new_tokens=300, draft_at="peer", arrivals={"requests": 20}))
    assert all(record.finished is not None and record.tokens == 300 for record in records)
    assert sum(record.reroutes for record in records) > 5
    assert sum(record.drafted_at is not None for record in records) >= 18  # the others' had died when they asked


def test_where_no_peer_drafts_a_request_that_wants_one_comes_to_nothing() -> None:
    (record,) = simulated(**one_client(draft_at="peer"))
    assert record.finished is None


def test_a_request_that_nobody_can_serve_comes_to_nothing() -> None:
    (record,) = simulated(peers=[{"layers": [0, 4]}], **one_client())
    assert record.finished is None
    assert record.tokens == 0


def test_what_the_end_of_a_run_cuts_off_counts_as_far_as_it_came() -> None:
    (record,) = simulated(seconds=2.0, link={"delay_ms": 50}, **one_client(window=0, new_tokens=1000))
    assert record.finished is None
    assert 2 < record.tokens < 10


def test_clients_that_share_a_chain_wait_for_each_other() -> None:
    stage = {"stage": {"start_ms": 2, "token_ms": 1}, "link": {"delay_ms": 0}}
    alone, many = (
        simulated(**stage, clients=[{"count": count, "window": 0, "arrivals": {"requests": 1}}])
        for count in (1, 12)
    )
    assert sum(map(speed, many)) > 2 * speed(alone[0])  # batches share a start
    assert max(map(speed, many)) < speed(alone[0])


def test_a_replayed_chain_meets_the_fate_that_the_real_one_has_met(
    target: Path, draft: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        async with (
            memory_swarm.peers(target, ["0:4"], tmp_path) as network,
            memory_swarm.client(network, target, draft=str(draft), in_flight=1, tree=False, window=5) as model,
        ):
            file = tmp_path / "texts"
            result = await model.generate([5, 6, 7, 8], max_new_tokens=300, temperature=0.7, seed=3, record=file)
            text = one_client(text=str(file), window=5, tree=False, in_flight=1, new_tokens=300, prompt_tokens=4)
            (record,) = simulated(**text)
            assert record.accepted == pytest.approx(result.accepted, abs=3)
            assert record.rounds == pytest.approx(result.rounds, abs=3)
            assert record.drafted == pytest.approx(result.drafted, rel=0.05)

    asyncio.run(run())


def test_recorded_lengths_are_those_of_the_texts() -> None:
    traces = trace.read(Path("simulator/traces/arithmetic-T0.jsonl.gz"))
    options = {"text": "arithmetic-T0", "prompt_tokens": "recorded", "new_tokens": "recorded"}
    records = simulated(**one_client(**options, arrivals={"requests": len(traces)}))
    assert sorted(record.tokens for record in records) == sorted(len(one.rows) for one in traces)
    with pytest.raises(ValueError, match="a constant acceptance has no recorded lengths"):
        simulated(**one_client(text=0.5, new_tokens="recorded"))


def test_a_tree_finds_more_than_a_chain_and_rounds_in_flight_bring_more_per_second() -> None:
    link = {"link": {"delay_ms": 50}}
    made = {
        name: simulated(**link, **one_client(text="code-T0.8", new_tokens=600, **options))[0]
        for name, options in {
            "plain": {"window": 0},
            "chain": {"window": 16, "tree": False, "in_flight": 1},
            "tree": {"window": 16, "in_flight": 1},
            "auto": {},
        }.items()
    }
    assert made["tree"].accepted / made["tree"].rounds > 1.1 * made["chain"].accepted / made["chain"].rounds
    speeds = {name: speed(record) for name, record in made.items()}
    assert speeds["plain"] < speeds["chain"] < speeds["tree"] < speeds["auto"]


@pytest.mark.parametrize(
    ("layers", "spans"), [("even", ["0:5", "5:10"]), ("by-speed", ["0:7", "7:10"])], ids=["even", "by speed"]
)
def test_a_model_is_split_evenly_or_by_speed(layers: str, spans: list[str]) -> None:
    tables = {
        "model": {"layers": 10},
        "peers": [{"layers": layers, "speed": 3}, {"layers": layers, "speed": 1}],
        "clients": [{"new_tokens": 50, "arrivals": {"requests": 1}}],
    }
    swarm = Swarm(Scenario.model_validate(tables), 1)
    assert [str(peer.span) for peer in swarm._population.alive.values()] == spans
    swarm.run()
    assert swarm.figures().finished == 1


def test_more_peers_than_layers_are_no_chain() -> None:
    with pytest.raises(UsageError, match="2 layers cannot be split over 3 peers"):
        simulated(model={"layers": 2}, peers=[{"count": 3, "layers": "even"}], **one_client())


def test_drafts_that_stand_are_those_that_go_on_with_the_text() -> None:
    assert list(following((10, 11, -1, 12), (-1, 0, 0, 1), 0, ROOT, 10)) == [0, 1, 3]
    assert list(following((10, 11), (-1, 0), 0, ROOT, 11)) == []
    assert list(following((14, 15, -2), (7, 8, 8), 8, 7, 14)) == [8, 9]
    assert list(following((14, 15), (6, 8), 8, 7, 14)) == []


def test_a_replayed_text_is_as_long_as_it_is_wanted() -> None:
    traces = trace.read(Path("simulator/traces/code-T0.jsonl.gz"))
    assert len(replayed(in_turn(traces, random.Random(1)), 1000)) == 1000
    assert sum(row.taken == 0 for row in constant(0.7, 10_000, random.Random(1))) == pytest.approx(7000, abs=150)
    drafter = ReplayDrafter(10, replayed(in_turn(traces, random.Random(1)), 50), 4, Calibration())
    drafter.follow(range(10), 40)
    while drafter.grow():
        pass
    assert 8 < len(drafter.tree(64)) <= 64
    assert drafter.promise < 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("seconds = = 1", "at line 1"),
        ("[[peers]]\nlayers = 2\n[[clients]]\nwindow = 'many'\n", r"line 4: clients.0.window: .*neither auto"),
        (
            "[[peers]]\nlayers = 2\n[[clients]]\nwindows = 4\n",
            r"line 4: clients.0.windows: .*there are count, place",
        ),
        ("[[peers]]\nlayers = 0\n[[clients]]\n", r"line 2: peers.0.layers.*greater than or equal to 1"),
        ("[[clients]]\n", "peers: Field required"),
        ("[[peers]]\nlayers = 2\n[[clients]]\n[[clients]]\nwindow = -1\n", r"line 5: clients.1.window: neither"),
        (
            "[[peers]]\nlayers = 2\n[[clients]]\n[[clients]]\n[clients.arrivals]\nkind = 'never'\n",
            r"line 6: clients.1.arrivals.kind: .*'closed', 'poisson' or 'trace'",
        ),
        (
            "[[peers]]\nlayers = 2\n[[clients]]\narrivals = { kind = 'closed', perhour = 2 }\n",
            r"line 4: clients.0.arrivals.perhour: .*there are kind, think_seconds",
        ),
        (
            "[[peers]]\nlayers = 2\n[[clients]]\nnew_tokens = 'many'\n",
            r"line 4: clients.0.new_tokens: .*integer.* or 'recorded'",
        ),
        ('[[peers]]\nlayers = 2\n[[clients]]\n[links]\n"a b" = { delay_ms = -1 }\n', r"line 5: links.a b.delay_ms"),
        ("[[peers]]\nplace = 'here'\n[[clients]]\n", r"line 1: peers.0.layers: Field required"),
    ],
    ids=[
        "torn",
        "nonsense",
        "no such key",
        "out of range",
        "missing",
        "in the second table",
        "in a table of its own",
        "in an inline table",
        "of several types",
        "of a pair of places",
        "missing in a table",
    ],
)
def test_a_bad_file_is_told_by_key_line_and_what_is_allowed(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        load(file)


def test_a_key_can_be_changed_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text("[[peers]]\nlayers = 2\n[[clients]]\n[[clients]]\nwindow = 3\n")
    changed = load(file, {"clients.window": 8, "clients.1.count": 5, "link.delay_ms": 7})
    assert [kind.window for kind in changed.clients] == [8, 8]
    assert [kind.count for kind in changed.clients] == [1, 5]
    assert changed.link.delay_ms == 7
