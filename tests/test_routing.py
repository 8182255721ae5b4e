"""The choice of a chain: of least trip time, counted out by hand over all chains there are."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import routing
from client.routing import UNKNOWN_LINK, Hop
from swarm.errors import ChainLost
from swarm.records import Announcement
from swarm.span import Span
from swarm.wire import Contact


def peer(name: str, start: int, end: int, **changes: Any) -> Announcement:
    return Announcement.model_validate(
        {
            "peer_id": name,
            "maddrs": (f"/dns/{name}",),
            "model": "m",
            "fingerprint": "a" * 64,
            "config_hash": "b" * 64,
            "num_layers": 100,
            "start": start,
            "end": end,
            "dtype": "float32",
            "quantize": None,
            "draft_seconds": None,
            "step_seconds": 0.01,
            "token_seconds": 0.001,
            "load": 0.0,
            "free_tokens": 100,
            "max_round": 512,
            "links": {},
            "version": "0",
            "started": 0,
            "expires": 0,
            **changes,
        }
    )


def plan(num_layers: int, peers: Sequence[Announcement], *arguments: Any, **options: Any) -> list[Hop]:
    """The plan for a model of so many layers, which all the peers serve."""
    own = [one.model_copy(update={"num_layers": num_layers}) for one in peers]
    return routing.plan(num_layers, own, *arguments, **options)


def test_a_peer_of_another_number_of_layers_is_passed_over() -> None:
    peers = [peer("other", 0, 4, num_layers=8, step_seconds=0.0), peer("own", 0, 4, num_layers=4)]
    assert chain_of(routing.plan(4, peers, {"other": 0.0, "own": 0.1}, tokens=1)) == [("own", 0, 4)]


Chain = list[tuple[str, int, int]]
"""Who serves which layers, in order."""


def chain_of(hops: Sequence[Hop]) -> Chain:
    return [(hop.contact.peer_id, hop.span.start, hop.span.end) for hop in hops]


def trip_time(
    chain: Chain, peers: Mapping[str, Announcement], round_trips: Mapping[str, float], tokens: int
) -> float:
    """From the definition: out, every stage, every link between, back."""
    total = round_trips[chain[0][0]] / 2 + round_trips[chain[-1][0]] / 2
    for name, start, end in chain:
        one = peers[name]
        total += (one.step_seconds + (tokens - 1) * one.token_seconds) * (end - start) / (one.end - one.start)
    for (before, *_), (after, *_) in itertools.pairwise(chain):
        total += link(before, after, peers)
    return total


def link(one: str, other: str, peers: Mapping[str, Announcement]) -> float:
    """As either of two has measured it, else the shortest way over a third one."""

    def measured(one: str, other: str) -> float:
        found = (peers[one].links.get(other), peers[other].links.get(one))
        return min((seconds / 2 for seconds in found if seconds is not None), default=math.inf)

    if (direct := measured(one, other)) < math.inf:
        return direct
    over = min(measured(one, hub) + measured(hub, other) for hub in peers)
    return over if over < math.inf else UNKNOWN_LINK


def all_chains(num_layers: int, peers: Sequence[Announcement]) -> Iterator[Chain]:
    """Every chain over these peers, each at most once, cut at the ends of spans."""
    boundaries = sorted({0, num_layers}.union(*({p.start, p.end} for p in peers)))

    def extended(chain: Chain, done: int) -> Iterator[Chain]:
        if done == num_layers:
            yield chain
        used = {name for name, *_ in chain}
        for one in peers:
            if one.peer_id not in used and one.start <= done:
                for end in boundaries:
                    if done < end <= one.end:
                        yield from extended([*chain, (one.peer_id, done, end)], end)

    return extended([], 0)


@st.composite
def swarms(draw: st.DrawFn) -> tuple[int, list[Announcement], dict[str, float], int]:
    """Layers, peers, round trips to them, tokens of a round; some links are measured, by either side or by both."""
    num_layers = draw(st.integers(1, 5))
    names = "ABCD"[: draw(st.integers(1, 4))]
    seconds = st.sampled_from([0.0, 0.001, 0.01, 0.03, 0.1, 0.3]) | st.floats(0, 0.5)
    peers = []
    for name in names:
        start, end = draw(st.lists(st.integers(0, num_layers), min_size=2, max_size=2, unique=True).map(sorted))
        others = st.sampled_from(sorted({*names, "Z"} - {name}))
        links = draw(st.dictionaries(others, seconds, max_size=4))
        speed = {"step_seconds": draw(seconds), "token_seconds": draw(seconds) / 10}
        peers.append(peer(name, start, end, links=links, **speed))
    round_trips = draw(st.fixed_dictionaries(dict.fromkeys(names, seconds)))
    return num_layers, peers, round_trips, draw(st.integers(1, 9))


@settings(max_examples=400, deadline=None)
@given(swarms())
def test_no_chain_has_a_shorter_trip(swarm: tuple[int, list[Announcement], dict[str, float], int]) -> None:
    num_layers, peers, round_trips, tokens = swarm
    known = {one.peer_id: one for one in peers}
    times = [trip_time(chain, known, round_trips, tokens) for chain in all_chains(num_layers, peers)]
    if not times:
        with pytest.raises(ChainLost):
            plan(num_layers, peers, round_trips, tokens=tokens)
        return
    chosen = trip_time(chain_of(plan(num_layers, peers, round_trips, tokens=tokens)), known, round_trips, tokens)
    assert chosen == pytest.approx(min(times), abs=1e-9)


def test_no_peer_is_visited_twice() -> None:
    """The shortest walk goes slow, fast, slow; no chain may."""
    peers = [
        peer("slow", 0, 4, num_layers=4, step_seconds=0.4, links={"fast": 0.002}),
        peer("fast", 1, 3, num_layers=4, step_seconds=0.002),
    ]
    assert chain_of(plan(4, peers, {"slow": 0.01, "fast": 0.01}, tokens=1)) == [("slow", 0, 4)]


@settings(max_examples=300, deadline=None)
@given(swarms(), st.sets(st.sampled_from("ABCD"), max_size=2), st.sets(st.sampled_from("ABCD"), max_size=2))
def test_chain_is_whole_and_uses_only_peers_it_may(
    swarm: tuple[int, list[Announcement], dict[str, float], int], excluded: set[str], unreachable: set[str]
) -> None:
    num_layers, peers, round_trips, tokens = swarm
    allowed = {one.peer_id: one for one in peers if one.peer_id not in excluded | unreachable}
    reached = {name: seconds for name, seconds in round_trips.items() if name not in unreachable}
    missing = set(range(num_layers)).difference(*(range(one.start, one.end) for one in allowed.values()))
    try:
        hops = plan(num_layers, peers, reached, tokens=tokens, excluded=excluded)
    except ChainLost:
        assert missing
        return
    assert [hop.span.start for hop in hops] == [0, *(hop.span.end for hop in hops[:-1])]
    assert hops[-1].span.end == num_layers
    assert len({hop.contact.peer_id for hop in hops}) == len(hops)
    for hop in hops:
        assert hop.span in allowed[hop.contact.peer_id].span
        assert hop.contact == allowed[hop.contact.peer_id].contact
        assert hop.max_round == allowed[hop.contact.peer_id].max_round


def test_way_back_counts() -> None:
    peers = [peer("first", 0, 2), peer("near", 2, 4), peer("far", 2, 4, step_seconds=0.0)]
    for one in peers[1:]:
        one.links["first"] = 0.02
    round_trips = {"first": 0.02, "near": 0.02, "far": 0.2}
    assert chain_of(plan(4, peers, round_trips, tokens=1))[-1][0] == "near"
    round_trips["far"] = 0.02
    assert chain_of(plan(4, peers, round_trips, tokens=1))[-1][0] == "far"


@pytest.mark.parametrize("measured_by", ["the one before", "the one after", "both"])
def test_measured_link_of_either_side_is_used(measured_by: str) -> None:
    peers = [peer("first", 0, 2), peer("x", 2, 4), peer("y", 2, 4)]
    if measured_by != "the one after":
        peers[0].links["y"] = 0.01
    if measured_by != "the one before":
        peers[2].links["first"] = 0.01
    if measured_by == "both":
        peers[0].links["y"] = 1.0  # one of the two was unlucky
    assert chain_of(plan(4, peers, {"first": 0.1, "x": 0.1, "y": 0.1}, tokens=1))[-1][0] == "y"


def test_unmeasured_link_is_better_than_a_long_one() -> None:
    peers = [peer("first", 0, 2, links={"x": 2 * UNKNOWN_LINK + 0.02}), peer("x", 2, 4), peer("y", 2, 4)]
    assert chain_of(plan(4, peers, {"first": 0.1, "x": 0.1, "y": 0.1}, tokens=1))[-1][0] == "y"


def test_peer_serves_the_part_that_is_best() -> None:
    slow, fast = peer("slow", 0, 4, step_seconds=0.4), peer("fast", 1, 6, step_seconds=0.05)
    slow.links["fast"] = 0.001
    assert chain_of(plan(6, [slow, fast], {"slow": 0.01, "fast": 0.01}, tokens=1)) == [
        ("slow", 0, 1),
        ("fast", 1, 6),
    ]
    quick = peer("slow", 0, 4, step_seconds=0.001, links={"fast": 0.001})
    assert chain_of(plan(6, [quick, fast], {"slow": 0.01, "fast": 0.01}, tokens=1)) == [
        ("slow", 0, 4),
        ("fast", 4, 6),
    ]


def test_size_of_the_round_decides_between_peers() -> None:
    quick_step = peer("quick step", 0, 4, step_seconds=0.01, token_seconds=0.01)
    quick_token = peer("quick token", 0, 4, step_seconds=0.05, token_seconds=0.0)
    round_trips = {"quick step": 0.01, "quick token": 0.01}
    for tokens, best in ((1, "quick step"), (4, "quick step"), (6, "quick token"), (100, "quick token")):
        assert chain_of(plan(4, [quick_step, quick_token], round_trips, tokens=tokens)) == [(best, 0, 4)]


def test_a_hop_computes_for_its_share_of_the_peers_span() -> None:
    peers = [peer("one", 0, 4, step_seconds=0.04, token_seconds=0.004), peer("two", 2, 6, step_seconds=0.0)]
    half, _ = plan(6, peers, {"one": 0.01, "two": 0.01}, tokens=1)
    assert half.span == Span(0, 2)
    assert math.isclose(half.seconds(1), 0.02)
    assert math.isclose(half.seconds(6), 0.03)


def test_excluded_and_unreachable_peers_are_not_used() -> None:
    peers = [peer("a", 0, 4), peer("b", 0, 4, step_seconds=0.5), peer("c", 0, 4, step_seconds=1.0)]
    round_trips = {"a": 0.01, "b": 0.01, "c": 0.01}
    assert chain_of(plan(4, peers, round_trips, tokens=1)) == [("a", 0, 4)]
    assert chain_of(plan(4, peers, round_trips, tokens=1, excluded={"a"})) == [("b", 0, 4)]
    del round_trips["b"]
    assert chain_of(plan(4, peers, round_trips, tokens=1, excluded={"a"})) == [("c", 0, 4)]


def test_a_chain_uses_as_few_as_it_can_of_the_peers_with_a_penalty() -> None:
    peers = [peer("fast", 0, 2), peer("slow", 0, 2, step_seconds=1.0), peer("only", 2, 4)]
    round_trips = dict.fromkeys(["fast", "slow", "only"], 0.01)
    penalties = {"fast": 2000.0, "only": 2000.0}
    assert chain_of(plan(4, peers, round_trips, tokens=1)) == [("fast", 0, 2), ("only", 2, 4)]
    assert chain_of(plan(4, peers, round_trips, tokens=1, penalties=penalties)) == [("slow", 0, 2), ("only", 2, 4)]
    penalties["slow"] = 4000.0
    assert chain_of(plan(4, peers, round_trips, tokens=1, penalties=penalties)) == [("fast", 0, 2), ("only", 2, 4)]


def test_peer_met_twice_becomes_one_hop() -> None:
    around = peer("around", 0, 4, step_seconds=0.4, links={"middle": 0.0})
    middle = peer("middle", 1, 3, step_seconds=0.0)
    hops = plan(4, [around, middle], {"around": 0.01, "middle": 0.01}, tokens=1)
    contact, kind = Contact("around", ("/dns/around",)), ("float32", None)
    assert hops == [Hop(contact, Span(0, 4), 512, kind, 0.01, 0.4, 0.001, around.introduction)]


@pytest.mark.parametrize(
    ("spans", "gaps"),
    [
        ([], "0:8"),
        ([(0, 3)], "3:8"),
        ([(2, 4), (6, 8)], "0:2, 4:6"),
        ([(1, 2), (3, 4), (5, 6)], "0:1, 2:3, 4:5, 6:8"),
        ([(0, 7)], "7:8"),
    ],
    ids=str,
)
def test_lost_chain_names_the_gaps(spans: list[tuple[int, int]], gaps: str) -> None:
    peers = [peer(f"p{start}", start, end) for start, end in spans]
    round_trips = {one.peer_id: 0.01 for one in peers}
    with pytest.raises(ChainLost, match=f"layers {gaps} of 8") as lost:
        plan(8, peers, round_trips, tokens=1)
    assert "\n" not in str(lost.value)


def test_lost_chain_names_the_layers_of_excluded_and_unreachable_peers() -> None:
    peers = [peer("a", 0, 4), peer("b", 4, 6), peer("c", 6, 8)]
    with pytest.raises(ChainLost, match="layers 4:8 of 8"):
        plan(8, peers, {"a": 0.01, "c": 0.01}, tokens=1, excluded={"c"})


def test_large_swarm_is_planned_within_the_limit() -> None:
    """Every peer claims links of no length to all others: walks that return look best everywhere."""
    names = [f"p{i}" for i in range(60)]
    peers = [
        peer(name, i % 7, i % 7 + 6 + i % 5, links=dict.fromkeys(names, 0.0), step_seconds=0.01 + i * 1e-4)
        for i, name in enumerate(names)
    ]
    hops = plan(16, peers, dict.fromkeys(names, 0.01), tokens=1)
    assert [hop.span.start for hop in hops] == [0, *(hop.span.end for hop in hops[:-1])]
    assert hops[-1].span.end == 16


def test_a_busy_peer_is_passed_over_for_one_that_is_a_little_slower() -> None:
    slower = peer("slower", 0, 4, step_seconds=0.012)
    trips = {"fast": 0.02, "slower": 0.02}
    for load, chosen in ((0.0, "fast"), (0.1, "fast"), (0.5, "slower"), (1.0, "slower")):
        (hop,) = plan(4, [peer("fast", 0, 4, load=load), slower], trips, tokens=1)
        assert hop.contact.peer_id == chosen, load
        assert hop.step_seconds == (0.01 if chosen == "fast" else 0.012)  # what it takes alone


def test_clients_choose_different_ones_of_those_that_are_about_as_good_and_no_others() -> None:
    names = ["a", "b", "c", "d"]
    peers = [peer(name, 0, 4) for name in names] + [peer("far", 0, 4)]
    trips = {**dict.fromkeys(names, 0.1), "far": 0.14}
    found = Counter(plan(4, peers, trips, tokens=1, salt=salt)[0].contact.peer_id for salt in range(200))
    assert set(found) == set(names)
    assert min(found.values()) > 25


def test_one_client_chooses_the_same_again() -> None:
    peers, trips = [peer(name, 0, 4) for name in "abcd"], dict.fromkeys("abcd", 0.1)
    one, other = (plan(4, peers, trips, tokens=1, salt=2**64 - 1) for _ in range(2))
    assert one == other


def test_the_busier_they_are_the_less_alike_peers_must_be_to_take_turns() -> None:
    def chosen(load: float) -> set[str]:
        peers = [peer("fast", 0, 4, load=load), peer("slow", 0, 4, load=load, step_seconds=0.0125)]
        trips = dict.fromkeys(("fast", "slow"), 0.0)
        return {plan(4, peers, trips, tokens=1, salt=salt)[0].contact.peer_id for salt in range(100)}

    assert chosen(0.0) == {"fast"}
    assert chosen(0.6) == {"fast", "slow"}


def test_a_link_that_nobody_has_measured_is_taken_for_the_way_over_a_peer_that_many_know() -> None:
    hub = peer("hub", 0, 2, links={"near": 0.02, "far": 0.12, "first": 0.04})
    peers = [hub, peer("first", 0, 2), peer("near", 2, 4), peer("far", 2, 4), peer("unknown", 2, 4)]
    trips = {"first": 0.01, "near": 0.02, "far": 0.01, "unknown": 0.01}
    assert chain_of(plan(4, peers, trips, tokens=1)) == [("first", 0, 2), ("near", 2, 4)]
    atlas = routing.Atlas(peers)
    at = atlas.places
    assert atlas.links[at["first"], at["near"]] == pytest.approx(0.03)
    assert atlas.links[at["first"], at["far"]] == pytest.approx(0.08)
    assert atlas.links[at["near"], at["far"]] == pytest.approx(0.07)
    assert atlas.links[at["first"], at["unknown"]] == UNKNOWN_LINK
