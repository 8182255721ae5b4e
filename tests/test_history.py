"""Who made which part of a text."""

from __future__ import annotations

from client.history import History
from client.routing import Hop
from swarm.span import Span
from swarm.wire import Contact
from tests.toy_swarm import introduction

KIND = ("float32", None)


def hop(name: str, start: int, end: int) -> Hop:
    return Hop(Contact(name), Span(start, end), 512, KIND, 0.0, 0.0, 0.0, introduction(name))


A, B, C, D = hop("a", 0, 2), hop("b", 2, 4), hop("c", 2, 4), hop("d", 0, 2)


def names(hops: tuple[Hop, ...]) -> list[str]:
    return [one.contact.peer_id for one in hops]


def test_a_part_is_that_of_the_chain_as_it_was_then() -> None:
    history = History()
    for position, hops in ((6, (A, B)), (9, (A, B)), (12, (A, C)), (20, (D, C))):
        history.note("session", hops, position)
    assert names(history.at(0)) == names(history.at(11)) == ["a", "b"]
    assert names(history.at(12)) == ["a", "c"]
    assert names(history.at(99)) == ["d", "c"]


def test_a_hop_that_came_later_was_given_everything_up_to_there() -> None:
    history = History()
    for position, hops in ((6, (A, B)), (12, (A, C)), (20, (D, C))):
        history.note("session", hops, position)
    assert [history.since(one) for one in (D, C)] == [20, 12]


def test_a_hop_that_came_back_counts_from_then_on() -> None:
    history = History()
    for position, hops in ((6, (A, B)), (12, (A, C)), (20, (A, B))):
        history.note("session", hops, position)
    assert [history.since(one) for one in (A, B)] == [0, 20]


def test_in_a_new_session_all_hops_are_given_everything_anew() -> None:
    history = History()
    history.note("one", (A, B), 6)
    history.note("other", (A, C), 15)
    assert [history.since(one) for one in (A, C)] == [15, 15]


def test_nothing_is_known_before_the_first_round() -> None:
    history = History()
    assert history.at(5) == ()
    assert history.kinds == set()
