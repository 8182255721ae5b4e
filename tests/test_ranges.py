"""Which nodes are named, asked and given records: of those near a place, not too many of one network."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID

from swarm.calls import NEAREST, OF_ONE_RANGE, place_of
from swarm.circuits import address_of
from swarm.dht import _MOST_ANSWERS, Search
from swarm.ranges import UNKNOWN, Ranges, diverse, filled, range_of

PLACE = DHTID.generate("place")


def test_addresses_are_of_one_network_by_their_first_half() -> None:
    one, other = range_of(address_of("/ip4/10.1.2.3/tcp/1")), range_of(address_of("/ip4/10.1.9.9/udp/2/quic-v1"))
    assert one == other != range_of(address_of("/ip4/10.2.2.3/tcp/1"))
    assert range_of(address_of("/ip6/2001:db8::1/tcp/1")) == range_of(address_of("/ip6/2001:db8:ffff::2/tcp/1"))
    assert range_of(address_of("/dns4/example.org/tcp/1")) == range_of(b"") == range_of(b"\x04\x01") == UNKNOWN


def test_of_one_network_a_share_is_taken_and_the_rest_filled_up() -> None:
    nodes = ["a1", "a2", "a3", "b1", "a4", "c1"]
    chosen = diverse(nodes, lambda node: node[0], 4, 2)
    assert chosen == ["a1", "a2", "b1", "c1"]
    assert diverse(nodes, lambda _: "", 4, 2) == ["a1", "a2"]
    assert filled(nodes, ["a1", "a2"], 4) == ["a1", "a2", "a3", "b1"]


def peers(count: int) -> list[PeerID]:
    """The nearest to the place first."""
    made = [PeerID(random.randbytes(34)) for _ in range(count)]  # no secret
    return sorted(made, key=lambda peer: int(PLACE.xor_distance(place_of(peer))))


def search(known: list[PeerID], networks: dict[PeerID, str]) -> Search:
    """Of a node that knows some others, and where nodes are."""
    ranges = Ranges[PeerID]()
    for peer, network in networks.items():
        ranges.note(peer, network)
    node: Any = SimpleNamespace(ranges=ranges, peer=PeerID(b"own"), nearest=lambda _: known)
    return Search(PLACE, node)


def asked(looking: Search, named: dict[PeerID, frozenset[PeerID]]) -> list[PeerID]:
    """All who are asked, where each answers at once and names others."""
    found = list[PeerID]()
    while batch := looking.next(4):
        for peer in batch:
            looking.note(peer, named.get(peer, frozenset()))
        found += batch
    return found


def test_nobody_is_asked_who_is_farther_than_those_wanted_that_have_answered() -> None:
    nodes = peers(60)
    found = asked(search(nodes[:1], {peer: str(i) for i, peer in enumerate(nodes)}), {nodes[0]: frozenset(nodes)})
    assert set(nodes[:NEAREST]) <= set(found)
    assert len(found) < NEAREST + 4


def test_a_crowd_of_one_network_nearer_than_all_keeps_nobody_from_being_asked() -> None:
    nodes = peers(300)
    crowd, honest = nodes[:200], nodes[200:240]
    networks = dict.fromkeys(crowd, "crowd") | {peer: str(i) for i, peer in enumerate(honest)}
    named = {peer: frozenset(crowd) for peer in crowd} | {peer: frozenset(honest) for peer in honest}
    found = asked(search([*crowd[:OF_ONE_RANGE], honest[-1]], networks), named)
    assert set(honest[: NEAREST - OF_ONE_RANGE]) <= set(found)
    assert len(found) <= _MOST_ANSWERS + 4


def test_a_search_among_nodes_of_one_network_ends() -> None:
    nodes = peers(300)
    found = asked(search(nodes[:NEAREST], dict.fromkeys(nodes, "one")), {peer: frozenset(nodes) for peer in nodes})
    assert set(nodes[:NEAREST]) <= set(found)
    assert len(found) <= _MOST_ANSWERS + 4
