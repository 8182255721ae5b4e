"""The simulator's other policies, arrivals and directory: pure parts, and what they lead to."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import simpy

from simulator.arrivals import read, wishes
from simulator.directory import Directory
from simulator.policies import ThresholdWindow, choice, chosen, first_come
from simulator.scenario import Clients, Scenario
from swarm.errors import UsageError
from swarm.wire import Round
from tests.test_routing import peer
from tests.test_simulator import simulated, speed

PEERS = {name: peer(name, *span) for name, span in {"a": (0, 4), "b": (0, 4), "c": (4, 8), "d": (2, 8)}.items()}
NEAR = dict.fromkeys(PEERS, 0.01)


class Item:
    def __init__(self, tokens: int) -> None:
        self.round = Round(b"s" * 16, 1, 0, tuple(range(tokens)), 0, True)


def test_a_queue_is_taken_from_its_head_as_far_as_it_fits() -> None:
    items = [Item(size) for size in (9, 2, 3, 1)]
    assert first_come(items, 5) == items[:1]
    assert first_come(items[1:], 5) == items[1:3]
    assert first_come([], 5) == []


def test_the_rule_of_thumb_goes_up_and_down_by_one() -> None:
    window = ThresholdWindow()
    for accepted, limit in ((4, 5), (5, 6), (3, 6), (1, 5), (0, 4), (0, 3), (0, 2), (0, 1), (0, 1)):
        window.sent(window.limit)
        window.judged(accepted)
        assert window.limit == limit


def test_routes_are_made_of_those_who_can_go_on() -> None:
    assert chosen(PEERS, NEAR, lambda names: names[-1]) == {"b", "d"}
    assert chosen(PEERS, {"a": 0.01}, lambda names: names[0]) == {"a"}
    assert chosen({}, {}, lambda names: names[0]) == set()


def test_each_policy_chooses_in_its_own_way() -> None:
    nobody = {}.get
    around = choice("round-robin", random.Random(1), nobody)
    assert [around(["a", "b", "c"]) for _ in range(5)] == ["a", "b", "c", "a", "b"]
    by_chance = choice("random", random.Random(1), nobody)
    assert {by_chance(["a", "b", "c"]) for _ in range(50)} == {"a", "b", "c"}
    queues = {name: type("", (), {"num_waiting": n}) for name, n in (("a", 3), ("b", 1), ("c", 2))}
    assert choice("shortest-queue", random.Random(1), queues.get)(["a", "b", "c"]) == "b"


@pytest.mark.parametrize("routing", ["random", "round-robin", "shortest-queue"])
def test_clients_of_one_place_are_spread_where_the_policy_spreads_them(routing: str) -> None:
    tables: dict[str, Any] = {
        "peers": [{"count": 16, "layers": 2}],
        "stage": {"start_ms": 1, "token_ms": 4},
        "link": {"delay_ms": 2},
        "clients": [{"count": 12, "window": 0, "arrivals": {"requests": 2}}],
    }
    spread = simulated(**tables, policies={"routing": routing})
    in_one_chain = simulated(**{**tables, "peers": [{"count": 4, "layers": 2}]})
    assert min(map(speed, spread)) > max(map(speed, in_one_chain)) / 2
    assert sum(map(speed, spread)) > 1.2 * sum(map(speed, in_one_chain))


def arrivals(**table: Any) -> Clients:
    return Clients.model_validate({"count": 2, "prompt_tokens": 7, "new_tokens": 8, "arrivals": table})


def test_arrivals_of_a_file_are_dealt_out_among_the_clients(tmp_path: Path) -> None:
    file = tmp_path / "arrivals.csv"
    file.write_text("# seconds, prompt, new\n0.5\n1, 20, 30\n\n1,40,50\n2.5\n")
    kind = arrivals(kind="trace", file=str(file))
    found = [[(wish.at, wish.prompt_tokens, wish.new_tokens) for wish in wishes(kind, i, None)] for i in (0, 1)]
    assert found == [[(0.5, 7, 8), (1, 40, 50)], [(1, 20, 30), (2.5, 7, 8)]]


@pytest.mark.parametrize("line", ["soon", "1,2", "-1", "nan", "5\n4", "1,0,5", "inf"])
def test_a_bad_line_of_arrivals_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "arrivals.csv"
    file.write_text(f"0\n{line}\n")
    with pytest.raises(UsageError, match=r"arrivals.csv, line [23]: give seconds"):
        read(file)


def test_arrivals_by_chance_come_at_their_rate_whether_a_text_is_finished_or_not() -> None:
    kind = arrivals(kind="poisson", per_hour=60, after_seconds=100, requests=500)
    times = [wish.at for wish in wishes(kind, 0, random.Random(3))]
    assert times[0] > 100
    assert (times[-1] - 100) / 500 == pytest.approx(60, rel=0.15)
    records = simulated(
        link={"delay_ms": 50},
        clients=[
            {"window": 0, "new_tokens": 100, "arrivals": {"kind": "poisson", "per_hour": 3600, "requests": 5}}
        ],
    )
    assert records[1].arrived < records[0].finished


@pytest.mark.parametrize("table", [{"kind": "trace"}, {"kind": "closed", "file": "x"}])
def test_a_file_goes_with_a_trace(table: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a file goes with the kind trace"):
        Scenario.model_validate({"peers": [{"layers": 2}], "clients": [{"arrivals": table}]})


def test_an_announcement_lasts_until_the_third_renewal_is_missing() -> None:
    env = simpy.Environment()
    directory = Directory(env, 20)
    directory.publish(PEERS["a"])
    directory.publish(PEERS["c"])
    seen = directory.look()
    assert directory.look() is seen
    env.run(until=50)
    directory.publish(PEERS["c"])
    assert set(directory.look()) == {"a", "c"}
    env.run(until=60)
    assert set(directory.look()) == {"c"}
    assert "a" not in directory
    directory.withdraw("c")
    assert directory.look() == {}
