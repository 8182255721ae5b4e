"""The shortest chain without a peer twice, counted out over all chains; and bounded work, whatever is announced."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import shortest as module
from client.routing import plan
from client.shortest import MOST_WORK, Costs, shortest
from swarm.records import Announcement
from tests.test_routing import peer

Found = list[tuple[int, int]]


@st.composite
def costs(draw: st.DrawFn) -> Costs:
    """Of up to five peers; most are free for some of what they do, so that walks often return."""
    layers, size = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    seconds = st.sampled_from([0.0, 0.0, 0.01, 1.0, 3600.0]) | st.floats(0, 2)
    spans = [
        sorted(draw(st.lists(st.integers(-1, layers + 1), min_size=2, max_size=2, unique=True)))
        for _ in range(size)
    ]

    def column() -> Any:
        return np.array(draw(st.lists(seconds, min_size=size, max_size=size)))

    links = np.array([column() for _ in range(size)])
    starts, ends = np.array(spans, dtype=float).T
    return Costs(0, layers, starts, ends, column(), column() / 9, links, column(), column())


def all_chains(costs: Costs) -> Iterator[Found]:
    """Cut at the ends of spans."""
    boundaries = sorted({costs.start, costs.end, *map(int, costs.starts), *map(int, costs.ends)})

    def extended(chain: Found, done: int) -> Iterator[Found]:
        if done == costs.end:
            yield chain
        for one in set(range(len(costs.starts))) - {one for one, _ in chain}:
            if costs.starts[one] <= done:
                for end in boundaries:
                    if done < end <= min(costs.ends[one], costs.end):
                        yield from extended([*chain, (one, end)], end)

    return extended([], costs.start)


def seconds(costs: Costs, chain: Found) -> float:
    total, done = costs.way_in[chain[0][0]] + costs.way_out[chain[-1][0]], costs.start
    for one, end in chain:
        total += costs.visit_seconds[one] + costs.layer_seconds[one] * (end - done)
        done = end
    return float(total + sum(costs.links[one, other] for (one, _), (other, _) in itertools.pairwise(chain)))


def found(costs: Costs, most_work: int = MOST_WORK) -> Found | None:
    return shortest(costs, np.ones(len(costs.starts), dtype=bool), most_work)


def straightened_walk_seconds(costs: Costs) -> float:
    """What a caller without any search would have: the shortest walk, with each peer doing all between its visits."""
    map_ = module._Map(costs, np.arange(len(costs.starts)))
    walk = map_.walk()
    assert walk is not None
    return map_.seconds(module._straight(walk))


@settings(max_examples=500, deadline=None)
@given(costs())
def test_no_chain_is_shorter(costs: Costs) -> None:
    best = min((seconds(costs, chain) for chain in all_chains(costs)), default=None)
    chain = found(costs)
    if best is None:
        assert chain is None
    else:
        assert chain is not None
        assert seconds(costs, chain) == pytest.approx(best, abs=1e-9)


def test_no_chain_is_shorter_where_several_peers_are_wanted_twice() -> None:
    """Three of the whole model, nearly alike, and three that do a layer in its midst for nothing."""
    starts, ends = np.array([0.0, 0, 0, 1, 3, 5]), np.array([7.0, 7, 7, 2, 4, 6])
    chance = np.random.default_rng(3)
    returning = 0
    for _ in range(10):
        layer_seconds = np.where(ends == 7, chance.uniform(1.0, 1.3, 6), 0.0)
        ways, zero = chance.uniform(0, 0.3, (6, 6)), np.zeros(6)
        costs = Costs(0, 7, starts, ends, layer_seconds, zero, ways, zero, zero)
        chain, walk = found(costs), module._Map(costs, np.arange(6)).walk()
        assert chain is not None and walk is not None
        assert seconds(costs, chain) == pytest.approx(min(seconds(costs, one) for one in all_chains(costs)))
        returning += module._first_return(walk) is not None
    assert returning > 5


@settings(max_examples=500, deadline=None)
@given(costs(), st.sampled_from([0, 20_000, 100_000, 200_000]))
def test_with_too_little_work_there_is_a_chain_if_any_none_worse_than_the_walk_without_its_returns(
    costs: Costs, most_work: int
) -> None:
    chains = list(all_chains(costs))
    chain = found(costs, most_work)
    if chain is None:
        assert not chains
    else:
        assert chain in chains
        assert seconds(costs, chain) <= straightened_walk_seconds(costs) + 1e-9


def test_too_many_peers_for_the_work_leave_those_that_seem_best_for_some_layer() -> None:
    """Of 200 peers for each half, eight are considered; the fast one for each is among them."""
    chance, size = np.random.default_rng(1), 400
    starts = np.repeat([0.0, 2.0], size // 2)
    layer_seconds = chance.uniform(1, 2, size)
    layer_seconds[[57, 333]] = 0.1
    zero, links = np.zeros(size), np.full((size, size), 0.01)
    wide = Costs(0, 4, starts, starts + 2, layer_seconds, zero, links, zero, zero)
    assert found(wide, most_work=0) == found(wide) == [(57, 2), (333, 4)]


def swarm(size: int, layers: int, *liars: Announcement, whole: bool) -> tuple[list[Announcement], dict[str, float]]:
    """Honest peers of many spans, or all of the whole model, and those; how far away they are."""
    chance = np.random.default_rng(size)
    at = chance.uniform(0, 0.1, (size + len(liars), 2))
    peers = list[Announcement]()
    for i in range(size):
        length = layers if whole else int(chance.integers(layers // 8, layers // 2))
        start = int(chance.integers(0, layers - length + 1)) if i > 1 else i * (layers - length)
        near = chance.choice(size, min(32, size), replace=False)
        links = {f"p{j}": 0.004 + 2 * float(np.hypot(*(at[i] - at[j]))) for j in near if i != j}
        step = length * float(chance.uniform(0.001, 0.01))
        peers.append(peer(f"p{i}", start, start + length, links=links, step_seconds=step, token_seconds=step / 20))
    peers += liars
    own = [one.model_copy(update={"num_layers": layers}) for one in peers]
    return own, {one.peer_id: 2 * float(np.hypot(*place)) for one, place in zip(own, at, strict=True)}


def fast(name: str, start: int, end: int, known: int, seconds: float = 0.0) -> Announcement:
    """It says that it takes no time, and that all are near."""
    links = {f"p{i}": 0.0 for i in range(min(known, 64))}
    return peer(name, start, end, num_layers=200, step_seconds=seconds, token_seconds=seconds / 20, links=links)


def thin(count: int, layers: int, known: int) -> list[Announcement]:
    """One layer each, apart from one another."""
    places = [layers * (i + 1) // (count + 1) for i in range(count)]
    return [fast(f"thin{at}", at, at + 1, known) for at in places]


@pytest.mark.parametrize(
    ("size", "layers", "whole", "liars"),
    [
        pytest.param(40, 32, False, [fast("whole", 0, 32, 40, 0.06), fast("middle", 8, 24, 40)], id="middle of 40"),
        pytest.param(80, 32, False, [fast("whole", 0, 32, 80, 0.06), fast("middle", 8, 24, 80)], id="middle of 80"),
        pytest.param(100, 32, False, thin(3, 32, 100), id="three thin ones, 100 spans"),
        pytest.param(100, 32, True, thin(1, 32, 100), id="one thin one, 100 whole"),
        pytest.param(100, 32, True, thin(20, 32, 100), id="20 thin ones, 100 whole"),
        pytest.param(1000, 80, True, thin(20, 80, 1000), id="20 thin ones, 1,000 whole"),
        pytest.param(1000, 80, False, thin(20, 80, 1000), id="20 thin ones, 1,000 spans"),
    ],
)
def test_work_is_bounded_whatever_is_announced(
    monkeypatch: pytest.MonkeyPatch, size: int, layers: int, whole: bool, liars: list[Announcement]
) -> None:
    peers, round_trips = swarm(size, layers, *liars, whole=whole)
    made, table = list[int](), module._Map._table

    def counted(self: module._Map, *arguments: Any) -> Any:
        made.append(self.work)
        return table(self, *arguments)

    monkeypatch.setattr(module._Map, "_table", counted)
    hops = plan(layers, peers, round_trips, tokens=17, salt=1)
    assert sum(made) <= 2.2 * MOST_WORK
    assert len({hop.contact.peer_id for hop in hops}) == len(hops)
    assert [hop.span.start for hop in hops] == [0, *(hop.span.end for hop in hops[:-1])]
    assert hops[-1].span.end == layers
    assert math.isfinite(sum(hop.seconds(17) for hop in hops))
