"""Where drafts are best made, by links, draft speed and drafter."""

from __future__ import annotations

from typing import Any

import pytest

from client import seats
from client.routing import Atlas, Hop
from client.seats import Seat, best, seats_at
from swarm.wire import Contact
from tests.test_routing import peer

THERE = Contact("peer")


def seat(trip: float, draft: float = 0.002, acceptance: float = 0.8, contact: Contact | None = THERE) -> Seat:
    return Seat(contact, trip, draft, acceptance)


def test_one_link_less_is_worth_going_there() -> None:
    here = seat(0.125, contact=None)
    assert best(here, [seat(0.100)], None) == seat(0.100)
    assert best(here, [seat(0.123)], None) is here
    assert best(here, [], None) is here


def test_a_slow_draft_there_is_not() -> None:
    here = seat(0.125, draft=0.002, contact=None)
    assert best(here, [seat(0.100, draft=0.05)], None) is here
    assert best(here, [seat(0.100, draft=0.05)], 0) == seat(0.100, draft=0.05)  # where nothing is drafted


def test_a_stage_on_the_same_thread_takes_half_a_draft_more_where_anything_is_drafted() -> None:
    apart, together = (Seat(THERE, 0.1, 0.006, 0.8, is_hop) for is_hop in (False, True))
    assert together.rate(4) == pytest.approx(Seat(THERE, 0.103, 0.006, 0.8).rate(4))
    assert together.rate(0) == apart.rate(0)
    here = seat(0.106, draft=0.006, contact=None)
    assert best(here, [apart], 0) == apart
    assert best(here, [together], 4) is here


def test_who_has_no_draft_goes_where_there_is_one_even_if_that_is_farther() -> None:
    assert best(seat(0.1, acceptance=0.0, contact=None), [seat(0.15)], None) == seat(0.15)


@pytest.mark.parametrize("window", [None, 0, 1, 4, 8])
def test_rate_is_that_of_the_closed_form(window: int | None) -> None:
    assert seat(0.1, acceptance=0.0).rate(window) == pytest.approx(10.0)
    rate = seat(0.1).rate(window)
    assert rate == pytest.approx(10.0) if window == 0 else rate > 10.0
    assert rate <= seat(0.1).rate(None) + 1e-9


def test_a_peer_is_judged_by_its_own_links() -> None:
    """The last hop saves the way back to the client; one that serves no layers of the best chain saves less."""
    links = {"first": {"last": 0.05}, "last": {"first": 0.05}}
    peers = [
        peer("first", 0, 2, num_layers=4, links=links["first"], step_seconds=0.01, token_seconds=0.001),
        peer("last", 2, 4, num_layers=4, links=links["last"], step_seconds=0.01, token_seconds=0.001),
    ]
    drafting = [peers[0], peers[1].model_copy(update={"draft_seconds": 0.003})]
    found = seats_at(4, Atlas(drafting), {"first": 0.05, "last": 0.05}, tokens=11)
    assert [(one.contact.peer_id if one.contact else None, one.draft_seconds) for one in found] == [("last", 0.003)]
    assert found[0].is_hop
    assert found[0].trip_seconds == pytest.approx(0.025 + 0.025 + 2 * (0.01 + 10 * 0.001))
    assert seats_at(4, Atlas(drafting), {"first": 0.05}, tokens=11) == []
    assert seats_at(4, Atlas(peers), {"first": 0.05, "last": 0.05}, tokens=11) == []


def test_of_many_peers_that_draft_the_near_and_fast_ones_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One plan for this client's own chain, and as many as few peers take."""
    whole = peer(
        "whole", 0, 4, num_layers=4, links={f"p{i}": 0.2 for i in range(60)} | {"near": 0.01, "slow": 0.01}
    )
    drafting = [peer(f"p{i}", 0, 4, num_layers=4, step_seconds=1.0, draft_seconds=0.001) for i in range(60)]
    drafting += [
        peer("near", 0, 4, num_layers=4, step_seconds=1.0, draft_seconds=0.001),
        peer("slow", 0, 4, num_layers=4, step_seconds=1.0, draft_seconds=1.0),
    ]
    plans, planned = list[object](), seats.plan

    def counted(*arguments: Any, **options: Any) -> list[Hop]:
        plans.append(arguments)
        return planned(*arguments, **options)

    monkeypatch.setattr(seats, "plan", counted)
    reachable = dict.fromkeys((one.peer_id for one in [whole, *drafting]), 0.05)
    found = seats_at(4, Atlas([whole, *drafting]), reachable, tokens=11)
    assert best(None, found, None).contact == Contact("near", ("/dns/near",))
    assert len(plans) == 1 + len(found) == 5


def test_a_peer_that_says_the_model_has_other_layers_is_no_place_for_drafts() -> None:
    odd = peer("odd", 0, 1, num_layers=1, draft_seconds=0.0, step_seconds=0.0)
    own = peer("own", 0, 4, num_layers=4)
    assert seats_at(4, Atlas([odd, own]), {"odd": 0.05, "own": 0.05}, tokens=11) == []
